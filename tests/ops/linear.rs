use perennial::ops::linear::{
    Activation, BackwardEpilogue, Epilogue, Linear, LinearBackwardData, LinearBackwardWeight, LinearShape,
};
use perennial::ops::{Plan, Run};

use super::{Device, assert_close, check_gradients, device, dot, get, put, random};

#[derive(Clone, Copy, Debug)]
enum Case {
    Plain,
    Activation(Activation),
    Residual,
}

/// y for [x, weight, bias, residual].
fn forward(shape: LinearShape, case: Case, inputs: &[Vec<f64>]) -> Vec<f64> {
    let LinearShape { rows, inputs: k, outputs: n, .. } = shape;
    let mut plan = Plan::new::<Device>();
    let [x, weight, bias, residual, pre, y] =
        [rows * k, n * k, n, rows * n, rows * n, rows * n].map(|n| plan.tensor(n));
    let mut device = device(&plan);
    for (span, values) in [x, weight, bias, residual].into_iter().zip(inputs) {
        put(&mut device, span, values);
    }
    let epilogue = match case {
        Case::Plain => Epilogue::None,
        Case::Activation(kind) => Epilogue::Activation { kind, pre },
        Case::Residual => Epilogue::Residual(residual),
    };
    device.run(Linear { shape, x, weight, bias: Some(bias), epilogue, y });
    get(&device, y)
}

/// Gradients of dot(y, dy) by [x, weight, bias, residual]. The activation's derivative is applied where the network applies
/// it: in the epilogue of the product that hands dy down, here a product by the identity.
fn backward(shape: LinearShape, case: Case, inputs: &[Vec<f64>], dy: &[f64]) -> Vec<Vec<f64>> {
    let LinearShape { rows, inputs: k, outputs: n, .. } = shape;
    let mut plan = Plan::new::<Device>();
    let [x, weight, bias, dx, pre, y, incoming, passed, identity] =
        [rows * k, n * k, n, rows * k, rows * n, rows * n, rows * n, rows * n, n * n].map(|n| plan.tensor(n));
    let [dweight, dbias] = [n * k, n].map(|n| plan.stats(n));
    let mut device = device(&plan);
    for (span, values) in [x, weight, bias].into_iter().zip(inputs) {
        put(&mut device, span, values);
    }
    put(&mut device, incoming, dy);
    put(&mut device, identity, &(0..n * n).map(|i| if i / n == i % n { 1.0 } else { 0.0 }).collect::<Vec<_>>());
    let epilogue = match case {
        Case::Activation(kind) => {
            device.run(Linear { shape, x, weight, bias: Some(bias), epilogue: Epilogue::Activation { kind, pre }, y });
            BackwardEpilogue::Activation { kind, pre }
        }
        _ => BackwardEpilogue::None,
    };
    device.run(LinearBackwardData {
        shape: LinearShape::new(rows, n, n),
        dy: incoming,
        weight: identity,
        epilogue,
        dx: passed,
    });
    device.run(LinearBackwardData { shape, dy: passed, weight, epilogue: BackwardEpilogue::None, dx });
    device.run(LinearBackwardWeight { shape, dy: passed, x, dweight, dbias: Some(dbias) });
    let residual = if matches!(case, Case::Residual) { dy.to_vec() } else { vec![0.0; rows * n] };
    vec![get(&device, dx), get(&device, dweight), get(&device, dbias), residual]
}

const CASES: [Case; 4] =
    [Case::Plain, Case::Activation(Activation::Gelu), Case::Activation(Activation::QuickGelu), Case::Residual];

fn shapes() -> Vec<LinearShape> {
    [(7, 24, 13), (1, 5, 3), (3, 1, 7)]
        .into_iter()
        .flat_map(|(rows, k, n)| [LinearShape::new(rows, k, n), LinearShape::projection(rows, k, n)])
        .collect()
}

fn inputs(shape: LinearShape) -> Vec<Vec<f64>> {
    let LinearShape { rows, inputs: k, outputs: n, .. } = shape;
    [("x", rows * k), ("weight", n * k), ("bias", n), ("residual", rows * n)].map(|(name, n)| random(name, n)).to_vec()
}

#[test]
fn gradients_match_finite_differences() {
    for shape in shapes() {
        for case in CASES {
            let inputs = inputs(shape);
            let dy = random("dy", shape.rows * shape.outputs);
            let gradients = backward(shape, case, &inputs, &dy);
            let used = if matches!(case, Case::Residual) { 4 } else { 3 };
            check_gradients(&inputs[..used], &gradients[..used], |moved| {
                let mut all = inputs.clone();
                all[..used].clone_from_slice(moved);
                dot(&forward(shape, case, &all), &dy)
            });
        }
    }
}

#[test]
fn forward_is_the_matrix_product() {
    for shape in shapes() {
        let inputs = inputs(shape);
        let LinearShape { rows, inputs: k, outputs: n, .. } = shape;
        let weight = |out: usize, input: usize| match shape.layout {
            perennial::ops::linear::WeightLayout::OutIn => inputs[1][out * k + input],
            perennial::ops::linear::WeightLayout::InOut => inputs[1][input * n + out],
        };
        let mut expected = Vec::new();
        for row in 0..rows {
            for out in 0..n {
                let product: f64 = (0..k).map(|input| inputs[0][row * k + input] * weight(out, input)).sum();
                expected.push(product + inputs[2][out] + inputs[3][row * n + out]);
            }
        }
        assert_close("residual form", &forward(shape, Case::Residual, &inputs), &expected, 1e-14);
    }
}

#[test]
fn activations_take_their_known_values() {
    // x Phi(x) and x sigmoid(1.702 x) at 1 and -3, to 15 digits.
    let shape = LinearShape::new(2, 1, 1);
    let inputs = vec![vec![1.0, -3.0], vec![1.0], vec![0.0], vec![0.0; 2]];
    let gelu = forward(shape, Case::Activation(Activation::Gelu), &inputs);
    assert_close("gelu", &gelu, &[0.841_344_746_068_543, -0.004_049_694_094_890_27], 1e-14);
    let quick = forward(shape, Case::Activation(Activation::QuickGelu), &inputs);
    assert_close("quick gelu", &quick, &[1.0 / (1.0 + (-1.702f64).exp()), -3.0 / (1.0 + 5.106f64.exp())], 1e-14);
}
