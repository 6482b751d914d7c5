use perennial::check::attention::AttentionCase;
use perennial::check::{Case, Size};
use perennial::ops::attention::{Attention, AttentionShape};
use perennial::ops::{Plan, Run};
use proptest::prelude::*;

use super::{Device, assert_all_gradients, assert_close, assert_holds, device, get, put, random, results};

fn case(samples: usize, tokens: usize, heads: usize, head_dim: usize, causal: bool) -> AttentionCase {
    AttentionCase { shape: AttentionShape { samples, tokens, heads, head_dim, causal }, far: false }
}

#[test]
fn gradients_match_finite_differences() {
    assert_all_gradients::<AttentionCase>();
}

#[test]
fn drawn_shapes_hold() {
    let shapes = (1usize..4, 2usize..20, 1usize..3, 1usize..9, any::<bool>());
    assert_holds(shapes, true, |(samples, tokens, heads, head_dim, causal)| {
        case(samples, tokens, heads, head_dim, causal)
    });
}

#[test]
fn one_token_attends_to_itself_alone() {
    let result = results(&case(1, 1, 2, 4, false));
    assert_eq!(result("out"), result("qkv")[16..]);
    assert!(result("dqkv")[..16].iter().all(|gradient| gradient.abs() < 1e-15), "its scores change nothing");
}

#[test]
fn forward_is_softmax_of_scores_times_values() {
    for AttentionCase { shape, far } in AttentionCase::list(Size::Tiny) {
        let result = results(&AttentionCase { shape, far });
        let qkv = result("qkv");
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
        assert_close(&format!("{shape:?}"), &result("out"), &expected, 1e-13);
    }
}

#[test]
fn causal_tokens_do_not_see_what_follows() {
    let shape = AttentionShape { samples: 1, tokens: 6, heads: 2, head_dim: 4, causal: true };
    let mut plan = Plan::new::<Device>();
    let (qkv, out, log_sum_exp) = (plan.tensor(6 * 3 * 8), plan.tensor(6 * 8), plan.stats(6 * 2));
    let mut device = device(&plan);
    let mut values = random("qkv", 6 * 3 * 8);
    let mut run = |values: &[f64]| {
        put(&mut device, qkv, values);
        device.run(Attention { shape, qkv, out, log_sum_exp });
        get(&device, out)
    };
    let before = run(&values);
    values[5 * 3 * 8..].iter_mut().for_each(|value| *value += 1.0);
    let after = run(&values);
    assert_eq!(before[..5 * 8], after[..5 * 8]);
    assert_ne!(before[5 * 8..], after[5 * 8..]);
}
