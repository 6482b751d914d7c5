//! A method from outside: its file, which is this module, and one line that registers it. It is run as the program's own are.

use std::collections::BTreeMap;
use std::path::Path;

use perennial::experiment::{Access, Config, Evaluation, Iteration, Observer, Setup, run};
use perennial::method::{find, register};
use perennial::ops::Plan;
use perennial::ops::cpu::Cpu;

/// L2-SP (arXiv 1802.01483): the clip loss and a pull back to where the step began, strength / 2 ||w - w*||^2.
mod l2_sp {
    use perennial::method::{Chosen, Classifies, Entry, Learns, Method, Row, find};

    use perennial::model::trainable::Piece;
    use perennial::ops::arena::QuadraticPenalty;
    use perennial::ops::{Device, Plan, Stats};
    use perennial::train::{Loaded, Models, Objective, Path, Planned, Recipe, StageView, TrainBatch, Trainer, key_of};

    pub const ENTRY: Entry = Entry {
        settings: &[L2SpSettings::GROUP],
        ..Entry::new(
            Row {
                name: "l2-sp",
                summary: "the clip loss, and a pull back to where the step began",
                learns: Learns::Texts,
                classifies: Classifies::ByText,
                ..Row::DEFAULT
            },
            |row, chosen: &Chosen| {
                let plain = find("sequential").expect("the program has it").open(chosen);
                Box::new(L2Sp { row, plain, settings: L2SpSettings::of(chosen.objective) })
            },
        )
    };

    perennial::method_settings! {
        L2SpSettings in "l2-sp" {
            /// of the pull
            strength: f64 = 1.0, 0.0..=1e9;
        }
    }

    struct L2Sp {
        row: Row,
        plain: Box<dyn Method>,
        settings: L2SpSettings,
    }

    impl Recipe for L2Sp {
        fn keeps_start(&self) -> bool {
            true
        }

        fn plan(&self, plan: &mut Plan, planned: &Planned) -> Box<dyn Objective> {
            Box::new(Pulled {
                plain: self.plain.plan(plan, planned),
                strength: self.settings.strength,
                ones: plan.stats(planned.clip.weights.master.len()),
                penalty: plan.stats(1),
            })
        }
    }

    impl Method for L2Sp {
        fn row(&self) -> &Row {
            &self.row
        }

        fn begin(&self, trainer: &mut Trainer, _: &StageView) {
            trainer.keep_start();
        }
    }

    struct Pulled {
        plain: Box<dyn Objective>,
        strength: f64,
        ones: Stats,
        penalty: Stats,
    }

    impl Objective for Pulled {
        fn reset(&mut self, device: &mut dyn Device) {
            device.fill(self.ones, 1.0);
        }

        fn enter(&mut self, device: &mut dyn Device, models: Models, view: &StageView) {
            self.plain.enter(device, models, view);
        }

        fn path(&self) -> Path {
            self.plain.path()
        }

        fn load(&mut self, device: &mut dyn Device, batch: &TrainBatch, loaded: Loaded) {
            self.plain.load(device, batch, loaded);
        }

        fn forward_backward(&self, device: &mut dyn Device, models: Models, loaded: Loaded) {
            self.plain.forward_backward(device, models, loaded);
        }

        fn penalize(&self, device: &mut dyn Device, models: Models, pieces: &[Piece]) {
            device.fill(self.penalty, 0.0);
            let (start, weights) = (models.start, models.clip.weights);
            for Piece { arena, gradients } in pieces {
                let part = |span: Stats| span.slice(arena.start, arena.len());
                let gradients = weights.gradients.slice(gradients.start, gradients.len());
                let (ones, start, master) = (part(self.ones), part(start), part(weights.master));
                let (strength, loss) = (self.strength, self.penalty);
                device.run(QuadraticPenalty { strength, fisher: ones, anchor: start, master, gradients, loss });
            }
        }

        fn loss(&self, device: &dyn Device) -> f32 {
            self.plain.loss(device) + device.read_vec(self.penalty)[0]
        }

        fn key(&self) -> u64 {
            key_of(self.plain.key())
        }
    }
}

struct Silent;

impl Observer for Silent {
    fn started(&mut self, _: &Setup, _: &Plan, _: Option<&str>) {}
    fn iteration(&mut self, _: &Setup, _: Iteration) {}
    fn evaluated(&mut self, _: &Setup, _: &Evaluation) {}
    fn note(&mut self, _: &str) {}
}

/// The parameters that a run of the tiny preset ends with, by name, as bits.
fn ended(method: &str, settings: &[&str], out: &Path) -> BTreeMap<String, Vec<u32>> {
    let mut config = Config::find("tests/fixtures/tiny-run.toml").unwrap().for_method(method).unwrap();
    settings.iter().for_each(|setting| config.set(setting).unwrap());
    config.memory.size = 0;
    let evaluation = run::<Cpu<f32>>(&(), &config, out, Access::default(), &mut Silent).unwrap();
    let last = out.join(format!("checkpoints/step-{:03}.safetensors", evaluation.steps.len()));
    let bytes = std::fs::read(last).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let bits = |data: &[u8]| data.chunks_exact(4).map(|four| u32::from_le_bytes(four.try_into().unwrap())).collect();
    tensors.iter().map(|(name, tensor)| (name.to_string(), bits(tensor.data()))).collect()
}

#[test]
fn a_method_from_outside_is_run_like_the_programs_own() {
    register(&l2_sp::ENTRY);
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str, method: &str, settings: &[&str]| ended(method, settings, &folder.path().join(name));
    // With so large an eps AdamW's update is proportional to the gradient, and so is what the pull takes off it: a quarter each time.
    let linear = ["train.samples=160", "train.learning_rate=0.05", "optimizer.eps=1", "optimizer.clip_norm=0"];
    let plain = of("plain", "sequential", &linear);
    let with = |strength: &'static str| [&linear[..], &[strength]].concat();
    assert_eq!(of("free", "l2-sp", &with("objective.l2-sp.strength=0")), plain, "without a pull it is sequential");
    let pulled = of("pulled", "l2-sp", &with("objective.l2-sp.strength=5"));
    let first = of("first", "zero-shot", &[]);
    let moved = |to: &BTreeMap<String, Vec<u32>>| -> f64 {
        let values = |bits: &Vec<u32>| bits.iter().map(|bits| f64::from(f32::from_bits(*bits))).collect::<Vec<f64>>();
        let square = |(name, bits): (&String, &Vec<u32>)| -> f64 {
            values(bits).iter().zip(values(&to[name])).map(|(a, b)| (a - b).powi(2)).sum()
        };
        first.iter().map(square).sum::<f64>().sqrt()
    };
    assert!(moved(&pulled) < 0.9 * moved(&plain), "{} of {}", moved(&pulled), moved(&plain));
    // Its settings and its name are known wherever the program's are.
    let mut config = Config::default();
    let wrong = config.set("objective.l2-sp.strenght=1").unwrap_err().to_string();
    assert_eq!(wrong, "unknown key 'objective.l2-sp.strenght'; did you mean 'objective.l2-sp.strength'?");
    config.set("objective.l2-sp.strength=-1").unwrap();
    config.method = "l2-sp".to_string();
    assert!(config.validate().unwrap_err().to_string().starts_with("objective.l2-sp.strength is -1"));
    assert!(find("l2sp").unwrap_err().to_string().contains("did you mean 'l2-sp'?"));
}
