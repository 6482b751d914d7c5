//! The same seed gives the same bits, whatever the number of threads.

use crate::runs::{assert_same_result, files};
use crate::setups::TINY_RUN;
use crate::support::succeed;

#[test]
fn neither_loader_threads_nor_compute_threads_change_a_bit() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, loaders: usize, threads: &str, seed: &str| {
        let out = folder.path().join(name);
        let loaders = format!("data.loader_threads={loaders}");
        let mut arguments = vec!["run", TINY_RUN, "--out", out.to_str().unwrap(), "--threads", threads, "--seed", seed];
        arguments.extend(["--set", "train.epochs=1", "--set", "train.save_every=1000", "--set", &loaders]);
        succeed(&arguments);
        out
    };
    let first = run("first", 0, "1", "7");
    for (loaders, threads) in [(0, "1"), (1, "2"), (4, "1"), (4, "2")] {
        let what = format!("{loaders} loader threads, {threads} threads");
        assert_same_result(&what, &first, &run(&what, loaders, threads, "7"));
    }
    let other = files(&run("other", 1, "2", "8"));
    let first = files(&first);
    for step in 1..=3 {
        let name = format!("checkpoints/step-{step:03}.safetensors");
        let path = std::path::Path::new(&name);
        assert!(first[path] != other[path], "another seed, and the same {name}");
    }
}
