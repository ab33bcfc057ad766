//! How many bits of each weight are read: the words of the command line that say it.

use std::path::PathBuf;

use clap::Args;

use crate::cli::choices;
use edge_run::internals::power::PowerMode;
use edge_run::internals::precision::BITS;

/// What says how many bits of each weight are read.
#[derive(Debug, Clone, Args)]
pub struct PowerArgs {
    /// Bits to read of each weight, 2 to 8: any number, on average, for a model with routers, else 2, 4, 6 or 8; stands
    /// above --power-mode
    #[arg(long, value_parser = average_bits, allow_negative_numbers = true)]
    pub bits: Option<f32>,
    /// Energy to spend: 4, 6 or 8 bits of each weight, on average for a model with routers, or as the power state
    /// allows [default: auto where there is a battery or the energy saver is on, else high]
    #[arg(long, value_name = "MODE", value_parser = choices::power_mode())]
    pub power_mode: Option<PowerMode>,
    /// Fewest bits to read, whatever the rest says [default: 2]
    #[arg(long, value_name = "BITS", value_parser = average_bits, allow_negative_numbers = true)]
    pub min_bits: Option<f32>,
    /// Most bits to read, whatever the rest says [default: 8]
    #[arg(long, value_name = "BITS", value_parser = average_bits, allow_negative_numbers = true)]
    pub max_bits: Option<f32>,
    /// Configuration file, in TOML [default: see `edge-run paths config`]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Power states in place of the device's own, one JSON object a line; power mode auto, if no other is asked for
    #[arg(long, value_name = "FILE.jsonl")]
    pub power_sim: Option<PathBuf>,
}

/// A number of bits that some model can read on average; whether this one can is for it to say.
pub fn average_bits(text: &str) -> Result<f32, String> {
    let bits = text.trim().parse().ok().filter(|bits| BITS.contains(bits));
    bits.ok_or_else(|| "expected numbers from 2 to 8, such as 2.5".to_string())
}

/// Arguments of `power`.
#[derive(Debug, Args)]
pub struct PowerCommandArgs {
    /// Read again every few seconds: in words only what changes, in JSON each reading
    #[arg(long, conflicts_with = "power_sim")]
    pub watch: bool,
    /// Write one JSON object a line
    #[arg(long)]
    pub json: bool,
    /// What says how many bits are read.
    #[command(flatten)]
    pub power: PowerArgs,
}
