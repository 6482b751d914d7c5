use super::{Case, Checker, Operands, Size, Tolerance};
use crate::ops::token_embed::TokenShape;
use crate::ops::{Backend, Ids, Stats, Tensor};
use crate::rng::below;

/// Texts as a tokenizer makes them: a start, some common words, an end, and 0 from there on.
struct TokenEmbed {
    shape: TokenShape,
    vocabulary: usize,
    context: usize,
}

struct Spans {
    ids: Ids,
    table: Tensor,
    position: Tensor,
    x: Tensor,
    dx: Tensor,
    dtable: Stats,
    dposition: Stats,
}

impl Case for TokenEmbed {
    const OP: &'static str = "token_embed";
    type Spans = Spans;

    fn shape(&self) -> String {
        let TokenShape { texts, tokens, width } = self.shape;
        format!("{texts} x {tokens} of {} x {width}, {} words", self.context, self.vocabulary)
    }

    fn plan(&self, operands: &mut Operands) -> Spans {
        let TokenShape { texts, tokens, width } = self.shape;
        let generator = operands.generator();
        let mut ids = vec![0u32; texts * tokens];
        for text in ids.chunks_exact_mut(tokens) {
            let length = 1 + below(generator, tokens as u64) as usize;
            for id in &mut text[..length] {
                // The square makes some words common and most rare.
                let [a, b] = [(); 2].map(|()| below(generator, self.vocabulary as u64) as usize);
                *id = (a * b / self.vocabulary) as u32;
            }
            text[0] = self.vocabulary as u32 - 2;
            text[length - 1] = self.vocabulary as u32 - 1;
        }
        let mut counts = vec![0; self.vocabulary];
        ids.iter().for_each(|id| counts[*id as usize] += 1);
        let most = counts.into_iter().max().unwrap_or(0);
        Spans {
            ids: operands.ids(ids),
            table: operands.input(self.vocabulary * width, 1.0),
            position: operands.input(self.context * width, 1.0),
            // One sum in f32 and one rounding.
            x: operands.output("x", texts * tokens * width, Tolerance::bf16(0.0)),
            dx: operands.input(texts * tokens * width, 1.0),
            dtable: operands.output_stats("dtable", self.vocabulary * width, Tolerance::f32(most)),
            dposition: operands.output_stats("dposition", self.context * width, Tolerance::f32(texts)),
        }
    }

    fn run<D: Backend>(&self, device: &mut D, s: &Spans) {
        device.run(crate::ops::token_embed::TokenEmbed {
            shape: self.shape,
            ids: s.ids,
            table: s.table,
            position: s.position,
            x: s.x,
        });
        device.run(crate::ops::token_embed::TokenEmbedBackward {
            shape: self.shape,
            ids: s.ids,
            dx: s.dx,
            dtable: s.dtable,
            dposition: s.dposition,
        });
    }
}

pub fn check<D: Backend>(checker: &mut Checker<D>) {
    // (texts, tokens, width, vocabulary, context). Over 256 words take a second pass of the sort, over 2048 places several
    // blocks of it; a start of text in over 16 texts goes on from chunk to chunk.
    let shapes: &[(usize, usize, usize, usize, usize)] = match checker.size {
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
    for &(texts, tokens, width, vocabulary, context) in shapes {
        checker.case(&TokenEmbed { shape: TokenShape { texts, tokens, width }, vocabulary, context });
    }
}
