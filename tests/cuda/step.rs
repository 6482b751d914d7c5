//! Whole training steps on the emulated GPU against the CPU backend: told op by op, captured, and replayed.

use perennial::check::{Size, step};
use perennial::ops::cuda::driver::Target;
use perennial::ops::cuda::emulated::{Emulator, Flavour, Schedule};

use crate::{assert_none, emulator, failures_of, fresh_seed};

#[test]
fn steps_agree_with_the_cpu_backend() {
    // The bound of a whole step is one of statistics, so the operands stay the same; schedules do not.
    for (seed, target) in [(1, Target::Sm80), (2, Target::Sm90a)] {
        for schedule in [Schedule::EARLY, Schedule::random(fresh_seed())] {
            let emulator = Emulator { target, schedule: schedule.on(2), ..emulator(Flavour::Plain) };
            let failed = failures_of(seed, emulator, Size::Smallest, None, step::check);
            assert_none(&format!("{target:?}, {schedule:?}"), failed);
        }
    }
}
