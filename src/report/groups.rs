//! Which runs can be compared, and which are seeds of one another.

use std::collections::BTreeSet;

use super::cells::Cell;
use super::run::{RANDOM, Run};
use crate::error::{Error, Result};

/// Groups runs by what they were tested on: the data, the stream and the kind of test. Numbers of different groups say
/// nothing about one another, so each has its own part of a report.
///
/// Within a group, runs of one method and memory size that started from the same weights with the same preset are seeds of
/// one thing; it is an error if their settings differ in more than the seed.
pub fn group(runs: Vec<Run>) -> Result<Vec<Vec<Cell<Run>>>> {
    let mut groups: Vec<Vec<Run>> = Vec::new();
    let tests = |run: &Run| {
        let Run { config, evaluation, .. } = run;
        let (data, stream) = (&config.data, &config.stream);
        (data.name.clone(), data.domains.clone(), stream.clone(), evaluation.task, evaluation.steps.clone())
    };
    for run in runs {
        match groups.iter_mut().find(|group| tests(&group[0]) == tests(&run)) {
            Some(group) => group.push(run),
            None => groups.push(vec![run]),
        }
    }
    let cells = |group: Vec<Run>| {
        let differences = differences(&group);
        Cell::group_with(group.into_iter().zip(differences))
    };
    let groups: Vec<Vec<Cell<Run>>> = groups.into_iter().map(cells).collect();
    groups.iter().flatten().try_for_each(check_seeds)?;
    Ok(groups)
}

/// Of each run its preset where the runs are of several, and its weights where they started from several.
fn differences(runs: &[Run]) -> Vec<String> {
    let several_presets = runs.iter().any(|run| run.config.preset != runs[0].config.preset);
    let several_weights = runs.iter().any(|run| run.weights_hash() != runs[0].weights_hash());
    // The hash of each of the weights, and where they lay.
    let mut weights: Vec<(&str, &str)> = Vec::new();
    for run in runs.iter().filter(|run| !run.config.model.pretrained.is_empty()) {
        if weights.iter().all(|(hash, _)| *hash != run.weights_hash()) {
            weights.push((run.weights_hash(), &run.config.model.pretrained));
        }
    }
    let paths: Vec<&str> = weights.iter().map(|(_, path)| *path).collect();
    // A path that was written anew does not tell them apart.
    let with_hash = |(hash, path): &(&str, &str)| format!("{path}, sha256 {}", hash.get(..8).unwrap_or(hash));
    let names = short_names(&paths).unwrap_or_else(|| weights.iter().map(with_hash).collect());
    let of = |run: &Run| {
        let preset = if run.config.preset.is_empty() { "no preset" } else { &run.config.preset };
        let known = weights.iter().position(|(hash, _)| *hash == run.weights_hash());
        let weights = known.map_or(RANDOM, |place| &names[place]);
        let told = [several_presets.then_some(preset), several_weights.then_some(weights)];
        told.into_iter().flatten().collect::<Vec<_>>().join(", ")
    };
    runs.iter().map(of).collect()
}

/// Of each path as little as tells it from the others: the file's name, or folders above a name that all share. None where two
/// are the same.
fn short_names(paths: &[&str]) -> Option<Vec<String>> {
    let parts: Vec<Vec<&str>> = paths.iter().map(|path| path.trim_end_matches('/').rsplit('/').collect()).collect();
    let is_shared = |place: &usize| {
        parts.len() > 1 && parts.iter().all(|one| one.len() > place + 1 && one[*place] == parts[0][*place])
    };
    let shared = (0..).take_while(is_shared).count();
    let name = |one: &Vec<&str>, count: usize| {
        let mut name: Vec<&str> = one.iter().skip(shared).take(count).copied().collect();
        name.reverse();
        name.join("/")
    };
    let longest = parts.iter().map(Vec::len).max().unwrap_or(1);
    let names = (1..=longest).map(|count| parts.iter().map(|one| name(one, count)).collect::<Vec<_>>());
    names.into_iter().find(|names| names.iter().collect::<BTreeSet<_>>().len() == names.len())
}

