use perennial::ops::relu::{Relu, ReluBackward};
use perennial::ops::{Plan, Run};

use super::{Device, check_gradients, device, dot, get, put, random};

/// y, and the gradient of dot(y, dy) by x.
fn run(x_values: &[f64], dy_values: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mut plan = Plan::new::<Device>();
    let [x, y, dy, dx] = [(); 4].map(|()| plan.tensor(x_values.len()));
    let mut device = device(&plan);
    put(&mut device, x, x_values);
    put(&mut device, dy, dy_values);
    device.run(Relu { x, y });
    device.run(ReluBackward { dy, y, dx });
    (get(&device, y), get(&device, dx))
}

#[test]
fn gradients_match_finite_differences() {
    // Away from the corner, where there is no derivative.
    let x: Vec<f64> = random("x", 99).iter().map(|x| x + 0.01 * x.signum()).collect();
    let dy = random("dy", 99);
    let (_, gradient) = run(&x, &dy);
    check_gradients(&[x], &[gradient], |inputs| dot(&run(&inputs[0], &dy).0, &dy));
}

#[test]
fn every_piece_of_a_long_tensor_is_rectified() {
    let (x, dy) = (random("x", 40_011), random("dy", 40_011));
    let (y, dx) = run(&x, &dy);
    for i in 0..x.len() {
        assert_eq!((y[i], dx[i]), if x[i] > 0.0 { (x[i], dy[i]) } else { (0.0, 0.0) });
    }
}

#[test]
fn zero_has_no_gradient_and_nan_is_not_hidden() {
    let (y, dx) = run(&[0.0, -0.0, f64::NAN, f64::NEG_INFINITY], &[1.0; 4]);
    assert_eq!((&y[..2], y[3]), (&[0.0, 0.0][..], 0.0));
    assert!(y[2].is_nan());
    assert_eq!(dx, [0.0; 4]);
}
