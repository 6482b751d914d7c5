use perennial::check::distillation::DistillationCase;
use perennial::ops::distillation::{Distillation, DistillationSettings, Multiplicity};
use perennial::ops::similarity::{Similarity, SimilarityBackward, SimilarityBackwardColumns, SimilarityShape};
use perennial::ops::{Plan, Run, Write};
use proptest::prelude::*;

use super::{Device, assert_all_gradients, assert_close, assert_holds, device, get, put, random};
use crate::fixtures::Fixture;

const PLAIN: DistillationSettings =
    DistillationSettings { tau: 0.5, teacher_tau: 0.3, exclude_self: false, divergence: false, weight: 1.0 };

/// Similarities of two models, and how often each row and column counts.
struct Pair<'a> {
    s: &'a [f64],
    teacher: &'a [f64],
    row: Option<&'a [f64]>,
    column: Option<&'a [f64]>,
}

/// The loss and its gradient by s `[rows, columns]`.
fn run(rows: usize, settings: DistillationSettings, pair: &Pair) -> (f64, Vec<f64>) {
    let len = pair.s.len();
    let columns = len / rows;
    let mut plan = Plan::new::<Device>();
    let [s, teacher, ds] = [(); 3].map(|()| plan.stats(len));
    let loss = plan.stats(1);
    let row = pair.row.map(|values| (plan.stats(rows), values));
    let column = pair.column.map(|values| (plan.stats(columns), values));
    let mut device = device(&plan);
    put(&mut device, s, pair.s);
    put(&mut device, teacher, pair.teacher);
    for (span, values) in row.iter().chain(&column) {
        put(&mut device, *span, values);
    }
    let multiplicity = Multiplicity { row: row.map(|(span, _)| span), column: column.map(|(span, _)| span) };
    device.run(Distillation { rows, columns, settings, multiplicity, s, teacher, write: Write::Set, loss, ds });
    (get(&device, loss)[0], get(&device, ds))
}

#[test]
fn gradients_match_finite_differences() {
    assert_all_gradients::<DistillationCase>();
}

#[test]
fn drawn_shapes_hold() {
    let shapes = (1usize..20, 2usize..20, any::<[bool; 4]>());
    assert_holds(shapes, true, |(rows, columns, [exclude_self, divergence, counted, add])| DistillationCase {
        rows,
        columns,
        settings: DistillationSettings { exclude_self, divergence, ..PLAIN },
        counted,
        write: if add { Write::Add } else { Write::Set },
    });
}

#[test]
fn a_model_distilled_onto_itself_is_at_a_minimum() {
    let s = random("s", 30);
    let settings = DistillationSettings { teacher_tau: 0.5, divergence: true, ..PLAIN };
    let (loss, ds) = run(5, settings, &Pair { s: &s, teacher: &s, row: None, column: None });
    assert!(loss.abs() < 1e-15 && ds.iter().all(|value| value.abs() < 1e-15));
}

#[test]
fn multiplicities_equal_repeated_rows_and_columns() {
    let (row, column) = ([2.0, 1.0, 3.0], [1.0, 4.0, 0.0, 2.0]);
    let (s, teacher) = (random("s", 12), random("teacher", 12));
    let repeat = |counts: &[f64]| -> Vec<usize> {
        counts.iter().enumerate().flat_map(|(i, count)| vec![i; *count as usize]).collect()
    };
    let (rows, columns) = (repeat(&row), repeat(&column));
    let places: Vec<usize> = rows.iter().flat_map(|i| columns.iter().map(move |j| i * 4 + j)).collect();
    let spread = |values: &[f64]| places.iter().map(|place| values[*place]).collect::<Vec<_>>();
    for divergence in [false, true] {
        let settings = DistillationSettings { divergence, weight: 1.5, ..PLAIN };
        let once = Pair { s: &s, teacher: &teacher, row: Some(&row), column: Some(&column) };
        let (loss, ds) = run(3, settings, &once);
        let each = Pair { s: &spread(&s), teacher: &spread(&teacher), row: None, column: None };
        let (each_loss, each_ds) = run(rows.len(), settings, &each);
        let mut summed = vec![0.0; 12];
        for (place, value) in places.iter().zip(each_ds) {
            summed[*place] += value;
        }
        assert_close("loss", &[loss], &[each_loss], 1e-12);
        assert_close("ds", &ds, &summed, 1e-12);
    }
}

#[test]
fn the_diagonal_is_as_if_it_were_not_there() {
    let (mut s, mut teacher) = (random("s", 16), random("teacher", 16));
    let settings = DistillationSettings { exclude_self: true, divergence: true, ..PLAIN };
    let result = |s: &[f64], teacher: &[f64]| run(4, settings, &Pair { s, teacher, row: None, column: None });
    let before = result(&s, &teacher);
    assert!((0..4).all(|i| before.1[5 * i] == 0.0));
    for i in 0..4 {
        (s[5 * i], teacher[5 * i]) = (40.0, -40.0);
    }
    assert_eq!(result(&s, &teacher), before);
    // A sample that has no other.
    let one = Pair { s: &[1.0], teacher: &[1.0], row: None, column: None };
    assert_eq!(run(1, settings, &one), (0.0, vec![0.0]));
}

