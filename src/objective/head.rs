//! Objectives of classifiers: linear heads on the features of one image tower or of several.
//!
//! Logits are z = f W^T + b of the model's own features f, plus f_k W_k^T for each earlier extractor k. Classes stand in the
//! order of the stream, so that those seen so far are the first columns.

use super::{HeadLoss, ObjectiveSettings};
use crate::model::clip::Clip;
use crate::model::frozen::Frozen;
use crate::model::parameters::{Extra, ParameterList};
use crate::model::vision::VisionTower;
use crate::model::weights::{LinearWeights, Weights};
use crate::ops::cross_entropy::{CrossEntropy, LogitsShape, SoftCrossEntropy, SoftTargets};
use crate::ops::linear::{BackwardEpilogue, Epilogue, Linear, LinearShape};
use crate::ops::{Device, Ids, Plan, Stats, Tensor, Write};

/// Rows of a head start on 16 bytes in any storage when there are a multiple of this many.
const COLUMNS: usize = 8;

/// What a head must know of the step in training.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadStage {
    pub loss: HeadLoss,
    /// Classes seen before this step, and with it.
    pub before: usize,
    pub seen: usize,
    /// How many frozen models are in use.
    pub frozen: usize,
    /// Whether the head is trained on its own: it then chooses among the classes that have samples, and the others' rows stay.
    pub alone: bool,
}

/// The weights of a head on the features of one extractor, and of one for the whole.
struct Heads {
    own: LinearWeights,
    blocks: Vec<LinearWeights>,
}

impl Heads {
    fn of(weights: Weights, list: &ParameterList, blocks: usize) -> Heads {
        let linear = |name: String| weights.linear(list, &format!("{name}.weight"), &format!("{name}.bias"));
        Heads { own: linear("head".to_string()), blocks: (0..blocks).map(|k| linear(block_name(k))).collect() }
    }
}

/// The name of a head's rows on the features of frozen extractor `block`.
pub fn block_name(block: usize) -> String {
    format!("head.block.{block}")
}

/// The parameters of a head for `classes` classes over features of `width` values of the model and of `blocks` frozen
/// extractors, and of an auxiliary head if there is to be one.
pub fn head_parameters(classes: usize, width: usize, blocks: usize, auxiliary: bool) -> Vec<Extra> {
    let linear = |name: String, classes: usize, bias: bool| Extra::Linear {
        name,
        inputs: width,
        outputs: classes.next_multiple_of(COLUMNS),
        bias,
    };
    let mut extras = vec![linear("head".to_string(), classes, true)];
    extras.extend((0..blocks).map(|block| linear(block_name(block), classes, false)));
    if auxiliary {
        extras.push(linear("auxiliary".to_string(), classes + 1, true));
    }
    extras
}

/// A classifier's head with all its memory.
pub struct HeadObjective {
    settings: ObjectiveSettings,
    pub stage: HeadStage,
    width: usize,
    heads: Heads,
    auxiliary: Option<LinearWeights>,
    /// Those of each frozen model.
    frozen_heads: Vec<Heads>,
    /// Features of each frozen model [images, D].
    features: Vec<Tensor>,
    /// Two of each, because a sum of several products moves from one to the other [images, columns].
    logits: [Tensor; 2],
    teacher_logits: [Tensor; 2],
    auxiliary_logits: Tensor,
    dlogits: Tensor,
    dauxiliary: Tensor,
    dfeatures: Tensor,
    label: Ids,
    auxiliary_label: Ids,
    /// Joins the logits of a head trained on its own: minus infinity for classes without samples, else 0 [images, columns].
    mask: Tensor,
    /// w: weights of classes [classes].
    balance: Stats,
    loss: Stats,
}

