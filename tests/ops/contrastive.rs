use perennial::check::contrastive::ContrastiveCase;
use perennial::ops::contrastive::{
    Contrastive, ContrastiveBackward, ContrastiveInputs, ContrastiveSaved, ContrastiveSettings, ContrastiveShape,
    MovingAverages, Negatives, Surrogate,
};
use perennial::ops::cpu::{Cpu, Real};
use perennial::ops::l2_normalize::L2Normalize;
use perennial::ops::{DeviceMemory, Plan, Run};

use super::{assert_all_gradients, assert_close, assert_gradients, assert_holds, dot, generator, random};
use crate::fixtures::Fixture;

/// A batch on the host.
#[derive(Clone)]
pub struct Batch {
    pub image: Vec<f64>,
    pub text: Vec<f64>,
    pub text_of: Vec<u32>,
    pub class_of_text: Vec<u32>,
    pub weight: Vec<f64>,
    pub log_u: [Vec<f64>; 2],
    pub tau: f64,
    pub gamma: f64,
    pub width: usize,
}

pub struct Outcome {
    pub loss: f64,
    pub by_log_scale: f64,
    pub dimage: Vec<f64>,
    pub dtext: Vec<f64>,
    /// The averages after the batch.
    pub averages: [Vec<f64>; 2],
    /// The values the gradient was taken with.
    pub log_u: [Vec<f64>; 2],
}

fn values<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.as_f64()).collect()
}

fn put<T: Real>(device: &mut [T], from: &[f64]) {
    device.iter_mut().zip(from).for_each(|(to, from)| *to = T::of(*from));
}

/// Both passes in `T`. The averages live in slots in reverse order, so that a slot is not its sample's number.
pub fn run<T: Real>(batch: &Batch, settings: ContrastiveSettings) -> Outcome {
    let shape = ContrastiveShape { samples: batch.text_of.len(), texts: batch.class_of_text.len(), width: batch.width };
    let n = shape.samples;
    let mut plan = Plan::new::<Cpu<T>>();
    let inputs = ContrastiveInputs {
        image: plan.tensor(batch.image.len()),
        text: plan.tensor(batch.text.len()),
        text_of: plan.ids(n),
        class_of_text: plan.ids(shape.texts),
        log_scale: plan.stats(1),
    };
    let averages = MovingAverages { log_u: [plan.stats(n), plan.stats(n)], slot: plan.ids(n), gamma: plan.stats(1) };
    let saved = ContrastiveSaved {
        positive: plan.stats(n),
        log_u: [plan.stats(n), plan.stats(n)],
        slope: [plan.stats(n), plan.stats(n)],
        height: [plan.stats(n), plan.stats(n)],
    };
    let (dimage, dtext) = (plan.tensor(batch.image.len()), plan.tensor(batch.text.len()));
    let (weight, loss, dlog_scale) = (plan.stats(n), plan.stats(1), plan.stats(1));
    let mut device = Cpu::<T>::allocate(&plan);
    put(device.slice_mut(inputs.image), &batch.image);
    put(device.slice_mut(inputs.text), &batch.text);
    put(device.slice_mut(weight), &batch.weight);
    put(device.slice_mut(inputs.log_scale), &[(1.0 / batch.tau).ln()]);
    put(device.slice_mut(averages.gamma), &[batch.gamma]);
    device.write(inputs.text_of, &batch.text_of);
    device.write(inputs.class_of_text, &batch.class_of_text);
    device.write(averages.slot, &(0..n as u32).rev().collect::<Vec<_>>());
    for (span, prior) in averages.log_u.into_iter().zip(&batch.log_u) {
        put(device.slice_mut(span), &prior.iter().rev().copied().collect::<Vec<_>>());
    }
    device.run(Contrastive { shape, settings, inputs, averages: Some(averages), saved });
    device.run(ContrastiveBackward { shape, settings, inputs, saved, weight, dimage, dtext, loss, dlog_scale });
    Outcome {
        loss: device.slice(loss)[0].as_f64(),
        by_log_scale: device.slice(dlog_scale)[0].as_f64(),
        dimage: values(device.slice(dimage)),
        dtext: values(device.slice(dtext)),
        averages: averages.log_u.map(|span| values(device.slice(span)).into_iter().rev().collect()),
        log_u: saved.log_u.map(|span| values(device.slice(span))),
    }
}

