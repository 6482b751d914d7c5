//! Trains a small model on ten tasks of emoji, one after the other, without and with a replay memory, and prints what it has forgotten.
//! It starts from the model that `make pretrain` makes: `cargo run --release --example continual`, a minute on two cores.
//!
//! The runs' directories lie in `runs/example/`: `perennial report runs/example/* --html report.html` shows them.

use perennial::Config;
use perennial::error::Result;

fn main() -> Result<()> {
    for (method, memory) in [("sequential", 0), ("gcl", 500)] {
        let mut config = Config::find("emoji-cil")?.for_method(method)?;
        config.memory.size = memory;
        config.set("train.epochs=2")?;
        let summary = perennial::run(&config, format!("runs/example/{method}"))?.summary;
        let percent = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{:.1} %", 100.0 * value));
        println!(
            "{method}: last accuracy {}, forgetting {}",
            percent(summary.last_accuracy),
            percent(summary.forgetting)
        );
    }
    Ok(())
}
