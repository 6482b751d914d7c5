use perennial::ops::adamw::{AdamW, AdamWArenas, AdamWSettings, Clamp, GradientNorm, pace};
use perennial::ops::{DeviceMemory, Plan, Run};

use super::{Device, assert_close, device, get, put, random};

const LEARNING_RATE: f64 = 3e-3;
const SETTINGS: AdamWSettings = AdamWSettings { beta1: 0.9, beta2: 0.98, eps: 1e-6, weight_decay: 0.2, max_norm: 1.0 };

/// Long enough for several pieces of work, and no multiple of them.
const LEN: usize = 40_011;

/// Three steps written down from the paper, an element at a time.
fn reference(parameters: &mut [f64], gradients: &[Vec<f64>], decays: impl Fn(usize) -> bool) {
    let (mut m, mut v) = (vec![0.0; LEN], vec![0.0; LEN]);
    for (t, gradient) in gradients.iter().enumerate() {
        let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let scale = (SETTINGS.max_norm / (norm + 1e-6)).min(1.0);
        let t = t as i32 + 1;
        for i in 0..LEN {
            let g = gradient[i] * scale;
            m[i] = SETTINGS.beta1 * m[i] + (1.0 - SETTINGS.beta1) * g;
            v[i] = SETTINGS.beta2 * v[i] + (1.0 - SETTINGS.beta2) * g * g;
            if decays(i) {
                parameters[i] -= LEARNING_RATE * SETTINGS.weight_decay * parameters[i];
            }
            let (m_hat, v_hat) = (m[i] / (1.0 - SETTINGS.beta1.powi(t)), v[i] / (1.0 - SETTINGS.beta2.powi(t)));
            parameters[i] -= LEARNING_RATE * m_hat / (v_hat.sqrt() + SETTINGS.eps);
        }
    }
}

#[test]
fn three_steps_equal_the_written_out_rule() {
    let decayed = [3..100, 16_000..33_000, 40_010..40_011];
    let mut plan = Plan::new::<Device>();
    let [master, gradients, first_moment, second_moment] = [(); 4].map(|()| plan.stats(LEN));
    let (norm, rate) = (plan.stats(1), plan.stats(3));
    let arenas = AdamWArenas { master, weights: plan.weights(master), gradients, first_moment, second_moment };
    let mut device = device(&plan);
    device.fill(first_moment, 0.0);
    device.fill(second_moment, 0.0);
    let mut expected = random("parameters", LEN);
    put(&mut device, master, &expected);
    // The second gradient is too small to be clipped.
    let steps: Vec<Vec<f64>> = [1.0, 1e-3, 2.0]
        .iter()
        .enumerate()
        .map(|(i, scale)| random(&format!("gradient {i}"), LEN).iter().map(|g| g * scale).collect())
        .collect();
    for (t, gradient) in steps.iter().enumerate() {
        put(&mut device, gradients, gradient);
        device.run(GradientNorm { gradients, norm });
        let expected = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert_close("norm", &get(&device, norm), &[expected], 1e-14);
        put(&mut device, rate, &pace(LEARNING_RATE, &SETTINGS, t as u64 + 1));
        device.run(AdamW { settings: SETTINGS, pace: rate, arenas, norm, decayed: &decayed });
    }
    reference(&mut expected, &steps, |i| decayed.iter().any(|range| range.contains(&i)));
    assert_close("parameters", &get(&device, master), &expected, 1e-13);
}

#[test]
fn clamp_limits_both_sides() {
    let mut plan = Plan::new::<Device>();
    let master = plan.stats(3);
    let weights = plan.weights(master);
    let mut device = device(&plan);
    put(&mut device, master, &[-1.0, 2.0, 9.0]);
    device.run(Clamp { master, weights, low: 0.0, high: 4.5 });
    assert_eq!(get(&device, weights), [0.0, 2.0, 4.5]);
}
