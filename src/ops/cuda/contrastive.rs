//! The contrastive family in tiles of 64 texts by 64 images (`kernels/contrastive.cu` says which kernel follows which).

use super::launch::Address;
use super::{Cuda, arguments};
use crate::error::Error;
use crate::ops::contrastive::{
    Contrastive, ContrastiveBackward, ContrastiveInputs, ContrastiveSettings, ContrastiveShape, MovingAverages,
    Negatives, Surrogate,
};
use crate::ops::{Memory, Run};

/// Texts and images of a tile.
const TILE: usize = 64;
/// Columns of a gradient that one block holds.
const SLICE: usize = 256;
/// Bytes of a record of a text, of a sample, of the sums of an anchor.
const RECORD: usize = 16;
/// Three stages of a tile's texts and images, 64 columns of bf16 each.
const RING: usize = 3 * 2 * TILE * TILE * 2;
/// A tile in f32, its rows 16 bytes apart from each other's banks.
const SIMILARITIES: usize = TILE * (TILE + 4) * 4;
pub(super) const SUMS_SHARED: usize = RING + SIMILARITIES + 2 * TILE * RECORD;
/// The texts' records lie in the gaps of the similarities.
pub(super) const GRADIENT_SHARED: usize = RING + TILE * SLICE * 2 + SIMILARITIES + 2 * TILE * RECORD;
/// Blocks of these kernels that a multiprocessor holds at once.
const RESIDENT: usize = 2;

/// The workspace as it is dealt out.
struct Room {
    next: Address,
    left: Option<usize>,
}

impl Room {
    fn new(cuda: &Cuda) -> Room {
        Room { next: cuda.workspace(), left: Some(Cuda::WORKSPACE_BYTES) }
    }

    fn take(&mut self, bytes: usize) -> Address {
        let bytes = bytes.next_multiple_of(256);
        self.left = self.left.and_then(|left| left.checked_sub(bytes));
        let address = self.next;
        self.next = address.offset(bytes);
        address
    }

    /// How many pieces of this size are left.
    fn pieces(&self, bytes: usize) -> usize {
        self.left.unwrap_or(0).saturating_sub(256) / bytes
    }
}

/// What `contrastive_index` leaves for the kernels after it.
struct Index {
    place: Address,
    texts: Address,
    log_negatives: Address,
    /// Where slots occur more than once; only with averages.
    chain: Option<Address>,
}

/// `count` tiles in about `parts` equal parts: tiles of a part, and how many parts that makes.
fn split(count: usize, parts: usize) -> (usize, usize) {
    let each = count.div_ceil(parts.clamp(1, count));
    (each, count.div_ceil(each))
}

