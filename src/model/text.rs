//! The text tower: token ids to L2-normalised embeddings.

use super::parameters::ParameterList;
use super::spec::ModelSpec;
use super::tower::Head;
use super::transformer::{Purpose, Transformer};
use super::weights::Weights;
use crate::ops::pool::PoolShape;
use crate::ops::token_embed::{TokenEmbed, TokenEmbedBackward, TokenShape};
use crate::ops::{Device, Ids, Plan, Stats, Tensor};

/// open_clip's text transformer: tokens, positions, causal blocks, ln_final of the end-of-text token, projection.
///
/// Texts run at the length of the batch's longest, not at the context length: under a causal mask nothing after the
/// end-of-text token can reach it, so embeddings and gradients are the same and the padding costs nothing.
pub struct TextTower {
    width: usize,
    token_embedding: (Tensor, Stats),
    positional_embedding: (Tensor, Stats),
    blocks: Transformer,
    head: Head,
    /// [texts, tokens]
    ids: Ids,
    /// Where each text ends [texts].
    end: Ids,
}

/// Texts of a batch, and the length that they run at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadedTexts {
    /// Distinct texts.
    pub texts: usize,
    /// Tokens that are computed of each: as many as the longest has, or the whole context.
    pub tokens: usize,
}

/// Where a text's feature is taken: at the first of its end tokens, whose id is the largest. A caption that has the end token as a text
/// of its own has two.
fn end_of(text: &[u32]) -> u32 {
    let largest = text.iter().max();
    text.iter().position(|id| Some(id) == largest).unwrap_or(0) as u32
}

impl TextTower {
    pub(crate) fn plan(
        plan: &mut Plan,
        spec: &ModelSpec,
        list: &ParameterList,
        weights: Weights,
        texts: usize,
        purpose: Purpose,
    ) -> TextTower {
        let (context, width) = (spec.text_cfg.context_length, spec.text_cfg.width);
        let view = |name: &str| (weights.value(list.get(name)), weights.gradient(list, list.get(name)));
        TextTower {
            width,
            token_embedding: view("token_embedding.weight"),
            positional_embedding: view("positional_embedding"),
            blocks: Transformer::plan(
                plan,
                spec.text(),
                "transformer.resblocks",
                list,
                weights,
                (texts, context),
                purpose,
            ),
            head: Head::plan(plan, list, weights, ("ln_final", "text_projection"), (texts, width, spec.embed_dim)),
            ids: plan.ids(texts * context),
            end: plan.ids(texts),
        }
    }

    /// Sends a batch of texts, each from its start to its end token, without padding. Returns the length they run at.
    pub(crate) fn load(&self, device: &mut dyn Device, texts: &[&[u32]]) -> usize {
        let tokens = texts.iter().map(|text| text.len()).max().unwrap_or(1);
        self.load_at(device, texts, tokens)
    }

    /// The same at a given length, at least that of the longest text; for measuring what padding would cost.
    pub(crate) fn load_at(&self, device: &mut dyn Device, texts: &[&[u32]], tokens: usize) -> usize {
        let mut ids = Vec::with_capacity(texts.len() * tokens);
        for text in texts {
            ids.extend_from_slice(text);
            ids.resize(ids.len() + tokens - text.len(), 0);
        }
        device.write(self.ids, &ids);
        device.write(self.end, &texts.iter().map(|text| end_of(text)).collect::<Vec<_>>());
        tokens
    }

    /// Runs on the texts that `other` holds.
    pub fn see(&self, device: &mut dyn Device, other: &TextTower, LoadedTexts { texts, tokens }: LoadedTexts) {
        device.copy(other.ids.first(texts * tokens), self.ids.first(texts * tokens));
        device.copy(other.end.first(texts), self.end.first(texts));
        self.forward(device, texts, tokens);
    }

    /// L2-normalised embeddings `[texts, D]` after `TextTower::forward`.
    pub fn embeddings(&self) -> Tensor {
        self.head.embeddings
    }

    /// Where the embeddings' gradient goes before `TextTower::backward`.
    pub fn embeddings_gradient(&self) -> Tensor {
        self.head.embeddings_gradient
    }

    fn shapes(&self, texts: usize, tokens: usize) -> (TokenShape, PoolShape) {
        let width = self.width;
        (TokenShape { texts, tokens, width }, PoolShape { samples: texts, tokens, width })
    }

    pub(crate) fn forward(&self, device: &mut dyn Device, texts: usize, tokens: usize) {
        let (embed, pool) = self.shapes(texts, tokens);
        let (table, position) = (self.token_embedding.0, self.positional_embedding.0);
        device.run(TokenEmbed {
            shape: embed,
            ids: self.ids,
            table,
            position: position.first(tokens * self.width),
            x: self.blocks.input(),
        });
        self.blocks.forward(device, texts, tokens);
        self.head.forward(device, pool, Some(self.end), self.blocks.output());
    }

    /// From the embeddings' gradient to that of every parameter.
    pub(crate) fn backward(&self, device: &mut dyn Device, texts: usize, tokens: usize) {
        let (embed, pool) = self.shapes(texts, tokens);
        let stream = self.blocks.gradient();
        self.head.backward(device, pool, Some(self.end), stream);
        self.blocks.backward(device, texts, tokens);
        device.run(TokenEmbedBackward {
            shape: embed,
            ids: self.ids,
            dx: stream,
            dtable: self.token_embedding.1,
            dposition: self.positional_embedding.1,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::end_of;

    #[test]
    fn a_text_ends_at_the_first_of_its_end_tokens() {
        assert_eq!(end_of(&[98, 5, 7, 99]), 3);
        assert_eq!(end_of(&[98, 5, 99, 7, 98, 99]), 2);
        assert_eq!(end_of(&[98, 99]), 1);
    }
}
