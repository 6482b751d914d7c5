//! From the settings' lists of shards to files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::braces::{expand, expand_command};
use super::pipe::Copies;
use crate::error::{Error, Result};

/// A shard: what it is called in sample ids and messages, and where it lies.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ShardFile {
    /// Its path relative to the data set's folder, or the command that prints it, with `pipe:` in front.
    pub name: String,
    /// Relative to the folder.
    pub path: String,
}

/// Endings of what lies beside shards: tables and statistics of img2dataset, lists of CLIP_benchmark, indexes.
const BESIDE: [&str; 22] = [
    "parquet", "json", "jsonl", "txt", "csv", "tsv", "npy", "npz", "pkl", "md", "html", "xml", "yaml", "yml", "log",
    "idx", "index", "crc", "md5", "sha256", "tmp", "part",
];

/// The shards that some specifications mean, in order. What a pattern passes over is told in `notes`; what a command prints is copied
/// by `copies`.
pub(crate) fn shards(
    folder: &Path,
    specs: &[String],
    copies: &Copies,
    notes: &mut Vec<String>,
) -> Result<Vec<ShardFile>> {
    let mut found = Vec::new();
    let mut commands = Vec::new();
    for spec in specs.iter().flat_map(|spec| parts(spec)) {
        let wrong = |error: Error| error.at(format!("'{spec}'"));
        if let Some(command) = spec.strip_prefix("pipe:") {
            for command in expand_command(command.trim()).map_err(wrong)? {
                commands.push((found.len(), command.clone()));
                found.push(ShardFile { name: format!("pipe:{command}"), path: String::new() });
            }
            continue;
        }
        refuse_remote(spec)?;
        for pattern in expand(spec.strip_prefix("file://").unwrap_or(spec)).map_err(wrong)? {
            for path in files(folder, &pattern, notes)? {
                let path = path.strip_prefix(folder).map(Path::to_path_buf).unwrap_or(path);
                let name = path
                    .into_os_string()
                    .into_string()
                    .map_err(|path| Error::input(format!("{}: the name is no UTF-8", folder.join(path).display())))?;
                found.push(ShardFile { path: name.clone(), name });
            }
        }
    }
    for (place, path) in copies.of_all(&commands)? {
        found[place].path = path;
    }
    Ok(found)
}

/// A specification's parts between `::`.
fn parts(spec: &str) -> impl Iterator<Item = &str> {
    spec.split("::").map(str::trim)
}

/// Sources that are no files get the line by which they are read.
fn refuse_remote(spec: &str) -> Result<()> {
    let Some((scheme, rest)) = spec.split_once("://") else {
        if spec.starts_with("hf:") {
            return refuse_remote(&spec.replacen("hf:", "hf://", 1));
        }
        return Ok(());
    };
    let command = match scheme.to_ascii_lowercase().as_str() {
        "file" => return Ok(()),
        "http" | "https" | "ftp" => format!("curl -s -L -f '{spec}'"),
        "s3" => format!("aws s3 cp '{spec}' -"),
        "gs" => format!("gcloud storage cat '{spec}'"),
        "hdfs" => format!("hdfs dfs -cat '{spec}'"),
        "az" | "abfs" | "abfss" | "wasb" | "wasbs" => format!("azcopy cp '{spec}' --from-to BlobPipe"),
        "hf" => {
            let path = rest.trim_start_matches("datasets/");
            let mut parts = path.splitn(3, '/');
            match (parts.next(), parts.next(), parts.next()) {
                (Some(owner), Some(name), Some(path)) => {
                    format!("curl -s -L -f 'https://huggingface.co/datasets/{owner}/{name}/resolve/main/{path}'")
                }
                _ => "curl -s -L -f 'https://huggingface.co/datasets/OWNER/NAME/resolve/main/FILE.tar'".to_string(),
            }
        }
        _ => format!("COMMAND '{spec}'"),
    };
    Err(Error::input(format!(
        "'{spec}' lies elsewhere, and shards are read from files: name the command that prints it, \"pipe:{command}\""
    )))
}

