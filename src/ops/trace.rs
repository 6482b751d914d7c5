//! A device that notes what it is told to do, and when it does it.

use super::device_memory::{DeviceMemory, Kind, Region, Span};
use super::measure::Measure;
use super::{Cost, Op, Plan, Run, Stats, Tensor};
use crate::error::{Error, Result};

/// What one event of a [`Trace`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// A part of an iteration, by [`Measure::phase`].
    Phase,
    /// An op of the contract.
    Op,
    /// A fill, a copy, a transfer.
    Traffic,
}

/// One thing that a device did. Times are in seconds since the trace began.
#[derive(Clone, Debug)]
pub struct Event {
    /// Phase, op, or traffic.
    pub activity: Activity,
    /// A phase's name, [`Op::NAME`], or what is done with memory.
    pub name: &'static str,
    /// In words; empty for a phase.
    pub shape: String,
    /// The fewest operations and bytes; 0 for a phase.
    pub cost: Cost,
    /// When the device began it.
    pub start: f64,
    /// How long the device was at it.
    pub seconds: f64,
}

/// What a device did from [`Measure::begin_trace`] to [`Measure::end_trace`], phases before what happened in them.
#[derive(Clone, Debug)]
pub struct Trace {
    /// In the order in which they were given.
    pub events: Vec<Event>,
    /// From beginning to end.
    pub seconds: f64,
}

/// An event as it is noted: between two marks. A phase ends where the next one begins.
struct Note<M> {
    activity: Activity,
    name: &'static str,
    shape: String,
    cost: Cost,
    from: M,
    to: Option<M>,
}

/// Where a trace began, and what was noted since.
type Notes<M> = (M, Vec<Note<M>>);

/// A device of type `D` that can note every op: by its own clock, so that a GPU's times are those of its events.
///
/// Lists of ops are never replayed from a recording here, as no single op of one could be timed.
pub struct Traced<D: Measure> {
    inner: D,
    /// Where the trace began, and what was noted since; none while nothing is traced.
    notes: Option<Notes<D::Mark>>,
}

impl<D: DeviceMemory + Measure> Traced<D> {
    /// Does `work`, and notes it if a trace was begun. A device that has failed is not timed: [`DeviceMemory::health`] tells.
    fn note(
        &mut self,
        activity: Activity,
        name: &'static str,
        shape: impl FnOnce() -> String,
        cost: Cost,
        work: impl FnOnce(&mut D),
    ) {
        if self.notes.is_none() {
            return work(&mut self.inner);
        }
        let from = self.inner.mark();
        work(&mut self.inner);
        let to = self.inner.mark();
        if let (Ok(from), Ok(to), Some((_, notes))) = (from, to, &mut self.notes) {
            notes.push(Note { activity, name, shape: shape(), cost, from, to: Some(to) });
        }
    }

    /// The same for `accesses` accesses of memory to each element of `span`.
    fn note_memory<K: Kind>(&mut self, name: &'static str, span: Span<K>, accesses: usize, work: impl FnOnce(&mut D)) {
        let bytes = match K::REGION {
            Region::Storage => D::STORAGE_BYTES,
            Region::Wide | Region::Integer => 4,
            Region::Byte => 1,
        };
        let cost = Cost { operations: 0, bytes: accesses * span.len() * bytes };
        self.note(Activity::Traffic, name, || span.len().to_string(), cost, work);
    }
}

impl<O: Op, D: DeviceMemory + Measure + Run<O>> Run<O> for Traced<D> {
    fn run(&mut self, op: O) {
        let cost = op.cost(D::STORAGE_BYTES);
        self.note(Activity::Op, O::NAME, || op.shape(), cost, |inner| inner.run(op));
    }
}

impl<D: DeviceMemory + Measure> Measure for Traced<D> {
    const CACHE_BYTES: usize = D::CACHE_BYTES;
    type Mark = D::Mark;

    fn begin_trace(&mut self) -> Result<()> {
        self.notes = Some((self.inner.mark()?, Vec::new()));
        Ok(())
    }

    fn end_trace(&mut self) -> Result<Trace> {
        let end = self.inner.mark()?;
        let (begin, notes) = self.notes.take().ok_or_else(|| Error::run("no trace was begun on this device"))?;
        let seconds = self.inner.seconds_between(begin, end)?;
        let mut events = Vec::with_capacity(notes.len());
        for (place, note) in notes.iter().enumerate() {
            let next = || notes[place + 1..].iter().find(|next| next.activity == Activity::Phase);
            let to = note.to.or_else(|| Some(next()?.from)).unwrap_or(end);
            let start = self.inner.seconds_between(begin, note.from)?;
            events.push(Event {
                activity: note.activity,
                name: note.name,
                shape: note.shape.clone(),
                cost: note.cost,
                start,
                seconds: self.inner.seconds_between(begin, to)? - start,
            });
        }
        Ok(Trace { events, seconds })
    }