fn settings(case: &str, margin: f64) -> ContrastiveSettings {
    ContrastiveSettings {
        surrogate: if case.starts_with("gdro") { Surrogate::SquaredHinge { margin } } else { Surrogate::Linear },
        negatives: match case {
            "clip" => Negatives::All,
            "gcl_captions" => Negatives::Others,
            _ => Negatives::OtherClasses,
        },
        times_tau: case != "clip",
    }
}

/// The class of each prompt, from the class of each sample.
pub fn class_of_text(text_of: &[u32], class: &[u32]) -> Vec<u32> {
    let texts = text_of.iter().max().unwrap() + 1;
    (0..texts).map(|text| text_of.iter().position(|t| *t == text).map_or(u32::MAX, |i| class[i])).collect()
}

fn load(fixture: &Fixture, case: &str) -> (Batch, ContrastiveSettings) {
    let key = |name: &str| format!("{case}/{name}");
    let [tau, gamma, margin] = fixture.f64(&key("settings"))[..] else { panic!("settings") };
    let text_of = fixture.u32(&key("text_of"));
    let text = fixture.f64(&key("text"));
    let width = fixture.shape(&key("text"))[1];
    let mut class_of_text = class_of_text(&text_of, &fixture.u32(&key("class")));
    class_of_text.resize(text.len() / width, u32::MAX);
    let mut weight = fixture.f64(&key("weight"));
    if case == "clip" {
        // Halves averaged: a_i = 1 / 2B.
        weight.iter_mut().for_each(|a| *a *= 0.5);
    }
    let log_u = [fixture.f64(&key("lu1")), fixture.f64(&key("lu2"))];
    let batch =
        Batch { image: fixture.f64(&key("image")), text, text_of, class_of_text, weight, log_u, tau, gamma, width };
    (batch, settings(case, margin))
}

const CASES: [&str; 7] =
    ["clip", "gcl_captions", "gcl_classes", "gcl_first", "gcl_one_class", "gdro_classes", "gdro_sharp"];

/// Holds a run in `T` against automatic differentiation, values near 0 against `floor`.
fn compare<T: Real>(tolerance: f64, floor: f64) {
    let fixture = Fixture::open("contrastive");
    for case in CASES {
        let (batch, settings) = load(&fixture, case);
        let outcome = run::<T>(&batch, settings);
        let expected = |name: &str| fixture.f64(&format!("{case}/{name}"));
        let close = |name: &str, found: &[f64]| {
            for (i, (found, expected)) in found.iter().zip(expected(name)).enumerate() {
                let bound = tolerance * expected.abs() + floor;
                let same = (found - expected).abs() <= bound || (found.is_nan() && expected.is_nan());
                assert!(same, "{case}: {name}[{i}] is {found}, PyTorch has {expected}");
            }
        };
        close("loss", &[outcome.loss]);
        close("dlog_scale", &[outcome.by_log_scale]);
        close("dimage", &outcome.dimage);
        close("dtext", &outcome.dtext);
        if case != "clip" {
            close("new_lu1", &outcome.averages[0]);
            close("new_lu2", &outcome.averages[1]);
        }
    }
}

#[test]
fn f64_equals_automatic_differentiation() {
    compare::<f64>(1e-12, 1e-12);
}

#[test]
fn f32_equals_automatic_differentiation_to_rounding() {
    // Exponents reach S / tau = 400 in the sharp case; half a unit in the last place of that is 2.4e-5 of the result.
    compare::<f32>(5e-5, 5e-5);
}

fn random_batch(samples: usize, texts: usize, width: usize) -> Batch {
    let mut draw = generator("batch");
    let text_of: Vec<u32> = (0..samples).map(|_| perennial::rng::below(&mut draw, texts as u64) as u32).collect();
    Batch {
        image: unit_rows(&random("image", samples * width), width),
        text: unit_rows(&random("text", texts * width), width),
        class_of_text: (0..texts as u32).map(|text| text / 2).collect(),
        weight: random("weight", samples).iter().map(|w| w.abs() / samples as f64).collect(),
        log_u: [vec![f64::NAN; samples], vec![f64::NAN; samples]],
        tau: 0.3,
        gamma: 1.0,
        width,
        text_of,
    }
}

