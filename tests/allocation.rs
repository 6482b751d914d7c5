//! What a training step asks of the allocator, once it has run a few times.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use perennial::model::clip::Capacity;
use perennial::model::parameters::ParameterList;
use perennial::model::spec::ModelSpec;
use perennial::objective::{ObjectiveKind, ObjectiveSettings};
use perennial::ops::cpu::Cpu;
use perennial::train::{OptimizerSettings, TextBank, TrainBatch, Trainer, TrainerSpec};

/// Counts what all threads ask for.
struct Counted;

static COUNT: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    COUNT.fetch_add(1, Relaxed);
    BYTES.fetch_add(bytes, Relaxed);
    LARGEST.fetch_max(bytes, Relaxed);
}

unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counted = Counted;

/// Allocations, their bytes, and the largest of them.
fn counted(work: impl FnOnce()) -> [usize; 3] {
    let counters = [&COUNT, &BYTES, &LARGEST];
    counters.iter().for_each(|counter| counter.store(0, Relaxed));
    work();
    counters.map(|counter| counter.load(Relaxed))
}

const BATCH: usize = 32;

#[test]
fn training_allocates_nothing_after_warm_up() {
    let model = ModelSpec::find(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/micro.json")).unwrap();
    let initial = ParameterList::of(&model).initial_values(0);
    let capacity = Capacity { images: BATCH, texts: BATCH };
    for objective in [ObjectiveKind::Clip, ObjectiveKind::Gcl, ObjectiveKind::Gdro] {
        let spec = TrainerSpec {
            model: model.clone(),
            capacity,
            objective,
            objective_settings: ObjectiveSettings::default(),
            optimizer: OptimizerSettings::default(),
            learn_logit_scale: true,
            samples: BATCH,
            classes: BATCH,
            by_class: true,
        };
        let mut trainer = Trainer::<Cpu<f32>>::new(&spec, capacity).unwrap();
        trainer.clip.load(&mut trainer.device, &initial);
        trainer.objective.set_shares(&mut trainer.device, &[1.0 / BATCH as f32; BATCH]);
        let mut bank = TextBank::default();
        for class in 0..BATCH as u32 {
            bank.add(vec![49406, 320 + class, 49407], class);
        }
        let slot: Vec<u32> = (0..BATCH as u32).collect();
        let texts = bank.batch(&slot);
        let pixels: Vec<u8> = (0..BATCH * 32 * 32 * 3).map(|i| (i * 7919 % 251) as u8).collect();
        let batch = TrainBatch { pixels: &pixels, texts: &texts, slot: &slot };
        for _ in 0..3 {
            trainer.step(batch, 1e-3, 0.9).unwrap();
        }
        for _ in 0..5 {
            let gradients = counted(|| trainer.gradients(batch, 0.9));
            let optimizer = counted(|| {
                trainer.optimizer.step(&mut trainer.device, 1e-3).unwrap();
            });
            println!("{objective:?}: [allocations, bytes, largest]: gradients {gradients:?}, optimiser {optimizer:?}");
            let [_, bytes, largest] = gradients;
            assert!(bytes + optimizer[1] < 64 << 10, "{objective:?}: {bytes} bytes, the largest piece {largest}");
        }
    }
}
