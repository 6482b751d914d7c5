//! The number of threads changes no bit.

use std::convert::Infallible;

use perennial::check::{self, Case, Operands, Purpose, Size, Visitor};
use perennial::ops::Span;
use perennial::ops::cpu::Cpu;
use perennial::ops::device_memory::Wide;

/// All memory after the ops of the case at `place` on so many threads.
fn bits_after<C: Case>(place: usize, threads: usize) -> Vec<u32> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let case = C::list(Size::Small).swap_remove(place);
        let mut operands = Operands::new::<Cpu<f32>>(Purpose::Gradients, 3, C::OP);
        let ops = case.ops(&mut operands);
        let mut device = Cpu::<f32>::allocate(operands.plan());
        operands.send(&mut device);
        ops.iter().for_each(|op| op.run(&mut device));
        let [storage, wide, ..] = operands.plan().elements();
        device.slice(Span::<Wide>::new(0, storage + wide)).iter().map(|value| value.to_bits()).collect()
    })
}

struct Threads;

impl Visitor for Threads {
    type Error = Infallible;

    fn visit<C: Case>(&mut self) -> Result<(), Infallible> {
        for (place, case) in C::list(Size::Small).iter().enumerate() {
            let one = bits_after::<C>(place, 1);
            for threads in [2, 5] {
                let same = one == bits_after::<C>(place, threads);
                assert!(same, "{} {}: {threads} threads give other bits than one", C::OP, case.shape());
            }
        }
        Ok(())
    }
}

#[test]
fn every_op_gives_the_same_bits_with_one_thread_and_many() {
    let Ok(()) = check::visit(&mut Threads);
}
