//! The contrastive family in tiles of 64 texts by 64 images (`kernels/contrastive.cu` says which kernel follows which).

use super::Cuda;
use super::kernels::contrastive::{self as kernel, ImageRecord, SLICE, Sums, TILE, TextAnchor, TextRecord};
use super::launch::{Address, Pointer};
use crate::error::Error;
use crate::ops::contrastive::{
    Contrastive, ContrastiveBackward, ContrastiveInputs, ContrastiveSettings, ContrastiveShape, MovingAverages,
    Negatives, Surrogate,
};
use crate::ops::{DeviceMemory, Run};

/// Bytes of any record: of a text, of a sample, of the sums of an anchor.
const RECORD: usize = size_of::<TextRecord>();

/// The workspace as it is dealt out.
struct Room {
    next: Address,
    left: Option<usize>,
}

impl Room {
    fn new(cuda: &Cuda) -> Room {
        Room { next: cuda.workspace, left: Some(Cuda::WORKSPACE_BYTES) }
    }

    /// Room for `count` values.
    fn take<T>(&mut self, count: usize) -> Pointer<T> {
        let bytes = (count * size_of::<T>()).next_multiple_of(256);
        self.left = self.left.and_then(|left| left.checked_sub(bytes));
        let address = self.next;
        self.next = address.offset(bytes);
        Pointer::new(address)
    }

    /// How many pieces of this size are left.
    fn pieces(&self, bytes: usize) -> usize {
        self.left.unwrap_or(0).saturating_sub(256) / bytes
    }
}

/// What `contrastive_index` leaves for the kernels after it.
struct Index {
    place_of: Pointer<u32>,
    texts: Pointer<TextRecord>,
    log_negatives: Pointer<f32>,
    /// Where slots occur more than once; only with averages.
    chain: Option<Pointer<u32>>,
}

/// `count` tiles in about `parts` equal parts: tiles of a part, and how many parts that makes.
fn split(count: usize, parts: usize) -> (usize, usize) {
    let each = count.div_ceil(parts.clamp(1, count));
    (each, count.div_ceil(each))
}

fn negatives(settings: ContrastiveSettings) -> kernel::Negatives {
    match settings.negatives {
        Negatives::All => kernel::Negatives::All,
        Negatives::Others => kernel::Negatives::Others,
        Negatives::OtherClasses => kernel::Negatives::OtherClasses,
    }
}

/// Whether there is a hinge, and its margin.
fn hinge(settings: ContrastiveSettings) -> (bool, f32) {
    match settings.surrogate {
        Surrogate::Linear => (false, 0.0),
        Surrogate::SquaredHinge { margin } => (true, margin as f32),
    }
}

impl Cuda {
    fn contrastive_index(
        &mut self,
        shape: ContrastiveShape,
        settings: ContrastiveSettings,
        inputs: ContrastiveInputs,
        averages: Option<MovingAverages>,
        room: &mut Room,
    ) -> Index {
        // Eight lanes for each sample and text.
        const NUMBERS: usize = kernel::CONTRASTIVE_INDEX.most_threads() / 8;
        let ContrastiveShape { samples, texts, .. } = shape;
        let index = Index {
            place_of: room.take(samples),
            texts: room.take(texts),
            log_negatives: room.take(samples),
            chain: averages.map(|_| room.take(samples)),
        };
        let parameters = kernel::ContrastiveIndex {
            text_of: self.at(inputs.text_of),
            class_of_text: self.at(inputs.class_of_text),
            slot: averages.map(|averages| self.at(averages.slot)),
            place_of: index.place_of,
            texts: index.texts,
            log_negatives: index.log_negatives,
            chain: index.chain,
            samples,
            text_count: texts,
            negatives: negatives(settings),
        };
        self.launch(kernel::CONTRASTIVE_INDEX, [samples.max(texts).div_ceil(NUMBERS), 1, 1], parameters);
        index
    }

