//! The words of `edge-run eval`.

use std::path::PathBuf;

use clap::{ArgGroup, Args};

use crate::cli::args::ModelArgs;
use crate::cli::choices;
use crate::cli::power::average_bits;
use edge_run::internals::precision::PromptBits;

/// Arguments of `eval`.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("input").required(true).args(["text", "kl", "task"])))]
pub struct EvalArgs {
    /// Text to predict, in UTF-8 or UTF-16; - for standard input
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Reference of `edge-run logits`: KL divergence from the unquantized model over its texts
    #[arg(long, value_name = "REFERENCE")]
    pub kl: Option<PathBuf>,
    /// Examples of a zero-shot task, one JSON object a line: context and continuation, or query, choices and gold; -
    /// for standard input
    #[arg(long, value_name = "FILE.jsonl")]
    pub task: Option<PathBuf>,
    /// The model and what it runs on.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Tokens of a window; each predicts its tokens from the second on [default: 1024, or what the model was trained
    /// for if that is less]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(2..),
        conflicts_with_all = ["task", "kl"]
    )]
    pub window: Option<u32>,
    /// Windows to measure [default: all whole ones]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..),
        conflicts_with_all = ["task", "kl"]
    )]
    pub windows: Option<u32>,
    /// Measure the answer to the first N tokens of each window, which are read as a prompt; they are not scored
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..),
        conflicts_with_all = ["task", "kl"]
    )]
    pub answer_from: Option<u32>,
    /// Bits read for these prompts, of a model with routers
    #[arg(
        long,
        value_name = "deepest|plan",
        value_parser = choices::prompt_bits(),
        default_value_t,
        requires = "answer_from"
    )]
    pub prompt_bits: PromptBits,
    /// Examples to score, from the first on [default: all]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..),
        conflicts_with_all = ["text", "kl"]
    )]
    pub limit: Option<u32>,
    /// Bits to read of each weight, 2 to 8; several, with commas between, are measured one after the other
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "8",
        allow_hyphen_values = true,
        value_parser = average_bits
    )]
    pub bits: Vec<f32>,
    /// Measure each number of bits also with the routers' choices dealt to other tokens
    #[arg(long)]
    pub shuffle_gates: bool,
    /// Seed of the dealing
    #[arg(short = 's', long, value_name = "SEED", default_value_t = 1)]
    pub seed: u32,
    /// Tell of --text how often the token chosen at each number of bits, and at every uniform depth, is the one chosen
    /// at 8 bits
    #[arg(long, conflicts_with_all = ["task", "kl", "answer_from", "plot"])]
    pub agreement: bool,
    /// Plot perplexity, with --kl beside KL divergence, against bits: the numbers of bits given, these shuffled, and
    /// every uniform depth
    #[arg(long, value_name = "FILE.svg", conflicts_with = "task")]
    pub plot: Option<PathBuf>,
    /// Tell the bits read at each site of each layer
    #[arg(long)]
    pub detail: bool,
    /// Write one JSON object a line, one for each row of the table
    #[arg(long)]
    pub json: bool,
}
