//! What a device tells of its own speed.

use super::trace::Trace;
use crate::error::{Error, Result};

/// The clocks and figures that benches and profilers ask for.
pub trait Measure {
    /// Bytes to go through before the device's caches hold nothing of what was there; 0 where that is not worth the memory.
    const CACHE_BYTES: usize = 0;

    /// A moment of the device's own time.
    type Mark: Copy;

    /// Operations a second that the device's maker claims for products in storage precision, if known.
    fn peak_operations(&self) -> Option<f64> {
        None
    }

    /// The moment at which all work given before is done.
    fn mark(&mut self) -> Result<Self::Mark>;

    /// Seconds between two marks, once the second is reached.
    fn seconds_between(&self, from: Self::Mark, to: Self::Mark) -> Result<f64>;

    /// Seconds that the device is at `work`, all that was given before it done.
    fn time(&mut self, work: impl FnOnce(&mut Self)) -> Result<f64> {
        let from = self.mark()?;
        work(self);
        let to = self.mark()?;
        self.seconds_between(from, to)
    }

    /// Names the part of a step that the coming ops belong to, for profilers and [`Measure::begin_profile`].
    fn phase(&mut self, name: &'static str) {
        let _ = name;
    }

    /// Tells a profiler that waits for it to begin or to stop collecting, all work given before done.
    fn collect(&mut self, on: bool) -> Result<()> {
        let _ = on;
        Ok(())
    }

    /// From here on every op is noted, on a device that notes them: [`Traced`](super::trace::Traced).
    fn begin_trace(&mut self) -> Result<()> {
        Err(Error::run("this device notes no ops"))
    }

    /// What was done since [`Measure::begin_trace`], all of it finished.
    fn end_trace(&mut self) -> Result<Trace> {
        Err(Error::run("no trace was begun on this device"))
    }

    /// From here on, each phase is timed.
    fn begin_profile(&mut self) {}

    /// Phases and their seconds since [`Measure::begin_profile`], in order; none where a device does not time them.
    fn end_profile(&mut self) -> Result<Vec<(&'static str, f64)>> {
        Ok(Vec::new())
    }
}
