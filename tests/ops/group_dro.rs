use perennial::ops::contrastive::{ContrastiveSettings, Negatives, Surrogate};
use perennial::ops::cpu::Cpu;
use perennial::ops::group_dro::{ClassWeights, GroupDro, GroupDroSettings, GroupDroState, Weighting};
use perennial::ops::{DeviceMemory, Plan, Run};

use super::contrastive::{Batch, class_of_text, run};
use super::{assert_close, get, put, random};
use crate::fixtures::Fixture;

/// One update on the host's values.
struct Update {
    class: Vec<u32>,
    log_u: [Vec<f64>; 2],
    tau: f64,
    class_loss: Vec<f64>,
    normalizer: f64,
    share: Vec<f64>,
}

struct Updated {
    class_loss: Vec<f64>,
    normalizer: f64,
    class_weight: Vec<f64>,
    weight: Vec<f64>,
    objective: f64,
}

fn update(input: &Update, settings: GroupDroSettings) -> Updated {
    let (samples, classes) = (input.class.len(), input.class_loss.len());
    let mut plan = Plan::new::<Cpu<f64>>();
    let class = plan.ids(samples);
    let log_u = [plan.stats(samples), plan.stats(samples)];
    let log_scale = plan.stats(1);
    let state = GroupDroState {
        class_loss: plan.stats(classes),
        log_normalizer: plan.stats(1),
        share: plan.stats(classes),
        class_weight: plan.stats(classes),
    };
    let (weight, objective) = (plan.stats(samples), plan.stats(1));
    let mut device = super::device(&plan);
    device.write(class, &input.class);
    put(&mut device, log_u[0], &input.log_u[0]);
    put(&mut device, log_u[1], &input.log_u[1]);
    put(&mut device, log_scale, &[(1.0 / input.tau).ln()]);
    put(&mut device, state.class_loss, &input.class_loss);
    put(&mut device, state.log_normalizer, &[input.normalizer.ln()]);
    put(&mut device, state.share, &input.share);
    device.run(GroupDro { samples, settings, class, log_u, log_scale, state, weight, objective });
    Updated {
        class_loss: get(&device, state.class_loss),
        normalizer: get(&device, state.log_normalizer)[0].exp(),
        class_weight: get(&device, state.class_weight),
        weight: get(&device, weight),
        objective: get(&device, objective)[0],
    }
}

#[test]
fn one_update_equals_the_reference() {
    let fixture = Fixture::open("contrastive");
    let get = |name: &str| fixture.f64(&format!("group_dro/{name}"));
    let [tau, gamma1, gamma2, lambda, normalizer] = get("settings")[..] else { panic!("settings") };
    let input = Update {
        class: fixture.u32("group_dro/class"),
        log_u: [get("lu1"), get("lu2")],
        tau,
        class_loss: get("v"),
        normalizer,
        share: get("pi"),
    };
    let exact = update(&input, settings_of(lambda, gamma1, ClassWeights::Exact));
    let known = |values: Vec<f64>| values.into_iter().map(|v| if v.is_nan() { -1.0 } else { v }).collect::<Vec<_>>();
    assert_close("v", &known(exact.class_loss), &known(get("new_v")), 1e-13);
    assert_close("p", &exact.class_weight, &get("p_exact"), 1e-13);
    assert_close("weight", &exact.weight, &get("weight"), 1e-13);
    let stochastic = update(&input, settings_of(lambda, gamma1, ClassWeights::Stochastic { gamma2 }));
    assert_close("s", &[stochastic.normalizer], &get("s_new"), 1e-13);
    assert_close("p", &stochastic.class_weight, &get("p_stochastic"), 1e-13);
}

fn random_update(classes: usize) -> Update {
    let samples = 40;
    Update {
        class: (0..samples as u32).map(|i| i * 7 % classes as u32).collect(),
        log_u: [random("lu1", samples), random("lu2", samples)],
        tau: 0.5,
        class_loss: vec![f64::NAN; classes],
        normalizer: f64::NAN,
        share: vec![1.0 / classes as f64; classes],
    }
}

fn settings_of(lambda: f64, gamma1: f64, weights: ClassWeights) -> GroupDroSettings {
    GroupDroSettings { lambda, gamma1, weights, weighting: Weighting::Prior }
}

fn exact(lambda: f64) -> GroupDroSettings {
    settings_of(lambda, 1.0, ClassWeights::Exact)
}

