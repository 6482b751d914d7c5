use perennial::check::similarity::SimilarityCase;
use perennial::ops::cpu::{Cpu, Real};
use perennial::ops::distillation::{Distillation, DistillationSettings, Multiplicity};
use perennial::ops::similarity::{Similarity, SimilarityBackward, SimilarityBackwardColumns, SimilarityShape};
use perennial::ops::supcon::SupCon;
use perennial::ops::{DeviceMemory, Plan, Run, Write};
use proptest::prelude::*;

use super::{Device, assert_all_gradients, assert_close, assert_holds, device, dot, get, put, random};

#[test]
fn gradients_match_finite_differences() {
    assert_all_gradients::<SimilarityCase>();
}

#[test]
fn drawn_shapes_hold() {
    let shapes = (1usize..9, 9usize..20, 1usize..12, any::<[bool; 2]>());
    assert_holds(shapes, true, |(few, many, width, [wide, add])| SimilarityCase {
        shape: match wide {
            true => SimilarityShape { rows: few, columns: many, width },
            false => SimilarityShape { rows: many, columns: few, width },
        },
        write: if add { Write::Add } else { Write::Set },
    });
}

#[test]
fn embeddings_against_themselves() {
    let shape = SimilarityShape { rows: 6, columns: 6, width: 4 };
    let z = random("z", 24);
    let mut plan = Plan::new::<Device>();
    let (zt, s) = (plan.tensor(24), plan.stats(36));
    let mut device = device(&plan);
    put(&mut device, zt, &z);
    device.run(Similarity { shape, a: zt, b: zt, s });
    let expected: Vec<f64> = (0..36).map(|k| dot(&z[k / 6 * 4..][..4], &z[k % 6 * 4..][..4])).collect();
    assert_close("s", &get(&device, s), &expected, 1e-14);
}

/// Co2L's losses of 70 samples, from embeddings to their gradient, in `T`: both losses, then the gradient.
fn relations<T: Real>() -> Vec<f32> {
    let (samples, width) = (70, 20);
    let shape = SimilarityShape { rows: samples, columns: samples, width };
    let mut plan = Plan::new::<Cpu<T>>();
    let [z, old, dz] = [(); 3].map(|()| plan.tensor(samples * width));
    let [s, teacher, ds] = [(); 3].map(|()| plan.stats(samples * samples));
    let (class, losses) = (plan.ids(samples), plan.stats(2));
    let mut device = Cpu::<T>::allocate(&plan);
    for (span, name) in [(z, "z"), (old, "old")] {
        // Lengths of about 1.
        let values = random(name, samples * width).into_iter().map(|x| (x / (width as f64).sqrt()) as f32);
        device.write(span, &values.collect::<Vec<_>>());
    }
    device.write(class, &(0..samples as u32).map(|i| i % 9).collect::<Vec<_>>());
    device.run(Similarity { shape, a: z, b: z, s });
    device.run(Similarity { shape, a: old, b: old, s: teacher });
    device.run(SupCon { samples, tau: 0.5, s, class, anchor: None, loss: losses.first(1), ds });
    let settings =
        DistillationSettings { tau: 0.2, teacher_tau: 0.01, exclude_self: true, divergence: false, weight: 1.0 };
    let once = Multiplicity { row: None, column: None };
    device.run(Distillation {
        rows: samples,
        columns: samples,
        settings,
        multiplicity: once,
        s,
        teacher,
        write: Write::Add,
        loss: losses.slice(1, 1),
        ds,
    });
    device.run(SimilarityBackward { shape, ds, b: z, write: Write::Set, da: dz });
    device.run(SimilarityBackwardColumns { shape, ds, a: z, write: Write::Add, db: dz });
    [device.read_vec(losses), device.read_vec(dz)].concat()
}

#[test]
fn f32_is_f64_to_rounding() {
    let [single, double] = [relations::<f32>(), relations::<f64>()];
    let [single, double] = [single, double].map(|values| values.iter().map(|x| *x as f64).collect::<Vec<_>>());
    assert_close("losses", &single[..2], &double[..2], 1e-5);
    // A similarity's rounding is 100 times as much of a teacher's exponent.
    assert_close("dz", &single[2..], &double[2..], 1e-4);
}