impl HeadObjective {
    /// Plans the objective of a model with [`head_parameters`] for batches of up to `images` images.
    pub fn plan(
        plan: &mut Plan,
        settings: &ObjectiveSettings,
        clip: &Clip,
        frozen: &[Frozen],
        images: usize,
    ) -> HeadObjective {
        let (list, width) = (&clip.parameters, clip.spec.embed_dim);
        let blocks = (0..).take_while(|block| list.find(&format!("{}.weight", block_name(*block))).is_some()).count();
        let heads = Heads::of(clip.weights, list, blocks);
        let auxiliary =
            list.find("auxiliary.weight").map(|_| clip.weights.linear(list, "auxiliary.weight", "auxiliary.bias"));
        let columns = heads.own.outputs;
        plan.section("objective", |plan| {
            let mut logits = |columns: usize| plan.tensor(images * columns);
            let auxiliary_columns = auxiliary.map_or(0, |auxiliary| auxiliary.outputs);
            let teacher_columns = if frozen.is_empty() { 0 } else { columns };
            HeadObjective {
                settings: settings.clone(),
                stage: HeadStage { loss: HeadLoss::CrossEntropy, before: 0, seen: 0, frozen: 0, alone: false },
                width,
                auxiliary,
                frozen_heads: frozen.iter().map(|frozen| Heads::of(frozen.weights, list, blocks)).collect(),
                logits: [logits(columns), logits(columns)],
                teacher_logits: [logits(teacher_columns), logits(teacher_columns)],
                auxiliary_logits: logits(auxiliary_columns),
                dlogits: logits(columns),
                dauxiliary: logits(auxiliary_columns),
                features: frozen.iter().map(|_| logits(width)).collect(),
                dfeatures: logits(width),
                label: plan.ids(images),
                auxiliary_label: plan.ids(images),
                mask: plan.tensor(images * columns),
                balance: plan.stats(columns),
                loss: plan.stats(1),
                heads,
            }
        })
    }

    /// Prepares for a step, or a phase of one. `counts`: how many samples of each class the step draws from, in the order of
    /// the stream; foster weighs classes by it.
    pub fn begin<D: Device>(&mut self, device: &mut D, stage: HeadStage, counts: &[usize]) {
        let beta = match stage.loss {
            HeadLoss::Compression => self.settings.foster.compression_beta,
            _ => self.settings.foster.beta,
        };
        let mut balance: Vec<f32> = balanced_weights(beta, &counts[..stage.seen]).iter().map(|w| *w as f32).collect();
        balance.resize(self.balance.len(), 1.0);
        device.write(self.balance, &balance);
        let columns = self.heads.own.outputs;
        let masked = |place: usize| match counts.get(place % columns) {
            Some(0) if stage.alone => f32::NEG_INFINITY,
            _ => 0.0,
        };
        device.write(self.mask, &(0..self.mask.len()).map(masked).collect::<Vec<f32>>());
        self.stage = stage;
    }

    /// Sends the labels of a batch: each sample's class in the order of the stream.
    pub fn load<D: Device>(&self, device: &mut D, labels: &[u32]) {
        device.write(self.label, labels);
        if self.auxiliary.is_some() {
            device.write(self.auxiliary_label, &self.auxiliary_labels(labels));
        }
    }

    /// der tells the new classes from one another and from all old ones together, which is column 0.
    fn auxiliary_labels(&self, labels: &[u32]) -> Vec<u32> {
        let before = self.stage.before as u32;
        match self.stage.loss {
            HeadLoss::Expansion => labels.iter().map(|label| (label + 1).saturating_sub(before)).collect(),
            _ => labels.to_vec(),
        }
    }

