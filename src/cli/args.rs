//! The command line as it is written, checked word by word; what the words mean together is decided in `settings`.

use std::path::PathBuf;

use clap::{Args, ColorChoice, Parser, Subcommand};

use super::bench::BenchArgs;
use super::chat::ChatArgs;
use super::eval::EvalArgs;
use super::export::ExportArgs;
use super::list::ListArgs;
use super::logits::LogitsArgs;
use super::paths::PathsArgs;
use super::power::{PowerArgs, PowerCommandArgs};
use super::pull::PullArgs;
use super::resident::ResidentArgs;
use super::rm::RmArgs;
use super::sampling::{ChoiceArgs, SamplingArgs};
use super::{choices, exit, numbers};
use edge_run::internals::engine::Activations;
use edge_run::internals::precision::{CacheType, Depth, PromptBits};

/// Runs a language model, reading 2 to 8 bits of each weight.
///
/// The answer goes to standard output as it is written, everything else to standard error. Without a prompt on the
/// command line, it is read from standard input.
#[derive(Debug, Parser)]
#[command(
    name = "edge-run",
    version,
    max_term_width = 100,
    args_conflicts_with_subcommands = true,
    after_help = exit::help()
)]
pub struct Cli {
    /// What to do other than answer a prompt.
    #[command(subcommand)]
    pub command: Option<CliCommand>,
    /// The prompt and how to answer it.
    #[command(flatten)]
    pub generate: GenerateArgs,
}

/// Arguments of the main command.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// What to ask, - for standard input; for a prompt that is the name of a command, use -p
    #[arg(value_name = "PROMPT")]
    pub prompt: Option<String>,
    /// What to ask; - for standard input
    #[arg(short = 'p', long = "prompt", value_name = "PROMPT", allow_hyphen_values = true)]
    pub prompt_flag: Option<String>,
    /// File with what to ask, in UTF-8 or UTF-16, - for standard input; the line break at its end is left out
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    pub prompt_file: Option<PathBuf>,
    /// Message that sets the assistant up, before the prompt
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "raw")]
    pub system: Option<String>,
    /// Take the prompt as it is, without the model's chat template
    #[arg(long)]
    pub raw: bool,
    /// Chat template in place of the model's default one: a Jinja file, or the name of another of the model's
    #[arg(long, value_name = "FILE|NAME", conflicts_with = "raw")]
    pub chat_template: Option<String>,
    /// The model and what it runs on.
    #[command(flatten)]
    pub model: ModelArgs,
    /// Tokens to write at most; less than 0 for no end but the model's or the context's
    #[arg(
        short = 'n',
        long = "n-predict",
        value_name = "N",
        default_value = "-1",
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(..=i64::from(u32::MAX))
    )]
    pub n_predict: i64,
    /// Context in tokens; 0 or less for what the model was trained for [default: 4096, or that if it is less]
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
    /// Bits read for the prompt, of a model with routers [default: the configuration's, or deepest]
    #[arg(long, value_name = "deepest|plan", value_parser = choices::prompt_bits())]
    pub prompt_bits: Option<PromptBits>,
    /// What of the weights is in memory.
    #[command(flatten)]
    pub resident: ResidentArgs,
    /// Show by its colour how many bits each token took
    #[arg(long, conflicts_with = "json")]
    pub show_bits: bool,
    /// Whether --show-bits uses colours; without them it uses marks
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,
    /// Write one JSON object a line: each token, then a summary
    #[arg(long)]
    pub json: bool,
    /// Tell about device, model, memory and plan
    #[arg(short = 'v', long)]
    pub verbose: bool,
    /// Sampling; last, because its heading counts for all that follows.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// What the answer may say.
    #[command(flatten)]
    pub choice: ChoiceArgs,
}