/// Fails unless the runs are one experiment with different seeds.
fn check_seeds(cell: &Cell<Run>) -> Result<()> {
    let settings = |run: &Run| {
        let mut config = run.config.without_other_methods();
        config.seed = 0;
        // The same weights may lie elsewhere.
        config.model.pretrained.clear();
        config.data.folder.clear();
        config.data.loader_threads = 0;
        config.train.save_every = 1;
        config.train.save_minutes = 1.0;
        config.train.log_every = 1;
        config.to_toml()
    };
    let first = &cell.runs[0];
    for (place, run) in cell.runs.iter().enumerate().skip(1) {
        let (old, new) = (settings(first), settings(run));
        let (one, other) = (first.path.display(), run.path.display());
        if let Some((old, new)) = old.lines().zip(new.lines()).find(|(old, new)| old != new) {
            return Err(Error::input(format!(
                "{one} and {other} are both {} with memory {}, but their settings differ ({old}; {new}): \
                 make a report of each",
                cell.name(),
                cell.memory
            )));
        }
        if let Some(same) = cell.runs[..place].iter().find(|same| same.config.seed == run.config.seed) {
            let same = same.path.display();
            return Err(Error::input(format!("{same} and {other} are the same run (seed {})", run.config.seed)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::run::tests::run;
    use super::*;

    #[test]
    fn streams_are_kept_apart_and_seeds_together() {
        let groups = group(vec![run("gcl", 0, 2), run("zero-shot", 0, 2), run("gcl", 0, 3), run("gcl", 1, 2)]).unwrap();
        let shape = |group: &Vec<Cell<Run>>| -> Vec<(String, usize)> {
            group.iter().map(|cell| (cell.method.clone(), cell.runs.len())).collect()
        };
        let names =
            |names: &[(&str, usize)]| names.iter().map(|(name, runs)| (name.to_string(), *runs)).collect::<Vec<_>>();
        assert_eq!(shape(&groups[0]), names(&[("zero-shot", 1), ("gcl", 2)]));
        assert_eq!(shape(&groups[1]), names(&[("gcl", 1)]));
    }

    #[test]
    fn runs_that_are_no_seeds_of_one_another_are_refused() {
        let mut other = run("gcl", 1, 2);
        other.config.train.epochs = 7.0;
        let message = group(vec![run("gcl", 0, 2), other]).unwrap_err().to_string();
        assert!(message.contains("runs/gcl-1-2") && message.contains("epochs = 7.0"), "{message}");
        let message = group(vec![run("gcl", 4, 2), run("gcl", 4, 2)]).unwrap_err().to_string();
        assert!(message.contains("the same run (seed 4)"), "{message}");
    }

    /// A run that started from the weights of that hash at `path`.
    fn started(seed: u64, path: &str, hash: &str) -> Run {
        let mut run = run("zero-shot", seed, 2);
        run.config.model.pretrained = path.to_string();
        run.manifest = json!({ "sha256": { "pretrained": hash } });
        run
    }

    fn names(runs: Vec<Run>) -> Vec<(String, usize)> {
        group(runs).unwrap()[0].iter().map(|cell| (cell.name(), cell.runs.len())).collect()
    }

    #[test]
    fn runs_from_other_weights_have_a_row_of_their_own() {
        let row = |name: &str, runs| (name.to_string(), runs);
        // The same weights in two places are the same weights.
        let one = || started(0, "a/openai.safetensors", "11111111aa");
        let moved = || started(1, "b/moved.safetensors", "11111111aa");
        assert_eq!(names(vec![one(), moved()]), [row("zero-shot", 2)]);
        let other = started(0, "a/laion.safetensors", "22222222bb");
        assert_eq!(
            names(vec![one(), moved(), other, run("zero-shot", 0, 2)]),
            [
                row("zero-shot (laion.safetensors)", 1),
                row("zero-shot (openai.safetensors)", 2),
                row("zero-shot (random values)", 1)
            ]
        );
        // Where the names are the same, the folders tell; of a file that was written anew, the hash.
        let (old, new) = (|| started(0, "x/a/model.safetensors", "11111111aa"), |path| started(0, path, "22222222bb"));
        assert_eq!(
            names(vec![old(), new("x/b/model.safetensors")]),
            [row("zero-shot (a)", 1), row("zero-shot (b)", 1)]
        );
        assert_eq!(
            names(vec![old(), new("x/a/model.safetensors")]),
            [
                row("zero-shot (x/a/model.safetensors, sha256 11111111)", 1),
                row("zero-shot (x/a/model.safetensors, sha256 22222222)", 1)
            ]
        );
    }

    #[test]
    fn runs_of_other_presets_have_a_row_of_their_own() {
        let of = |preset: &str| {
            let mut run = run("gcl", 0, 2);
            run.config.preset = preset.to_string();
            run
        };
        let row = |name: &str| (name.to_string(), 1);
        assert_eq!(names(vec![of("cifar100-cil"), of("")]), [row("gcl (cifar100-cil)"), row("gcl (no preset)")]);
    }
}
