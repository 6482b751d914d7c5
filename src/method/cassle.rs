//! CaSSLe (arXiv 2112.04215): supervised contrast, and distillation through a predictor; then a linear head.

use super::head::head_parameters;
use super::trial::Trial;
use super::views::{ViewContrast, ViewLoss, ViewsThenProbe};
use super::{Classifies, Entry, Method, Row};
use crate::method_settings;
use crate::model::clip::Clip;
use crate::model::frozen::{Frozen, Part};
use crate::model::parameters::{Extra, ParameterList};
use crate::model::trainable::Trainable;
use crate::model::transformer::norm_shape;
use crate::model::weights::{LinearWeights, NormWeights, SavedNorm};
use crate::ops::contrastive::{
    Contrastive, ContrastiveBackward, ContrastiveInputs, ContrastiveSaved, ContrastiveSettings, ContrastiveShape,
    Negatives, Surrogate,
};
use crate::ops::l2_normalize::{L2Normalize, L2NormalizeBackward};
use crate::ops::linear::{BackwardEpilogue, Epilogue};
use crate::ops::relu::{Relu, ReluBackward};
use crate::ops::{Device, Ids, Plan, Stats, Tensor, Write};
use crate::train::{Objective, Planned, Recipe, Stage, TrainBatch, TrainerSpec};

pub(crate) const ENTRY: Entry = Entry {
    settings: &[CassleSettings::GROUP],
    trial_settings: &[("cassle.hidden", 128.0)],
    ..Entry::new(
        Row {
            name: "cassle",
            summary: "supervised contrast and distillation through a predictor, then a linear head",
            classifies: Classifies::ByLinearProbe,
            views: 2,
            ..Row::DEFAULT
        },
        |row, chosen| Box::new(Cassle { row, settings: CassleSettings::of(chosen.objective) }),
    )
};

method_settings! {
    CassleSettings in "cassle" {
        /// temperature of the supervised contrastive loss
        tau: f64 = 0.1, 1e-3..=1e3;
        /// temperature of the distillation through the predictor
        distillation_tau: f64 = 0.2, 1e-3..=1e3;
        /// the predictor's hidden width
        hidden: usize = 2048, 1.0..=65536.0;
        /// of the distillation
        weight: f64 = 1.0, 0.0..=1e6;
    }
}

/// How far what the predictor rectifies lies from 0 in a trial, to either side in turn: normal with variance 1 about it, so that few units
/// have another sign on another device.
const SHIFT: f32 = 3.0;

struct Cassle {
    row: Row,
    settings: CassleSettings,
}

impl Recipe for Cassle {
    /// The predictor's, Linear(width, hidden)-norm-ReLU-Linear, and the head's.
    fn extras(&self, spec: &TrainerSpec) -> Vec<Extra> {
        let (width, hidden) = (spec.model.embed_dim, self.settings.hidden);
        let linear =
            |name: &str, inputs, outputs| Extra::Linear { name: name.to_string(), inputs, outputs, bias: true };
        let mut extras = vec![
            linear("predictor.0", width, hidden),
            Extra::Norm { name: "predictor.1".to_string(), width: hidden },
            linear("predictor.3", hidden, width),
        ];
        extras.extend(head_parameters(spec, 0));
        extras
    }

    fn teacher(&self) -> Option<Part> {
        Some(Part::Vision)
    }

    fn trainable(&self, list: &ParameterList) -> Trainable {
        list.images()
    }

    fn plan(&self, plan: &mut Plan, planned: &Planned) -> Box<dyn Objective> {
        let loss = Predicted {
            contrast: ViewContrast::plan(plan, planned.clip),
            settings: self.settings.clone(),
            predictor: Predictor::plan(plan, planned.clip),
            distillation: plan.stats(1),
        };
        ViewsThenProbe::boxed(plan, planned, loss)
    }
}

impl Method for Cassle {
    fn row(&self) -> &Row {
        &self.row
    }

    fn trials(&self) -> Vec<Trial> {
        let CassleSettings { tau, distillation_tau, hidden, .. } = self.settings;
        let main = Trial {
            rectified: hidden,
            initial: |list, values| {
                let turns = values[list.get("predictor.1.bias").range()].iter_mut().enumerate();
                turns.for_each(|(unit, value)| *value = if unit % 2 == 0 { SHIFT } else { -SHIFT });
            },
            // The predictor: linear, norm, linear, unit length; back through them, the rectifier and the contrast, 6; and the two of
            // embeddings as rows and columns of similarities, with one more sum.
            ..Trial::of_similarities(Stage::Main, 12.0, 1.0 / tau + 1.0 / distillation_tau)
        };
        vec![main, Trial::of_logits(Stage::Probe, 1.0)]
    }
}

/// The loss over views.
struct Predicted {
    contrast: ViewContrast,
    settings: CassleSettings,
    predictor: Predictor,
    distillation: Stats,
}

impl ViewLoss for Predicted {
    fn reset(&mut self, device: &mut dyn Device) {
        self.predictor.reset(device, self.settings.distillation_tau);
    }

    fn load(&self, device: &mut dyn Device, batch: &TrainBatch) {
        self.contrast.load(device, batch.classes);
        let views = 2 * batch.classes.len();
        device.fill(self.predictor.weight.first(views), (0.5 * self.settings.weight / views as f64) as f32);
    }

    fn forward_backward(&self, device: &mut dyn Device, clip: &Clip, teacher: Option<&Frozen>, views: usize) {
        self.contrast.forward(device, clip, views, self.settings.tau, None);
        device.fill(self.distillation, 0.0);
        let write = match teacher {
            None => Write::Set,
            Some(teacher) => {
                teacher.see(device, &clip.vision, views);
                let (width, target) = (clip.spec.embed_dim, teacher.vision.embeddings());
                device.copy(target.first(views * width), self.predictor.target.first(views * width));
                self.predictor.forward_backward(device, clip, views, self.distillation);
                Write::Add
            }
        };
        self.contrast.backward(device, clip, views, write);
    }

