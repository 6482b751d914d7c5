//! Loops that vectorise, and sums whose order does not depend on the processor.

use super::Real;

/// Partial sums kept side by side: two AVX-512 registers of f32, so that additions overlap.
const LANES: usize = 32;

/// Runs `work` compiled for the widest vectors that this processor has. The closure must be `#[inline(always)]`: one that is
/// not inlined here is compiled for the oldest processors.
#[inline(always)]
pub(crate) fn vectorized<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// The sum of f(a, b) over pairs. Element i always goes to lane i mod 32, lanes are added in one order.
#[inline(always)]
pub(crate) fn sum2<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T) -> T {
    let b = &b[..a.len()];
    let mut lanes = [T::ZERO; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (a_tail, b_tail) = (a_chunks.remainder(), b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += f(a[lane], b[lane]);
        }
    }
    for lane in 0..a_tail.len() {
        lanes[lane] += f(a_tail[lane], b_tail[lane]);
    }
    fold(lanes, |x, y| x + y)
}

/// The sum of f(a).
#[inline(always)]
pub(crate) fn sum<T: Real>(a: &[T], f: impl Fn(T) -> T) -> T {
    sum2(a, a, |x, _| f(x))
}

#[inline(always)]
pub(crate) fn dot<T: Real>(a: &[T], b: &[T]) -> T {
    sum2(a, b, |x, y| x * y)
}

/// The largest value; NaNs are passed over.
#[inline(always)]
pub(crate) fn maximum<T: Real>(a: &[T]) -> T {
    let mut lanes = [T::NEG_INFINITY; LANES];
    let chunks = a.chunks_exact(LANES);
    let tail = chunks.remainder();
    for a in chunks {
        for lane in 0..LANES {
            lanes[lane] = a[lane].max(lanes[lane]);
        }
    }
    for lane in 0..tail.len() {
        lanes[lane] = tail[lane].max(lanes[lane]);
    }
    fold(lanes, |x, y| x.max(y))
}

/// to += from.
#[inline(always)]
pub(crate) fn add<T: Real>(to: &mut [T], from: &[T]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += *from;
    }
}

/// The logarithms of the softmax of values / tau, in place: value_j / tau - log sum_k count_k exp(value_k / tau). An empty `count`
/// stands for ones. Values of -infinity stay, and one at least must be finite.
#[inline(always)]
pub(crate) fn log_softmax<T: Real>(values: &mut [T], count: &[T], inverse_tau: T) {
    let largest = maximum(values);
    for value in values.iter_mut() {
        *value = (*value - largest) * inverse_tau;
    }
    let total = match count {
        [] => sum(values, |value| value.exp()),
        _ => sum2(values, count, |value, count| value.exp() * count),
    };
    let log_total = total.ln();
    for value in values {
        *value -= log_total;
    }
}

#[inline(always)]
fn fold<T: Real>(mut lanes: [T; LANES], combine: impl Fn(T, T) -> T) -> T {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] = combine(lanes[lane], lanes[lane + half]);
        }
        half /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_every_length_are_complete() {
        for len in 0..100 {
            let values: Vec<f64> = (0..len).map(|i| i as f64).collect();
            assert_eq!(sum(&values, |x| x), (len * len.max(1) - len) as f64 / 2.0);
            assert_eq!(dot(&values, &values), values.iter().map(|x| x * x).sum::<f64>());
            assert_eq!(maximum(&values), values.last().copied().unwrap_or(f64::NEG_INFINITY));
        }
    }
}
