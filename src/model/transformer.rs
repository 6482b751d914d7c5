//! The transformer that both towers share: forward in the order in which things happen, backward the same list in reverse.

use super::parameters::ParameterList;
use super::spec::{ModelSpec, TransformerSpec};
use super::weights::{LinearWeights, NormWeights, SavedNorm, Weights};
use crate::ops::attention::{Attention, AttentionBackward, AttentionShape};
use crate::ops::layer_norm::LayerNormShape;
use crate::ops::linear::{BackwardEpilogue, Epilogue};
use crate::ops::{Device, Plan, Stats, Tensor, Write};

/// One block's parameters and their gradients.
struct BlockWeights {
    ln_1: NormWeights,
    in_proj: LinearWeights,
    out_proj: LinearWeights,
    ln_2: NormWeights,
    c_fc: LinearWeights,
    c_proj: LinearWeights,
}

/// What a block keeps of its forward pass. Rows are tokens of all sequences; w is the width.
struct Saved {
    /// The residual stream before, between and after the two branches [rows, w]; `output` is the next block's `input`.
    input: Tensor,
    middle: Tensor,
    output: Tensor,
    ln_1: SavedNorm,
    /// [rows, 3 w]
    qkv: Tensor,
    /// [rows, w]
    attended: Tensor,
    /// [sequences, heads, tokens]
    log_sum_exp: Stats,
    ln_2: SavedNorm,
    /// [rows, hidden], before and after the activation.
    pre: Tensor,
    hidden: Tensor,
}

/// Gradients on their way down, shared by all blocks.
struct Gradients {
    /// Of the residual stream [rows, w], and of a branch's input.
    stream: Tensor,
    branch: Tensor,
    /// [rows, 3 w]
    qkv: Tensor,
    /// [rows, hidden]
    hidden: Tensor,
}

/// Whether a plan keeps what a backward pass needs, or only what the next block needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Activations of every block are kept.
    Training,
    /// One block's activations are reused for the next.
    Inference,
}

/// A stack of residual attention blocks with all its memory.
pub(crate) struct Transformer {
    spec: TransformerSpec,
    blocks: Vec<(BlockWeights, Saved)>,
    gradients: Option<Gradients>,
    /// Where the first block reads, when there is none to read from.
    input: Tensor,
}

impl Transformer {
    /// The blocks under `prefix` (`visual.transformer.resblocks`, `transformer.resblocks`), planned for up to `sequences`
    /// sequences of up to `tokens` tokens.
    pub(crate) fn plan(
        plan: &mut Plan,
        spec: TransformerSpec,
        prefix: &str,
        list: &ParameterList,
        weights: Weights,
        (sequences, tokens): (usize, usize),
        purpose: Purpose,
    ) -> Transformer {
        let rows = sequences * tokens;
        let width = spec.width;
        let input = plan.tensor(rows * width);
        let mut blocks: Vec<(BlockWeights, Saved)> = Vec::with_capacity(spec.layers);
        for layer in 0..spec.layers {
            let linear = |weight: &str, bias: &str| {
                weights.linear(list, &format!("{prefix}.{layer}.{weight}"), &format!("{prefix}.{layer}.{bias}"))
            };
            let norm = |name: &str| weights.norm(list, &format!("{prefix}.{layer}.{name}"));
            let block = BlockWeights {
                ln_1: norm("ln_1"),
                in_proj: linear("attn.in_proj_weight", "attn.in_proj_bias"),
                out_proj: linear("attn.out_proj.weight", "attn.out_proj.bias"),
                ln_2: norm("ln_2"),
                c_fc: linear("mlp.c_fc.weight", "mlp.c_fc.bias"),
                c_proj: linear("mlp.c_proj.weight", "mlp.c_proj.bias"),
            };
            let saved = match (blocks.last(), purpose) {
                // Without a backward pass every block after the first writes where the one before it did; the stream moves
                // between two places.
                (Some((_, before)), Purpose::Inference) => {
                    Saved { input: before.output, output: before.input, ..*before }
                }
                (before, _) => Saved {
                    input: before.map_or(input, |(_, before)| before.output),
                    ln_1: SavedNorm::plan(plan, rows, width),
                    qkv: plan.tensor(rows * 3 * width),
                    attended: plan.tensor(rows * width),
                    log_sum_exp: plan.stats(rows * spec.heads),
                    middle: plan.tensor(rows * width),
                    ln_2: SavedNorm::plan(plan, rows, width),
                    pre: plan.tensor(rows * spec.hidden),
                    hidden: plan.tensor(rows * spec.hidden),
                    output: plan.tensor(rows * width),
                },
            };
            blocks.push((block, saved));
        }
        let gradients = (purpose == Purpose::Training).then(|| Gradients {
            stream: plan.tensor(rows * width),
            branch: plan.tensor(rows * width),
            qkv: plan.tensor(rows * 3 * width),
            hidden: plan.tensor(rows * spec.hidden),
        });
        Transformer { spec, blocks, gradients, input }
    }