/// The classes' losses after a batch at gamma1 = 1: means over its samples.
fn means(input: &Update) -> Vec<f64> {
    let of_class = |class: u32| {
        let losses: Vec<f64> = (input.class.iter().zip(&input.log_u[0]).zip(&input.log_u[1]))
            .filter(|((of, _), _)| **of == class)
            .map(|((_, one), other)| input.tau * (one + other))
            .collect();
        losses.iter().sum::<f64>() / losses.len() as f64
    };
    (0..input.class_loss.len() as u32).map(of_class).collect()
}

/// The weights are the derivatives of the objective over the batch by its samples' losses: objective(v) by central differences.
fn assert_is_gradient(input: &Update, weight: &[f64], objective: impl Fn(&[f64]) -> f64) {
    let step = 1e-5;
    for (sample, weight) in weight.iter().enumerate() {
        let at = |by: f64| {
            let mut moved = Update {
                class: input.class.clone(),
                log_u: input.log_u.clone(),
                ..random_update(input.class_loss.len())
            };
            moved.log_u[0][sample] += by / input.tau;
            objective(&means(&moved))
        };
        let slope = (at(step) - at(-step)) / (2.0 * step);
        // Rounding of the objective, about 1, over the step; and the third derivative, below 1 / lambda^2, times its square.
        assert!((slope - weight).abs() < 1e-9, "sample {sample}: {slope}, not {weight}");
    }
}

#[test]
fn by_the_batch_and_by_samples_the_weights_are_gradients_of_their_objectives() {
    let lambda = 0.7;
    let input = Update { class: (0..40).map(|i| i % 7 % 4).collect(), ..random_update(4) };
    let log_mean = |values: &[f64], share: &dyn Fn(u32) -> f64| {
        lambda * (0..).zip(values).map(|(class, value)| share(class) * (value / lambda).exp()).sum::<f64>().ln()
    };
    let settings = |weighting| GroupDroSettings { weighting, ..exact(lambda) };
    let by_batch = update(&input, settings(Weighting::Batch));
    assert_is_gradient(&input, &by_batch.weight, |values| log_mean(values, &|_| 0.25));
    assert_close("objective", &[by_batch.objective], &[log_mean(&means(&input), &|_| 0.25)], 1e-12);
    // By samples, with a pool that is as the batch is.
    let shares = [0, 1, 2, 3].map(|class| input.class.iter().filter(|of| **of == class).count() as f64 / 40.0);
    let share = |class: u32| shares[class as usize];
    let input = Update { share: shares.to_vec(), ..input };
    let by_sample = update(&input, settings(Weighting::Sample));
    assert_is_gradient(&input, &by_sample.weight, |values| log_mean(values, &share));
    assert_close("objective", &[by_sample.objective], &[log_mean(&means(&input), &share)], 1e-12);
    // p is what each class's samples weigh together; and prior's weights are batch's where the pool is as the batch is.
    for result in [&by_batch, &by_sample] {
        let total = |class: u32| -> f64 {
            input.class.iter().zip(&result.weight).filter(|(of, _)| **of == class).map(|(_, weight)| weight).sum()
        };
        assert_close("p", &result.class_weight, &[0, 1, 2, 3].map(total), 1e-12);
    }
    assert_close("prior", &update(&input, exact(lambda)).weight, &by_batch.weight, 1e-12);
}

#[test]
fn a_batch_weighs_its_own_classes_alone() {
    // Class 2 was seen before and is in neither the batch nor the pool: prior gives it most of the weight, the others none.
    let mut input = random_update(3);
    input.class = (0..40).map(|i| u32::from(i >= 30)).collect();
    input.share = vec![0.75, 0.25, 0.0];
    input.class_loss[2] = 50.0;
    let total = |weighting| update(&input, GroupDroSettings { weighting, ..exact(1.0) }).weight.iter().sum::<f64>();
    assert!(total(Weighting::Prior) < 1e-12);
    assert_close("sums", &[Weighting::Batch, Weighting::Sample].map(total), &[1.0, 1.0], 1e-12);
}

#[test]
fn a_large_lambda_weighs_all_classes_alike() {
    let result = update(&random_update(5), exact(1e9));
    assert_close("p", &result.class_weight, &[0.2; 5], 1e-8);
    assert_close("weight", &result.weight, &[1.0 / 40.0; 40], 1e-8);
}

