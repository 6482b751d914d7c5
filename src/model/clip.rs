//! A whole CLIP on a device: parameters and both towers.

use super::parameters::ParameterList;
use super::spec::ModelSpec;
use super::text::TextTower;
use super::transformer::Purpose;
use super::vision::VisionTower;
use super::weights::Weights;
use crate::ops::{Device, Plan, Stats, Tensor};

/// Batch sizes that a model's memory is planned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Images, every view of a sample counted.
    pub images: usize,
    /// Distinct texts.
    pub texts: usize,
}

/// A CLIP on a device: where its parameters and activations lie. It owns no memory; a plan of which it is part does.
pub struct Clip {
    /// The sizes it was planned for.
    pub spec: ModelSpec,
    /// Its parameters and a method's own, by name.
    pub parameters: ParameterList,
    /// The arenas that the towers and the ops read and write.
    pub weights: Weights,
    /// From pixels to embeddings.
    pub vision: VisionTower,
    /// From tokens to embeddings.
    pub text: TextTower,
    /// The largest batch that it has room for.
    pub capacity: Capacity,
    /// ln(1/tau) `[1]`, as ops read it.
    pub logit_scale: Tensor,
    /// The same `[1]` in f32, which AdamW updates.
    pub logit_scale_master: Stats,
    /// d loss / d ln(1/tau) `[1]`, which a backward pass writes.
    pub logit_scale_gradient: Stats,
}

impl Clip {
    /// The upper end of open_clip's clamp on the logit scale; the lower is 0.
    pub(crate) const MAX_LOGIT_SCALE: f32 = 4.605_170_2;

    /// Plans a CLIP without a method's own parameters; what is trained is all of it, or for inference nothing.
    pub fn plan(plan: &mut Plan, spec: &ModelSpec, capacity: Capacity, purpose: Purpose) -> Clip {
        Clip::plan_listed(plan, spec, ParameterList::of(spec), capacity, purpose)
    }

    /// The same with the parameters of `list`, a method's own among them.
    pub(crate) fn plan_listed(
        plan: &mut Plan,
        spec: &ModelSpec,
        list: ParameterList,
        capacity: Capacity,
        purpose: Purpose,
    ) -> Clip {
        let weights = Weights::plan(plan, &list, purpose == Purpose::Training);
        Clip::plan_with(plan, spec, list, weights, capacity, purpose)
    }

    /// A second set of activations over the same weights: evaluation beside training.
    pub(crate) fn plan_sharing(&self, plan: &mut Plan, capacity: Capacity, purpose: Purpose) -> Clip {
        Clip::plan_with(plan, &self.spec, self.parameters.clone(), self.weights, capacity, purpose)
    }

    fn plan_with(
        plan: &mut Plan,
        spec: &ModelSpec,
        list: ParameterList,
        weights: Weights,
        capacity: Capacity,
        purpose: Purpose,
    ) -> Clip {
        let heading = match purpose {
            Purpose::Training => "activations",
            Purpose::Inference => "evaluation",
        };
        let vision =
            plan.section(heading, |plan| VisionTower::plan(plan, spec, &list, weights, capacity.images, purpose));
        let text = plan.section(heading, |plan| TextTower::plan(plan, spec, &list, weights, capacity.texts, purpose));
        let scale = list.get("logit_scale");
        Clip {
            logit_scale: weights.value(scale),
            logit_scale_master: weights.master.slice(scale.offset, 1),
            logit_scale_gradient: weights.gradient(&list, scale),
            spec: spec.clone(),
            parameters: list,
            weights,
            vision,
            text,
            capacity,
        }
    }

    /// Sends a whole arena of parameter values to the device.
    pub fn load(&self, device: &mut dyn Device, values: &[f32]) {
        device.write(self.weights.master, values);
        device.refresh(self.weights.master, self.weights.storage);
    }
}