    /// Where the embeddings `[sequences, tokens, width]` go before [`Transformer::forward`].
    pub(crate) fn input(&self) -> Tensor {
        self.input
    }

    /// Where [`Transformer::forward`] leaves its result.
    pub(crate) fn output(&self) -> Tensor {
        self.blocks.last().map_or(self.input, |(_, saved)| saved.output)
    }

    /// Where the gradient of the output goes before [`Transformer::backward`], which leaves that of the input there.
    pub(crate) fn gradient(&self) -> Tensor {
        self.gradients.as_ref().expect("planned for training").stream
    }

    pub(crate) fn forward(&self, device: &mut dyn Device, sequences: usize, tokens: usize) {
        let spec = &self.spec;
        let rows = sequences * tokens;
        let norm = norm_shape(rows, spec.width);
        let shape = self.attention_shape(sequences, tokens);
        for (block, saved) in &self.blocks {
            device.run(block.ln_1.forward(norm, saved.input, saved.ln_1));
            device.run(block.in_proj.forward(rows, saved.ln_1.y, Epilogue::None, saved.qkv));
            let Saved { qkv, attended: out, log_sum_exp, .. } = *saved;
            device.run(Attention { shape, qkv, out, log_sum_exp });
            let residual = Epilogue::Residual(saved.input);
            device.run(block.out_proj.forward(rows, saved.attended, residual, saved.middle));

            device.run(block.ln_2.forward(norm, saved.middle, saved.ln_2));
            let activation = Epilogue::Activation { kind: spec.activation, pre: saved.pre };
            device.run(block.c_fc.forward(rows, saved.ln_2.y, activation, saved.hidden));
            let residual = Epilogue::Residual(saved.middle);
            device.run(block.c_proj.forward(rows, saved.hidden, residual, saved.output));
        }
    }

    /// From the gradient of the output in [`Transformer::gradient`] to those of all parameters, and of the input in its place.
    pub(crate) fn backward(&self, device: &mut dyn Device, sequences: usize, tokens: usize) {
        let spec = &self.spec;
        let rows = sequences * tokens;
        let norm = norm_shape(rows, spec.width);
        let shape = self.attention_shape(sequences, tokens);
        let d = self.gradients.as_ref().expect("planned for training");
        for (block, saved) in self.blocks.iter().rev() {
            device.run(block.c_proj.backward_weight(rows, d.stream, saved.hidden));
            let activation = BackwardEpilogue::Activation { kind: spec.activation, pre: saved.pre };
            device.run(block.c_proj.backward_data(rows, d.stream, activation, d.hidden));
            device.run(block.c_fc.backward_weight(rows, d.hidden, saved.ln_2.y));
            device.run(block.c_fc.backward_data(rows, d.hidden, BackwardEpilogue::None, d.branch));
            device.run(block.ln_2.backward(norm, d.branch, saved.middle, saved.ln_2, Write::Add, d.stream));

            device.run(block.out_proj.backward_weight(rows, d.stream, saved.attended));
            device.run(block.out_proj.backward_data(rows, d.stream, BackwardEpilogue::None, d.branch));
            let Saved { qkv, attended: out, log_sum_exp, .. } = *saved;
            device.run(AttentionBackward { shape, qkv, out, log_sum_exp, dout: d.branch, dqkv: d.qkv });
            device.run(block.in_proj.backward_weight(rows, d.qkv, saved.ln_1.y));
            device.run(block.in_proj.backward_data(rows, d.qkv, BackwardEpilogue::None, d.branch));
            device.run(block.ln_1.backward(norm, d.branch, saved.input, saved.ln_1, Write::Add, d.stream));
        }
    }

    fn attention_shape(&self, samples: usize, tokens: usize) -> AttentionShape {
        let TransformerSpec { heads, causal, .. } = self.spec;
        AttentionShape { samples, tokens, heads, head_dim: self.spec.head_dim(), causal }
    }
}

/// The shape of a layer norm with CLIP's epsilon.
pub fn norm_shape(rows: usize, width: usize) -> LayerNormShape {
    LayerNormShape { rows, width, eps: ModelSpec::LAYER_NORM_EPS }
}
