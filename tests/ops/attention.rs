use perennial::ops::attention::{Attention, AttentionBackward, AttentionShape};
use perennial::ops::{Plan, Run};

use super::{Device, assert_close, check_gradients, device, dot, get, put, random};

fn shapes() -> Vec<AttentionShape> {
    let shape = |samples, tokens, heads, head_dim| {
        [false, true].map(|causal| AttentionShape { samples, tokens, heads, head_dim, causal })
    };
    [shape(3, 7, 3, 8), shape(1, 1, 1, 4), shape(2, 17, 1, 5)].concat()
}

/// out, and the gradient of dot(out, dout) by qkv.
fn run(shape: AttentionShape, qkv_values: &[f64], dout_values: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let rows = shape.samples * shape.tokens;
    let mut plan = Plan::new::<Device>();
    let [qkv, dqkv] = [(); 2].map(|()| plan.tensor(rows * 3 * shape.width()));
    let [out, dout] = [(); 2].map(|()| plan.tensor(rows * shape.width()));
    let log_sum_exp = plan.stats(rows * shape.heads);
    let mut device = device(&plan);
    put(&mut device, qkv, qkv_values);
    put(&mut device, dout, dout_values);
    device.run(Attention { shape, qkv, out, log_sum_exp });
    device.run(AttentionBackward { shape, qkv, out, log_sum_exp, dout, dqkv });
    (get(&device, out), get(&device, dqkv))
}

fn inputs(shape: AttentionShape) -> (Vec<f64>, Vec<f64>) {
    let rows = shape.samples * shape.tokens;
    (random("qkv", rows * 3 * shape.width()), random("dout", rows * shape.width()))
}

#[test]
fn gradients_match_finite_differences() {
    for shape in shapes() {
        let (qkv, dout) = inputs(shape);
        let (_, gradient) = run(shape, &qkv, &dout);
        if shape.tokens == 1 {
            // One token attends to itself alone: q and k have no gradient, and relative errors no meaning there.
            assert!(gradient[..2 * shape.width()].iter().all(|g| g.abs() < 1e-15));
        }
        check_gradients(&[qkv], &[gradient], |inputs| dot(&run(shape, &inputs[0], &dout).0, &dout));
    }
}

#[test]
fn forward_is_softmax_of_scores_times_values() {
    for shape in shapes() {
        let (qkv, dout) = inputs(shape);
        let AttentionShape { samples, tokens, heads, head_dim, causal } = shape;
        let width = shape.width();
        let at = |sample: usize, token: usize, part: usize, head: usize, d: usize| {
            qkv[(sample * tokens + token) * 3 * width + part * width + head * head_dim + d]
        };
        let mut expected = vec![0.0; samples * tokens * width];
        for sample in 0..samples {
            for head in 0..heads {
                for i in 0..tokens {
                    let seen = if causal { i + 1 } else { tokens };
                    let scores: Vec<f64> = (0..seen)
                        .map(|j| (0..head_dim).map(|d| at(sample, i, 0, head, d) * at(sample, j, 1, head, d)).sum())
                        .map(|score: f64| (score / (head_dim as f64).sqrt()).exp())
                        .collect();
                    let total: f64 = scores.iter().sum();
                    for d in 0..head_dim {
                        let value: f64 = (0..seen).map(|j| scores[j] / total * at(sample, j, 2, head, d)).sum();
                        expected[(sample * tokens + i) * width + head * head_dim + d] = value;
                    }
                }
            }
        }
        assert_close(&format!("{shape:?}"), &run(shape, &qkv, &dout).0, &expected, 1e-13);
    }
}

#[test]
fn causal_tokens_do_not_see_what_follows() {
    let shape = AttentionShape { samples: 1, tokens: 6, heads: 2, head_dim: 4, causal: true };
    let (mut qkv, dout) = inputs(shape);
    let before = run(shape, &qkv, &dout).0;
    for value in &mut qkv[5 * 3 * 8..] {
        *value += 1.0;
    }
    let after = run(shape, &qkv, &dout).0;
    assert_eq!(before[..5 * 8], after[..5 * 8]);
    assert_ne!(before[5 * 8..], after[5 * 8..]);
}