    /// False, and a failure noted, if the batch's records alone do not fit into the workspace.
    fn contrastive_fits(&self, shape: ContrastiveShape) -> bool {
        // Four words and two sums a sample for the first pass, which needs more than the second; one record a text.
        let bytes = shape.samples * (4 * 4 + 4 * RECORD) + shape.texts * RECORD + 16 * 256;
        if bytes > Self::WORKSPACE_BYTES {
            let ContrastiveShape { samples, texts, .. } = shape;
            let most = (Self::WORKSPACE_BYTES - 16 * 256) / (4 * 4 + 5 * RECORD);
            self.fail(Error::input(format!(
                "contrastive on CUDA takes batches of about {most} samples and texts, not {samples} samples and {texts} texts"
            )));
        }
        bytes <= Self::WORKSPACE_BYTES
    }
}

impl Run<Contrastive> for Cuda {
    fn run(&mut self, Contrastive { shape, settings, inputs, averages, saved }: Contrastive) {
        if !self.contrastive_fits(shape) {
            return;
        }
        let ContrastiveShape { samples, texts, width } = shape;
        let mut room = Room::new(self);
        let index = self.contrastive_index(shape, settings, inputs, averages, &mut room);
        let images: Pointer<ImageRecord> = room.take(samples);
        let anchors: Pointer<TextAnchor> = room.take(samples);
        let (image, text, negatives) = (self.at(inputs.image), self.at(inputs.text), negatives(settings));
        let parameters = kernel::ContrastivePositive {
            image,
            text,
            text_of: self.at(inputs.text_of),
            class_of_text: self.at(inputs.class_of_text),
            place_of: index.place_of,
            positive: self.at(saved.positive),
            images,
            anchors,
            samples,
            width,
            negatives,
        };
        let blocks = samples.div_ceil(kernel::CONTRASTIVE_POSITIVE.warps());
        self.launch(kernel::CONTRASTIVE_POSITIVE, [blocks, 1, 1], parameters);

        // Twice as many blocks as run at once, about as many slices of texts as groups of images. Every slice and every
        // group leaves sums of all samples.
        let (text_tiles, image_tiles) = (texts.div_ceil(TILE), samples.div_ceil(TILE));
        let wanted = 2 * kernel::CONTRASTIVE_SUMS.resident() * self.multiprocessors();
        let most = room.pieces(RECORD * samples);
        let balanced = wanted.isqrt().min(text_tiles);
        let groups = wanted.div_ceil(balanced).min(image_tiles).min(most.saturating_sub(balanced).max(most / 2));
        let slices = wanted.div_ceil(groups.max(1)).min(most.saturating_sub(groups));
        let (image_tiles_per_group, groups) = split(image_tiles, groups);
        let (text_tiles_per_slice, slices) = split(text_tiles, slices);
        let image_sums: Pointer<Sums> = room.take(samples * slices);
        let text_sums: Pointer<Sums> = room.take(samples * groups);
        let (hinge, margin) = hinge(settings);
        let parameters = kernel::ContrastiveSums {
            image,
            text,
            texts: index.texts,
            images,
            anchors,
            log_scale: self.at(inputs.log_scale),
            image_sums,
            text_sums,
            samples,
            text_count: texts,
            width,
            negatives,
            hinge,
            margin,
            text_tiles_per_slice,
            image_tiles_per_group,
        };
        self.launch(kernel::CONTRASTIVE_SUMS.shared(kernel::SUMS_SHARED), [slices, groups, 1], parameters);

        let parameters = kernel::ContrastiveAverages {
            image_sums,
            text_sums,
            place_of: index.place_of,
            log_negatives: index.log_negatives,
            slot: averages.map(|averages| self.at(averages.slot)),
            chain: index.chain,
            gamma: averages.map(|averages| self.at(averages.gamma)),
            average1: averages.map(|averages| self.at(averages.log_u[0])),
            average2: averages.map(|averages| self.at(averages.log_u[1])),
            log_u1: self.at(saved.log_u[0]),
            log_u2: self.at(saved.log_u[1]),
            slope1: self.at(saved.slope[0]),
            slope2: self.at(saved.slope[1]),
            height1: self.at(saved.height[0]),
            height2: self.at(saved.height[1]),
            samples,
            slices,
            groups,
        };
        let blocks = samples.div_ceil(kernel::CONTRASTIVE_AVERAGES.most_threads());
        self.launch(kernel::CONTRASTIVE_AVERAGES, [blocks, 2, 1], parameters);
    }
}

