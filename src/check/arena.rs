use super::{Case, Checker, Operands, Size, Tolerance};
use crate::ops::{Backend, Stats};

/// Each sweep once; all begin at `start` of their spans: 16-byte accesses or none.
struct Arena {
    len: usize,
    start: usize,
}

struct Spans {
    /// What the sweeps read.
    source: Stats,
    patched: Stats,
    kept: Stats,
    replaced: Stats,
    squares: Stats,
    fisher: Stats,
    penalty: Penalty,
}

struct Penalty {
    fisher: Stats,
    anchor: Stats,
    master: Stats,
    gradients: Stats,
    loss: Stats,
}

impl Case for Arena {
    const OP: &'static str = "arena";
    type Spans = Spans;

    fn shape(&self) -> String {
        format!("{} from {}", self.len, self.start)
    }

    fn plan(&self, operands: &mut Operands) -> Spans {
        let len = self.len + self.start;
        let squared = |values: Vec<f32>| values.into_iter().map(|x| x * x).collect::<Vec<f32>>();
        let [patched, kept, replaced, squares, fisher] = [(); 5].map(|()| operands.normal(len, 1.0));
        let mut squares = squared(squares);
        squares.iter_mut().step_by(29).for_each(|x| *x = f32::NAN);
        let [information, gradients] = [(); 2].map(|()| operands.normal(len, 1.0));
        // A few roundings of terms that are hardly larger than the largest result.
        let rounded = Tolerance::f32(4);
        Spans {
            source: operands.stats(len, 1.0),
            patched: operands.updated_stats("patched", patched, rounded),
            kept: operands.updated_stats("kept", kept, Tolerance::EXACT),
            replaced: operands.updated_stats("replaced", replaced, Tolerance::EXACT),
            squares: operands.updated_stats("squares", squares, rounded),
            fisher: operands.updated_stats("fisher", squared(fisher), rounded),
            penalty: Penalty {
                fisher: operands.stats_of(squared(information)),
                anchor: operands.stats(len, 1.0),
                master: operands.stats(len, 1.0),
                gradients: operands.updated_stats("gradients", gradients, rounded),
                // A thread adds at most 20 values up to the first 5 million, the rest are three trees of 5.
                loss: operands.updated_stats("loss", vec![5.0], Tolerance::f32(64)),
            },
        }
    }

    fn run<D: Backend>(&self, device: &mut D, s: &Spans) {
        let part = |span: Stats| span.slice(self.start, self.len);
        let source = part(s.source);
        device.run(crate::ops::arena::Interpolate { alpha: 0.3, y: source, x: part(s.patched) });
        device.run(crate::ops::arena::Interpolate { alpha: 0.0, y: source, x: part(s.kept) });
        device.run(crate::ops::arena::Interpolate { alpha: 1.0, y: source, x: part(s.replaced) });
        device.run(crate::ops::arena::AccumulateSquares { gradients: source, squares: part(s.squares) });
        // Limits one value in three.
        device.run(crate::ops::arena::AccumulateFisher {
            scale: 0.5,
            limit: 0.5,
            squares: part(s.squares),
            fisher: part(s.fisher),
        });
        let Penalty { fisher, anchor, master, gradients, loss } = s.penalty;
        device.run(crate::ops::arena::QuadraticPenalty {
            strength: 0.7,
            fisher: part(fisher),
            anchor: part(anchor),
            master: part(master),
            gradients: part(gradients),
            loss,
        });
    }
}

pub fn check<D: Backend>(checker: &mut Checker<D>) {
    let lengths: &[usize] = match checker.size {
        // Several blocks, and several elements a thread.
        Size::Smallest => &[5003],
        Size::Small => &[1, 2048, 20_003],
        Size::Full => &[1, 2048, 20_003, 5_000_000],
    };
    for &len in lengths {
        for start in [0, 1] {
            checker.case(&Arena { len, start });
        }
    }
}
