//! Learning without forgetting on similarities: the clip loss, and mu / 2 times the sum over both directions of
//! KL(softmax(S_old / tau) || softmax(S_new / tau)) on each batch (docs/methods.md, section 4, lwf; TiC-CLIP, arXiv 2310.16226).

use super::clip::{ClipLoss, TEXTS};
use super::contrast::Contrast;
use super::trial::{SCALE, Trial};
use super::{Entry, Method, Row};
use crate::method_settings;
use crate::model::clip::Clip;
use crate::model::frozen::{Frozen, Part};
use crate::ops::distillation::{Distillation, DistillationSettings, Multiplicity};
use crate::ops::similarity::{Similarity, SimilarityBackward, SimilarityBackwardColumns, SimilarityShape};
use crate::ops::{Device, Plan, Stats, Tensor, Write};
use crate::train::{Loaded, Models, Objective, Path, Planned, Recipe, Stage, StageView, TrainBatch, key_of};

pub(crate) const ENTRY: Entry = Entry {
    settings: &[LwfSettings::GROUP],
    ..Entry::new(
        Row {
            name: "lwf",
            summary: "the clip loss and the distillation of the last step's similarities (learning without forgetting)",
            ..TEXTS
        },
        |row, chosen| Box::new(Lwf { row, settings: LwfSettings::of(chosen.objective) }),
    )
};

method_settings! {
    LwfSettings in "lwf" {
        /// weight of lwf's distillation beside the clip loss
        mu: f64 = 1.0, 0.0..=1e6;
    }
}

struct Lwf {
    row: Row,
    settings: LwfSettings,
}

impl Recipe for Lwf {
    fn teacher(&self) -> Option<Part> {
        Some(Part::Whole)
    }

    fn plan(&self, plan: &mut Plan, planned: &Planned) -> Box<dyn Objective> {
        let plain = ClipLoss { contrast: Contrast::plan(plan, planned) };
        Box::new(Distilled { plain, distillation: Similarities::plan(plan, self.settings.mu, planned.clip), tau: None })
    }
}

impl Method for Lwf {
    fn row(&self) -> &Row {
        &self.row
    }

    fn trials(&self) -> Vec<Trial> {
        // The two directions are added to the gradient of either tower's embeddings.
        vec![Trial::of_similarities(Stage::Main, 2.0, SCALE * (1.0 + 2.0 * self.settings.mu))]
    }
}

/// The objective.
struct Distilled {
    plain: ClipLoss,
    distillation: Similarities,
    /// tau of both sides, once there is a teacher: the teacher's, at the start of the step.
    tau: Option<f64>,
}

impl Objective for Distilled {
    fn enter(&mut self, device: &mut dyn Device, models: Models, view: &StageView) {
        self.tau = view.is_later().then(|| {
            let scale = models.frozen[0].weights.value(models.clip.parameters.get("logit_scale"));
            f64::from(-device.read_vec(scale)[0]).exp()
        });
    }

    fn path(&self) -> Path {
        Path::ImagesAndTexts
    }

    fn load(&mut self, device: &mut dyn Device, batch: &TrainBatch, loaded: Loaded) {
        self.plain.load(device, batch, loaded);
        let texts = batch.texts.expect("the objective reads texts");
        self.distillation.load(device, &texts.text_of, texts.tokens.len());
    }

    fn forward_backward(&self, device: &mut dyn Device, models: Models, loaded: Loaded) {
        self.plain.compute(device, models, loaded);
        device.fill(self.distillation.loss, 0.0);
        if let Some(tau) = self.tau {
            self.distillation.forward_backward(device, models, loaded, tau);
        }
    }

    fn loss(&self, device: &dyn Device) -> f32 {
        self.plain.loss(device) + device.read_vec(self.distillation.loss)[0]
    }

    fn key(&self) -> u64 {
        key_of(self.tau.map(f64::to_bits))
    }
}