impl Run<ContrastiveBackward> for Cuda {
    fn run(&mut self, op: ContrastiveBackward) {
        let ContrastiveBackward { shape, settings, inputs, saved, weight, dimage, dtext, loss, dlog_scale } = op;
        if !self.contrastive_fits(shape) {
            return;
        }
        let ContrastiveShape { samples, texts, width } = shape;
        let mut room = Room::new(self);
        let index = self.contrastive_index(shape, settings, inputs, None, &mut room);
        let images: Pointer<ImageRecord> = room.take(samples);
        let image_weights: Pointer<kernel::ImageWeight> = room.take(samples);
        let anchors: Pointer<kernel::WeightedAnchor> = room.take(samples);
        let [log_u1, log_u2] = saved.log_u.map(|log_u| self.at(log_u));
        let (weight, log_scale, times_tau) = (self.at(weight), self.at(inputs.log_scale), settings.times_tau);
        let negatives = negatives(settings);
        let parameters = kernel::ContrastiveRecords {
            text_of: self.at(inputs.text_of),
            class_of_text: self.at(inputs.class_of_text),
            place_of: index.place_of,
            log_negatives: index.log_negatives,
            positive: self.at(saved.positive),
            log_u1,
            log_u2,
            slope1: self.at(saved.slope[0]),
            slope2: self.at(saved.slope[1]),
            weight,
            log_scale,
            images,
            image_weights,
            anchors,
            samples,
            negatives,
            times_tau,
        };
        let blocks = samples.div_ceil(kernel::CONTRASTIVE_RECORDS.most_threads());
        self.launch(kernel::CONTRASTIVE_RECORDS, [blocks, 1, 1], parameters);

        let (hinge, margin) = hinge(settings);
        let sides = [
            (kernel::CONTRASTIVE_IMAGE_GRADIENT, samples, texts, self.at(dimage)),
            (kernel::CONTRASTIVE_TEXT_GRADIENT, texts, samples, self.at(dtext)),
        ];
        let values = sides.map(|(_, rows, _, _)| rows * width);
        let parts_at: Pointer<f32> = Pointer::new(room.next);
        for ((kernel, rows, opponents, gradient), values) in sides.into_iter().zip(values) {
            // Parts fill the multiprocessors where the blocks of rows are few.
            let blocks = [rows.div_ceil(TILE), width.div_ceil(SLICE)];
            let wanted = kernel.resident() * self.multiprocessors() / (blocks[0] * blocks[1]);
            let (tiles_per_part, parts) = split(opponents.div_ceil(TILE), wanted.min(room.pieces(4 * values)));
            let parameters = kernel::ContrastiveGradient {
                image: self.at(inputs.image),
                text: self.at(inputs.text),
                texts: index.texts,
                images,
                image_weights,
                anchors,
                log_scale,
                gradient,
                parts: (parts > 1).then_some(parts_at),
                samples,
                text_count: texts,
                width,
                negatives,
                hinge,
                margin,
                tiles_per_part,
            };
            self.launch(kernel.shared(kernel::GRADIENT_SHARED), [blocks[0], blocks[1], parts], parameters);
            if parts > 1 {
                let threads = if values.is_multiple_of(8) { values / 8 } else { values };
                let blocks = threads.div_ceil(kernel::CONTRASTIVE_ADD_PARTS.most_threads());
                let parameters =
                    kernel::ContrastiveAddParts { parts: parts_at, sum: gradient, count: values, part_count: parts };
                self.launch(kernel::CONTRASTIVE_ADD_PARTS, [blocks, 1, 1], parameters);
            }
        }

        let parameters = kernel::ContrastiveLoss {
            weight,
            log_u1,
            log_u2,
            height1: self.at(saved.height[0]),
            height2: self.at(saved.height[1]),
            log_scale,
            loss: self.at(loss),
            dlog_scale: self.at(dlog_scale),
            samples,
            times_tau,
        };
        self.launch(kernel::CONTRASTIVE_LOSS, [1, 1, 1], parameters);
    }
}
