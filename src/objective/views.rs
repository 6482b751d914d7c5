//! Supervised contrastive objectives over two views of every image: Co2L and CaSSLe (methods.md section 4).

use super::{ObjectiveSettings, ViewLoss};
use crate::model::clip::Clip;
use crate::model::frozen::Frozen;
use crate::model::parameters::Extra;
use crate::model::transformer::norm_shape;
use crate::model::weights::{LinearWeights, NormWeights, SavedNorm};
use crate::ops::contrastive::{
    Contrastive, ContrastiveBackward, ContrastiveInputs, ContrastiveSaved, ContrastiveSettings, ContrastiveShape,
    Negatives, Surrogate,
};
use crate::ops::distillation::{Distillation, DistillationSettings, Multiplicity};
use crate::ops::l2_normalize::{L2Normalize, L2NormalizeBackward};
use crate::ops::linear::{BackwardEpilogue, Epilogue};
use crate::ops::relu::{Relu, ReluBackward};
use crate::ops::similarity::{Similarity, SimilarityBackward, SimilarityBackwardColumns, SimilarityShape};
use crate::ops::supcon::SupCon;
use crate::ops::{Device, Ids, Plan, Stats, Tensor, Write};

/// The objective with all its memory. n counts views: two of every image.
pub struct ViewObjective {
    loss: ViewLoss,
    settings: ObjectiveSettings,
    width: usize,
    /// Whether there is a teacher: from the second step on.
    pub distils: bool,
    class: Ids,
    /// 1 for views of the step's own images.
    anchor: Ids,
    /// Similarities of the embeddings, their gradient, and the teacher's [n, n].
    similarity: Stats,
    dsimilarity: Stats,
    teacher_similarity: Stats,
    predictor: Option<Predictor>,
    contrast: Stats,
    distillation: Stats,
}

/// The parameters of cassle's predictor on embeddings of `width` values: Linear(width, hidden)-norm-ReLU-Linear.
pub fn predictor_parameters(width: usize, hidden: usize) -> Vec<Extra> {
    let linear = |name: &str, inputs, outputs| Extra::Linear { name: name.to_string(), inputs, outputs, bias: true };
    vec![
        linear("predictor.0", width, hidden),
        Extra::Norm { name: "predictor.1".to_string(), width: hidden },
        linear("predictor.3", hidden, width),
    ]
}

/// cassle's predictor, and the contrast of what it predicts with the teacher's embeddings.
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

impl ViewObjective {
    /// Plans the objective for up to `views` views.
    pub fn plan(
        plan: &mut Plan,
        loss: ViewLoss,
        settings: &ObjectiveSettings,
        clip: &Clip,
        views: usize,
    ) -> ViewObjective {
        plan.section("objective", |plan| ViewObjective {
            loss,
            settings: settings.clone(),
            width: clip.spec.embed_dim,
            distils: false,
            class: plan.ids(views),
            anchor: plan.ids(views),
            similarity: plan.stats(views * views),
            dsimilarity: plan.stats(views * views),
            teacher_similarity: plan.stats(if loss == ViewLoss::Co2l { views * views } else { 0 }),
            predictor: (loss == ViewLoss::Cassle).then(|| Predictor::plan(plan, clip, views)),
            contrast: plan.stats(1),
            distillation: plan.stats(1),
        })
    }

    /// Before the first step, once.
    pub fn reset<D: Device>(&self, device: &mut D) {
        if let Some(predictor) = &self.predictor {
            predictor.reset(device, self.settings.cassle.distillation_tau);
        }
    }

    /// Sends a batch's classes, and which of its images are the step's own, for each image once; views come one after the
    /// other: all first, then all second.
    pub fn load<D: Device>(&self, device: &mut D, classes: &[u32], own: &[bool]) {
        let twice = |values: Vec<u32>| [values.as_slice(), values.as_slice()].concat();
        device.write(self.class, &twice(classes.to_vec()));
        device.write(self.anchor, &twice(own.iter().map(|own| u32::from(*own)).collect()));
        if let Some(predictor) = &self.predictor {
            let views = 2 * classes.len();
            device.fill(predictor.weight.first(views), (0.5 * self.settings.cassle.weight / views as f64) as f32);
        }
    }

