//! Learning without forgetting on similarities: mu / 2 times the sum over both directions of
//! KL(softmax(S_old / tau) || softmax(S_new / tau)) on each batch (methods.md section 4, lwf; TiC-CLIP, arXiv 2310.16226).

use crate::model::clip::Clip;
use crate::model::frozen::Frozen;
use crate::model::text::LoadedTexts;
use crate::ops::distillation::{Distillation, DistillationSettings, Multiplicity};
use crate::ops::similarity::{Similarity, SimilarityBackward, SimilarityBackwardColumns, SimilarityShape};
use crate::ops::{Device, Plan, Stats, Tensor, Write};

/// The distillation with its memory: similarities of images against texts, and of texts against images.
pub struct SimilarityDistillation {
    mu: f64,
    /// Whether there is a teacher: from the second step on.
    pub distils: bool,
    /// tau of both sides: the teacher's, at the start of the step.
    pub tau: f64,
    /// Samples that share each text [texts].
    count: Stats,
    /// [images, texts], or [texts, images].
    s: Stats,
    teacher_s: Stats,
    ds: Stats,
    loss: Stats,
}

impl SimilarityDistillation {
    pub fn plan(plan: &mut Plan, mu: f64, clip: &Clip) -> SimilarityDistillation {
        let (images, texts) = (clip.capacity.images, clip.capacity.texts);
        plan.section("objective", |plan| {
            let mut matrix = || plan.stats(images * texts);
            SimilarityDistillation {
                mu,
                distils: false,
                tau: 1.0,
                s: matrix(),
                teacher_s: matrix(),
                ds: matrix(),
                count: plan.stats(texts),
                loss: plan.stats(1),
            }
        })
    }

    /// Sends how many samples share each text of a batch.
    pub fn load<D: Device>(&self, device: &mut D, text_of: &[u32], texts: usize) {
        let mut count = vec![0.0; texts];
        text_of.iter().for_each(|text| count[*text as usize] += 1.0);
        device.write(self.count, &count);
    }

    /// Adds the distillation's gradients to those of both towers' embeddings, from the loaded batch; none before there is a
    /// teacher, which is the only frozen model.
    pub fn forward_backward<D: Device>(
        &self,
        device: &mut D,
        clip: &Clip,
        frozen: &[Frozen],
        images: usize,
        texts: LoadedTexts,
    ) {
        device.fill(self.loss, 0.0);
        if !self.distils {
            return;
        }
        let (width, teacher) = (clip.spec.embed_dim, &frozen[0]);
        let text_tower = teacher.text.as_ref().expect("the teacher is a whole model");
        teacher.see(device, &clip.vision, images);
        text_tower.see(device, &clip.text, texts);
        let old = (teacher.vision.embeddings(), text_tower.embeddings());
        let new = (clip.vision.embeddings(), clip.text.embeddings());
        let gradient = (clip.vision.embeddings_gradient(), clip.text.embeddings_gradient());
        let count = Some(self.count.first(texts.texts));
        let by_image = Multiplicity { row: None, column: count };
        self.one_way(device, (images, texts.texts, width), by_image, old, new, gradient);
        let flip = |(images, texts): (Tensor, Tensor)| (texts, images);
        let by_text = Multiplicity { row: count, column: None };
        self.one_way(device, (texts.texts, images, width), by_text, flip(old), flip(new), flip(gradient));
    }

    /// Each row of the first against all of the second.
    fn one_way<D: Device>(
        &self,
        device: &mut D,
        (rows, columns, width): (usize, usize, usize),
        multiplicity: Multiplicity,
        old: (Tensor, Tensor),
        new: (Tensor, Tensor),
        gradient: (Tensor, Tensor),
    ) {
        let shape = SimilarityShape { rows, columns, width };
        let [s, teacher_s, ds] = [self.s, self.teacher_s, self.ds].map(|span| span.first(rows * columns));
        device.run(Similarity { shape, a: new.0, b: new.1, s });
        device.run(Similarity { shape, a: old.0, b: old.1, s: teacher_s });
        let (tau, teacher_tau, weight) = (self.tau, self.tau, self.mu / 2.0);
        let settings = DistillationSettings { tau, teacher_tau, exclude_self: false, divergence: true, weight };
        // ds is set here, and the loss is added up over both ways.
        device.fill(ds, 0.0);
        device.run(Distillation {
            rows,
            columns,
            settings,
            multiplicity,
            s,
            teacher: teacher_s,
            write: Write::Add,
            loss: self.loss,
            ds,
        });
        device.run(SimilarityBackward { shape, ds, b: new.1, write: Write::Add, da: gradient.0 });
        device.run(SimilarityBackwardColumns { shape, ds, a: new.0, write: Write::Add, db: gradient.1 });
    }

    pub fn loss<D: Device>(&self, device: &D) -> f32 {
        device.read_vec(self.loss)[0]
    }
}
