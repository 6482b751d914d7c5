//! Matrix products on one thread: on AVX-512 tiles of our own for f32, else by the `gemm` crate.
//!
//! Measured in turns on a Sapphire Rapids with two threads, the tiles are not clearly faster than the crate: at a small
//! model's sizes most products take 0.9 to 1.2 of its time.

use rayon::prelude::*;

use super::Real;
#[cfg(target_arch = "x86_64")]
use super::tile;

/// A matrix where it lies: `values[row * row_stride + column * column_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct MatrixView<'a, T> {
    pub values: &'a [T],
    pub row_stride: usize,
    pub column_stride: usize,
}

impl<'a, T> MatrixView<'a, T> {
    /// Rows of `width` consecutive values.
    pub(crate) fn rows(values: &'a [T], width: usize) -> Self {
        MatrixView { values, row_stride: width, column_stride: 1 }
    }

    pub(crate) fn transposed(self) -> Self {
        MatrixView { row_stride: self.column_stride, column_stride: self.row_stride, ..self }
    }

    /// The values from an element on.
    pub(crate) fn after(self, row: usize, column: usize) -> &'a [T] {
        &self.values[row * self.row_stride + column * self.column_stride..]
    }

    pub(crate) fn pointer(self, row: usize, column: usize) -> *const T {
        self.after(row, column).as_ptr()
    }

    fn check(&self, rows: usize, columns: usize) {
        let last = (rows - 1) * self.row_stride + (columns - 1) * self.column_stride;
        assert!(last < self.values.len(), "a {rows} x {columns} matrix leaves its {} values", self.values.len());
    }
}

/// The second factor of a product, packed beforehand where many products share it.
#[derive(Clone, Copy)]
pub(crate) struct Factor<'a, T> {
    pub matrix: MatrixView<'a, T>,
    /// Empty, or the packed form.
    pub panels: &'a [T],
}

impl<'a, T> From<MatrixView<'a, T>> for Factor<'a, T> {
    fn from(matrix: MatrixView<'a, T>) -> Self {
        Factor { matrix, panels: &[] }
    }
}

impl<'a, T: Real> Factor<'a, T> {
    /// Values that [`Factor::packed`] needs room for.
    pub(crate) fn room([k, n]: [usize; 2]) -> usize {
        #[cfg(target_arch = "x86_64")]
        if T::tiled() {
            return k * n.next_multiple_of(tile::PANEL);
        }
        let _ = (k, n);
        0
    }

    /// Packs the [k, n] matrix, in parallel, for many products with it.
    pub(crate) fn packed(matrix: MatrixView<'a, T>, [k, n]: [usize; 2], room: &'a mut [T]) -> Self {
        matrix.check(k, n);
        assert!(room.len() == Self::room([k, n]), "the packed form does not fit its place");
        #[cfg(target_arch = "x86_64")]
        room.par_chunks_mut((k * tile::PANEL).max(1)).enumerate().for_each(|(panel, to)| {
            let column = panel * tile::PANEL;
            let part = MatrixView { values: matrix.after(0, column), ..matrix };
            // SAFETY: there is room only where tiles are supported; `check` and the assertion bound the accesses.
            unsafe {
                tile::pack_panel(tile::PANEL.min(n - column), k, part.as_f32(), to.as_mut_ptr().cast());
            }
        });
        Factor { matrix, panels: room }
    }
}

#[cfg(target_arch = "x86_64")]
impl<'a, T: Real> MatrixView<'a, T> {
    /// The same matrix, where `T` is f32.
    fn as_f32(self) -> MatrixView<'a, f32> {
        let MatrixView { values, row_stride, column_stride } = self;
        MatrixView { values: bytemuck::cast_slice(values), row_stride, column_stride }
    }
}

/// c = alpha a b, or c += alpha a b, on one thread: a [m, k], b [k, n], c [m, n] with rows `c_stride` apart.
pub(crate) fn matmul<'a, T: Real>(
    [m, n, k]: [usize; 3],
    alpha: T,
    a: MatrixView<T>,
    b: impl Into<Factor<'a, T>>,
    c: &mut [T],
    c_stride: usize,
    accumulate: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    let b = b.into();
    assert!(k > 0 && c_stride >= n && (m - 1) * c_stride + n <= c.len(), "the product does not fit its place");
    a.check(m, k);
    b.matrix.check(k, n);
    #[cfg(target_arch = "x86_64")]
    if T::tiled() {
        let panels = bytemuck::cast_slice(b.panels);
        assert!(panels.is_empty() || panels.len() == Factor::<T>::room([k, n]), "the panels are another matrix's");
        let b = Factor { matrix: b.matrix.as_f32(), panels };
        // SAFETY: tiles are supported and `T` is f32; `check` and the assertions above bound every access, and `c` is
        // borrowed mutably, so it aliases neither operand.
        unsafe {
            tile::matmul([m, n, k], alpha.as_f32(), a.as_f32(), b, c.as_mut_ptr().cast(), c_stride, accumulate);
        }
        return;
    }
    let beta = if accumulate { T::ONE } else { T::ZERO };
    // SAFETY: `check` and the assertion above bound every access of the three matrices, and `c` is borrowed mutably, so it
    // aliases neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            c_stride as isize,
            accumulate,
            a.values.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.matrix.values.as_ptr(),
            b.matrix.column_stride as isize,
            b.matrix.row_stride as isize,
            beta,
            alpha,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic values between -1 and 1 without a pattern.
    fn values(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| (((i + seed) * 2_654_435_761) % 1009) as f32 / 504.5 - 1.0).collect()
    }

    #[test]
    fn products_of_every_layout_and_odd_sizes_agree_with_the_definition() {
        for [m, n, k] in [[1, 1, 1], [3, 5, 2], [14, 32, 16], [15, 33, 17], [29, 49, 300], [130, 70, 31], [12, 16, 530]]
        {
            let (a, b) = (values(m * k, 1), values(k * n, 7));
            let a_forms = [MatrixView::rows(&a, k), MatrixView::rows(&a, m).transposed()];
            let scattered = values(2 * k * n, 3);
            let b_forms = [
                MatrixView::rows(&b, n),
                MatrixView::rows(&b, k).transposed(),
                MatrixView { values: &scattered, row_stride: 2 * n, column_stride: 2 },
            ];
            for a in a_forms {
                for b in b_forms {
                    let mut room = vec![0.0; Factor::<f32>::room([k, n])];
                    for factor in [b.into(), Factor::packed(b, [k, n], &mut room)] {
                        let before = values(m * (n + 3), 5);
                        let (mut set, mut added) = (before.clone(), before.clone());
                        matmul([m, n, k], 0.5, a, factor, &mut set, n + 3, false);
                        matmul([m, n, k], 0.5, a, factor, &mut added, n + 3, true);
                        for place in 0..m * (n + 3) - 3 {
                            let (row, column) = (place / (n + 3), place % (n + 3));
                            let (set, added, before) = (set[place], added[place], before[place]);
                            if column < n {
                                let at = |x: MatrixView<f32>, i: usize, j: usize| x.after(i, j)[0] as f64;
                                let product: f64 = (0..k).map(|step| at(a, row, step) * at(b, step, column)).sum();
                                assert!((set as f64 - 0.5 * product).abs() < 1e-4, "{m} {n} {k} at {row} {column}");
                                assert!((added as f64 - before as f64 - 0.5 * product).abs() < 1e-4);
                            } else {
                                assert_eq!([set, added], [before; 2], "between the rows of c");
                            }
                        }
                    }
                }
            }
        }
    }
}
