use approx::assert_abs_diff_eq;
use perennial::check::layer_norm::LayerNormCase;
use perennial::ops::layer_norm::{LayerNorm, LayerNormShape};
use perennial::ops::{Plan, Run, Write};
use proptest::prelude::*;

use super::{Device, assert_all_gradients, assert_holds, device, dot, get, put, random};

#[test]
fn gradients_match_finite_differences() {
    assert_all_gradients::<LayerNormCase>();
}

#[test]
fn drawn_shapes_hold() {
    assert_holds((1usize..12, 4usize..40, any::<bool>()), true, |(rows, width, add)| LayerNormCase {
        rows,
        width,
        write: if add { Write::Add } else { Write::Set },
    });
}

#[test]
fn rows_come_out_centred_and_scaled() {
    let shape = LayerNormShape { rows: 5, width: 40, eps: 0.0 };
    let mut plan = Plan::new::<Device>();
    let [x, y] = [(); 2].map(|()| plan.tensor(200));
    let [gamma, beta] = [(); 2].map(|()| plan.tensor(40));
    let [mean, rstd] = [(); 2].map(|()| plan.stats(5));
    let mut device = device(&plan);
    put(&mut device, x, &random("x", 200));
    put(&mut device, gamma, &[1.0; 40]);
    put(&mut device, beta, &[0.0; 40]);
    device.run(LayerNorm { shape, x, gamma, beta, y, mean, rstd });
    for row in get(&device, y).chunks(40) {
        assert_abs_diff_eq!(row.iter().sum::<f64>(), 0.0, epsilon = 1e-12);
        assert_abs_diff_eq!(dot(row, row) / 40.0, 1.0, epsilon = 1e-12);
    }
}