/// Which model, on which device.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// Model folder, as `edge-run quantize` makes it, or a name of `edge-run list` [default: see `edge-run paths`]
    #[arg(short = 'm', long = "model", value_name = "DIR|NAME")]
    pub model: Option<PathBuf>,
    /// What to run on: cpu, gpu, or number or part of the name of a device of `edge-run devices` [default: the best
    /// GPU; the CPU engine where there is none but software renderers, which are slower]
    #[arg(long, value_name = "cpu|gpu|INDEX|NAME", allow_negative_numbers = true)]
    pub device: Option<String>,
    /// Compile shaders with bounds checks and loop limits: slower, for hunting faults
    #[arg(long)]
    pub gpu_checks: bool,
    /// Most tokens of a prompt computed at once; 1: as generated ones [default: 512; with
    /// cooperative matrices 2048; on software renderers 128]
    #[arg(long, value_name = "N")]
    pub ubatch_size: Option<u32>,
    /// Bits read of embedding and head, whatever the layers' bits are [default: for an answer those of the slices that
    /// the layers' bits take, and one slice more; for eval and bench 8]
    #[arg(long, value_name = "2|4|6|8", value_parser = numbers::depth)]
    pub head_bits: Option<Depth>,
    /// How keys and values of the context are kept
    #[arg(long, value_parser = choices::cache_type(), default_value_t)]
    pub cache_type: CacheType,
    /// What goes into the products of a single token
    #[arg(long, value_parser = choices::activations(), default_value_t)]
    pub activations: Activations,
    /// Multiply the tokens of a prompt without cooperative matrices, which take them as f16, where the device has them
    #[arg(long)]
    pub no_cooperative_matrix: bool,
}

/// What to do other than answer a prompt.
#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// Hold a conversation
    Chat(Box<ChatArgs>),
    /// Make a model folder of a Hugging Face folder or a GGUF file
    Quantize(QuantizeArgs),
    /// Get a model from the Hugging Face hub and make a model folder of it
    Pull(PullArgs),
    /// List the models that are here
    List(ListArgs),
    /// Remove a model
    Rm(RmArgs),
    /// Train ranges and routers on text, for `quantize --calibration`
    Calibrate(CalibrateArgs),
    /// Make of a model folder, at one depth, what other programs run: a GGUF file or a Hugging Face folder
    Export(ExportArgs),
    /// Show what a model folder holds
    Inspect(InspectArgs),
    /// Check every hash and shape of a model folder
    Verify(VerifyArgs),
    /// List the devices that a model can run on, and which of them does by default
    Devices(DevicesArgs),
    /// Measure perplexity on a text, KL divergence from the unquantized model, or accuracy on a zero-shot task, at one
    /// or several numbers of bits
    Eval(EvalArgs),
    /// Compute what an unquantized model finds likely in texts, for `eval --kl`
    Logits(LogitsArgs),
    /// Measure tokens a second of prompts and of generation, and what the device reads for them
    Bench(BenchArgs),
    /// Show the power state, where it was read, and how many bits it allows
    Power(PowerCommandArgs),
    /// Print where models lie, for scripts
    Paths(PathsArgs),
}

/// Arguments of `quantize`.
#[derive(Debug, Args)]
pub struct QuantizeArgs {
    /// Hugging Face folder or GGUF file
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// Model folder to make
    #[arg(short = 'o', long = "output", value_name = "DIR")]
    pub out: PathBuf,
    /// How the weights are cut.
    #[command(flatten)]
    pub cut: CutArgs,
    /// Replace a model that is there already
    #[arg(long)]
    pub force: bool,
}

/// How weights are cut.
#[derive(Debug, Args)]
pub struct CutArgs {
    /// Weights that share one range: 32, with ranges for each depth, or a multiple of 64, with one for all [default:
    /// the pack's; without one 32]
    #[arg(long, value_name = "N")]
    pub group_size: Option<u32>,
    /// Trained ranges and routers of this very model, from a calibration pack
    #[arg(long, value_name = "PACK")]
    pub calibration: Option<PathBuf>,
    /// Text to run the unquantized model over, which tells how much each input counts when ranges and codes are chosen;
    /// - for standard input [default: a sample that comes with the program]
    #[arg(long, value_name = "FILE", conflicts_with = "no_importance")]
    pub importance: Option<PathBuf>,
    /// Choose ranges and codes by the weights alone, without running the model
    #[arg(long)]
    pub no_importance: bool,
    /// Round each weight by itself, without compensating for what others of its row are off by
    #[arg(long)]
    pub no_compensation: bool,
}

