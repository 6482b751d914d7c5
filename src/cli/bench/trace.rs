//! One training step op by op: in the format that Chrome's tracing and Perfetto read, and as a page.

use std::path::Path;

use serde_json::{Value, json};

use super::super::output::put;
use super::kernels::Ceilings;
use super::step::{Data, NO_EVALUATION, infonce};
use crate::error::Result;
use crate::files::write_atomically;
use crate::model::spec::ModelSpec;
use crate::ops::Backend;
use crate::ops::trace::{Activity, Event, Trace, Traced};
use crate::report::step::{self, Roof};
use crate::train::Trainer;

/// Steps before the one that is traced: threads' workspaces have grown then, and tables were sent.
const WARM_UP: usize = 2;

/// Traces one step: its phases, and in them every op with its shape, its cost, and the share of its time that the op must take on this
/// device. Writes it to `events` for Perfetto, and to `page` for a browser.
pub(crate) fn trace<D: Backend>(
    place: &D::Place,
    (name, spec): (&str, &ModelSpec),
    batch: usize,
    events: Option<&Path>,
    page: Option<&Path>,
) -> Result<()> {
    let ceilings = Ceilings::measure::<D>(place)?;
    let data = Data::new(spec, batch)?;
    let mut trainer = Trainer::new::<Traced<D>>(place, &data.trainer(), &*infonce(), NO_EVALUATION)?;
    trainer.clip.load(&mut *trainer.device, &trainer.clip.parameters.initial_values(0));
    let texts = data.texts();
    let batches = data.batches(&texts);
    for batch in &batches[..WARM_UP] {
        trainer.iterate(*batch, 1e-4)?;
    }
    trainer.device.begin_trace()?;
    trainer.iterate(batches[WARM_UP], 1e-4)?;
    let trace = trainer.device.end_trace()?;
    let of = format!("{} events in {:.2} ms", trace.events.len(), trace.seconds * 1e3);
    if let Some(file) = events {
        let name = format!("{}, batch {batch}", trainer.device.name());
        write_atomically(file, format!("{}\n", chrome(&trace, &name, &ceilings)).as_bytes())?;
        put!("trace of {of}: {}; open it at ui.perfetto.dev", file.display());
    }
    if let Some(file) = page {
        let Roof { operations, bytes } = ceilings.roof;
        let facts = [
            ("Model", name.to_string()),
            ("Batch", batch.to_string()),
            ("Device", trainer.device.name()),
            ("Products", format!("{:.1} GFLOP/s", operations / 1e9)),
            ("Copies", format!("{:.1} GB/s", bytes / 1e9)),
        ];
        write_atomically(file, step::page(&trace, &ceilings.roof, &facts).as_bytes())?;
        put!("page of {of}: {}", file.display());
    }
    Ok(())
}

/// The trace as complete events (`"ph": "X"`), times in microseconds. What has a floor says which share of its time that is.
fn chrome(trace: &Trace, name: &str, ceilings: &Ceilings) -> Value {
    let complete = |name: &str, category: &str, start: f64, seconds: f64, arguments: Value| {
        json!({
            "name": name, "cat": category, "ph": "X", "pid": 0, "tid": 0,
            "ts": start * 1e6, "dur": seconds * 1e6, "args": arguments,
        })
    };
    let event = |event: &Event| {
        let Event { activity, name, shape, cost, start, seconds } = event;
        let category = match activity {
            Activity::Phase => return complete(name, "phase", *start, *seconds, json!({})),
            Activity::Op => "op",
            Activity::Traffic => "memory",
        };
        let arguments = json!({
            "shape": shape, "operations": cost.operations, "bytes": cost.bytes,
            "percent_of_floor": 100.0 * ceilings.roof.floor(*cost) / seconds,
        });
        complete(name, category, *start, *seconds, arguments)
    };
    let mut events = vec![
        json!({ "name": "process_name", "ph": "M", "pid": 0, "args": { "name": name } }),
        json!({ "name": "thread_name", "ph": "M", "pid": 0, "tid": 0, "args": { "name": "training step" } }),
        complete("step", "step", 0.0, trace.seconds, json!({})),
    ];
    events.extend(trace.events.iter().map(event));
    json!({ "displayTimeUnit": "ms", "traceEvents": events })
}
