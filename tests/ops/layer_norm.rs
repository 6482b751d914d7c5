use perennial::ops::layer_norm::{LayerNorm, LayerNormBackward, LayerNormShape};
use perennial::ops::{Plan, Run, Write};

use super::{Device, assert_close, check_gradients, device, dot, get, put, random};

const SHAPES: [LayerNormShape; 3] = [
    LayerNormShape { rows: 7, width: 24, eps: 1e-5 },
    LayerNormShape { rows: 1, width: 33, eps: 1e-5 },
    LayerNormShape { rows: 300, width: 3, eps: 1e-2 },
];

fn inputs(shape: LayerNormShape) -> Vec<Vec<f64>> {
    vec![random("x", shape.rows * shape.width), random("gamma", shape.width), random("beta", shape.width)]
}

/// y, and the gradients of dot(y, dy) by [x, gamma, beta].
fn run(shape: LayerNormShape, inputs: &[Vec<f64>], dy: &[f64], write: Write) -> (Vec<f64>, Vec<Vec<f64>>) {
    let LayerNormShape { rows, width, .. } = shape;
    let mut plan = Plan::new::<Device>();
    let [x, y, incoming, dx] = [(); 4].map(|()| plan.tensor(rows * width));
    let [gamma, beta] = [(); 2].map(|()| plan.tensor(width));
    let [mean, rstd] = [(); 2].map(|()| plan.stats(rows));
    let [dgamma, dbeta] = [(); 2].map(|()| plan.stats(width));
    let mut device = device(&plan);
    for (span, values) in [x, gamma, beta].into_iter().zip(inputs) {
        put(&mut device, span, values);
    }
    put(&mut device, incoming, dy);
    if write == Write::Add {
        put(&mut device, dx, dy);
    }
    device.run(LayerNorm { shape, x, gamma, beta, y, mean, rstd });
    device.run(LayerNormBackward { shape, dy: incoming, x, gamma, mean, rstd, write, dx, dgamma, dbeta });
    (get(&device, y), vec![get(&device, dx), get(&device, dgamma), get(&device, dbeta)])
}

#[test]
fn gradients_match_finite_differences() {
    for shape in SHAPES {
        let inputs = inputs(shape);
        let dy = random("dy", shape.rows * shape.width);
        let (_, gradients) = run(shape, &inputs, &dy, Write::Set);
        check_gradients(&inputs, &gradients, |inputs| dot(&run(shape, inputs, &dy, Write::Set).0, &dy));
    }
}

#[test]
fn adding_leaves_the_residual_gradient_in_place() {
    let shape = SHAPES[0];
    let inputs = inputs(shape);
    let dy = random("dy", shape.rows * shape.width);
    let (_, set) = run(shape, &inputs, &dy, Write::Set);
    let (_, added) = run(shape, &inputs, &dy, Write::Add);
    let expected: Vec<f64> = set[0].iter().zip(&dy).map(|(dx, dy)| dx + dy).collect();
    assert_close("dx", &added[0], &expected, 1e-15);
}

#[test]
fn rows_come_out_centred_and_scaled() {
    let shape = LayerNormShape { rows: 5, width: 40, eps: 0.0 };
    let inputs = vec![random("x", 200), vec![1.0; 40], vec![0.0; 40]];
    let (y, _) = run(shape, &inputs, &random("dy", 200), Write::Set);
    for row in y.chunks(40) {
        assert!(row.iter().sum::<f64>().abs() < 1e-12);
        assert!((dot(row, row) / 40.0 - 1.0).abs() < 1e-12);
    }
}