    fn loss(&self, device: &dyn Device) -> f32 {
        self.contrast.loss(device) + device.read_vec(self.distillation)[0]
    }
}

/// The predictor, and the contrast of what it predicts with the teacher's embeddings.
struct Predictor {
    first: LinearWeights,
    norm: NormWeights,
    last: LinearWeights,
    /// [n, hidden] before and after norm, after ReLU, and the gradient of each in its turn.
    hidden: Tensor,
    saved: SavedNorm,
    rectified: Tensor,
    drectified: Tensor,
    dhidden: Tensor,
    /// [n, D] before and after normalisation to unit length, and gradients.
    raw: Tensor,
    predicted: Tensor,
    norms: Stats,
    draw: Tensor,
    dpredicted: Tensor,
    /// The teacher's embeddings and their gradient, which goes nowhere [n, D].
    target: Tensor,
    dtarget: Tensor,
    /// Every view is its own text.
    identity: Ids,
    log_scale: Stats,
    dlog_scale: Stats,
    weight: Stats,
    saved_contrast: ContrastiveSaved,
}

impl Predictor {
    fn plan(plan: &mut Plan, clip: &Clip) -> Predictor {
        let views = clip.capacity.images;
        let linear =
            |name: &str| clip.weights.linear(&clip.parameters, &format!("{name}.weight"), &format!("{name}.bias"));
        let (first, last) = (linear("predictor.0"), linear("predictor.3"));
        let (inner, outer) = (views * first.outputs, views * last.outputs);
        let mut pair = || [plan.stats(views), plan.stats(views)];
        let (log_u, slope, height) = (pair(), pair(), pair());
        Predictor {
            norm: clip.weights.norm(&clip.parameters, "predictor.1"),
            hidden: plan.tensor(inner),
            saved: SavedNorm::plan(plan, views, first.outputs),
            rectified: plan.tensor(inner),
            drectified: plan.tensor(inner),
            dhidden: plan.tensor(inner),
            raw: plan.tensor(outer),
            predicted: plan.tensor(outer),
            norms: plan.stats(views),
            draw: plan.tensor(outer),
            dpredicted: plan.tensor(outer),
            target: plan.tensor(outer),
            dtarget: plan.tensor(outer),
            identity: plan.ids(views),
            log_scale: plan.stats(1),
            dlog_scale: plan.stats(1),
            weight: plan.stats(views),
            saved_contrast: ContrastiveSaved { positive: plan.stats(views), log_u, slope, height },
            first,
            last,
        }
    }

    fn reset(&self, device: &mut dyn Device, tau: f64) {
        let identity: Vec<u32> = (0..self.identity.len() as u32).collect();
        device.write(self.identity, &identity);
        device.fill(self.log_scale, -(tau.ln()) as f32);
    }

    /// The contrast of predicted with target embeddings, both ways and halved: InfoNCE, whose texts are the targets. Sets the
    /// gradient of the embeddings.
    fn forward_backward(&self, device: &mut dyn Device, clip: &Clip, rows: usize, loss: Stats) {
        let (width, embeddings) = (clip.spec.embed_dim, clip.vision.embeddings());
        let norm = norm_shape(rows, self.first.outputs);
        let hidden = rows * self.first.outputs;
        device.run(self.first.forward(rows, embeddings, Epilogue::None, self.hidden));
        device.run(self.norm.forward(norm, self.hidden, self.saved));
        device.run(Relu { x: self.saved.y.first(hidden), y: self.rectified.first(hidden) });
        device.run(self.last.forward(rows, self.rectified, Epilogue::None, self.raw));
        device.run(L2Normalize { rows, width, x: self.raw, y: self.predicted, norm: self.norms });

        let shape = ContrastiveShape { samples: rows, texts: rows, width };
        let settings =
            ContrastiveSettings { surrogate: Surrogate::Linear, negatives: Negatives::All, times_tau: false };
        let inputs = ContrastiveInputs {
            image: self.predicted,
            text: self.target,
            text_of: self.identity,
            class_of_text: self.identity,
            log_scale: self.log_scale,
        };
        let saved = self.saved_contrast;
        device.run(Contrastive { shape, settings, inputs, averages: None, saved });
        device.run(ContrastiveBackward {
            shape,
            settings,
            inputs,
            saved,
            weight: self.weight,
            dimage: self.dpredicted,
            dtext: self.dtarget,
            loss,
            dlog_scale: self.dlog_scale,
        });

        let (dy, y, norms, dx) = (self.dpredicted, self.predicted, self.norms, self.draw);
        device.run(L2NormalizeBackward { rows, width, dy, y, norm: norms, dx });
        device.run(self.last.backward_weight(rows, self.draw, self.rectified));
        device.run(self.last.backward_data(rows, self.draw, BackwardEpilogue::None, self.drectified));
        // The norm's output is used up by the rectifier: its gradient takes its place.
        let dnormed = self.saved.y;
        device.run(ReluBackward {
            dy: self.drectified.first(hidden),
            y: self.rectified.first(hidden),
            dx: dnormed.first(hidden),
        });
        device.run(self.norm.backward(norm, dnormed, self.hidden, self.saved, Write::Set, self.dhidden));
        device.run(self.first.backward_weight(rows, self.dhidden, embeddings));
        let gradient = clip.vision.embeddings_gradient();
        device.run(self.first.backward_data(rows, self.dhidden, BackwardEpilogue::None, gradient));
    }
}
