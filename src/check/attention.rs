use super::{Case, Checker, Operands, Size, Tolerance};
use crate::ops::attention::AttentionShape;
use crate::ops::{Backend, Stats, Tensor};

/// Forward, and backward from an output and a log-sum-exp of our own: it must not see how the forward pass rounds.
struct Attention {
    shape: AttentionShape,
    /// Scores so far below 0 that 2 to the power of minus them is infinite: a token that does not exist, whose score is 0,
    /// must not take part.
    far: bool,
}

/// The first value of each query, and of each key with the other sign, where scores are far below 0.
const FAR: f32 = 32.0;

struct Spans {
    qkv: Tensor,
    out: Tensor,
    log_sum_exp: Stats,
    given_out: Tensor,
    given_log_sum_exp: Stats,
    dout: Tensor,
    dqkv: Tensor,
}

impl Case for Attention {
    const OP: &'static str = "attention";
    type Spans = Spans;

    fn shape(&self) -> String {
        let AttentionShape { samples, tokens, heads, head_dim, causal } = self.shape;
        format!("{samples} x {tokens}, {heads} heads of {head_dim}{}", if causal { ", causal" } else { "" })
            + if self.far { ", far" } else { "" }
    }

    fn plan(&self, operands: &mut Operands) -> Spans {
        let AttentionShape { samples, tokens, heads, head_dim, .. } = self.shape;
        let (rows, values) = (samples * tokens, samples * tokens * self.shape.width());
        // P and dS are rounded to bf16 before the products that they enter: each term is off by up to 2^-8 of itself,
        // independently. A sum is then off by about 2^-8 / sqrt(3) of what such a sum usually is, five times that at
        // worst, and the largest of all sums is two to four times the usual one.
        let rounded_terms = Tolerance::bf16(2.0 / 256.0);
        // Scores of head_dim terms, a sum over the tokens, and 2^x within two units in the last place.
        let log_sum_exp = Tolerance::f32(head_dim + tokens + 4);
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
        let given_log_sum_exp = operands.normal(rows * heads, 0.2).iter().map(|x| usual + x).collect();
        Spans {
            qkv: operands.input_of(qkv),
            out: operands.output("out", values, rounded_terms),
            log_sum_exp: operands.output_stats("log_sum_exp", rows * heads, log_sum_exp),
            given_out: operands.input(values, 0.5),
            given_log_sum_exp: operands.stats_of(given_log_sum_exp),
            dout: operands.input(values, 1.0),
            dqkv: operands.output("dqkv", 3 * values, rounded_terms),
        }
    }

    fn run<D: Backend>(&self, device: &mut D, s: &Spans) {
        device.run(crate::ops::attention::Attention {
            shape: self.shape,
            qkv: s.qkv,
            out: s.out,
            log_sum_exp: s.log_sum_exp,
        });
        device.run(crate::ops::attention::AttentionBackward {
            shape: self.shape,
            qkv: s.qkv,
            out: s.given_out,
            log_sum_exp: s.given_log_sum_exp,
            dout: s.dout,
            dqkv: s.dqkv,
        });
    }
}

pub fn check<D: Backend>(checker: &mut Checker<D>) {
    // Heads for one round of a block's warps and for several, that fit into shared memory and that do not.
    let shapes: &[(usize, usize, usize, usize, bool)] = match checker.size {
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
    for &(samples, tokens, heads, head_dim, causal) in shapes {
        checker.case(&Attention { shape: AttentionShape { samples, tokens, heads, head_dim, causal }, far: false });
    }
    let far = if checker.size == Size::Smallest { &[(21, 64)][..] } else { &[(21, 64), (241, 80)] };
    for &(tokens, head_dim) in far {
        let shape = AttentionShape { samples: 1, tokens, heads: 2, head_dim, causal: false };
        checker.case(&Attention { shape, far: true });
    }
}