    /// Loss and gradients of `views` views that the model's image tower has seen. Leaves the embeddings' gradient where the
    /// tower's backward pass reads it.
    pub fn forward_backward<D: Device>(&self, device: &mut D, clip: &Clip, frozen: &[Frozen], views: usize) {
        let (embeddings, gradient) = (clip.vision.embeddings(), clip.vision.embeddings_gradient());
        let shape = SimilarityShape { rows: views, columns: views, width: self.width };
        let square = |span: Stats| span.first(views * views);
        let (s, ds) = (square(self.similarity), square(self.dsimilarity));
        let (tau, anchor) = match self.loss {
            ViewLoss::Co2l => (self.settings.co2l.tau, Some(self.anchor)),
            ViewLoss::Cassle => (self.settings.cassle.tau, None),
        };
        device.run(Similarity { shape, a: embeddings, b: embeddings, s });
        device.run(SupCon { samples: views, tau, s, class: self.class, anchor, loss: self.contrast, ds });
        let mut write = Write::Set;
        device.fill(self.distillation, 0.0);
        if self.distils {
            let teacher = &frozen[0];
            teacher.see(device, &clip.vision, views);
            let target = teacher.vision.embeddings();
            match &self.predictor {
                None => {
                    let teacher_s = square(self.teacher_similarity);
                    device.run(Similarity { shape, a: target, b: target, s: teacher_s });
                    let relation = &self.settings.co2l;
                    let settings = DistillationSettings {
                        tau: relation.relation_tau,
                        teacher_tau: relation.teacher_tau,
                        exclude_self: true,
                        divergence: false,
                        weight: relation.weight,
                    };
                    let once = Multiplicity { row: None, column: None };
                    let loss = self.distillation;
                    device.run(Distillation {
                        rows: views,
                        columns: views,
                        settings,
                        multiplicity: once,
                        s,
                        teacher: teacher_s,
                        write: Write::Add,
                        loss,
                        ds,
                    });
                }
                Some(predictor) => {
                    let len = views * self.width;
                    device.copy(target.first(len), predictor.target.first(len));
                    let spans = (embeddings, gradient, self.distillation);
                    predictor.forward_backward(device, views, self.width, spans);
                    write = Write::Add;
                }
            }
        }
        device.run(SimilarityBackward { shape, ds, b: embeddings, write, da: gradient });
        device.run(SimilarityBackwardColumns { shape, ds, a: embeddings, write: Write::Add, db: gradient });
    }

    pub fn loss<D: Device>(&self, device: &D) -> f32 {
        device.read_vec(self.contrast)[0] + device.read_vec(self.distillation)[0]
    }
}

impl Predictor {
    fn plan(plan: &mut Plan, clip: &Clip, views: usize) -> Predictor {
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

    fn reset<D: Device>(&self, device: &mut D, tau: f64) {
        let identity: Vec<u32> = (0..self.identity.len() as u32).collect();
        device.write(self.identity, &identity);
        device.fill(self.log_scale, -(tau.ln()) as f32);
    }

    /// The contrast of predicted with target embeddings, both ways and halved: InfoNCE, whose texts are the targets. Sets the
    /// gradient of the embeddings.
    fn forward_backward<D: Device>(
        &self,
        device: &mut D,
        rows: usize,
        width: usize,
        (embeddings, gradient, loss): (Tensor, Tensor, Stats),
    ) {
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
        device.run(Contrastive { shape, settings, inputs, averages: None, saved: self.saved_contrast });
        device.run(ContrastiveBackward {
            shape,
            settings,
            inputs,
            saved: self.saved_contrast,
            weight: self.weight,
            dimage: self.dpredicted,
            dtext: self.dtarget,
            loss,
            dlog_scale: self.dlog_scale,
        });

        device.run(L2NormalizeBackward {
            rows,
            width,
            dy: self.dpredicted,
            y: self.predicted,
            norm: self.norms,
            dx: self.draw,
        });
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
        device.run(self.first.backward_data(rows, self.dhidden, BackwardEpilogue::None, gradient));
    }
}
