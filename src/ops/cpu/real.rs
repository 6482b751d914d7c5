//! The CPU's number types. Every CPU op is written once for f32, in which models train, and f64, in which its
//! gradient is tested against finite differences.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

/// f32 or f64. The f32 elementary functions are branch-free, so that loops over them vectorise.
pub trait Real:
    bytemuck::Pod
    + Debug
    + Default
    + PartialOrd
    + Send
    + Sync
    + 'static
    + Neg<Output = Self>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
{
    /// 0
    const ZERO: Self;
    /// 1
    const ONE: Self;
    /// Below every number.
    const NEG_INFINITY: Self;
    /// Above every number.
    const INFINITY: Self;

    /// Whether products run on the tiles of `tile.rs`, which are for f32.
    fn tiled() -> bool {
        false
    }
    /// The nearest value.
    fn of(x: f64) -> Self;
    /// Without loss.
    fn as_f64(self) -> f64;
    /// From host memory, which holds f32.
    fn of_f32(x: f32) -> Self;
    /// The nearest f32.
    fn as_f32(self) -> f32;
    /// e^x; within 2 units in the last place in f32; 0 below the smallest normal result.
    fn exp(self) -> Self;
    /// The complementary error function times e^(x^2), for x >= 0; relative error below 4e-7 in f32.
    fn erfcx(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// The root, rounded correctly.
    fn sqrt(self) -> Self;
    /// The magnitude.
    fn abs(self) -> Self;
    /// Itself where it is larger, else `other`: also where either is NaN.
    fn max(self, other: Self) -> Self;
    /// Itself where it is smaller, else `other`: also where either is NaN.
    fn min(self, other: Self) -> Self;
    /// Whether it is no number.
    fn is_nan(self) -> bool;
}

/// Coefficients of 2^f on [-1/2, 1/2] from the power 1 on: a minimax fit of degree 6, relative error 2e-9.
const EXP2: [f32; 6] =
    [std::f32::consts::LN_2, 0.240_226_48, 0.055_503_324, 0.009_618_437, 0.001_339_887_5, 0.000_153_533_6];

/// Coefficients of erfc(x) e^(x^2) in powers of t = 1 / (1 + x/2) from the power 1 on: a minimax fit, relative error 4.4e-8.
const ERFCX: [f32; 9] = [
    0.282_084_46,
    0.282_409_6,
    0.242_853_43,
    0.203_679_31,
    -0.028_974_084,
    0.281_478_46,
    -0.490_182_55,
    0.286_015_45,
    -0.059_364_155,
];

#[inline(always)]
fn horner<const N: usize>(coefficients: [f32; N], x: f32) -> f32 {
    let mut sum: f32 = 0.0;
    let mut i = N;
    while i > 0 {
        i -= 1;
        sum = sum.mul_add(x, coefficients[i]);
    }
    sum
}

impl Real for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    const NEG_INFINITY: f32 = f32::NEG_INFINITY;
    const INFINITY: f32 = f32::INFINITY;

    #[cfg(target_arch = "x86_64")]
    fn tiled() -> bool {
        super::tile::is_supported()
    }
    #[inline(always)]
    fn of(x: f64) -> f32 {
        x as f32
    }
    #[inline(always)]
    fn as_f64(self) -> f64 {
        self as f64
    }
    #[inline(always)]
    fn of_f32(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn as_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn exp(self) -> f32 {
        // x = k ln 2 + r. Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, which then stands in the low
        // bits; ln 2 is subtracted in two parts, so that r keeps its last bits.
        const ROUND: f32 = 12_582_912.0;
        let x = if self < -87.336_54 { -87.336_54 } else { self };
        let x = if x > 89.0 { 89.0 } else { x };
        let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
        let k = shifted - ROUND;
        let r = k.mul_add(2.121_944_4e-4, k.mul_add(-0.693_359_4, x));
        let f = r * std::f32::consts::LOG2_E;
        let mantissa = f.mul_add(horner(EXP2, f), 1.0);
        // Times 2^k, added to the exponent: above k's low bits `shifted` holds none that would stay.
        let result = f32::from_bits(mantissa.to_bits().wrapping_add(shifted.to_bits() << 23));
        let result = if self < -87.336_54 { 0.0 } else { result };
        let result = if self > 88.722_84 { f32::INFINITY } else { result };
        if self.is_nan() { self } else { result }
    }

    #[inline(always)]
    fn erfcx(self) -> f32 {
        let t = 1.0 / self.mul_add(0.5, 1.0);
        t * horner(ERFCX, t)
    }
    #[inline(always)]
    fn ln(self) -> f32 {
        f32::ln(self)
    }
    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn abs(self) -> f32 {
        f32::abs(self)
    }
    #[inline(always)]
    fn max(self, other: f32) -> f32 {
        if self > other { self } else { other }
    }
    #[inline(always)]
    fn min(self, other: f32) -> f32 {
        if self < other { self } else { other }
    }
    #[inline(always)]
    fn is_nan(self) -> bool {
        f32::is_nan(self)
    }
}

impl Real for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    const NEG_INFINITY: f64 = f64::NEG_INFINITY;
    const INFINITY: f64 = f64::INFINITY;

    fn of(x: f64) -> f64 {
        x
    }
    fn as_f64(self) -> f64 {
        self
    }
    fn of_f32(x: f32) -> f64 {
        x as f64
    }
    fn as_f32(self) -> f32 {
        self as f32
    }
    fn exp(self) -> f64 {
        f64::exp(self)
    }
    fn erfcx(self) -> f64 {
        // Far out erfc underflows before e^(x^2) overflows: the asymptotic series is exact to the last place there.
        if self > 12.0 {
            let q = 1.0 / (2.0 * self * self);
            (1.0 - q * (1.0 - 3.0 * q * (1.0 - 5.0 * q * (1.0 - 7.0 * q)))) / (self * std::f64::consts::PI.sqrt())
        } else {
            libm::erfc(self) * f64::exp(self * self)
        }
    }
    fn ln(self) -> f64 {
        f64::ln(self)
    }
    fn sqrt(self) -> f64 {
        f64::sqrt(self)
    }
    fn abs(self) -> f64 {
        f64::abs(self)
    }
    fn max(self, other: f64) -> f64 {
        if self > other { self } else { other }
    }
    fn min(self, other: f64) -> f64 {
        if self < other { self } else { other }
    }
    fn is_nan(self) -> bool {
        f64::is_nan(self)
    }
}

