//! Linear heads on the features of one image tower or of several: what methods that classify are made of.
//!
//! Logits are z = f W^T + b of the model's own features f, plus f_k W_k^T for each earlier extractor k. Classes stand in the
//! order of the stream, so that those seen so far are the first columns.

use crate::model::clip::Clip;
use crate::model::frozen::Frozen;
use crate::model::parameters::{Extra, ParameterList};
use crate::model::vision::VisionTower;
use crate::model::weights::{LinearWeights, Weights};
use crate::ops::cross_entropy::{CrossEntropy, LogitsShape, SoftCrossEntropy, SoftTargets};
use crate::ops::linear::{BackwardEpilogue, Epilogue, Linear, LinearShape};
use crate::ops::{Device, Ids, Plan, Stats, Tensor, Write};
use crate::rng::{rng, unit};
use crate::stream::ClassId;
use crate::train::{Planned, Scores, StageView, Trainer, TrainerSpec};

/// Rows of a head start on 16 bytes in any storage when there are a multiple of this many.
const COLUMNS: usize = 8;

/// The weights of a head on the features of each extractor: the model's own, and earlier ones.
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
pub(crate) fn block_name(block: usize) -> String {
    format!("head.block.{block}")
}

/// The parameters of a head for all classes over the features of the model and of `blocks` frozen extractors.
pub(crate) fn head_parameters(spec: &TrainerSpec, blocks: usize) -> Vec<Extra> {
    let mut extras = vec![linear_parameters("head", spec, spec.classes, true)];
    extras.extend((0..blocks).map(|block| linear_parameters(&block_name(block), spec, spec.classes, false)));
    extras
}

fn linear_parameters(name: &str, spec: &TrainerSpec, classes: usize, bias: bool) -> Extra {
    let outputs = classes.next_multiple_of(COLUMNS);
    Extra::Linear { name: name.to_string(), inputs: spec.model.embed_dim, outputs, bias }
}

/// A head with all its memory, for batches of up to `images` images.
pub(crate) struct Head {
    width: usize,
    heads: Heads,
    /// Those of each frozen model.
    frozen_heads: Vec<Heads>,
    /// Features of each frozen model [images, D].
    features: Vec<Tensor>,
    /// Two of each, because a sum of several products moves from one to the other [images, columns].
    logits: [Tensor; 2],
    teacher_logits: [Tensor; 2],
    dlogits: Tensor,
    label: Ids,
    loss: Stats,
}

impl Head {
    /// Plans the head of a model with [`head_parameters`].
    pub(crate) fn plan(plan: &mut Plan, planned: &Planned) -> Head {
        let Planned { clip, frozen, images, .. } = *planned;
        let (list, width) = (&clip.parameters, clip.spec.embed_dim);
        let blocks = blocks_of(list);
        let heads = Heads::of(clip.weights, list, blocks);
        let columns = heads.own.outputs;
        let mut tensor = |columns: usize| plan.tensor(images * columns);
        let teacher_columns = if frozen.is_empty() { 0 } else { columns };
        Head {
            width,
            frozen_heads: frozen.iter().map(|frozen| Heads::of(frozen.weights, list, blocks)).collect(),
            logits: [tensor(columns), tensor(columns)],
            teacher_logits: [tensor(teacher_columns), tensor(teacher_columns)],
            dlogits: tensor(columns),
            features: frozen.iter().map(|_| tensor(width)).collect(),
            label: plan.ids(images),
            loss: plan.stats(1),
            heads,
        }
    }

    /// Columns of the logits: the classes, and a few more that mean nothing.
    pub(crate) fn columns(&self) -> usize {
        self.heads.own.outputs
    }

    /// Sends the classes of a batch's samples.
    pub(crate) fn load(&self, device: &mut dyn Device, classes: &[ClassId]) {
        device.write(self.label, ClassId::numbers(classes));
    }

    /// Keeps the features of the frozen models for the images that `vision` has seen.
    pub(crate) fn see(&self, device: &mut dyn Device, vision: &VisionTower, frozen: &[Frozen], images: usize) {
        for (model, features) in frozen.iter().zip(&self.features) {
            model.see(device, vision, images);
            let len = images * self.width;
            device.copy(model.vision.features().first(len), features.first(len));
        }
    }

    /// The logits of the model's own features and those of the first `blocks` frozen extractors [images, columns].
    pub(crate) fn logits(&self, device: &mut dyn Device, vision: &VisionTower, blocks: usize, images: usize) -> Tensor {
        let blocks = self.features.iter().copied().zip(&self.heads.blocks).take(blocks);
        let own = std::iter::once((vision.features(), &self.heads.own));
        let terms: Vec<(Tensor, &LinearWeights)> = own.chain(blocks).collect();
        add_products(device, images, &terms, self.logits)
    }

