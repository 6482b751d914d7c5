//! Cases of token embedding.

use super::{Case, Operands, Ops, Size, Tolerance, in_order};
use crate::model::spec::ModelSpec;
use crate::ops::Backend;
use crate::ops::token_embed::{TokenEmbed, TokenEmbedBackward, TokenShape};
use crate::rng::below;

/// Texts as a tokenizer makes them: a start, some common words, an end, and 0 from there on.
pub struct TokenEmbedCase {
    /// Texts, the length in use, and the width.
    pub shape: TokenShape,
    /// Rows of the table of tokens.
    pub vocabulary: usize,
    /// Rows of the table of positions; those beyond the length in use have no gradient.
    pub context: usize,
}

impl Case for TokenEmbedCase {
    const OP: &'static str = "token_embed";

    fn list(size: Size) -> Vec<TokenEmbedCase> {
        // (texts, tokens, width, vocabulary, context). Over 256 words take a second pass of the sort, over 2048 places several
        // blocks of it; a start of text in over 16 texts goes on from chunk to chunk.
        let shapes: &[(usize, usize, usize, usize, usize)] = match size {
            Size::Tiny => &[(3, 4, 5, 11, 6)],
            Size::Smallest => &[(20, 4, 264, 300, 6), (5, 3, 45, 11, 4), (300, 7, 8, 300, 7)],
            Size::Small => &[
                (1, 1, 1, 2, 1),
                (70, 6, 33, 12, 8),
                (100, 40, 64, 700, 77),
                (40, 11, 520, 300, 11),
                (3, 11, 8, 49_408, 11),
            ],
            Size::Full => &[
                (1, 1, 1, 2, 1),
                (70, 6, 33, 12, 8),
                (300, 77, 512, 49_408, 77),
                (100, 16, 768, 49_408, 77),
                (9, 9, 8, 70_000, 9),
            ],
        };
        let case = |&(texts, tokens, width, vocabulary, context): &_| TokenEmbedCase {
            shape: TokenShape { texts, tokens, width },
            vocabulary,
            context,
        };
        shapes.iter().map(case).collect()
    }

    fn of_model(spec: &ModelSpec, texts: usize) -> Vec<TokenEmbedCase> {
        let (context, vocabulary) = (spec.text_cfg.context_length, spec.text_cfg.vocab_size);
        vec![TokenEmbedCase {
            shape: TokenShape { texts, tokens: context, width: spec.text().width },
            vocabulary,
            context,
        }]
    }

    fn shape(&self) -> String {
        let TokenShape { texts, tokens, width } = self.shape;
        format!("{texts} x {tokens} of {} x {width}, {} words", self.context, self.vocabulary)
    }

    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D> {
        let TokenEmbedCase { shape, vocabulary, context } = *self;
        let TokenShape { texts, tokens, width } = shape;
        let generator = operands.generator();
        let mut ids = vec![0u32; texts * tokens];
        for text in ids.chunks_exact_mut(tokens) {
            let length = 1 + below(generator, tokens as u64) as usize;
            for id in &mut text[..length] {
                // The square makes some words common and most rare.
                let [a, b] = [(); 2].map(|()| below(generator, vocabulary as u64) as usize);
                *id = (a * b / vocabulary) as u32;
            }
            text[0] = vocabulary as u32 - 2;
            text[length - 1] = vocabulary as u32 - 1;
        }
        let mut counts = vec![0; vocabulary];
        ids.iter().for_each(|id| counts[*id as usize] += 1);
        let most = counts.into_iter().max().unwrap_or(0);
        let ids = operands.ids(ids);
        in_order![
            TokenEmbed {
                shape,
                ids,
                table: operands.input("table", vocabulary * width, 1.0),
                position: operands.input("position", context * width, 1.0),
                // One sum in f32 and one rounding.
                x: operands.output("x", texts * tokens * width, Tolerance::bf16(0.0)),
            },
            TokenEmbedBackward {
                shape,
                ids,
                dx: operands.input("dx", texts * tokens * width, 1.0),
                dtable: operands.output_stats("dtable", vocabulary * width, Tolerance::f32(most)),
                dposition: operands.output_stats("dposition", context * width, Tolerance::f32(texts)),
            },
        ]
    }
}
