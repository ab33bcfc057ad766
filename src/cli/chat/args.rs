//! The command line of `edge-run chat`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ColorChoice};

use crate::cli::args::ModelArgs;
use crate::cli::power::PowerArgs;
use crate::cli::resident::ResidentArgs;
use crate::cli::sampling::SamplingArgs;
use crate::cli::{choices, numbers};
use edge_run::internals::precision::PromptBits;

/// Arguments of `chat`.
#[derive(Debug, Args)]
pub struct ChatArgs {
    /// Message that sets the assistant up
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub system: Option<String>,
    /// Saved conversation to go on with, as /save writes it
    #[arg(long, value_name = "FILE", conflicts_with = "system")]
    pub load: Option<PathBuf>,
    /// Chat template in place of the model's default one: a Jinja file, or the name of another of the model's
    #[arg(long, value_name = "FILE|NAME")]
    pub chat_template: Option<String>,
    /// The model and what it runs on.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Tokens of an answer at most; less than 0 for no end but the model's or the context's
    #[arg(
        short = 'n',
        long = "n-predict",
        value_name = "N",
        default_value = "-1",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(..=i64::from(u32::MAX))
    )]
    pub n_predict: i64,
    /// Context in tokens; 0 or less for what the model was trained for [default: 4096, or that if it is less]. When it
    /// is full, the oldest turns leave
    #[arg(
        short = 'c',
        long = "ctx-size",
        value_name = "N",
        allow_negative_numbers = true,
        value_parser = numbers::or_all::<u32>
    )]
    pub ctx_size: Option<u32>,
    /// How many bits of each weight are read.
    #[command(flatten)]
    pub power: PowerArgs,
    /// Bits read for what is said, of a model with routers [default: the configuration's, or deepest]
    #[arg(long, value_name = "deepest|plan", value_parser = choices::prompt_bits())]
    pub prompt_bits: Option<PromptBits>,
    /// What of the weights is in memory.
    #[command(flatten)]
    pub resident: ResidentArgs,
    /// Time without a question after which the weights leave the memory: the slices, and after as long again the base;
    /// seconds, or 30s, 5m, 1h. They come back with the next question, which waits for them [default: they stay]
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = numbers::time)]
    pub keep_alive: Option<Duration>,
    /// Show by its colour how many bits each token took
    #[arg(long)]
    pub show_bits: bool,
    /// Whether --show-bits uses colours and thoughts are dimmed; without colours it uses marks
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
    /// Keep no history of what is typed; it is in the file of `edge-run paths history`
    #[arg(long)]
    pub no_history: bool,
    /// Tell about device, model, memory and plan, and about each answer
    #[arg(short = 'v', long)]
    pub verbose: bool,
    /// Sampling; last, because its heading counts for all that follows.
    #[command(flatten)]
    pub sampling: SamplingArgs,
}
