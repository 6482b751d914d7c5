//! A GPU's trace, which is by its own clock.

use perennial::ops::cuda::emulated::{Emulator, Flavour, Schedule};
use perennial::ops::measure::Measure;
use perennial::ops::relu::{Relu, ReluBackward};
use perennial::ops::trace::{Trace, Traced};
use perennial::ops::{DeviceMemory, Plan, RecordKey, Run};

use crate::{AMPERE, Device, emulator};

#[test]
fn every_op_is_timed_between_the_marks_around_it() {
    let place = Emulator { capability: AMPERE, schedule: Schedule::LATE, ..emulator(Flavour::Plain) };
    let plugged_in = place.plug_in().unwrap();
    let mut plan = Plan::new::<Device>();
    let [x, y, dy, dx] = [(); 4].map(|()| plan.tensor(1000));
    let mut device = Traced::<Device>::with_plan(&plugged_in.gpu(), &plan).unwrap();
    let step = |device: &mut Traced<Device>| {
        device.run(Relu { x, y });
        device.run(ReluBackward { dy, y, dx });
    };
    // Never by a graph, whose launches could not be told apart.
    for _ in 0..3 {
        device.begin_trace().unwrap();
        device.record(RecordKey::default(), step);
        let Trace { events, seconds } = device.end_trace().unwrap();
        let names: Vec<&str> = events.iter().map(|event| event.name).collect();
        assert_eq!(names, ["relu", "relu backward"]);
        assert_eq!(events[1].cost.bytes, 3 * 2 * 1000, "bf16");
        assert!(events.iter().all(|event| event.seconds > 0.0 && event.start + event.seconds <= seconds + 1e-12));
        assert!(events[0].start + events[0].seconds <= events[1].start + 1e-12);
    }
    device.health().unwrap();
}
