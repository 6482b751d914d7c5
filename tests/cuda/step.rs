//! Whole training steps on the emulated GPU against the CPU backend: told op by op, captured, and replayed.

use perennial::check::{Size, step};
use perennial::ops::cuda::emulated::{Emulator, Flavour, Schedule};

use crate::{AMPERE, HOPPER, assert_none, emulator, failures_of, fresh_seed};

#[test]
fn steps_agree_with_the_cpu_backend() {
    // The bound of a whole step is one of statistics, so the operands stay the same; schedules do not.
    for (seed, capability) in [(1, AMPERE), (2, HOPPER)] {
        for schedule in [Schedule::EARLY, Schedule::LATE, Schedule::random(fresh_seed())] {
            let emulator = Emulator { capability, schedule: schedule.on(2), ..emulator(Flavour::Plain) };
            let failed = failures_of(seed, emulator, Size::Smallest, None, step::check);
            assert_none(&format!("{capability:?}, {schedule:?}"), failed);
        }
    }
}