    /// The logits of frozen model `place` on its own features, and on those of the frozen models that `blocks` names as the extractors of
    /// its head's blocks.
    pub(crate) fn teacher_logits(
        &self,
        device: &mut dyn Device,
        place: usize,
        blocks: &[usize],
        images: usize,
    ) -> Tensor {
        let teacher = &self.frozen_heads[place];
        let blocks = blocks.iter().zip(&teacher.blocks).map(|(block, weights)| (self.features[*block], weights));
        let own = std::iter::once((self.features[place], &teacher.own));
        let terms: Vec<(Tensor, &LinearWeights)> = own.chain(blocks).collect();
        add_products(device, images, &terms, self.teacher_logits)
    }

    fn shape(&self, images: usize, columns: usize) -> LogitsShape {
        LogitsShape { rows: images, columns, stride: self.columns() }
    }

    /// Sets loss and gradient: cross-entropy of the first `classes` columns, each divided by its value in `divisor` where there is one.
    pub(crate) fn cross_entropy(
        &self,
        device: &mut dyn Device,
        logits: Tensor,
        images: usize,
        classes: usize,
        divisor: Option<Stats>,
    ) {
        let (shape, divisor) = (self.shape(images, classes), divisor.map(|divisor| divisor.first(classes)));
        let Head { label, loss, dlogits, .. } = *self;
        device.run(CrossEntropy { shape, logits, divisor, label, weight: 1.0, write: Write::Set, loss, dlogits });
    }

    /// Adds to loss and gradient, or sets them: the cross-entropy of logits against a teacher's softmax.
    pub(crate) fn distill(&self, device: &mut dyn Device, images: usize, soft: Soft) {
        let Soft { logits, teacher, classes, targets, weight, write } = soft;
        let (shape, loss, dlogits) = (self.shape(images, classes), self.loss, self.dlogits);
        device.run(SoftCrossEntropy { shape, logits, teacher, targets, weight, write, loss, dlogits });
    }

    /// The gradients of the head's weights, also on the first `blocks` frozen extractors.
    pub(crate) fn backward_weights(&self, device: &mut dyn Device, vision: &VisionTower, blocks: usize, images: usize) {
        device.run(self.heads.own.backward_weight(images, self.dlogits, vision.features()));
        for (block, features) in self.heads.blocks.iter().zip(&self.features).take(blocks) {
            device.run(block.backward_weight(images, self.dlogits, *features));
        }
    }

    /// The gradient of the model's own features, into `dfeatures`.
    pub(crate) fn backward_features(&self, device: &mut dyn Device, images: usize, dfeatures: Tensor) {
        device.run(self.heads.own.backward_data(images, self.dlogits, BackwardEpilogue::None, dfeatures));
    }

    /// Scores of the images that `vision` has seen, by the model and the first `blocks` frozen extractors.
    pub(crate) fn scores(
        &self,
        device: &mut dyn Device,
        vision: &VisionTower,
        frozen: &[Frozen],
        blocks: usize,
        images: usize,
    ) -> Scores {
        self.see(device, vision, &frozen[..blocks], images);
        let logits = self.logits(device, vision, blocks, images);
        Scores { values: device.read_vec(logits.first(images * self.columns())), columns: self.columns() }
    }

    pub(crate) fn loss(&self, device: &dyn Device) -> f32 {
        device.read_vec(self.loss)[0]
    }
}

/// Where the parameters of a model's head lie in the arena, its blocks on frozen extractors included.
pub(crate) fn head_range(list: &ParameterList) -> std::ops::Range<usize> {
    let last = match blocks_of(list) {
        0 => "head.bias".to_string(),
        blocks => format!("{}.weight", block_name(blocks - 1)),
    };
    list.get("head.weight").offset..list.get(&last).range().end
}

/// What [`Head::distill`] holds against one another: the first `classes` columns of both.
#[derive(Clone, Copy)]
pub(crate) struct Soft {
    pub logits: Tensor,
    pub teacher: Tensor,
    pub classes: usize,
    pub targets: SoftTargets,
    pub weight: f64,
    pub write: Write,
}

/// A second head on the model's own features, whose loss joins that of a [`Head`].
pub(crate) struct Auxiliary {
    weights: LinearWeights,
    label: Ids,
    logits: Tensor,
    dlogits: Tensor,
    /// The features' gradient by the first head [images, D].
    dfeatures: Tensor,
}