#[test]
fn extreme_temperatures_stay_finite() {
    let bounded = |name| random(name, 20).iter().map(|value: &f64| value.tanh()).collect::<Vec<_>>();
    let (s, teacher) = (bounded("s"), bounded("teacher"));
    for (tau, teacher_tau) in [(0.01, 0.01), (1e-4, 1.0), (1.0, 1e-4), (1e4, 1e-4)] {
        for divergence in [false, true] {
            let settings = DistillationSettings { tau, teacher_tau, divergence, ..PLAIN };
            let (loss, ds) = run(5, settings, &Pair { s: &s, teacher: &teacher, row: None, column: None });
            assert!(loss.is_finite() && ds.iter().all(|value| value.is_finite()), "tau {tau}, {teacher_tau}");
        }
    }
}

#[test]
fn instance_relations_equal_automatic_differentiation() {
    let fixture = Fixture::open("similarity");
    let values = |name: &str| fixture.f64(&format!("relation/{name}"));
    let [samples, width] = fixture.shape("relation/z")[..] else { panic!("shape") };
    let shape = SimilarityShape { rows: samples, columns: samples, width };
    let mut plan = Plan::new::<Device>();
    let [z, old, dz] = [(); 3].map(|()| plan.tensor(samples * width));
    let [s, teacher, ds] = [(); 3].map(|()| plan.stats(samples * samples));
    let loss = plan.stats(1);
    let mut device = device(&plan);
    put(&mut device, z, &values("z"));
    put(&mut device, old, &values("old"));
    device.run(Similarity { shape, a: z, b: z, s });
    device.run(Similarity { shape, a: old, b: old, s: teacher });
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
        write: Write::Set,
        loss,
        ds,
    });
    device.run(SimilarityBackward { shape, ds, b: z, write: Write::Set, da: dz });
    device.run(SimilarityBackwardColumns { shape, ds, a: z, write: Write::Add, db: dz });
    assert_close("loss", &get(&device, loss), &values("loss"), 1e-13);
    assert_close("dz", &get(&device, dz), &values("dz"), 1e-12);
}

#[test]
fn both_directions_with_repeated_prompts_equal_automatic_differentiation() {
    let fixture = Fixture::open("similarity");
    let values = |name: &str| fixture.f64(&format!("lwf/{name}"));
    let [samples, width] = fixture.shape("lwf/image")[..] else { panic!("shape") };
    let texts = fixture.shape("lwf/text")[0];
    let mut copies = vec![0.0; texts];
    fixture.u32("lwf/text_of").iter().for_each(|text| copies[*text as usize] += 1.0);
    let mut plan = Plan::new::<Device>();
    let [image, old_image, dimage] = [(); 3].map(|()| plan.tensor(samples * width));
    let [text, old_text, dtext] = [(); 3].map(|()| plan.tensor(texts * width));
    let [s, teacher, ds] = [(); 3].map(|()| plan.stats(samples * texts));
    let (count, loss) = (plan.stats(texts), plan.stats(1));
    let mut device = device(&plan);
    for (span, name) in [(image, "image"), (old_image, "old_image"), (text, "text"), (old_text, "old_text")] {
        put(&mut device, span, &values(name));
    }
    put(&mut device, count, &copies);
    let tau = values("tau")[0];
    let settings = DistillationSettings { tau, teacher_tau: tau, exclude_self: false, divergence: true, weight: 0.5 };
    let (counted, once) = (Some(count), None);
    let mut total = 0.0;
    for (a, b, old_a, old_b, da, db, multiplicity, write) in [
        (image, text, old_image, old_text, dimage, dtext, Multiplicity { row: once, column: counted }, Write::Set),
        (text, image, old_text, old_image, dtext, dimage, Multiplicity { row: counted, column: once }, Write::Add),
    ] {
        let (rows, columns) = (a.len() / width, b.len() / width);
        let shape = SimilarityShape { rows, columns, width };
        device.run(Similarity { shape, a, b, s });
        device.run(Similarity { shape, a: old_a, b: old_b, s: teacher });
        device.run(Distillation { rows, columns, settings, multiplicity, s, teacher, write: Write::Set, loss, ds });
        total += get(&device, loss)[0];
        device.run(SimilarityBackward { shape, ds, b, write, da });
        device.run(SimilarityBackwardColumns { shape, ds, a, write, db });
    }
    assert_close("loss", &[total], &values("loss"), 1e-12);
    assert_close("dimage", &get(&device, dimage), &values("dimage"), 1e-12);
    assert_close("dtext", &get(&device, dtext), &values("dtext"), 1e-12);
}