/// Arguments of `calibrate`.
#[derive(Debug, Args)]
pub struct CalibrateArgs {
    /// GGUF file, or folder as Hugging Face keeps models
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// Text to train on, in UTF-8 or UTF-16; never the text that you evaluate on
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub text: Vec<PathBuf>,
    /// Pack to write
    #[arg(short = 'o', long = "output", value_name = "PACK")]
    pub out: PathBuf,
    /// Steps of the optimizer
    #[arg(long, value_name = "N", default_value_t = 300)]
    pub steps: usize,
    /// Windows of a step
    #[arg(long, value_name = "N", default_value_t = 12)]
    pub batch: usize,
    /// Tokens of a window
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub seq: usize,
    /// Seed of everything random
    #[arg(short = 's', long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Text to run the unquantized model over, which tells how much each input counts when the ranges that training
    /// starts from are chosen; - for standard input [default: the sample of `quantize`]
    #[arg(long, value_name = "FILE", conflicts_with = "no_importance")]
    pub importance: Option<PathBuf>,
    /// Start from ranges that are chosen by the weights alone
    #[arg(long)]
    pub no_importance: bool,
    /// Device memory that the run may take: less is computed at once, and layers come from a file, until it fits
    #[arg(long, value_name = "SIZE", default_value = "8GiB", value_parser = numbers::size)]
    pub memory: bytesize::ByteSize,
    /// Device to train on: `cpu`, `gpu`, a number or a part of a name from `edge-run devices` [default: the best GPU]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// Replace a pack that is there already
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Model folder, or a name of `edge-run list`
    #[arg(value_name = "DIR|NAME")]
    pub dir: PathBuf,
    /// Write JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Model folder, or a name of `edge-run list`
    #[arg(value_name = "DIR|NAME")]
    pub dir: PathBuf,
}

/// Arguments of `devices`.
#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// Write JSON
    #[arg(long)]
    pub json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("edge-run").chain(line.split(' ')))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_names_of_llama_cpp_are_understood() {
        let line =
            "-m dir -p Hi -n 5 -c 512 --temp 0 --top-k 1 --top-p 0.5 --min-p 0 --repeat-penalty 1.1 -s 7 --bits 4";
        let cli = parse(line).unwrap().generate;
        assert_eq!((cli.prompt_flag.as_deref(), cli.n_predict, cli.ctx_size), (Some("Hi"), 5, Some(512)));
        assert_eq!((cli.sampling.seed, cli.power.bits, cli.sampling.top_k), (7, Some(4.0), Some(1)));
        let cli = parse("-n -1 -s -1 --power-mode low Hi").unwrap().generate;
        assert_eq!((cli.n_predict, cli.sampling.seed, cli.prompt.as_deref()), (-1, -1, Some("Hi")));
        // Where a number says "as many as there are" there, it does here.
        let cli = parse("-n -2 -c -1 --top-k -1 --temp -1 -s -7 -").unwrap().generate;
        assert_eq!((cli.n_predict, cli.ctx_size, cli.sampling.top_k), (-2, Some(0), Some(0)));
        assert_eq!((cli.sampling.temp, cli.sampling.seed, cli.prompt.as_deref()), (Some(0.0), -7, Some("-")));
        for line in ["--top-k 1.5 Hi", "-c 4294967296 Hi", "-c many Hi", "--top-k - Hi", "--temp warm Hi", "-n -x Hi"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_prompt_that_names_a_command_is_reached_with_p() {
        assert!(matches!(parse("devices").unwrap().command, Some(CliCommand::Devices(_))));
        let cli = parse("-p devices").unwrap();
        assert!(cli.command.is_none() && cli.generate.prompt_flag.as_deref() == Some("devices"));
    }

    #[test]
    fn any_bits_from_two_to_eight_are_understood() {
        for (text, bits) in [("2", 2.0), ("3.5", 3.5), ("8.0", 8.0)] {
            assert_eq!(parse(&format!("--bits {text} Hi")).unwrap().generate.power.bits, Some(bits));
        }
        for text in ["1.9", "8.1", "nan", "inf", "four", "-4"] {
            assert!(parse(&format!("--bits {text} Hi")).is_err(), "{text}");
        }
    }

    #[test]
    fn several_bits_come_with_commas() {
        let Some(CliCommand::Eval(eval)) = parse("eval --text f --bits 2.5,4,8").unwrap().command else {
            panic!("no eval")
        };
        assert_eq!(eval.bits, [2.5, 4.0, 8.0]);
        for bits in ["-1", "-4,8", "4,-4", "1.9", "8.1", "nan", "inf", "4,,8", "4;8", "four", ""] {
            let error = parse(&format!("eval --text f --bits {bits}")).unwrap_err().to_string();
            assert!(error.contains("--bits") && error.contains("numbers from 2 to 8"), "{bits}: {error}");
        }
    }

    #[test]
    fn eval_takes_a_text_or_a_task_and_what_goes_with_it() {
        for line in [
            "--text f --task g",
            "--task g --window 8",
            "--task g --windows 8",
            "--task g --plot p.svg",
            "--text f --limit 3",
            "--json",
        ] {
            assert!(parse(&format!("eval {line}")).is_err(), "{line}");
        }
        assert!(parse("eval --task g --limit 3 --bits 2,8 --shuffle-gates --detail").is_ok());
    }
}
