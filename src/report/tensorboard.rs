//! TensorBoard's event files, from a run's log: `RUN_DIR/tensorboard`.

use std::fs::{self, File};
use std::io::{BufWriter, Read};
use std::path::{Path, PathBuf};

use syntaxdot_summary::SummaryWriter;

use super::run::LogLine;
use crate::error::{Error, Result};
use crate::experiment::{Evaluation, Iteration, Observer, Setup, Status};
use crate::ops::Plan;
use crate::seal;

/// Follows a run's `metrics.jsonl` and its evaluations, and passes everything on to another observer.
///
/// TensorBoard draws a point twice that stands in its files twice, and a resumed run goes over some of its way again. So
/// the events of a run are always those of its log, which has every line once: old event files go, and the log is
/// followed from its beginning.
pub(crate) struct TensorBoard<'a> {
    run: PathBuf,
    next: &'a mut dyn Observer,
    /// From the first iteration or evaluation on: only then has a resumed run tidied its log.
    open: Option<Events>,
    /// What went wrong first; training goes on without events.
    failed: Option<Error>,
}

struct Events {
    writer: SummaryWriter<BufWriter<File>>,
    log: File,
    /// The beginning of a line whose end is not there yet.
    rest: Vec<u8>,
    /// Steps whose accuracies are written.
    evaluated: usize,
}

impl<'a> TensorBoard<'a> {
    /// For the run in the directory `run`.
    pub(crate) fn new(run: &Path, next: &'a mut dyn Observer) -> TensorBoard<'a> {
        TensorBoard { run: run.to_path_buf(), next, open: None, failed: None }
    }

    /// To be called after the run: writes what is left (of a run that was finished before, everything), and tells what
    /// kept events from being written.
    pub(crate) fn finish(mut self, evaluation: &Evaluation) -> Result<()> {
        self.follow(Some(evaluation));
        self.failed.map_or(Ok(()), Err)
    }

    /// Writes what is new.
    fn follow(&mut self, evaluation: Option<&Evaluation>) {
        if self.failed.is_some() {
            return;
        }
        let folder = self.run.join("tensorboard");
        let written = match &mut self.open {
            Some(events) => events.write(evaluation),
            none => Events::open(&self.run, &folder).and_then(|events| none.insert(events).write(evaluation)),
        };
        self.failed = written.err().map(|cause| Error::writing(&folder, cause));
    }
}

impl Observer for TensorBoard<'_> {
    fn started(&mut self, setup: &Setup, plan: &Plan, resumed: Option<&str>) {
        self.next.started(setup, plan, resumed);
    }

    fn iteration(&mut self, setup: &Setup, iteration: Iteration) {
        self.follow(None);
        self.next.iteration(setup, iteration);
    }

    fn note(&mut self, note: &str) {
        self.next.note(note);
    }

    fn beat(&mut self, status: &Status) {
        self.next.beat(status);
    }

    fn evaluated(&mut self, setup: &Setup, evaluation: &Evaluation) {
        self.follow(Some(evaluation));
        self.next.evaluated(setup, evaluation);
    }
}

impl Events {
    fn open(run: &Path, folder: &Path) -> std::io::Result<Events> {
        fs::create_dir_all(folder)?;
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().contains(".tfevents.")) {
                fs::remove_file(path)?;
            }
        }
        let writer = SummaryWriter::from_prefix(folder.join("events"))?;
        Ok(Events { writer, log: File::open(run.join("metrics.jsonl"))?, rest: Vec::new(), evaluated: 0 })
    }

    fn write(&mut self, evaluation: Option<&Evaluation>) -> std::io::Result<()> {
        self.log.read_to_end(&mut self.rest)?;
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.rest.drain(..whole).collect();
        let lines = lines.split(|byte| *byte == b'\n');
        for line in lines.filter_map(|line| serde_json::from_value::<LogLine>(seal::from_line(line)?).ok()) {
            let Some(samples) = line.samples else { continue };
            let numbers = [
                ("train/loss", line.loss),
                ("train/learning_rate", line.learning_rate),
                ("train/gradient_norm", line.gradient_norm),
                ("train/samples_per_second", line.samples_per_second),
            ];
            for (tag, number) in numbers {
                if let Some(number) = number {
                    self.writer.write_scalar(tag, samples as i64, number as f32)?;
                }
            }
        }
        let Some(evaluation) = evaluation else { return Ok(()) };
        for step in self.evaluated..evaluation.matrix.len() {
            let place = step as i64 + 1;
            self.writer.write_scalar("accuracy/all_seen", place, evaluation.accuracy[step] as f32)?;
            for (task, value) in evaluation.matrix[step].iter().enumerate() {
                if let Some(value) = value {
                    self.writer.write_scalar(format!("accuracy/task_{}", task + 1), place, *value as f32)?;
                }
            }
        }
        self.evaluated = evaluation.matrix.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// The records of every event file in a folder: each has its length, a checksum, its bytes and their checksum.
    fn records(folder: &Path) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(folder).unwrap() {
            let mut bytes = &fs::read(entry.unwrap().path()).unwrap()[..];
            while !bytes.is_empty() {
                let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
                records.push(bytes[12..12 + length].to_vec());
                bytes = &bytes[16 + length..];
            }
        }
        records
    }

    #[test]
    fn every_line_of_the_log_is_written_once_however_often_a_run_is_taken_up() {
        let run = tempfile::tempdir().unwrap();
        let folder = run.path().join("tensorboard");
        let mut log = File::create(run.path().join("metrics.jsonl")).unwrap();
        writeln!(log, "{{\"step\":1,\"samples\":64,\"loss\":1.5,\"learning_rate\":0.1}}").unwrap();
        write!(log, "{{\"step\":1,\"samples\":128,").unwrap();
        let count = |tag: &str| {
            let holds = |record: &&Vec<u8>| record.windows(tag.len()).any(|bytes| bytes == tag.as_bytes());
            records(&folder).iter().filter(holds).count()
        };
        let mut events = Events::open(run.path(), &folder).unwrap();
        events.write(None).unwrap();
        assert_eq!((count("train/loss"), count("train/learning_rate")), (1, 1));
        writeln!(log, "\"loss\":null,\"learning_rate\":0.2}}").unwrap();
        // A damaged line is no event, and ends nothing.
        log.write_all(b"{\"step\":1,\xff\n").unwrap();
        events.write(None).unwrap();
        events.write(None).unwrap();
        assert_eq!((count("train/loss"), count("train/learning_rate")), (1, 2));
        drop(events);
        Events::open(run.path(), &folder).unwrap().write(None).unwrap();
        assert_eq!((count("train/loss"), count("train/learning_rate")), (1, 2));
    }
}