/// The shards of a path or of a pattern.
fn files(folder: &Path, pattern: &str, notes: &mut Vec<String>) -> Result<Vec<PathBuf>> {
    let all = matching(folder, pattern)?;
    if !is_pattern(pattern) {
        return Ok(all);
    }
    let ending = |path: &PathBuf| {
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default();
        match path.is_dir() {
            true => Some("folders".to_string()),
            false => BESIDE.contains(&ending.as_str()).then(|| format!(".{ending}")),
        }
    };
    let count = all.len();
    let (mut shards, mut passed_over) = (Vec::new(), BTreeMap::<String, usize>::new());
    let mut first = None;
    for path in all {
        match ending(&path) {
            Some(ending) => {
                *passed_over.entry(ending).or_default() += 1;
                first.get_or_insert(path);
            }
            None => shards.push(path),
        }
    }
    if let Some(first) = first {
        let kinds: Vec<String> = passed_over.iter().map(|(ending, count)| format!("{count} {ending}")).collect();
        let first = first.strip_prefix(folder).unwrap_or(&first).display().to_string();
        let what = format!("{} (first {first})", kinds.join(", "));
        if shards.is_empty() {
            return Err(Error::input(format!(
                "'{pattern}' matches {count} files in {} and no shard among them: {what}",
                folder.display()
            )));
        }
        notes.push(format!("of what '{pattern}' matches, what is no shard by its name is passed over: {what}"));
    }
    Ok(shards)
}

fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

/// What a path or a pattern relative to the folder means; of a pattern the files that there are, sorted by name. Fails where there
/// are none.
pub(crate) fn matching(folder: &Path, pattern: &str) -> Result<Vec<PathBuf>> {
    if !is_pattern(pattern) {
        return Ok(vec![folder.join(pattern)]);
    }
    let whole = match pattern.starts_with('/') {
        true => pattern.to_string(),
        false => format!("{}/{pattern}", glob::Pattern::escape(&folder.to_string_lossy())),
    };
    let matches = glob::glob(&whole).map_err(|error| Error::input(format!("'{pattern}': {}", error.msg)))?;
    let mut found = matches
        .map(|path| path.map_err(|error| Error::reading(error.path(), error.error())))
        .collect::<Result<Vec<PathBuf>>>()?;
    found.sort();
    match found.is_empty() {
        true => Err(Error::input(format!("'{pattern}' matches no file in {}", folder.display()))),
        false => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_elsewhere_get_the_line_that_reads_them() {
        for (spec, command) in [
            ("https://example.org/{000..012}.tar", "pipe:curl -s -L -f 'https://example.org/{000..012}.tar'"),
            ("s3://bucket/{000..012}.tar", "pipe:aws s3 cp 's3://bucket/{000..012}.tar' -"),
            ("gs://bucket/a.tar", "pipe:gcloud storage cat 'gs://bucket/a.tar'"),
            ("hdfs://host/a.tar", "pipe:hdfs dfs -cat 'hdfs://host/a.tar'"),
            (
                "hf://datasets/someone/set/data/{0..3}.tar",
                "pipe:curl -s -L -f 'https://huggingface.co/datasets/someone/set/resolve/main/data/{0..3}.tar'",
            ),
            (
                "hf:someone/set/a.tar",
                "pipe:curl -s -L -f 'https://huggingface.co/datasets/someone/set/resolve/main/a.tar'",
            ),
        ] {
            let message = refuse_remote(spec).unwrap_err().to_string();
            assert!(message.contains(&format!("\"{command}\"")), "{spec}: {message}");
        }
        for fine in ["a.tar", "/data/{0..9}.tar", "file:///data/a.tar"] {
            refuse_remote(fine).unwrap();
        }
    }

    #[test]
    fn what_lies_beside_shards_is_passed_over_by_name() {
        let root = tempfile::tempdir().unwrap();
        for name in ["00000.tar", "00000.parquet", "00000_stats.json", "00001.tar", "00001.parquet", "x.tgz"] {
            std::fs::write(root.path().join(name), "").unwrap();
        }
        std::fs::create_dir(root.path().join("old")).unwrap();
        let mut notes = Vec::new();
        let found = files(root.path(), "*", &mut notes).unwrap();
        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["00000.tar", "00001.tar", "x.tgz"]);
        let expected = "of what '*' matches, what is no shard by its name is passed over: 1 .json, 2 .parquet, 1 folders (first \
                        00000.parquet)";
        assert_eq!(notes, [expected]);
        let message = files(root.path(), "0*.parquet", &mut notes).unwrap_err().to_string();
        assert!(
            message.contains("matches 2 files") && message.contains("no shard among them: 2 .parquet"),
            "{message}"
        );
        // One that is named is taken at its word.
        assert_eq!(files(root.path(), "00000.parquet", &mut notes).unwrap().len(), 1);
        assert!(files(root.path(), "*.tar", &mut notes).is_ok() && notes.len() == 1);
    }
}