impl Auxiliary {
    /// Its parameters: a row for every class, and one for all old classes together.
    pub(crate) fn parameters(spec: &TrainerSpec) -> Extra {
        linear_parameters("auxiliary", spec, spec.classes + 1, true)
    }

    pub(crate) fn plan(plan: &mut Plan, Planned { clip, images, .. }: &Planned) -> Auxiliary {
        let weights = clip.weights.linear(&clip.parameters, "auxiliary.weight", "auxiliary.bias");
        Auxiliary {
            label: plan.ids(*images),
            logits: plan.tensor(images * weights.outputs),
            dlogits: plan.tensor(images * weights.outputs),
            dfeatures: plan.tensor(images * clip.spec.embed_dim),
            weights,
        }
    }

    /// Sends the column that is right for each sample of a batch.
    pub(crate) fn load(&self, device: &mut dyn Device, columns: &[u32]) {
        device.write(self.label, columns);
    }

    /// Adds `weight` times its cross-entropy over the first `classes` columns to the loss of `head`, and leaves the sum of both heads'
    /// gradients of the features where the tower's backward pass reads it.
    pub(crate) fn forward_backward(
        &self,
        device: &mut dyn Device,
        clip: &Clip,
        head: &Head,
        images: usize,
        (weight, classes): (f64, usize),
    ) {
        let (weights, own) = (&self.weights, clip.vision.features());
        device.run(weights.forward(images, own, Epilogue::None, self.logits));
        let shape = LogitsShape { rows: images, columns: classes, stride: weights.outputs };
        let dlogits = self.dlogits.first(images * weights.outputs);
        // The loss is added to what there is; so is the gradient, to nothing.
        device.fill(dlogits, 0.0);
        let (logits, label, loss) = (self.logits, self.label, head.loss);
        device.run(CrossEntropy { shape, logits, divisor: None, label, weight, write: Write::Add, loss, dlogits });
        device.run(weights.backward_weight(images, dlogits, own));
        head.backward_features(device, images, self.dfeatures);
        // dy W of the second head plus that of the first: a product with W as [in, out] has a place for a sum.
        device.run(Linear {
            shape: LinearShape::projection(images, weights.outputs, weights.inputs),
            x: dlogits,
            weight: weights.weight,
            bias: None,
            epilogue: Epilogue::Residual(self.dfeatures),
            y: clip.vision.features_gradient(),
        });
    }
}

/// Freezes the model as extractor `place`, whose features its head reads from now on as a block of its own. The model's own block
/// starts at 0, so that the whole begins as the old model, and the auxiliary head anew.
pub(crate) fn expand(trainer: &mut Trainer, place: usize, view: &StageView) {
    trainer.freeze(place);
    trainer.edit(|list, values| {
        let (head, block) = (list.get("head.weight"), list.get(&format!("{}.weight", block_name(place))));
        values.copy_within(head.range(), block.offset);
        values[head.range()].fill(0.0);
        draw(list, values, view, &["auxiliary.weight", "auxiliary.bias"]);
    });
}

/// Starts the model's head at random, on its own features and on those of the frozen extractors in use.
pub(crate) fn restart(trainer: &mut Trainer, view: &StageView) {
    let blocks = trainer.frozen_in_use;
    trainer.edit(|list, values| {
        draw(list, values, view, &["head.weight", "head.bias"]);
        (0..blocks).for_each(|block| draw(list, values, view, &[&format!("{}.weight", block_name(block))]));
    });
}

/// Draws values of a step for some parameters of linear heads, as they are drawn for the first: uniform up to 1 / sqrt(D) either way.
fn draw(list: &ParameterList, values: &mut [f32], view: &StageView, names: &[&str]) {
    let bound = (list.get("head.weight").shape[1] as f64).powf(-0.5);
    for name in names {
        let mut generator = rng(view.seed, name, &[view.step as u64]);
        values[list.get(name).range()].fill_with(|| (bound * (2.0 * unit(&mut generator) - 1.0)) as f32);
    }
}

/// How many blocks a head has beside the model's own: one for each frozen extractor that it can read.
fn blocks_of(list: &ParameterList) -> usize {
    (0..).take_while(|block| list.find(&format!("{}.weight", block_name(*block))).is_some()).count()
}

