use perennial::check::supcon::SupConCase;
use perennial::ops::similarity::{Similarity, SimilarityBackward, SimilarityBackwardColumns, SimilarityShape};
use perennial::ops::supcon::SupCon;
use perennial::ops::{DeviceMemory, Plan, Run, Write};
use proptest::prelude::*;

use super::{Device, assert_all_gradients, assert_close, assert_holds, device, get, put, random};
use crate::fixtures::Fixture;

/// The loss and its gradient by s.
fn run(tau: f64, s: &[f64], class: &[u32], anchor: Option<&[u32]>) -> (f64, Vec<f64>) {
    let samples = class.len();
    let mut plan = Plan::new::<Device>();
    let (s_span, ds) = (plan.stats(s.len()), plan.stats(s.len()));
    let (class_span, loss) = (plan.ids(samples), plan.stats(1));
    let anchor = anchor.map(|anchor| (plan.ids(samples), anchor));
    let mut device = device(&plan);
    put(&mut device, s_span, s);
    device.write(class_span, class);
    if let Some((span, values)) = anchor {
        device.write(span, values);
    }
    device.run(SupCon { samples, tau, s: s_span, class: class_span, anchor: anchor.map(|(span, _)| span), loss, ds });
    (get(&device, loss)[0], get(&device, ds))
}

#[test]
fn gradients_match_finite_differences() {
    assert_all_gradients::<SupConCase>();
}

#[test]
fn drawn_shapes_hold() {
    let shapes = (3usize..20, 1usize..5, any::<bool>());
    assert_holds(shapes, true, |(samples, classes, chosen)| SupConCase { samples, classes, tau: 0.7, chosen });
}

#[test]
fn embeddings_gradients_equal_automatic_differentiation() {
    let fixture = Fixture::open("similarity");
    for case in ["supcon", "co2l"] {
        let values = |name: &str| fixture.f64(&format!("{case}/{name}"));
        let class = fixture.u32(&format!("{case}/class"));
        let anchor = fixture.u32(&format!("{case}/anchor"));
        let samples = class.len();
        let shape = SimilarityShape { rows: samples, columns: samples, width: values("z").len() / samples };
        let mut plan = Plan::new::<Device>();
        let [z, dz] = [(); 2].map(|()| plan.tensor(samples * shape.width));
        let [s, ds] = [(); 2].map(|()| plan.stats(samples * samples));
        let (loss, [classes, anchors]) = (plan.stats(1), [(); 2].map(|()| plan.ids(samples)));
        let mut device = device(&plan);
        put(&mut device, z, &values("z"));
        device.write(classes, &class);
        device.write(anchors, &anchor);
        let anchors = anchor.contains(&0).then_some(anchors);
        device.run(Similarity { shape, a: z, b: z, s });
        device.run(SupCon { samples, tau: values("tau")[0], s, class: classes, anchor: anchors, loss, ds });
        device.run(SimilarityBackward { shape, ds, b: z, write: Write::Set, da: dz });
        device.run(SimilarityBackwardColumns { shape, ds, a: z, write: Write::Add, db: dz });
        assert_close("loss", &get(&device, loss), &values("loss"), 1e-13);
        assert_close("dz", &get(&device, dz), &values("dz"), 1e-12);
    }
}

#[test]
fn an_anchor_without_positives_adds_nothing() {
    let s = random("s", 25);
    let (loss, ds) = run(0.3, &s, &[0, 1, 0, 2, 0], None);
    assert!(ds[5..10].iter().chain(&ds[15..20]).all(|value| *value == 0.0));
    // The mean is over the other three.
    let (same, _) = run(0.3, &s, &[0, 1, 0, 2, 0], Some(&[1, 0, 1, 0, 1]));
    assert_eq!(loss, same);
}

#[test]
fn no_anchor_at_all_is_a_loss_of_0() {
    let s = random("s", 9);
    for (class, anchor) in [([0, 1, 2], None), ([0, 0, 0], Some(&[0, 0, 0][..])), ([0, 1, 1], Some(&[1, 0, 0][..]))] {
        assert_eq!(run(0.1, &s, &class, anchor), (0.0, vec![0.0; 9]));
    }
    assert_eq!(run(0.1, &[1.0], &[3], None), (0.0, vec![0.0]));
}

#[test]
fn extreme_temperatures_stay_finite() {
    let mut s: Vec<f64> = random("s", 36).iter().map(|value| value.tanh()).collect();
    s[1] = -1.0;
    s[2] = 1.0;
    for tau in [0.01, 1e-4, 1e4] {
        let (loss, ds) = run(tau, &s, &[0, 0, 1, 1, 2, 2], None);
        assert!(loss.is_finite() && ds.iter().all(|value| value.is_finite()), "tau {tau}");
    }
    // The positive at -1 beside a negative at 1: 2 / tau, one anchor of one.
    let (loss, _) = run(0.01, &s, &[0, 0, 1, 1, 2, 2], Some(&[1, 0, 0, 0, 0, 0]));
    assert_close("loss", &[loss], &[200.0], 1e-6);
}
