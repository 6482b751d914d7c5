//! Cases of attention.

use super::{Case, Operands, Ops, Size, Tolerance, in_order};
use crate::model::spec::ModelSpec;
use crate::ops::Backend;
use crate::ops::attention::{Attention, AttentionBackward, AttentionShape};

/// Forward, and backward from an output and a log-sum-exp of our own: it must not see how the forward pass rounds.
pub struct AttentionCase {
    /// Its sizes, and whether the mask is causal.
    pub shape: AttentionShape,
    /// Scores so far below 0 that 2 to the power of minus them is infinite: a token that does not exist, whose score is 0,
    /// must not take part.
    pub far: bool,
}

/// The first value of each query, and of each key with the other sign, where scores are far below 0.
const FAR: f32 = 32.0;

impl Case for AttentionCase {
    const OP: &'static str = "attention";

    fn list(size: Size) -> Vec<AttentionCase> {
        // Heads for one round of a block's warps and for several, that fit into shared memory and that do not.
        let shapes: &[(usize, usize, usize, usize, bool)] = match size {
            Size::Tiny => &[
                (3, 7, 3, 8, false),
                (3, 7, 3, 8, true),
                (1, 2, 1, 4, false),
                (2, 17, 1, 5, false),
                (2, 17, 1, 5, true),
            ],
            Size::Smallest => &[(1, 70, 1, 80, true), (1, 226, 1, 112, true)],
            Size::Small => &[
                (3, 1, 4, 64, false),
                (2, 7, 3, 48, true),
                (1, 50, 2, 64, false),
                (1, 77, 2, 64, true),
                (1, 100, 1, 16, false),
                (1, 197, 1, 64, false),
                (1, 450, 1, 64, true),
            ],
            Size::Full => &[
                (3, 1, 4, 64, false),
                (5, 7, 3, 48, true),
                (32, 50, 12, 64, false),
                (64, 77, 8, 64, true),
                (64, 197, 12, 64, false),
                (16, 257, 16, 64, false),
                (8, 257, 16, 80, false),
                (8, 577, 12, 64, false),
                (2, 1024, 4, 64, true),
                (2, 1500, 2, 128, true),
                (2, 600, 3, 32, false),
            ],
        };
        let far: &[(usize, usize)] = match size {
            Size::Tiny => &[],
            Size::Smallest => &[(21, 64)],
            Size::Small | Size::Full => &[(21, 64), (241, 80)],
        };
        let near = shapes.iter().map(|&(samples, tokens, heads, head_dim, causal)| AttentionCase {
            shape: AttentionShape { samples, tokens, heads, head_dim, causal },
            far: false,
        });
        let far = far.iter().map(|&(tokens, head_dim)| AttentionCase {
            shape: AttentionShape { samples: 1, tokens, heads: 2, head_dim, causal: false },
            far: true,
        });
        near.chain(far).collect()
    }

    fn of_model(spec: &ModelSpec, samples: usize) -> Vec<AttentionCase> {
        let towers = [(spec.vision(), spec.patches() + 1), (spec.text(), spec.text_cfg.context_length)];
        let case = |(tower, tokens): (crate::model::spec::TransformerSpec, usize)| {
            let (heads, head_dim, causal) = (tower.heads, tower.head_dim(), tower.causal);
            AttentionCase { shape: AttentionShape { samples, tokens, heads, head_dim, causal }, far: false }
        };
        towers.map(case).into()
    }

    fn shape(&self) -> String {
        let AttentionShape { samples, tokens, heads, head_dim, causal } = self.shape;
        format!("{samples} x {tokens}, {heads} heads of {head_dim}{}", if causal { ", causal" } else { "" })
            + if self.far { ", far" } else { "" }
    }

    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D> {
        let shape = self.shape;
        let AttentionShape { samples, tokens, heads, head_dim, .. } = shape;
        let (rows, values) = (samples * tokens, samples * tokens * shape.width());
        // P and dS are rounded to bf16 before the products that they enter: each term is off by up to 2^-8 of itself,
        // independently. A sum is then off by about 2^-8 / sqrt(3) of what such a sum usually is, five times that at
        // worst, and the largest of all sums is two to four times the usual one.
        let rounded_terms = Tolerance::bf16(2.0 / 256.0);
        // Scores are about normal: rows of P sum to about 1.
        let mut usual = (tokens as f32).ln() + 0.5;
        let mut qkv = operands.normal(3 * values, 1.0);
        if self.far {
            usual -= FAR * FAR / (head_dim as f32).sqrt();
            for (i, head) in qkv.chunks_exact_mut(head_dim).enumerate() {
                match i / heads % 3 {
                    0 => head[0] = FAR,
                    1 => head[0] = -FAR,
                    _ => {}
                }
            }
        }
        let qkv = operands.input_of("qkv", qkv);
        let out = operands.output("out", values, rounded_terms);
        // Scores of head_dim terms, a sum over the tokens, and 2^x within two units in the last place.
        let log_sum_exp = operands.output_stats("log_sum_exp", rows * heads, Tolerance::f32(head_dim + tokens + 4));
        let backward = AttentionBackward {
            shape,
            qkv,
            out: operands.apart(out, |own| own.input("given out", values, 0.5)),
            log_sum_exp: operands.apart(log_sum_exp, |own| {
                let given = own.normal(rows * heads, 0.2).iter().map(|x| usual + x).collect();
                own.stats_of("given log_sum_exp", given)
            }),
            dout: operands.input("dout", values, 1.0),
            dqkv: operands.output("dqkv", 3 * values, rounded_terms),
        };
        in_order![Attention { shape, qkv, out, log_sum_exp }, backward]
    }
}
