//! Cases of arithmetic over arenas.

use super::{Case, Operands, Ops, Size, Tolerance, in_order};
use crate::model::parameters::ParameterList;
use crate::model::spec::ModelSpec;
use crate::ops::arena::{AccumulateFisher, AccumulateSquares, Interpolate, QuadraticPenalty};
use crate::ops::{Backend, Stats};

/// Each sweep once; all begin at `start` of their spans: 16-byte accesses or none.
pub(crate) struct ArenaCase {
    pub len: usize,
    pub start: usize,
}

impl Case for ArenaCase {
    const OP: &'static str = "arena";

    fn list(size: Size) -> Vec<ArenaCase> {
        let lengths: &[usize] = match size {
            Size::Tiny => &[50],
            // Several blocks, and several elements a thread.
            Size::Smallest => &[5003],
            Size::Small => &[1, 2048, 50_003],
            Size::Full => &[1, 2048, 20_003, 5_000_000],
        };
        lengths.iter().flat_map(|len| [0, 1].map(|start| ArenaCase { len: *len, start })).collect()
    }

    fn of_model(spec: &ModelSpec, _: usize) -> Vec<ArenaCase> {
        vec![ArenaCase { len: ParameterList::of(spec).arena_len(), start: 0 }]
    }

    fn shape(&self) -> String {
        format!("{} from {}", self.len, self.start)
    }

    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D> {
        let len = self.len + self.start;
        // A few roundings of terms that are hardly larger than the largest result.
        let rounded = Tolerance::f32(4);
        let part = |span: Stats| span.slice(self.start, self.len);
        let mut updated = |name, tolerance| {
            let values = operands.normal(len, 1.0);
            part(operands.updated_stats(name, values, tolerance))
        };
        let [patched, kept, replaced, gradients] = [
            updated("patched", rounded),
            updated("kept", Tolerance::EXACT),
            updated("replaced", Tolerance::EXACT),
            updated("gradients", rounded),
        ];
        let mut squared = || operands.normal(len, 1.0).into_iter().map(|x| x * x).collect::<Vec<f32>>();
        let [mut squares, fisher, information] = [squared(), squared(), squared()];
        squares.iter_mut().step_by(29).for_each(|x| *x = f32::NAN);
        let squares = part(operands.updated_stats("squares", squares, rounded));
        let fisher = part(operands.updated_stats("fisher", fisher, rounded));
        let source = part(operands.stats("source", len, 1.0));
        let penalty = QuadraticPenalty {
            strength: 0.7,
            fisher: part(operands.stats_of("information", information)),
            anchor: part(operands.stats("anchor", len, 1.0)),
            master: part(operands.stats("master", len, 1.0)),
            gradients,
            // A thread adds at most 20 values up to the first 5 million, the rest are three trees of 5.
            loss: operands.updated_stats("loss", vec![5.0], Tolerance::f32(64)),
        };
        in_order![
            Interpolate { alpha: 0.3, y: source, x: patched },
            Interpolate { alpha: 0.0, y: source, x: kept },
            Interpolate { alpha: 1.0, y: source, x: replaced },
            AccumulateSquares { gradients: source, squares },
            // Limits one value in three.
            AccumulateFisher { scale: 0.5, limit: 0.5, squares, fisher },
            penalty,
        ]
    }
}
