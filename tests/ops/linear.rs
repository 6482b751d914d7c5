use perennial::check::linear::{Follows, LinearCase};
use perennial::ops::linear::{
    Activation, BackwardEpilogue, Epilogue, Linear, LinearBackwardData, LinearShape, WeightLayout,
};
use perennial::ops::{Plan, Run};
use proptest::prelude::*;

use super::{
    Device, assert_all_gradients, assert_close, assert_holds, check_gradients, device, dot, get, put, random, results,
};

const ACTIVATIONS: [Activation; 2] = [Activation::Gelu, Activation::QuickGelu];

#[test]
fn gradients_match_finite_differences() {
    assert_all_gradients::<LinearCase>();
}

#[test]
fn drawn_shapes_hold() {
    let shapes = (1usize..12, 1usize..30, 1usize..30, any::<[bool; 3]>());
    assert_holds(shapes, true, |(rows, inputs, outputs, [projection, bias, residual])| LinearCase {
        shape: match projection {
            true => LinearShape::projection(rows, inputs, outputs),
            false => LinearShape::new(rows, inputs, outputs),
        },
        bias,
        follows: if residual { Follows::Residual } else { Follows::Nothing },
        before: None,
    });
}

/// The activation y of x, and the gradient of dot(y, dy) by x: in the epilogues of products by the identity.
fn activation(kind: Activation, x_values: &[f64], dy_values: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let n = x_values.len();
    let shape = LinearShape::new(1, n, n);
    let mut plan = Plan::new::<Device>();
    let [x, pre, y, dy, dx] = [(); 5].map(|()| plan.tensor(n));
    let weight = plan.tensor(n * n);
    let mut device = device(&plan);
    put(&mut device, x, x_values);
    put(&mut device, dy, dy_values);
    put(&mut device, weight, &(0..n * n).map(|i| if i / n == i % n { 1.0 } else { 0.0 }).collect::<Vec<_>>());
    device.run(Linear { shape, x, weight, bias: None, epilogue: Epilogue::Activation { kind, pre }, y });
    device.run(LinearBackwardData { shape, dy, weight, epilogue: BackwardEpilogue::Activation { kind, pre }, dx });
    (get(&device, y), get(&device, dx))
}

#[test]
fn derivatives_of_activations_match_finite_differences() {
    let (x, dy) = (random("x", 50), random("dy", 50));
    for kind in ACTIVATIONS {
        let (_, dx) = activation(kind, &x, &dy);
        check_gradients(std::slice::from_ref(&x), &[dx], |inputs| dot(&activation(kind, &inputs[0], &dy).0, &dy));
    }
}

#[test]
fn activations_take_their_known_values() {
    // x Phi(x) and x sigmoid(1.702 x) at 1 and -3, to 15 digits.
    let [gelu, quick] = ACTIVATIONS.map(|kind| activation(kind, &[1.0, -3.0], &[0.0; 2]).0);
    assert_close("gelu", &gelu, &[0.841_344_746_068_543, -0.004_049_694_094_890_27], 1e-14);
    assert_close("quick gelu", &quick, &[1.0 / (1.0 + (-1.702f64).exp()), -3.0 / (1.0 + 5.106f64.exp())], 1e-14);
}

#[test]
fn forward_is_the_matrix_product_and_what_follows_it() {
    let follows = [Follows::Nothing, Follows::Residual].into_iter().chain(ACTIVATIONS.map(Follows::Activation));
    for (follows, shape) in follows.flat_map(|follows| {
        [LinearShape::new(7, 24, 13), LinearShape::projection(3, 1, 7)].map(|shape| (follows, shape))
    }) {
        let result = results(&LinearCase { shape, bias: true, follows, before: None });
        let LinearShape { rows, inputs, outputs, layout } = shape;
        let [x, weight, bias] = ["x", "weight", "bias"].map(&result);
        let weight = |output: usize, input: usize| match layout {
            WeightLayout::OutIn => weight[output * inputs + input],
            WeightLayout::InOut => weight[input * outputs + output],
        };
        let product = |row: usize, output: usize| -> f64 {
            (0..inputs).map(|input| x[row * inputs + input] * weight(output, input)).sum::<f64>() + bias[output]
        };
        let product: Vec<f64> = (0..rows * outputs).map(|i| product(i / outputs, i % outputs)).collect();
        let expected = match follows {
            Follows::Nothing => product,
            Follows::Residual => product.iter().zip(result("residual")).map(|(y, residual)| y + residual).collect(),
            Follows::Activation(kind) => {
                assert_close("pre", &result("pre"), &product, 1e-14);
                activation(kind, &product, &vec![0.0; rows * outputs]).0
            }
        };
        assert_close(&format!("{shape:?}, {follows:?}"), &result("y"), &expected, 1e-14);
    }
}
