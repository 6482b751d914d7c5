//! Every op's backward pass against central finite differences in f64, on sizes that no kernel would choose.

#[path = "../common/fixtures.rs"]
mod fixtures;

mod adamw;
mod arena;
mod attention;
mod contrastive;
mod cross_entropy;
mod distillation;
mod group_dro;
mod l2_normalize;
mod layer_norm;
mod linear;
mod patch_embed;
mod pool;
mod position_embed;
mod relu;
mod similarity;
mod supcon;
mod token_embed;

use perennial::ops::cpu::{Cpu, Float};
use perennial::ops::{Plan, Span};
use perennial::rng::{Rng, normal, rng};

/// The device under test.
pub type Device = Cpu<f64>;

/// `count` normal numbers that depend on `name` alone.
pub fn random(name: &str, count: usize) -> Vec<f64> {
    let mut generator = rng(1, name, &[]);
    (0..count).map(|_| normal(&mut generator)).collect()
}

pub fn generator(name: &str) -> Rng {
    rng(2, name, &[])
}

/// A device whose outputs start out as NaN, so that an element left unwritten shows.
pub fn device(plan: &Plan) -> Device {
    let mut device = Device::allocate(plan);
    let [storage, wide, _, _] = plan.elements();
    device.slice_mut(Span::<perennial::ops::memory::Wide>::new(0, storage + wide)).fill(f64::NAN);
    device
}

pub fn put<K: Float>(device: &mut Device, span: Span<K>, values: &[f64]) {
    device.slice_mut(span).copy_from_slice(values);
}

pub fn get<K: Float>(device: &Device, span: Span<K>) -> Vec<f64> {
    device.slice(span).to_vec()
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Fails unless |a - b| <= tolerance |b| for the whole vector.
pub fn assert_close(what: &str, a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len(), "{what}");
    let difference = a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
    let norm = dot(b, b).sqrt();
    // NaN fails.
    assert!(difference <= tolerance * norm, "{what}: relative error {:e}", difference / norm);
}

/// Holds each gradient of `loss` against central differences. A step of 1e-5 leaves a truncation error of about 1e-10 and a
/// rounding error of about 1e-11 on values near 1, well inside the bound of 1e-6.
pub fn check_gradients(inputs: &[Vec<f64>], gradients: &[Vec<f64>], loss: impl Fn(&[Vec<f64>]) -> f64) {
    assert_eq!(inputs.len(), gradients.len());
    for (i, gradient) in gradients.iter().enumerate() {
        let mut moved = inputs.to_vec();
        let mut differences = Vec::with_capacity(gradient.len());
        for k in 0..inputs[i].len() {
            let step = 1e-5;
            moved[i][k] = inputs[i][k] + step;
            let above = loss(&moved);
            moved[i][k] = inputs[i][k] - step;
            let below = loss(&moved);
            moved[i][k] = inputs[i][k];
            differences.push((above - below) / (2.0 * step));
        }
        assert_close(&format!("gradient of input {i}"), gradient, &differences, 1e-6);
    }
}
