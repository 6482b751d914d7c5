//! Ridge regression of classes on features that arrive step by step: W = (H^T H + lambda I)^-1 H^T Y, H the features as `Map` widens them
//! and Y one-hot.
//!
//! As long as there are fewer samples than columns of H, W = H^T (H H^T + lambda I)^-1 Y is the same and takes less: the smaller of the two
//! systems is kept. From then on nothing is kept of a sample but its share of H^T H and H^T Y.

use std::sync::Arc;

use super::algebra::{Cholesky, add_gram, multiply, multiply_into};
use crate::ops::cpu::MatrixView;
use crate::rng::{normal, rng};
use crate::stream::ClassId;

/// Samples that are widened at once as they are taken in.
const PORTION: usize = 2048;

/// Samples that are widened at once as they are gone through again.
const PIECE: usize = 512;

/// h(f): what the features are widened to.
pub(crate) enum Map {
    /// f itself.
    Plain { inputs: usize },
    /// relu(f V), V [inputs, width].
    Rectified { inputs: usize, width: usize, projection: Vec<f64> },
}

impl Map {
    /// A projection to `width` values whose weights are drawn from N(0, 1) by `seed`; 0: the features themselves.
    pub(crate) fn drawn(inputs: usize, width: usize, seed: u64) -> Map {
        if width == 0 {
            return Map::Plain { inputs };
        }
        let mut generator = rng(seed, "random projection", &[]);
        let projection = (0..inputs * width).map(|_| normal(&mut generator)).collect();
        Map::Rectified { inputs, width, projection }
    }

    fn inputs(&self) -> usize {
        match self {
            Map::Plain { inputs } | Map::Rectified { inputs, .. } => *inputs,
        }
    }

    pub(crate) fn width(&self) -> usize {
        match self {
            Map::Plain { inputs } => *inputs,
            Map::Rectified { width, .. } => *width,
        }
    }

    /// H [rows, width] of features [rows, inputs].
    fn widen(&self, rows: &[f32]) -> Vec<f64> {
        let features: Vec<f64> = rows.iter().map(|x| f64::from(*x)).collect();
        let Map::Rectified { inputs, width, projection } = self else { return features };
        let count = rows.len() / inputs;
        let mut wide = vec![0.0; count * width];
        let (features, projection) = (MatrixView::rows(&features, *inputs), MatrixView::rows(projection, *width));
        multiply([count, *width, *inputs], features, projection, &mut wide, false);
        wide.iter_mut().for_each(|x| *x = x.max(0.0));
        wide
    }
}

/// What was taken in: the smaller of the two systems.
pub(crate) struct Ridge {
    map: Arc<Map>,
    classes: usize,
    kept: Kept,
}

enum Kept {
    /// Features [samples, inputs], their classes, and H H^T: for each portion how many samples it has, and its rows [portion, samples up to
    /// and with it].
    Samples { rows: Vec<f32>, labels: Vec<ClassId>, kernel: Vec<(usize, Vec<f64>)> },
    /// H^T H [width, width], of which the upper half is there, and Y^T H [classes, width].
    Sums { gram: Vec<f64>, products: Vec<f64> },
}

impl Ridge {
    pub(crate) fn new(map: Arc<Map>, classes: usize) -> Ridge {
        Ridge { map, classes, kept: Kept::Samples { rows: Vec::new(), labels: Vec::new(), kernel: Vec::new() } }
    }

    /// Bytes that it takes at most for so many samples, its solution included.
    pub(crate) fn bytes(inputs: usize, width: usize, classes: usize, samples: usize) -> usize {
        let width = if width == 0 { inputs } else { width };
        let order = width.min(samples);
        // The system and its factor, a portion and a piece, what the projection draws, and solutions.
        let values = [
            order.saturating_mul(order).saturating_mul(2),
            width.saturating_mul((PORTION + PIECE).min(2 * samples)),
            width.saturating_mul(inputs),
            width.saturating_mul(classes).saturating_mul(2),
        ];
        values.into_iter().fold(0, usize::saturating_add).saturating_mul(size_of::<f64>())
    }

    /// Takes in features [samples, inputs] and their classes.
    pub(crate) fn take_in(&mut self, rows: &[f32], labels: &[ClassId]) {
        let inputs = self.map.inputs();
        for (rows, labels) in rows.chunks(PORTION * inputs).zip(labels.chunks(PORTION)) {
            if let Kept::Samples { labels: kept, .. } = &self.kept
                && kept.len() + labels.len() > self.map.width()
            {
                self.sum_up();
            }
            let wide = self.map.widen(rows);
            match &mut self.kept {
                Kept::Samples { rows: kept, labels: of_kept, kernel } => {
                    kernel.push((labels.len(), kernel_rows(&self.map, kept, &wide, labels.len())));
                    kept.extend_from_slice(rows);
                    of_kept.extend_from_slice(labels);
                }
                Kept::Sums { gram, products } => add(&wide, labels, self.map.width(), gram, products),
            }
        }
    }

