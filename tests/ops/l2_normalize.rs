use perennial::ops::l2_normalize::{L2Normalize, L2NormalizeBackward};
use perennial::ops::{Plan, Run};

use super::{Device, check_gradients, device, dot, get, put, random};

/// y, and the gradient of dot(y, dy) by x.
fn run(rows: usize, width: usize, x_values: &[f64], dy_values: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mut plan = Plan::new::<Device>();
    let [x, y, dy, dx] = [(); 4].map(|()| plan.tensor(rows * width));
    let norm = plan.stats(rows);
    let mut device = device(&plan);
    put(&mut device, x, x_values);
    put(&mut device, dy, dy_values);
    device.run(L2Normalize { rows, width, x, y, norm });
    device.run(L2NormalizeBackward { rows, width, dy, y, norm, dx });
    (get(&device, y), get(&device, dx))
}

#[test]
fn gradients_match_finite_differences() {
    for (rows, width) in [(7, 24), (3, 33)] {
        let (x, dy) = (random("x", rows * width), random("dy", rows * width));
        let (y, gradient) = run(rows, width, &x, &dy);
        assert!(y.chunks(width).all(|row| (dot(row, row) - 1.0).abs() < 1e-14));
        check_gradients(&[x], &[gradient], |inputs| dot(&run(rows, width, &inputs[0], &dy).0, &dy));
    }
}

#[test]
fn a_zero_row_stays_finite() {
    let (y, gradient) = run(1, 4, &[0.0; 4], &[1.0; 4]);
    assert!(y.iter().chain(&gradient).all(|value| value.is_finite()));
}
