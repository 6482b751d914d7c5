//! `perennial doctor`: a look at data and machine before a long run.

use std::path::PathBuf;

use serde_json::json;

use super::compute::on_device;
use super::output::{self, put};
use super::run::{Common, default_out};
use crate::error::{Error, Result};
use crate::experiment::{Config, Finding, Verdict, examine};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A bundled preset (see 'perennial list presets') or a TOML file
    preset: String,
    /// The method of the run (see 'perennial list methods')
    #[arg(long, value_name = "NAME")]
    method: Option<String>,
    /// Pictures to decode, spread over all; 'all' for every one
    #[arg(long, default_value = "1000", value_name = "N", value_parser = parse_count)]
    decode: Count,
    /// The directory that the run will have [default: as 'perennial run' has it]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// So many, or all.
#[derive(Clone, Copy)]
struct Count(Option<usize>);

fn parse_count(text: &str) -> std::result::Result<Count, String> {
    match text {
        "all" => Ok(Count(None)),
        number => {
            number.parse().map(|number| Count(Some(number))).map_err(|_| "it must be a number, or 'all'".to_string())
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let place = arguments.common.compute.prepare()?;
    let mut config = arguments.common.config(&arguments.preset, arguments.method.as_deref())?;
    if !config.validate()?.row().uses_memory() {
        config.memory.size = 0;
    }
    let expected = Config::find(&arguments.preset)?.expected;
    let out = arguments.out.clone().unwrap_or_else(|| default_out(&arguments.preset, &config));
    let (mut wrong, mut findings) = (0, Vec::new());
    let mut say = |Finding { verdict, text }: Finding| {
        let word = match verdict {
            Verdict::Good => "ok",
            Verdict::Note => "note",
            Verdict::Wrong => "WRONG",
        };
        wrong += usize::from(verdict == Verdict::Wrong);
        match arguments.common.json {
            true => findings.push(json!({ "verdict": word.to_lowercase(), "text": text })),
            false => put!("{word:<6} {text}"),
        }
    };
    on_device!(&place, D, at => examine::<D>(at, &config, &expected, &out, arguments.decode.0, &mut say));
    if arguments.common.json {
        output::document("doctor", json!({ "wrong": wrong, "findings": findings }));
    }
    match wrong {
        0 => Ok(()),
        1 => Err(Error::run("one thing is wrong: see above")),
        more => Err(Error::run(format!("{more} things are wrong: see above"))),
    }
}