    /// Goes over from the samples to their sums.
    fn sum_up(&mut self) {
        let width = self.map.width();
        let (mut gram, mut products) = (vec![0.0; width * width], vec![0.0; self.classes * width]);
        if let Kept::Samples { rows, labels, .. } = &self.kept {
            for (rows, labels) in rows.chunks(PORTION * self.map.inputs()).zip(labels.chunks(PORTION)) {
                add(&self.map.widen(rows), labels, width, &mut gram, &mut products);
            }
        }
        self.kept = Kept::Sums { gram, products };
    }

    /// W [width, classes] for each lambda; none where its system cannot be solved.
    pub(crate) fn solve(&self, lambdas: &[f64]) -> Vec<Option<Vec<f64>>> {
        let (width, classes) = (self.map.width(), self.classes);
        match &self.kept {
            Kept::Sums { gram, products } => {
                let solution = |lambda: &f64| {
                    let mut weights = products.clone();
                    Cholesky::of(gram.clone(), width, *lambda)?.solve(&mut weights);
                    Some(transposed(&weights, classes, width))
                };
                lambdas.iter().map(solution).collect()
            }
            Kept::Samples { rows, labels, kernel } => {
                let samples = labels.len();
                let duals: Vec<Option<Vec<f64>>> = lambdas
                    .iter()
                    .map(|lambda| {
                        let mut dual = vec![0.0; classes * samples];
                        let hot = labels.iter().enumerate().map(|(sample, class)| class.index() * samples + sample);
                        hot.for_each(|place| dual[place] = 1.0);
                        Cholesky::of(whole_kernel(kernel, samples), samples, *lambda)?.solve(&mut dual);
                        Some(dual)
                    })
                    .collect();
                let mut weights: Vec<Option<Vec<f64>>> =
                    duals.iter().map(|dual| dual.as_ref().map(|_| vec![0.0; width * classes])).collect();
                for (piece, rows) in rows.chunks(PIECE * self.map.inputs()).enumerate() {
                    let wide = self.map.widen(rows);
                    for (weights, dual) in weights.iter_mut().flatten().zip(duals.iter().flatten()) {
                        let dual = MatrixView { values: &dual[piece * PIECE..], row_stride: 1, column_stride: samples };
                        let wide = MatrixView::rows(&wide, width).transposed();
                        multiply([width, classes, rows.len() / self.map.inputs()], wide, dual, weights, true);
                    }
                }
                weights
            }
        }
    }
}

/// h(f) W [rows, classes] of features [rows, inputs].
pub(crate) fn predict(map: &Map, rows: &[f32], weights: &[f64]) -> Vec<f64> {
    let (count, width) = (rows.len() / map.inputs(), map.width());
    let classes = weights.len() / width;
    let mut found = vec![0.0; count * classes];
    let wide = map.widen(rows);
    multiply(
        [count, classes, width],
        MatrixView::rows(&wide, width),
        MatrixView::rows(weights, classes),
        &mut found,
        false,
    );
    found
}

/// The rows of H H^T of `count` new samples `wide` behind those with features `kept`: [count, kept and new].
fn kernel_rows(map: &Map, kept: &[f32], wide: &[f64], count: usize) -> Vec<f64> {
    let (inputs, width) = (map.inputs(), map.width());
    let before = kept.len() / inputs;
    let stride = before + count;
    let mut kernel = vec![0.0; count * stride];
    let new = MatrixView::rows(wide, width);
    for (piece, rows) in kept.chunks(PIECE * inputs).enumerate() {
        let old = map.widen(rows);
        let old = MatrixView::rows(&old, width).transposed();
        multiply_into([count, rows.len() / inputs, width], new, old, &mut kernel[piece * PIECE..], stride, false);
    }
    multiply_into([count, count, width], new, new.transposed(), &mut kernel[before..], stride, false);
    kernel
}

/// H H^T [samples, samples], of which the upper half is right.
fn whole_kernel(portions: &[(usize, Vec<f64>)], samples: usize) -> Vec<f64> {
    let mut whole = vec![0.0; samples * samples];
    let mut before = 0;
    for (count, portion) in portions {
        for (row, values) in portion.chunks_exact(before + count).enumerate() {
            let column = before + row;
            values[..=column].iter().enumerate().for_each(|(row, value)| whole[row * samples + column] = *value);
        }
        before += count;
    }
    whole
}

fn add(wide: &[f64], labels: &[ClassId], width: usize, gram: &mut [f64], products: &mut [f64]) {
    add_gram(wide, width, gram);
    for (row, class) in wide.chunks_exact(width).zip(labels) {
        products[class.index() * width..][..width].iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
}

fn transposed(rows: &[f64], count: usize, width: usize) -> Vec<f64> {
    (0..width).flat_map(|column| (0..count).map(move |row| rows[row * width + column])).collect()
}