    /// Loss and gradients of the loaded batch, after the model's image tower has seen it. Leaves the features' gradient where
    /// the tower's backward pass reads it.
    pub fn forward_backward<D: Device>(&self, device: &mut D, clip: &Clip, frozen: &[Frozen], images: usize) {
        let (stage, settings) = (&self.stage, &self.settings);
        self.see(device, &clip.vision, frozen, images);
        let own = clip.vision.features();
        let logits = self.logits(device, own, images);
        let all = LogitsShape { rows: images, columns: stage.seen, stride: self.heads.own.outputs };
        let old = LogitsShape { columns: stage.before, ..all };
        let plain = |temperature: f64| SoftTargets { temperature, balance: None };
        match stage.loss {
            HeadLoss::Compression => {
                // The boosted model is the second of the frozen ones, and the old one, the first, is its other extractor.
                let teacher = &self.frozen_heads[1];
                let terms = [(self.features[1], &teacher.own), (self.features[0], &teacher.blocks[0])];
                let teacher = add_products(device, images, &terms, self.teacher_logits);
                let temperature = settings.foster.temperature;
                let targets = SoftTargets { temperature, balance: Some(self.balance.first(stage.seen)) };
                device.run(SoftCrossEntropy {
                    shape: all,
                    logits,
                    teacher,
                    targets,
                    weight: 1.0,
                    write: Write::Set,
                    loss: self.loss,
                    dlogits: self.dlogits,
                });
            }
            loss => {
                let divisor = (loss == HeadLoss::Boosting).then(|| self.balance.first(stage.seen));
                device.run(CrossEntropy {
                    shape: all,
                    logits,
                    divisor,
                    label: self.label,
                    weight: 1.0,
                    write: Write::Set,
                    loss: self.loss,
                    dlogits: self.dlogits,
                });
            }
        }
        let distilled = match stage.loss {
            HeadLoss::Distillation => Some((settings.icarl.weight, settings.icarl.temperature)),
            HeadLoss::Boosting => Some((1.0, settings.foster.temperature)),
            _ => None,
        };
        if let Some((weight, temperature)) = distilled {
            let terms = [(self.features[0], &self.frozen_heads[0].own)];
            let teacher = add_products(device, images, &terms, self.teacher_logits);
            let targets = plain(temperature);
            device.run(SoftCrossEntropy {
                shape: old,
                logits,
                teacher,
                targets,
                weight,
                write: Write::Add,
                loss: self.loss,
                dlogits: self.dlogits,
            });
        }
        let auxiliary = match stage.loss {
            HeadLoss::Expansion => Some((settings.der.auxiliary, 1 + stage.seen - stage.before)),
            HeadLoss::Boosting => Some((1.0, stage.seen)),
            _ => None,
        };
        device.run(self.heads.own.backward_weight(images, self.dlogits, own));
        for (block, features) in self.heads.blocks.iter().zip(&self.features).take(self.blocks_in_use()) {
            device.run(block.backward_weight(images, self.dlogits, *features));
        }
        let dfeatures = clip.vision.features_gradient();
        let Some((head, (weight, columns))) = self.auxiliary.as_ref().zip(auxiliary) else {
            device.run(self.heads.own.backward_data(images, self.dlogits, BackwardEpilogue::None, dfeatures));
            return;
        };
        device.run(head.forward(images, own, Epilogue::None, self.auxiliary_logits));
        let shape = LogitsShape { rows: images, columns, stride: head.outputs };
        let dauxiliary = self.dauxiliary.first(images * head.outputs);
        // The loss is added to what there is; so is the gradient, to nothing.
        device.fill(dauxiliary, 0.0);
        let (logits, label) = (self.auxiliary_logits, self.auxiliary_label);
        device.run(CrossEntropy {
            shape,
            logits,
            divisor: None,
            label,
            weight,
            write: Write::Add,
            loss: self.loss,
            dlogits: dauxiliary,
        });
        device.run(head.backward_weight(images, dauxiliary, own));
        device.run(self.heads.own.backward_data(images, self.dlogits, BackwardEpilogue::None, self.dfeatures));
        // dy W of the second head plus that of the first: a product with W as [in, out] has a place for a sum.
        let transposed = LinearShape::projection(images, head.outputs, head.inputs);
        device.run(Linear {
            shape: transposed,
            x: dauxiliary,
            weight: head.weight,
            bias: None,
            epilogue: Epilogue::Residual(self.dfeatures),
            y: dfeatures,
        });
    }

    /// Loss and the head's own gradients, of a tower that stays as it is: cross-entropy over the classes seen that have samples.
    pub fn forward_backward_head<D: Device>(&self, device: &mut D, vision: &VisionTower, images: usize) {
        let (logits, stride) = (self.logits[0], self.heads.own.outputs);
        device.run(self.heads.own.forward(images, vision.features(), Epilogue::Residual(self.mask), logits));
        let shape = LogitsShape { rows: images, columns: self.stage.seen, stride };
        device.run(CrossEntropy {
            shape,
            logits,
            divisor: None,
            label: self.label,
            weight: 1.0,
            write: Write::Set,
            loss: self.loss,
            dlogits: self.dlogits,
        });
        device.run(self.heads.own.backward_weight(images, self.dlogits, vision.features()));
    }

