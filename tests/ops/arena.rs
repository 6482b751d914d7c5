use perennial::ops::arena::{AccumulateFisher, AccumulateSquares, Interpolate, QuadraticPenalty};
use perennial::ops::{Plan, Run};

use super::{Device, assert_close, check_gradients, device, get, put, random};
use crate::fixtures::Fixture;

/// Long enough for several pieces of work, and no multiple of them.
const LEN: usize = 40_011;

/// What `to` holds after an op on `from` and `to`.
fn sweep(from_values: &[f64], to_values: &[f64], op: impl Fn(&mut Device, [perennial::ops::Stats; 2])) -> Vec<f64> {
    let mut plan = Plan::new::<Device>();
    let spans = [from_values, to_values].map(|values| plan.stats(values.len()));
    let mut device = device(&plan);
    put(&mut device, spans[0], from_values);
    put(&mut device, spans[1], to_values);
    op(&mut device, spans);
    get(&device, spans[1])
}

fn zip(from: &[f64], to: &[f64], f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    from.iter().zip(to).map(|(from, to)| f(*from, *to)).collect()
}

#[test]
fn interpolation_goes_from_one_to_the_other() {
    let (y, x) = (random("y", LEN), random("x", LEN));
    let found = sweep(&y, &x, |device, [y, x]| device.run(Interpolate { alpha: 0.3, y, x }));
    assert_close("x", &found, &zip(&y, &x, |y, x| 0.7 * x + 0.3 * y), 1e-15);
}

#[test]
fn the_ends_of_an_interpolation_are_exact() {
    let bits = |values: &[f64]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let (y, x) = ([1.0, f64::INFINITY, 0.1, -0.0], [-0.0, 0.3, f64::NEG_INFINITY, 1.0]);
    assert_eq!(bits(&sweep(&y, &x, |device, [y, x]| device.run(Interpolate { alpha: 0.0, y, x }))), bits(&x));
    assert_eq!(bits(&sweep(&y, &x, |device, [y, x]| device.run(Interpolate { alpha: 1.0, y, x }))), bits(&y));
}

#[test]
fn squares_add_up() {
    let (gradients, squares) = (random("gradients", LEN), random("squares", LEN));
    let found =
        sweep(&gradients, &squares, |device, [g, squares]| device.run(AccumulateSquares { gradients: g, squares }));
    assert_close("squares", &found, &zip(&gradients, &squares, |g, sum| sum + g * g), 1e-15);
}

#[test]
fn each_tasks_information_is_limited_before_it_is_added() {
    let squares: Vec<f64> = random("squares", LEN).iter().map(|x| x * x).collect();
    let fisher = vec![2.0; LEN];
    let found = sweep(&squares, &fisher, |device, [s, fisher]| {
        device.run(AccumulateFisher { scale: 0.5, limit: 0.2, squares: s, fisher })
    });
    assert_eq!(found, zip(&squares, &fisher, |squares, fisher| fisher + (0.5 * squares).min(0.2)));
    assert!(found.contains(&2.2) && found.iter().any(|f| *f < 2.2));
    let found = sweep(&[f64::NAN], &[1.0], |device, [s, fisher]| {
        device.run(AccumulateFisher { scale: 0.5, limit: 0.2, squares: s, fisher })
    });
    assert!(found[0].is_nan(), "NaN is not hidden");
}

/// The loss and the gradients after the penalty, which adds to `loss` and `gradients`.
fn penalty(
    strength: f64,
    fisher_values: &[f64],
    [anchor_values, master_values]: [&[f64]; 2],
    gradient_values: &[f64],
    loss_value: f64,
) -> (f64, Vec<f64>) {
    let mut plan = Plan::new::<Device>();
    let [fisher, anchor, master, gradients] = [(); 4].map(|()| plan.stats(fisher_values.len()));
    let loss = plan.stats(1);
    let mut device = device(&plan);
    put(&mut device, fisher, fisher_values);
    put(&mut device, anchor, anchor_values);
    put(&mut device, master, master_values);
    put(&mut device, gradients, gradient_values);
    put(&mut device, loss, &[loss_value]);
    device.run(QuadraticPenalty { strength, fisher, anchor, master, gradients, loss });
    (get(&device, loss)[0], get(&device, gradients))
}

#[test]
fn the_penaltys_gradient_matches_finite_differences() {
    let (fisher, anchor, master) = (random("fisher", 50), random("anchor", 50), random("master", 50));
    let loss = |master: &[f64]| penalty(3.0, &fisher, [&anchor, master], &[0.0; 50], 0.0);
    let (_, gradients) = loss(&master);
    check_gradients(&[master], &[gradients], |inputs| loss(&inputs[0]).0);
}

#[test]
fn the_penalty_equals_pytorch_and_is_added() {
    let fixture = Fixture::open("losses");
    let get = |name: &str| fixture.f64(name);
    let (anchor, theta, old) = (get("anchor"), get("theta"), random("old", 40));
    let (loss, gradients) = penalty(get("settings")[0], &get("fisher"), [&anchor, &theta], &old, 5.0);
    assert_close("loss", &[loss], &[5.0 + get("ewc/loss")[0]], 1e-14);
    assert_close("gradients", &gradients, &zip(&get("ewc/gradient"), &old, |new, old| old + new), 1e-14);
}

#[test]
fn the_penalty_sums_every_piece() {
    let (fisher, anchor, master) = (random("fisher", LEN), random("anchor", LEN), random("master", LEN));
    let (loss, gradients) = penalty(2.0, &fisher, [&anchor, &master], &vec![0.0; LEN], 0.0);
    let moved = zip(&anchor, &master, |anchor, master| master - anchor);
    let expected = zip(&fisher, &moved, |fisher, moved| fisher * moved * moved).iter().sum::<f64>();
    assert_close("loss", &[loss], &[expected], 1e-12);
    assert_close("gradients", &gradients, &zip(&fisher, &moved, |fisher, moved| 2.0 * fisher * moved), 1e-15);
}