#[cfg(test)]
mod tests {
    use super::Real;

    /// Every 997th f32 in the range where e^x is a normal number.
    fn sample(low: f32, high: f32) -> impl Iterator<Item = f32> {
        let count = 400_000;
        (0..=count).map(move |i| low + (high - low) * (i as f32 / count as f32))
    }

    #[test]
    fn f32_exp_is_within_two_units_in_the_last_place() {
        for x in sample(-87.33, 88.72) {
            let exact = (x as f64).exp();
            let error = ((Real::exp(x) as f64) - exact).abs() / exact;
            assert!(error < 2.0 * f32::EPSILON as f64, "exp({x}): relative error {error:e}");
        }
    }

    #[test]
    fn f32_exp_at_the_edges() {
        assert_eq!(Real::exp(0.0f32), 1.0);
        assert_eq!(Real::exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(Real::exp(-200.0f32), 0.0);
        assert_eq!(Real::exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(Real::exp(100.0f32), f32::INFINITY);
        assert!(Real::exp(f32::NAN).is_nan());
    }

    #[test]
    fn f32_erfcx_follows_libm() {
        for x in sample(0.0, 12.0) {
            let exact = (x as f64).erfcx();
            let error = ((Real::erfcx(x) as f64) - exact).abs() / exact;
            assert!(error < 4e-7, "erfcx({x}): relative error {error:e}");
        }
    }

    #[test]
    fn f64_erfcx_is_continuous_where_its_forms_meet() {
        let (below, above) = (12.0f64.erfcx(), 12.000_000_1f64.erfcx());
        assert!(((below - above) / below).abs() < 2e-8);
    }
}
