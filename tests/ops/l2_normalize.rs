use approx::assert_abs_diff_eq;
use perennial::check::l2_normalize::L2NormalizeCase;
use perennial::ops::l2_normalize::{L2Normalize, L2NormalizeBackward};
use perennial::ops::{Plan, Run};

use super::{Device, assert_all_gradients, assert_close, assert_holds, device, dot, get, put, results};

#[test]
fn gradients_match_finite_differences() {
    assert_all_gradients::<L2NormalizeCase>();
}

#[test]
fn drawn_shapes_hold() {
    assert_holds((1usize..12, 2usize..40), true, |(rows, width)| L2NormalizeCase { rows, width });
}

#[test]
fn rows_keep_their_direction_and_have_length_1() {
    let result = results(&L2NormalizeCase { rows: 7, width: 24 });
    for (y, x) in result("y").chunks(24).zip(result("x").chunks(24)) {
        assert_abs_diff_eq!(dot(y, y), 1.0, epsilon = 1e-14);
        assert_close("x", &y.iter().map(|y| y * dot(x, x).sqrt()).collect::<Vec<_>>(), x, 1e-14);
    }
}

#[test]
fn a_zero_row_stays_finite() {
    let mut plan = Plan::new::<Device>();
    let [x, y, dy, dx] = [(); 4].map(|()| plan.tensor(4));
    let norm = plan.stats(1);
    let mut device = device(&plan);
    put(&mut device, x, &[0.0; 4]);
    put(&mut device, dy, &[1.0; 4]);
    device.run(L2Normalize { rows: 1, width: 4, x, y, norm });
    device.run(L2NormalizeBackward { rows: 1, width: 4, dy, y, norm, dx });
    assert!([y, dx].iter().flat_map(|span| get(&device, *span)).all(|value| value.is_finite()));
}
