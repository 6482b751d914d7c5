//! `perennial bench`: what this machine does.

use perennial::error::Result;

#[derive(clap::Args)]
pub struct Arguments {}

pub fn run(_arguments: &Arguments) -> Result<()> {
    Ok(())
}
