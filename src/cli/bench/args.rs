//! The words of `edge-run bench`.

use clap::{Args, ValueEnum};

use crate::cli::args::ModelArgs;
use crate::cli::choices;
use crate::cli::power::average_bits;
use edge_run::internals::precision::PromptBits;

/// Arguments of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The model and what it runs on.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Random weights in place of a model: llama2-7b, llama3-8b, llama3.2-1b, smollm2-135m,
    /// qwen2.5-1.5b, qwen3-4b, gemma3-4b, or numbers for model
    /// dimension, feed-forward dimension, layers, heads, heads for keys and values, and vocabulary
    #[arg(long, value_name = "NAME|DxFxLxHxKxV", conflicts_with = "model")]
    pub synthetic: Option<String>,
    /// Weights of a random model that share one range: 32, or a multiple of 64 [default: 32]
    #[arg(long, value_name = "N", requires = "synthetic")]
    pub group_size: Option<u32>,
    /// Tokens of the prompt; several, with commas between, are tests of their own; 0 for no such test
    #[arg(short = 'p', long = "n-prompt", value_name = "N", value_delimiter = ',', default_value = "512")]
    pub n_prompt: Vec<u32>,
    /// Tokens to generate; several, with commas between, are tests of their own; 0 for no such test
    #[arg(short = 'n', long = "n-gen", value_name = "N", value_delimiter = ',', default_value = "128")]
    pub n_gen: Vec<u32>,
    /// Sequences that generate beside each other in one test more, where they are several
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub sequences: u32,
    /// Tokens in the context before each test
    #[arg(short = 'd', long = "depth", value_name = "N", default_value_t = 0)]
    pub depth: u32,
    /// Measurements of each test, after one that does not count
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,
    /// Bits to read of each weight, 2 to 8; several, with commas between, are measured one after the other
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "8",
        allow_hyphen_values = true,
        value_parser = average_bits
    )]
    pub bits: Vec<f32>,
    /// Bits read in tests of prompts, of a model with routers
    #[arg(
        long,
        value_name = "deepest|plan",
        value_parser = choices::prompt_bits(),
        default_value_t = PromptBits::Plan,
        conflicts_with = "vs_uniform"
    )]
    pub prompt_bits: PromptBits,
    /// Measure 2, 4, 6 and 8 bits also without routing, and tell what share of the speed routing costs
    #[arg(long)]
    pub vs_uniform: bool,
    /// Time every kernel of one step of each test, by the device's timestamps
    #[arg(long)]
    pub profile: bool,
    /// Form of the output: a Markdown table, one JSON object a line, or CSV
    #[arg(short, long, value_name = "FORMAT", default_value = "md")]
    pub output: Format,
}

/// Forms of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A Markdown table.
    Md,
    /// One JSON object a line.
    Json,
    /// Comma-separated values with a header.
    Csv,
}