fn unit_rows(values: &[f64], width: usize) -> Vec<f64> {
    values.chunks(width).flat_map(|row| row.iter().map(|x| x / dot(row, row).sqrt())).collect()
}

#[test]
fn gradients_match_finite_differences() {
    assert_all_gradients::<ContrastiveCase>();
}

#[test]
fn gradients_match_over_several_groups_of_images() {
    let shape = ContrastiveShape { samples: 300, texts: 3, width: 1 };
    assert_gradients(&ContrastiveCase { shape, settings: settings("gdro_classes", 0.3), gamma: None, tau: 0.3 });
}

#[test]
fn drawn_shapes_hold() {
    let shapes = (1usize..20, 1usize..20, 1usize..6, 0usize..4);
    assert_holds(shapes, false, |(samples, texts, width, case)| ContrastiveCase {
        shape: ContrastiveShape { samples, texts, width },
        settings: settings(["clip", "gcl_captions", "gcl_classes", "gdro_classes"][case], 0.3),
        gamma: Some(0.6),
        tau: 0.2,
    });
}

#[test]
fn deduplicated_texts_equal_one_text_a_sample() {
    let shared = Batch { gamma: 0.6, ..random_batch(61, 9, 8) };
    let mut separate = shared.clone();
    separate.text = shared.text_of.iter().flat_map(|t| shared.text[*t as usize * 8..][..8].to_vec()).collect();
    separate.class_of_text = shared.text_of.iter().map(|t| shared.class_of_text[*t as usize]).collect();
    separate.text_of = (0..61).collect();
    for case in ["clip", "gcl_captions", "gcl_classes", "gdro_classes"] {
        let settings = settings(case, 0.3);
        let (one, each) = (run::<f64>(&shared, settings), run::<f64>(&separate, settings));
        assert_close("loss", &[one.loss], &[each.loss], 1e-13);
        assert_close("dlog_scale", &[one.by_log_scale], &[each.by_log_scale], 1e-12);
        assert_close("dimage", &one.dimage, &each.dimage, 1e-12);
        let mut summed = vec![0.0; shared.text.len()];
        for (sample, text) in shared.text_of.iter().enumerate() {
            for k in 0..8 {
                summed[*text as usize * 8 + k] += each.dtext[sample * 8 + k];
            }
        }
        assert_close("dtext", &one.dtext, &summed, 1e-12);
        assert_close("log u", &one.averages[0], &each.averages[0], 1e-12);
    }
}

#[test]
fn a_constant_added_to_all_similarities_changes_nothing() {
    // One more coordinate, the same in every image and every text, adds its square to every S_ij.
    let batch = random_batch(20, 6, 7);
    let widen = |values: &[f64]| -> Vec<f64> {
        values.chunks(7).flat_map(|row| row.iter().copied().chain([0.7]).collect::<Vec<_>>()).collect()
    };
    let wide = Batch { image: widen(&batch.image), text: widen(&batch.text), width: 8, ..batch.clone() };
    for case in ["clip", "gcl_captions", "gdro_classes"] {
        let settings = settings(case, 0.5);
        let (narrow, wide) = (run::<f64>(&batch, settings), run::<f64>(&wide, settings));
        assert_close("log u of images", &wide.log_u[0], &narrow.log_u[0], 1e-12);
        assert_close("log u of texts", &wide.log_u[1], &narrow.log_u[1], 1e-12);
        assert_close("loss", &[wide.loss], &[narrow.loss], 1e-12);
    }
}

#[test]
fn the_cpus_l2_normalize_feeds_it_unit_rows() {
    let mut plan = Plan::new::<Cpu<f32>>();
    let (x, y, norm) = (plan.tensor(40), plan.tensor(40), plan.stats(5));
    let mut device = Cpu::<f32>::allocate(&plan);
    device.write(x, &random("x", 40).iter().map(|x| *x as f32).collect::<Vec<_>>());
    device.run(L2Normalize { rows: 5, width: 8, x, y, norm });
    assert!(device.read_vec(y).chunks(8).all(|row| (row.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-6));
}
