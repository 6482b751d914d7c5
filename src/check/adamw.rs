//! Cases of the optimiser.

use std::ops::Range;

use super::{Case, Operands, Ops, Size, Tolerance, in_order};
use crate::model::parameters::ParameterList;
use crate::model::spec::ModelSpec;
use crate::ops::Backend;
use crate::ops::adamw::{AdamW, AdamWArenas, AdamWSettings, Clamp, GradientNorm, pace};

const SETTINGS: AdamWSettings = AdamWSettings { beta1: 0.9, beta2: 0.98, eps: 1e-6, weight_decay: 0.2, max_norm: 1.0 };

/// The gradients' norm, and one update by it or by a norm of our own.
pub(crate) struct AdamWCase {
    pub len: usize,
    pub norm: Norm,
    pub max_norm: f64,
    pub decayed: Vec<Range<usize>>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Norm {
    Own,
    Infinite,
    NotANumber,
}

impl AdamWCase {
    fn new(len: usize, norm: Norm, max_norm: f64) -> AdamWCase {
        // Ranges of one value, with neighbours and without, and from one block to the next.
        let ranges = [1..2, 2..7, 64..1500, 2047..2050, 4100..9000];
        let decayed = ranges.into_iter().filter(|range| range.end <= len).collect();
        AdamWCase { len, norm, max_norm, decayed }
    }
}

impl Case for AdamWCase {
    const OP: &'static str = "adamw";

    fn list(size: Size) -> Vec<AdamWCase> {
        let lengths: &[usize] = match size {
            Size::Tiny => &[40],
            Size::Smallest => &[101, 2103],
            Size::Small => &[1, 2048, 50_003],
            Size::Full => &[1, 2048, 20_003, 5_000_000],
        };
        let of_len = |len: &usize| [1.0, f64::INFINITY].map(|max_norm| AdamWCase::new(*len, Norm::Own, max_norm));
        let other_norms = [Norm::Infinite, Norm::NotANumber].map(|norm| AdamWCase::new(2100, norm, 1.0));
        lengths.iter().flat_map(of_len).chain(other_norms).collect()
    }

    fn of_model(spec: &ModelSpec, _: usize) -> Vec<AdamWCase> {
        let list = ParameterList::of(spec);
        vec![AdamWCase { len: list.arena_len(), norm: Norm::Own, max_norm: 1.0, decayed: list.decayed() }]
    }

    fn shape(&self) -> String {
        format!("{}, norm {:?}, clipped at {}", self.len, self.norm, self.max_norm)
    }

    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D> {
        let len = self.len;
        // Parameters that no step takes near 0, so that their error stays small beside them.
        let parameters: Vec<f32> = operands.normal(len, 1.0).into_iter().map(|x| x + x.signum()).collect();
        // A few roundings of each product and quotient; a parameter's step is small beside it.
        let master = operands.updated_stats("master", parameters.clone(), Tolerance::f32(4));
        let weights = operands.weights("weights", master, &parameters);
        drop(parameters);
        let squares = operands.normal(len, 0.3).into_iter().map(|x| x * x).collect();
        let second_moment = operands.updated_stats("second moment", squares, Tolerance::f32(4));
        let moments = operands.normal(len, 0.3);
        let first_moment = operands.updated_stats("first moment", moments, Tolerance::f32(4));
        let gradients = operands.normal(len, 2.0);
        let given = match self.norm {
            Norm::Own => gradients.iter().map(|g| (*g as f64).powi(2)).sum::<f64>().sqrt() as f32,
            Norm::Infinite => f32::INFINITY,
            Norm::NotANumber => f32::NAN,
        };
        let gradients = operands.stats_of("gradients", gradients);
        // A thread adds at most 16 times 4 squares up to the first 2^24 values, the rest is a tree.
        let norm = operands.output_stats("norm", 1, Tolerance::f32(64));
        let settings = AdamWSettings { max_norm: self.max_norm, ..SETTINGS };
        let update = AdamW {
            settings,
            pace: operands.stats_of("pace", pace(1e-3, &settings, 3).map(|x| x as f32).to_vec()),
            arenas: AdamWArenas { master, weights, gradients, first_moment, second_moment },
            norm: operands.stats_of("given norm", vec![given]),
            decayed: &self.decayed,
        };
        in_order![GradientNorm { gradients, norm }, update]
    }
}

/// The logit scale after a step.
pub(crate) struct ClampCase {
    pub len: usize,
}

impl Case for ClampCase {
    const OP: &'static str = "adamw";

    fn list(_: Size) -> Vec<ClampCase> {
        vec![ClampCase { len: 1 }, ClampCase { len: 300 }]
    }

    fn shape(&self) -> String {
        format!("{} limited", self.len)
    }

    fn ops<D: Backend>(&self, operands: &mut Operands) -> Ops<'_, D> {
        let values = operands.normal(self.len, 5.0);
        let master = operands.updated_stats("master", values.clone(), Tolerance::EXACT);
        let weights = operands.weights("weights", master, &values);
        in_order![Clamp { master, weights, low: 0.0, high: 4.5 }]
    }
}
