//! Trains a small model on four tasks of emoji, one after the other, without and with a replay memory, and prints what it has forgotten:
//! `cargo run --release --example continual` (about half a minute on two cores). The runs' directories lie in `runs/example/`: `perennial
//! report runs/example/* --html report.html` shows them.

use perennial::Config;
use perennial::error::Result;

fn main() -> Result<()> {
    for (method, memory) in [("sequential", 0), ("gcl", 200)] {
        let mut config = Config::find("emoji-cil")?.for_method(method)?;
        config.memory.size = memory;
        // From random values, in few steps: enough to see the difference.
        let settings = [
            "model.pretrained=",
            "stream.tasks=4",
            "train.epochs=4",
            "train.learning_rate=1e-3",
            r#"data.domains=["noto"]"#,
        ];
        settings.iter().try_for_each(|setting| config.set(setting))?;
        let evaluation = perennial::run(&config, format!("runs/example/{method}"))?;
        let percent = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{:.1} %", 100.0 * value));
        let summary = &evaluation.summary;
        println!(
            "{method}: last accuracy {}, forgetting {}",
            percent(summary.last_accuracy),
            percent(summary.forgetting)
        );
    }
    Ok(())
}
