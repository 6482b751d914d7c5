//! Supervised contrast of two views of every image (SupCon, arXiv 2004.11362), and a linear head on the features afterwards: what methods
//! of self-distillation over views are made of.

use super::head::{Probe, head_range};
use crate::model::clip::Clip;
use crate::model::frozen::Frozen;
use crate::model::parameters::ParameterList;
use crate::model::trainable::Trainable;
use crate::model::vision::VisionTower;
use crate::ops::similarity::{Similarity, SimilarityBackward, SimilarityBackwardColumns, SimilarityShape};
use crate::ops::supcon::SupCon;
use crate::ops::{Device, Ids, Plan, Stats, Write};
use crate::stream::ClassId;
use crate::train::{Loaded, Models, Objective, Path, Planned, Scores, Stage, StageView, TrainBatch, key_of};

/// Similarities of the embeddings of `n` views, and the contrast's gradient in them. Views come one after the other: all first, then all
/// second.
pub(crate) struct ViewContrast {
    width: usize,
    class: Ids,
    /// Similarities and their gradient [n, n].
    similarity: Stats,
    dsimilarity: Stats,
    contrast: Stats,
}

impl ViewContrast {
    pub(crate) fn plan(plan: &mut Plan, clip: &Clip) -> ViewContrast {
        let views = clip.capacity.images;
        ViewContrast {
            width: clip.spec.embed_dim,
            class: plan.ids(views),
            similarity: plan.stats(views * views),
            dsimilarity: plan.stats(views * views),
            contrast: plan.stats(1),
        }
    }

    /// Sends a batch's classes, for each image once.
    pub(crate) fn load(&self, device: &mut dyn Device, classes: &[ClassId]) {
        device.write(self.class, &twice(ClassId::numbers(classes)));
    }

    pub(crate) fn shape(&self, views: usize) -> SimilarityShape {
        SimilarityShape { rows: views, columns: views, width: self.width }
    }

    /// Similarities and their gradient, [views, views].
    pub(crate) fn similarities(&self, views: usize) -> (Stats, Stats) {
        (self.similarity.first(views * views), self.dsimilarity.first(views * views))
    }

    /// The loss, and the gradient of the similarities. `anchor` is 1 for the views that stand as anchors, where not all do.
    pub(crate) fn forward(&self, device: &mut dyn Device, clip: &Clip, views: usize, tau: f64, anchor: Option<Ids>) {
        let (embeddings, (s, ds)) = (clip.vision.embeddings(), self.similarities(views));
        device.run(Similarity { shape: self.shape(views), a: embeddings, b: embeddings, s });
        device.run(SupCon { samples: views, tau, s, class: self.class, anchor, loss: self.contrast, ds });
    }

    /// From the gradient of the similarities to that of the embeddings, which it sets or is added to.
    pub(crate) fn backward(&self, device: &mut dyn Device, clip: &Clip, views: usize, write: Write) {
        let (embeddings, gradient) = (clip.vision.embeddings(), clip.vision.embeddings_gradient());
        let (shape, (_, ds)) = (self.shape(views), self.similarities(views));
        device.run(SimilarityBackward { shape, ds, b: embeddings, write, da: gradient });
        device.run(SimilarityBackwardColumns { shape, ds, a: embeddings, write: Write::Add, db: gradient });
    }

    pub(crate) fn loss(&self, device: &dyn Device) -> f32 {
        device.read_vec(self.contrast)[0]
    }
}

/// Values of images, for both views.
pub(crate) fn twice(values: &[u32]) -> Vec<u32> {
    [values, values].concat()
}

/// A loss over two views of every image, with a teacher from the second step on.
pub(crate) trait ViewLoss {
    fn reset(&mut self, _device: &mut dyn Device) {}

    fn load(&self, device: &mut dyn Device, batch: &TrainBatch);

    /// Loss and gradients of `views` views that the model's image tower has seen. Leaves the embeddings' gradient where the tower's
    /// backward pass reads it.
    fn forward_backward(&self, device: &mut dyn Device, clip: &Clip, teacher: Option<&Frozen>, views: usize);

    fn loss(&self, device: &dyn Device) -> f32;
}

/// The objective: `L` over views, then a linear head on features that stay as they are.
pub(crate) struct ViewsThenProbe<L> {
    loss: L,
    probe: Probe,
    stage: Stage,
    distils: bool,
}

impl<L: ViewLoss + 'static> ViewsThenProbe<L> {
    pub(crate) fn boxed(plan: &mut Plan, planned: &Planned, loss: L) -> Box<dyn Objective> {
        Box::new(ViewsThenProbe { loss, probe: Probe::plan(plan, planned), stage: Stage::Main, distils: false })
    }
}

impl<L: ViewLoss> Objective for ViewsThenProbe<L> {
    fn reset(&mut self, device: &mut dyn Device) {
        self.loss.reset(device);
    }

    fn enter(&mut self, device: &mut dyn Device, _: Models, view: &StageView) {
        (self.stage, self.distils) = (view.stage, view.is_later());
        self.probe.enter(device, view.seen, view.counts);
    }

    fn path(&self) -> Path {
        if self.stage == Stage::Probe { Path::OwnAlone } else { Path::Embeddings }
    }

    fn trainable(&self, list: &ParameterList) -> Trainable {
        let head = head_range(list);
        // The head is the last of a method's own.
        Trainable::stretch(if self.stage == Stage::Probe { head } else { list.vision().start..head.start })
    }

    fn spared(&self, list: &ParameterList) -> Vec<std::ops::Range<usize>> {
        if self.stage == Stage::Probe { self.probe.spared(list) } else { Vec::new() }
    }

    fn load(&mut self, device: &mut dyn Device, batch: &TrainBatch, _: Loaded) {
        match self.stage {
            Stage::Probe => self.probe.load(device, batch.classes),
            _ => self.loss.load(device, batch),
        }
    }

    fn forward_backward(&self, device: &mut dyn Device, Models { clip, frozen, .. }: Models, loaded: Loaded) {
        match self.stage {
            Stage::Probe => self.probe.forward_backward(device, &clip.vision, loaded.images),
            _ => {
                let teacher = self.distils.then(|| &frozen[0]);
                self.loss.forward_backward(device, clip, teacher, loaded.images);
            }
        }
    }

    fn loss(&self, device: &dyn Device) -> f32 {
        if self.stage == Stage::Probe { self.probe.loss(device) } else { self.loss.loss(device) }
    }

    fn key(&self) -> u64 {
        key_of((self.stage, self.distils, self.probe.seen()))
    }

    fn scores(&self, device: &mut dyn Device, vision: &VisionTower, _: &[Frozen], images: usize) -> Option<Scores> {
        Some(self.probe.scores(device, vision, images))
    }
}