    /// Scores of the images that `vision` has seen, `[images, columns]`, a column for each class in the order of the stream.
    pub fn scores<D: Device>(
        &self,
        device: &mut D,
        vision: &VisionTower,
        frozen: &[Frozen],
        images: usize,
    ) -> Vec<f32> {
        self.see(device, vision, &frozen[..self.blocks_in_use()], images);
        let logits = self.logits(device, vision.features(), images);
        device.read_vec(logits.first(images * self.heads.own.outputs))
    }

    /// Columns of a row of [`HeadObjective::scores`]: the classes, and a few more that mean nothing.
    pub fn columns(&self) -> usize {
        self.heads.own.outputs
    }

    /// How many extractors beside the model's own the logits are made of.
    fn blocks_in_use(&self) -> usize {
        match self.stage.loss {
            HeadLoss::Expansion | HeadLoss::Boosting => self.stage.frozen,
            _ => 0,
        }
    }

    /// Features of the frozen models in use.
    fn see<D: Device>(&self, device: &mut D, vision: &VisionTower, frozen: &[Frozen], images: usize) {
        for (model, features) in frozen.iter().zip(&self.features).take(self.stage.frozen) {
            model.see(device, vision, images);
            let len = images * self.width;
            device.copy(model.vision.features().first(len), features.first(len));
        }
    }

    fn logits<D: Device>(&self, device: &mut D, own: Tensor, images: usize) -> Tensor {
        let blocks = self.features.iter().copied().zip(&self.heads.blocks).take(self.blocks_in_use());
        let terms: Vec<(Tensor, &LinearWeights)> = std::iter::once((own, &self.heads.own)).chain(blocks).collect();
        add_products(device, images, &terms, self.logits)
    }

    pub fn loss<D: Device>(&self, device: &D) -> f32 {
        device.read_vec(self.loss)[0]
    }
}

/// The sum of products x W^T + b; returns which of the two places it is in.
fn add_products<D: Device>(
    device: &mut D,
    rows: usize,
    terms: &[(Tensor, &LinearWeights)],
    places: [Tensor; 2],
) -> Tensor {
    let mut sum = None;
    for (number, (x, weights)) in terms.iter().enumerate() {
        let to = places[number % 2];
        device.run(weights.forward(rows, *x, sum.map_or(Epilogue::None, Epilogue::Residual), to));
        sum = Some(to);
    }
    sum.expect("a head reads at least one extractor")
}

/// w_k proportional to (1 - beta) / (1 - beta^{n_k}), with mean 1 (FOSTER, arXiv 2204.04662): the inverse of a class's effective
/// number of samples. A class without samples counts as one with one.
pub fn balanced_weights(beta: f64, counts: &[usize]) -> Vec<f64> {
    let weights = counts.iter().map(|count| (1.0 - beta) / (1.0 - beta.powi((*count).max(1) as i32)));
    let weights: Vec<f64> = weights.collect();
    let mean = weights.iter().sum::<f64>() / weights.len().max(1) as f64;
    weights.iter().map(|weight| weight / mean).collect()
}

#[cfg(test)]
mod tests {
    use super::balanced_weights;

    #[test]
    fn rare_classes_weigh_more_and_the_mean_is_one() {
        let weights = balanced_weights(0.96, &[500, 20, 1]);
        // 1/25, 1/(25 (1 - 0.96^20)) and 1 before they are brought to mean 1.
        let raw = [0.04 / (1.0 - 0.96f64.powi(500)), 0.04 / (1.0 - 0.96f64.powi(20)), 1.0];
        let mean = raw.iter().sum::<f64>() / 3.0;
        for (weight, raw) in weights.iter().zip(raw) {
            assert!((weight - raw / mean).abs() < 1e-12, "{weights:?}");
        }
        assert_eq!(balanced_weights(0.5, &[7, 7, 7, 7]), [1.0; 4]);
        assert!(balanced_weights(0.96, &[0, 3]).iter().all(|weight| weight.is_finite()));
    }
}
