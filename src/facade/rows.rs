//! Rows of numbers: embeddings, or similarities.

use crate::eval::similarities::Similarities;

/// Rows of the same width, one after the other: embeddings of unit length, or similarities with a column for each of something else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// `[rows, width]`, row-major.
    pub values: Vec<f32>,
    /// Values of a row; 0 only where there is no row.
    pub width: usize,
}

impl Rows {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Row `index`, from 0. Panics where there is none.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..][..self.width]
    }

    /// The rows in their order.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks_exact(self.width.max(1))
    }

    /// Cosine similarities of embeddings, computed on the CPU: a row for each of these, a column for each of `others`. Panics when their
    /// widths differ.
    ///
    /// ```
    /// use perennial::Rows;
    ///
    /// let images = Rows { values: vec![1.0, 0.0, 0.6, 0.8], width: 2 };
    /// let texts = Rows { values: vec![0.0, 1.0], width: 2 };
    /// assert_eq!(images.similarities(&texts).values, [0.0, 0.8]);
    /// ```
    pub fn similarities(&self, others: &Rows) -> Rows {
        assert_eq!(self.width, others.width, "embeddings of one model");
        let sizes = [self.len(), others.len()];
        let values = match sizes.contains(&0) {
            true => Vec::new(),
            false => {
                let (similarities, mut cpu) = Similarities::on_cpu(self.width, sizes);
                similarities.all(&mut cpu, &self.values, &others.values)
            }
        };
        Rows { values, width: others.len() }
    }

    /// The column of a row's largest value; of equals the first.
    pub fn largest(&self, index: usize) -> usize {
        let row = self.row(index);
        (0..row.len()).reduce(|best, column| if row[column] > row[best] { column } else { best }).unwrap_or(0)
    }
}
