//! What of the weights is in memory: the words of the command line that say it, and how an answer begins by them.

use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;

use super::numbers;
use super::power::Follower;
use super::progress;
use edge_run::internals::error::Result;
use edge_run::internals::model::{Presence, WeightsReport};
use edge_run::internals::residency::{Pace, SliceReport};
use edge_run::internals::session::Session;

/// Slices that land at each token of a trace by tokens, each of one layer, of the embedding or of the head.
const UNITS_A_TOKEN: usize = 4;

/// How long an answer waits for its slices where the device's own power state is followed. A short prompt of a small
/// model is then not computed by the base alone, and a large model does not keep anybody waiting.
const PATIENCE: Duration = Duration::from_secs(1);

/// What of the weights is in memory.
#[derive(Debug, Clone, Args)]
pub struct ResidentArgs {
    /// Device memory that the model may take in all, such as 512MiB: weights, context and work space; slices are then
    /// only as deep as they fit
    #[arg(long, value_name = "SIZE", value_parser = numbers::size, allow_hyphen_values = true)]
    pub memory_budget: Option<ByteSize>,
    /// Begin to answer when the base is there; the slices that the bits call for come while it speaks, so that the same
    /// seed may give another text [default: after a second of waiting, where the device's power state is followed]
    #[arg(long)]
    pub progressive: bool,
}

/// Sets how slices land, and waits for them unless the answer begins without; what could not be had, in words.
pub fn begin(args: &ResidentArgs, follower: &Follower, session: &mut Session) -> Result<Vec<String>> {
    session.set_pace(if follower.is_repeatable() { Pace::Units(UNITS_A_TOKEN) } else { Pace::AsReady });
    if args.progressive {
        return Ok(Vec::new());
    }
    session.settle(follower.is_live().then_some(PATIENCE))
}

/// A slice that could not be had, for people.
pub fn fault(words: &str) -> String {
    format!("warning: {words}; the answer goes on with what is there, and it is tried again later")
}

/// Memory and slices for the line at the end.
pub fn words(device_bytes: u64, slices: Option<SliceReport>) -> String {
    let read =
        slices.map_or(String::new(), |slices| format!(", {} read of slices", progress::bytes(slices.read_bytes)));
    format!("{} of memory{read}", progress::bytes(device_bytes))
}

/// What has left the device while nobody asked, if anything has.
pub fn weights_that_left(presence: Presence) -> Option<&'static str> {
    match presence {
        Presence::Nothing => Some("the weights left the memory while nobody asked"),
        Presence::Base => Some("the slices of the weights left the memory while nobody asked"),
        Presence::All => None,
    }
}

/// Where the weights are, and how often they left and came back, where they `may_leave` or did.
pub fn weights_in_words(report: WeightsReport, may_leave: bool) -> Option<String> {
    let WeightsReport { presence, departures, returns, .. } = report;
    if !may_leave && departures == 0 {
        return None;
    }
    let now = weights_that_left(presence).unwrap_or("in memory");
    let times = |count: u64| if count == 1 { "once".to_string() } else { format!("{count} times") };
    Some(format!("{now}; left {}, came back {}", times(departures), times(returns)))
}