/// As the kernels number them.
fn negatives(settings: ContrastiveSettings) -> i32 {
    match settings.negatives {
        Negatives::All => 0,
        Negatives::Others => 1,
        Negatives::OtherClasses => 2,
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
        const NUMBERS: usize = 32;
        let ContrastiveShape { samples, texts, .. } = shape;
        let index = Index {
            place: room.take(4 * samples),
            texts: room.take(RECORD * texts),
            log_negatives: room.take(4 * samples),
            chain: averages.map(|_| room.take(4 * samples)),
        };
        let arguments = arguments![
            self.at(inputs.text_of),
            self.at(inputs.class_of_text),
            averages.map(|averages| self.at(averages.slot)),
            index.place,
            index.texts,
            index.log_negatives,
            index.chain,
            samples,
            texts,
            negatives(settings),
        ];
        self.launch("contrastive_index", [samples.max(texts).div_ceil(NUMBERS), 1, 1], 256, 0, arguments);
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
        let [images, anchors] = [(); 2].map(|()| room.take(RECORD * samples));
        let (image, text) = (self.at(inputs.image), self.at(inputs.text));
        let arguments = arguments![
            image,
            text,
            self.at(inputs.text_of),
            self.at(inputs.class_of_text),
            index.place,
            self.at(saved.positive),
            images,
            anchors,
            samples,
            width,
            negatives(settings),
        ];
        self.launch("contrastive_positive", [samples.div_ceil(8), 1, 1], 256, 0, arguments);

        // Twice as many blocks as run at once, about as many slices of texts as groups of images. Every slice and every
        // group leaves sums of all samples.
        let (text_tiles, image_tiles) = (texts.div_ceil(TILE), samples.div_ceil(TILE));
        let wanted = 2 * RESIDENT * self.multiprocessors();
        let most = room.pieces(RECORD * samples);
        let balanced = wanted.isqrt().min(text_tiles);
        let groups = wanted.div_ceil(balanced).min(image_tiles).min(most.saturating_sub(balanced).max(most / 2));
        let slices = wanted.div_ceil(groups.max(1)).min(most.saturating_sub(groups));
        let (image_tiles_per_group, groups) = split(image_tiles, groups);
        let (text_tiles_per_slice, slices) = split(text_tiles, slices);
        let image_sums = room.take(RECORD * samples * slices);
        let text_sums = room.take(RECORD * samples * groups);
        let (hinge, margin) = hinge(settings);
        let arguments = arguments![
            image,
            text,
            index.texts,
            images,
            anchors,
            self.at(inputs.log_scale),
            image_sums,
            text_sums,
            samples,
            texts,
            width,
            negatives(settings),
            hinge,
            margin,
            text_tiles_per_slice,
            image_tiles_per_group,
        ];
        self.launch("contrastive_sums", [slices, groups, 1], 256, SUMS_SHARED, arguments);

        let arguments = arguments![
            image_sums,
            text_sums,
            index.place,
            index.log_negatives,
            averages.map(|averages| self.at(averages.slot)),
            index.chain,
            averages.map(|averages| self.at(averages.gamma)),
            averages.map(|averages| self.at(averages.log_u[0])),
            averages.map(|averages| self.at(averages.log_u[1])),
            self.at(saved.log_u[0]),
            self.at(saved.log_u[1]),
            self.at(saved.slope[0]),
            self.at(saved.slope[1]),
            self.at(saved.height[0]),
            self.at(saved.height[1]),
            samples,
            slices,
            groups,
        ];
        self.launch("contrastive_averages", [samples.div_ceil(256), 2, 1], 256, 0, arguments);
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
        let [images, image_weights, anchors] = [(); 3].map(|()| room.take(RECORD * samples));
        let [log_u1, log_u2] = saved.log_u.map(|log_u| self.at(log_u));
        let (weight, log_scale) = (self.at(weight), self.at(inputs.log_scale));
        let arguments = arguments![
            self.at(inputs.text_of),
            self.at(inputs.class_of_text),
            index.place,
            index.log_negatives,
            self.at(saved.positive),
            log_u1,
            log_u2,
            self.at(saved.slope[0]),
            self.at(saved.slope[1]),
            weight,
            log_scale,
            images,
            image_weights,
            anchors,
            samples,
            negatives(settings),
            settings.times_tau,
        ];
        self.launch("contrastive_records", [samples.div_ceil(256), 1, 1], 256, 0, arguments);

        let (hinge, margin) = hinge(settings);
        let sides = [
            ("contrastive_image_gradient", samples, texts, self.at(dimage)),
            ("contrastive_text_gradient", texts, samples, self.at(dtext)),
        ];
        let values = sides.map(|(_, rows, _, _)| rows * width);
        let parts_at = room.next;
        for ((kernel, rows, opponents, gradient), values) in sides.into_iter().zip(values) {
            // Parts fill the multiprocessors where the blocks of rows are few.
            let blocks = [rows.div_ceil(TILE), width.div_ceil(SLICE)];
            let wanted = RESIDENT * self.multiprocessors() / (blocks[0] * blocks[1]);
            let (tiles_per_part, parts) = split(opponents.div_ceil(TILE), wanted.min(room.pieces(4 * values)));
            let arguments = arguments![
                self.at(inputs.image),
                self.at(inputs.text),
                index.texts,
                images,
                image_weights,
                anchors,
                log_scale,
                gradient,
                (parts > 1).then_some(parts_at),
                samples,
                texts,
                width,
                negatives(settings),
                hinge,
                margin,
                tiles_per_part,
            ];
            self.launch(kernel, [blocks[0], blocks[1], parts], 256, GRADIENT_SHARED, arguments);
            if parts > 1 {
                let threads = if values.is_multiple_of(8) { values / 8 } else { values };
                let arguments = arguments![parts_at, gradient, values as i64, parts];
                self.launch("contrastive_add_parts", [threads.div_ceil(256), 1, 1], 256, 0, arguments);
            }
        }

        let arguments = arguments![
            weight,
            log_u1,
            log_u2,
            self.at(saved.height[0]),
            self.at(saved.height[1]),
            log_scale,
            self.at(loss),
            self.at(dlog_scale),
            samples,
            settings.times_tau,
        ];
        self.launch("contrastive_loss", [1, 1, 1], 1024, 0, arguments);
    }
}