/// The distillation with its memory: similarities of images against texts, and of texts against images.
struct Similarities {
    mu: f64,
    /// Samples that share each text [texts].
    count: Stats,
    /// [images, texts], or [texts, images].
    s: Stats,
    teacher_s: Stats,
    ds: Stats,
    loss: Stats,
}

/// One direction: each of `rows` embeddings against each of `columns`. Pairs are of rows and of columns.
struct Direction {
    rows: usize,
    columns: usize,
    multiplicity: Multiplicity,
    old: (Tensor, Tensor),
    new: (Tensor, Tensor),
    gradient: (Tensor, Tensor),
}

impl Similarities {
    fn plan(plan: &mut Plan, mu: f64, clip: &Clip) -> Similarities {
        let (images, texts) = (clip.capacity.images, clip.capacity.texts);
        let mut matrix = || plan.stats(images * texts);
        let (s, teacher_s, ds) = (matrix(), matrix(), matrix());
        Similarities { mu, s, teacher_s, ds, count: plan.stats(texts), loss: plan.stats(1) }
    }

    /// Sends how many samples share each text of a batch.
    fn load(&self, device: &mut dyn Device, text_of: &[u32], texts: usize) {
        let mut count = vec![0.0; texts];
        text_of.iter().for_each(|text| count[*text as usize] += 1.0);
        device.write(self.count, &count);
    }

    /// Adds its gradients to those of both towers' embeddings, from the loaded batch. The teacher is the only frozen model.
    fn forward_backward(
        &self,
        device: &mut dyn Device,
        Models { clip, frozen, .. }: Models,
        Loaded { images, texts }: Loaded,
        tau: f64,
    ) {
        let teacher: &Frozen = &frozen[0];
        let text_tower = teacher.text.as_ref().expect("the teacher is a whole model");
        teacher.see(device, &clip.vision, images);
        text_tower.see(device, &clip.text, texts);
        let count = Some(self.count.first(texts.texts));
        let by_image = Direction {
            rows: images,
            columns: texts.texts,
            multiplicity: Multiplicity { row: None, column: count },
            old: (teacher.vision.embeddings(), text_tower.embeddings()),
            new: (clip.vision.embeddings(), clip.text.embeddings()),
            gradient: (clip.vision.embeddings_gradient(), clip.text.embeddings_gradient()),
        };
        let flip = |(images, texts): (Tensor, Tensor)| (texts, images);
        let by_text = Direction {
            rows: by_image.columns,
            columns: by_image.rows,
            multiplicity: Multiplicity { row: count, column: None },
            old: flip(by_image.old),
            new: flip(by_image.new),
            gradient: flip(by_image.gradient),
        };
        for direction in [by_image, by_text] {
            self.one_way(device, &direction, clip.spec.embed_dim, tau);
        }
    }

    fn one_way(&self, device: &mut dyn Device, direction: &Direction, width: usize, tau: f64) {
        let Direction { rows, columns, multiplicity, old, new, gradient } = *direction;
        let shape = SimilarityShape { rows, columns, width };
        let [s, teacher, ds] = [self.s, self.teacher_s, self.ds].map(|span| span.first(rows * columns));
        device.run(Similarity { shape, a: new.0, b: new.1, s });
        device.run(Similarity { shape, a: old.0, b: old.1, s: teacher });
        let (teacher_tau, weight) = (tau, self.mu / 2.0);
        let settings = DistillationSettings { tau, teacher_tau, exclude_self: false, divergence: true, weight };
        // ds is set here, and the loss is added up over both ways.
        device.fill(ds, 0.0);
        let (write, loss) = (Write::Add, self.loss);
        device.run(Distillation { rows, columns, settings, multiplicity, s, teacher, write, loss, ds });
        device.run(SimilarityBackward { shape, ds, b: new.1, write, da: gradient.0 });
        device.run(SimilarityBackwardColumns { shape, ds, a: new.0, write, db: gradient.1 });
    }
}
