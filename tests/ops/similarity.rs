use perennial::ops::similarity::{Similarity, SimilarityShape};
use perennial::ops::{Plan, Write};

use super::{Device, assert_close, check_gradients, device, dot, get, put, random};

/// s and its gradients da, db for `ds`, written over NaN or added to `before`.
fn run(shape: SimilarityShape, a: &[f64], b: &[f64], ds: &[f64], before: Option<f64>) -> [Vec<f64>; 3] {
    let SimilarityShape { rows, columns, width } = shape;
    let mut plan = Plan::new::<Device>();
    let [at, da] = [(); 2].map(|()| plan.tensor(rows * width));
    let [bt, db] = [(); 2].map(|()| plan.tensor(columns * width));
    let [s, ds_span] = [(); 2].map(|()| plan.stats(rows * columns));
    let mut device = device(&plan);
    put(&mut device, at, a);
    put(&mut device, bt, b);
    put(&mut device, ds_span, ds);
    let write = match before {
        None => Write::Set,
        Some(before) => {
            put(&mut device, da, &vec![before; rows * width]);
            put(&mut device, db, &vec![before; columns * width]);
            Write::Add
        }
    };
    device.similarity(shape, at, bt, s);
    device.similarity_backward(shape, ds_span, bt, write, da);
    device.similarity_backward_columns(shape, ds_span, at, write, db);
    [get(&device, s), get(&device, da), get(&device, db)]
}

#[test]
fn gradients_match_finite_differences() {
    for (rows, columns, width) in [(7, 5, 24), (1, 9, 3), (130, 3, 2)] {
        let shape = SimilarityShape { rows, columns, width };
        let (a, b, ds) = (random("a", rows * width), random("b", columns * width), random("ds", rows * columns));
        let [_, da, db] = run(shape, &a, &b, &ds, None);
        check_gradients(&[a.clone(), b.clone()], &[da.clone(), db.clone()], |inputs| {
            dot(&run(shape, &inputs[0], &inputs[1], &ds, None)[0], &ds)
        });
        let more = |values: Vec<f64>| values.iter().map(|value| value + 0.5).collect::<Vec<_>>();
        let [_, added_da, added_db] = run(shape, &a, &b, &ds, Some(0.5));
        assert_close("da, added", &added_da, &more(da), 1e-14);
        assert_close("db, added", &added_db, &more(db), 1e-14);
    }
}

#[test]
fn embeddings_against_themselves() {
    let shape = SimilarityShape { rows: 6, columns: 6, width: 4 };
    let z = random("z", 24);
    let mut plan = Plan::new::<Device>();
    let (zt, s) = (plan.tensor(24), plan.stats(36));
    let mut device = device(&plan);
    put(&mut device, zt, &z);
    device.similarity(shape, zt, zt, s);
    let expected: Vec<f64> = (0..36).map(|k| dot(&z[k / 6 * 4..][..4], &z[k % 6 * 4..][..4])).collect();
    assert_close("s", &get(&device, s), &expected, 1e-14);
}