/// Starts the rows of new classes in the model's head, from `first` on, as `rows [classes, D]` and their biases at 0; on the features of
/// frozen extractors they start at 0. In the auxiliary head they start likewise from row `auxiliary` on, where that is given.
pub(crate) fn start_rows(trainer: &mut Trainer, first: usize, rows: &[f32], auxiliary: Option<usize>) {
    trainer.edit(|list, values| {
        for (name, first) in [("head", Some(first)), ("auxiliary", auxiliary)] {
            let Some(first) = first else { continue };
            let (weight, bias) = (list.get(&format!("{name}.weight")), list.get(&format!("{name}.bias")));
            let width = weight.shape[1];
            values[weight.offset + first * width..][..rows.len()].copy_from_slice(rows);
            values[bias.offset + first..][..rows.len() / width].fill(0.0);
        }
        for block in 0..blocks_of(list) {
            let weight = list.get(&format!("{}.weight", block_name(block)));
            values[weight.offset + first * weight.shape[1]..][..rows.len()].fill(0.0);
        }
    });
}

/// The classes that have samples: a loss over them alone leaves the others' rows of a head as an earlier step left them.
pub(crate) struct Present {
    /// Joins the logits: minus infinity for classes without samples, else 0 [images, columns].
    mask: Tensor,
    /// Classes seen that have no samples.
    absent: Vec<usize>,
}

impl Present {
    pub(crate) fn plan(plan: &mut Plan, planned: &Planned, head: &Head) -> Present {
        Present { mask: plan.tensor(planned.images * head.columns()), absent: Vec::new() }
    }

    /// Prepares for a stage that draws `counts` samples of each class, in the order of the stream, of which `seen` are seen.
    pub(crate) fn enter(&mut self, device: &mut dyn Device, head: &Head, seen: usize, counts: &[usize]) {
        self.absent = (0..seen).filter(|class| counts[*class] == 0).collect();
        let columns = head.columns();
        let masked = |place: usize| if counts.get(place % columns) == Some(&0) { f32::NEG_INFINITY } else { 0.0 };
        device.write(self.mask, &(0..self.mask.len()).map(masked).collect::<Vec<f32>>());
    }

    /// Rows of classes without a sample: they would only be pushed down, or decay.
    pub(crate) fn spared(&self, list: &ParameterList) -> Vec<std::ops::Range<usize>> {
        let weight = list.get("head.weight");
        let row =
            |class: &usize| weight.offset + class * weight.shape[1]..weight.offset + (class + 1) * weight.shape[1];
        self.absent.iter().map(row).collect()
    }

    /// The logits of the model's own features, minus infinity for classes without samples [images, columns].
    pub(crate) fn logits(&self, device: &mut dyn Device, head: &Head, vision: &VisionTower, images: usize) -> Tensor {
        let logits = head.logits[0];
        device.run(head.heads.own.forward(images, vision.features(), Epilogue::Residual(self.mask), logits));
        logits
    }
}

/// A linear head that is trained on features that stay as they are, after a step: what methods end in that learn features alone. It
/// chooses among the classes that have samples, and the others' rows stay as an earlier step left them.
pub(crate) struct Probe {
    head: Head,
    present: Present,
    seen: usize,
}

impl Probe {
    pub(crate) fn plan(plan: &mut Plan, planned: &Planned) -> Probe {
        let head = Head::plan(plan, planned);
        Probe { present: Present::plan(plan, planned, &head), head, seen: 0 }
    }

    /// Prepares for a stage that draws `counts` samples of each class, in the order of the stream, of which `seen` are seen.
    pub(crate) fn enter(&mut self, device: &mut dyn Device, seen: usize, counts: &[usize]) {
        self.seen = seen;
        self.present.enter(device, &self.head, seen, counts);
    }

    /// [`Present::spared`].
    pub(crate) fn spared(&self, list: &ParameterList) -> Vec<std::ops::Range<usize>> {
        self.present.spared(list)
    }

    pub(crate) fn load(&self, device: &mut dyn Device, classes: &[ClassId]) {
        self.head.load(device, classes);
    }

    /// Loss and the head's own gradients: cross-entropy over the classes seen that have samples.
    pub(crate) fn forward_backward(&self, device: &mut dyn Device, vision: &VisionTower, images: usize) {
        let head = &self.head;
        let logits = self.present.logits(device, head, vision, images);
        head.cross_entropy(device, logits, images, self.seen, None);
        device.run(head.heads.own.backward_weight(images, head.dlogits, vision.features()));
    }

    pub(crate) fn scores(&self, device: &mut dyn Device, vision: &VisionTower, images: usize) -> Scores {
        self.head.scores(device, vision, &[], 0, images)
    }

    pub(crate) fn loss(&self, device: &dyn Device) -> f32 {
        self.head.loss(device)
    }

    /// Classes among which it chooses.
    pub(crate) fn seen(&self) -> usize {
        self.seen
    }
}

/// The sum of products x W^T + b; returns which of the two places it is in.
fn add_products(
    device: &mut dyn Device,
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