#[test]
fn a_small_lambda_finds_the_worst_class() {
    let result = update(&random_update(5), exact(1e-9));
    let worst = result.class_loss.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for (p, loss) in result.class_weight.iter().zip(&result.class_loss) {
        assert_eq!(*p, if *loss == worst { 1.0 } else { 0.0 });
    }
    assert_close("objective", &[result.objective], &[worst], 1e-8);
}

#[test]
fn a_constant_added_to_all_losses_changes_no_weight() {
    let input = random_update(5);
    let mut higher = random_update(5);
    higher.log_u[0].iter_mut().for_each(|lu| *lu += 1000.0);
    let (before, after) = (update(&input, exact(0.7)), update(&higher, exact(0.7)));
    assert_close("p", &after.class_weight, &before.class_weight, 1e-11);
    assert_close("objective", &[after.objective], &[before.objective + 500.0], 1e-12);
}

#[test]
fn a_rare_class_counts_as_much_as_its_weight_says() {
    // Whatever the shares, the expected total weight of a class's samples is its p: count * p / (B pi) with count = B pi.
    let mut input = random_update(2);
    input.class = (0..40).map(|i| u32::from(i >= 36)).collect();
    input.share = vec![0.9, 0.1];
    let result = update(&input, exact(1e9));
    let total = |class: u32| input.class.iter().zip(&result.weight).filter(|(c, _)| **c == class).map(|(_, w)| w).sum();
    assert_close("totals", &[total(0), total(1)], &[0.5, 0.5], 1e-8);
}

#[test]
fn anchors_without_negatives_do_not_count() {
    let mut input = random_update(2);
    input.log_u[0][..39].fill(f64::INFINITY);
    input.log_u[1][..39].fill(f64::INFINITY);
    let class = input.class[39] as usize;
    for weighting in [Weighting::Prior, Weighting::Batch, Weighting::Sample] {
        let result = update(&input, GroupDroSettings { weighting, ..exact(1.0) });
        assert_eq!(result.class_loss[class], 0.5 * (input.log_u[0][39] + input.log_u[1][39]));
        assert!(result.class_loss[1 - class].is_nan());
        assert!(result.weight.iter().all(|weight| weight.is_finite()));
        if weighting != Weighting::Prior {
            assert_eq!(result.weight[39], 1.0);
            assert!(result.weight[..39].iter().all(|weight| *weight == 0.0));
        }
    }
}

#[test]
fn over_the_whole_data_with_gamma_1_the_gradient_is_that_of_equation_6() {
    let fixture = Fixture::open("contrastive");
    let get = |name: &str| fixture.f64(&format!("group_dro_full/{name}"));
    let [tau, margin, lambda] = get("settings")[..] else { panic!("settings") };
    let (text_of, class) = (fixture.u32("group_dro_full/text_of"), fixture.u32("group_dro_full/class"));
    let samples = class.len();
    let mut batch = Batch {
        image: get("image"),
        text: get("text"),
        class_of_text: class_of_text(&text_of, &class),
        text_of,
        weight: vec![0.0; samples],
        log_u: [vec![f64::NAN; samples], vec![f64::NAN; samples]],
        tau,
        gamma: 1.0,
        width: fixture.shape("group_dro_full/text")[1],
    };
    let settings = ContrastiveSettings {
        surrogate: Surrogate::SquaredHinge { margin },
        negatives: Negatives::OtherClasses,
        times_tau: true,
    };
    let log_u = run::<f64>(&batch, settings).log_u;
    let count = |k: u32| class.iter().filter(|class| **class == k).count() as f64;
    let share = (0..3).map(|k| count(k) / samples as f64).collect();
    let input = Update { class: class.clone(), log_u, tau, class_loss: vec![f64::NAN; 3], normalizer: f64::NAN, share };
    let weights = update(&input, exact(lambda));
    assert_close("p", &weights.class_weight, &get("p"), 1e-12);
    assert_close("objective", &[weights.objective], &get("loss"), 1e-12);
    batch.weight = weights.weight;
    let outcome = run::<f64>(&batch, settings);
    assert_close("dimage", &outcome.dimage, &get("dimage"), 1e-11);
    assert_close("dtext", &outcome.dtext, &get("dtext"), 1e-11);
    assert_close("dlog_scale", &[outcome.by_log_scale], &get("dlog_scale"), 1e-11);
}