    fn peak_operations(&self) -> Option<f64> {
        self.inner.peak_operations()
    }

    fn collect(&mut self, on: bool) -> Result<()> {
        self.inner.collect(on)
    }

    fn mark(&mut self) -> Result<D::Mark> {
        self.inner.mark()
    }

    fn seconds_between(&self, from: D::Mark, to: D::Mark) -> Result<f64> {
        self.inner.seconds_between(from, to)
    }

    fn phase(&mut self, name: &'static str) {
        self.inner.phase(name);
        if let Some((_, notes)) = &mut self.notes
            && let Ok(from) = self.inner.mark()
        {
            let (shape, cost) = (String::new(), Cost { operations: 0, bytes: 0 });
            notes.push(Note { activity: Activity::Phase, name, shape, cost, from, to: None });
        }
    }
}

impl<D: DeviceMemory + Measure> DeviceMemory for Traced<D> {
    const STORAGE_BYTES: usize = D::STORAGE_BYTES;
    const WORKSPACE_BYTES: usize = D::WORKSPACE_BYTES;
    type Place = D::Place;

    fn with_plan(place: &D::Place, plan: &Plan) -> Result<Self> {
        Ok(Traced { inner: D::with_plan(place, plan)?, notes: None })
    }

    fn name(&self) -> String {
        self.inner.name()
    }

    fn write<K: Kind>(&mut self, to: Span<K>, from: &[K::Host]) {
        self.note_memory("write", to.first(from.len()), 1, |inner| inner.write(to, from));
    }

    fn read<K: Kind>(&self, from: Span<K>, to: &mut [K::Host]) {
        self.inner.read(from, to);
    }

    fn fill<K: Kind>(&mut self, to: Span<K>, value: K::Host) {
        self.note_memory("fill", to, 1, |inner| inner.fill(to, value));
    }

    fn copy<K: Kind>(&mut self, from: Span<K>, to: Span<K>) {
        self.note_memory("copy", to, 2, |inner| inner.copy(from, to));
    }

    fn refresh(&mut self, master: Stats, weights: Tensor) {
        self.note_memory("refresh", master, 1, |inner| inner.refresh(master, weights));
    }

    fn health(&self) -> Result<()> {
        self.inner.health()
    }

    fn forget(&mut self) {
        self.inner.forget();
    }
}

#[cfg(test)]
mod tests {
    use approx::abs_diff_eq;

    use super::*;
    use crate::ops::RecordKey;
    use crate::ops::cpu::Cpu;
    use crate::ops::relu::{Relu, ReluBackward};

    #[test]
    fn a_trace_has_what_was_done_in_its_order_and_nothing_else() {
        let mut plan = Plan::new::<Cpu<f32>>();
        let [x, y, dy, dx] = [(); 4].map(|()| plan.tensor(1000));
        let mut device = Traced::<Cpu<f32>>::with_plan(&(), &plan).unwrap();
        assert!(device.end_trace().is_err(), "nothing was begun");
        device.run(Relu { x, y });
        device.begin_trace().unwrap();
        device.phase("there");
        device.fill(dy, 1.0);
        device.record(RecordKey::default(), |device| device.run(Relu { x, y }));
        device.phase("and back");
        device.run(ReluBackward { dy, y, dx });
        let Trace { events, seconds } = device.end_trace().unwrap();
        let names: Vec<&str> = events.iter().map(|event| event.name).collect();
        assert_eq!(names, ["there", "fill", "relu", "and back", "relu backward"]);
        assert_eq!((events[2].shape.as_str(), events[2].cost), ("1000", Cost { operations: 1000, bytes: 8000 }));
        let end = |event: &Event| event.start + event.seconds;
        assert!(events.iter().all(|event| event.start >= 0.0 && event.seconds >= 0.0 && end(event) <= seconds + 1e-12));
        assert!(events.windows(2).all(|pair| pair[0].start <= pair[1].start));
        assert!(end(&events[2]) <= end(&events[0]) && abs_diff_eq!(end(&events[0]), events[3].start, epsilon = 1e-12));
        assert!(abs_diff_eq!(end(&events[3]), seconds, epsilon = 1e-12), "the last phase ends with the trace");
        device.run(Relu { x, y });
        assert!(device.end_trace().is_err(), "nothing is noted any more");
    }
}
