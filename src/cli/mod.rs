//! The command line: from words to settings, from settings to work, from failures to exit codes.

mod args;
mod bench;
mod calibrate;
mod chat;
mod choices;
mod devices;
mod eval;
mod exit;
mod export;
mod flags;
mod generate;
mod inspect;
mod list;
mod load;
mod logits;
mod models;
mod numbers;
mod output;
mod paths;
mod power;
mod progress;
mod pull;
mod quantize;
mod resident;
mod rm;
mod sampling;
mod settings;
mod show_bits;
mod signals;
mod stop;
mod terminal;
mod verify;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::{ContextKind, ErrorKind};

use args::{Cli, CliCommand};
use exit::Exit;

use edge_run::internals::error::Result;

/// What a command comes to.
type Done = Result<Exit>;

/// Runs the program on this process's command line.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(answer) => {
            // Help and version are such answers too. Where nobody listens there is no one to tell.
            let _ = tell(&answer);
            if is_of_loose_words(&answer) {
                output::note("A prompt of several words is put in quotes. `edge-run --help` has all commands.");
            }
            let exit = if answer.use_stderr() { Exit::Usage } else { Exit::Done };
            return ExitCode::from(exit.code());
        }
    };
    let exit = run(&cli).unwrap_or_else(|error| {
        output::note(format_args!("error: {}", exit::sentence(&error)));
        if let Some(advice) = exit::advice(&error) {
            output::note(advice);
        }
        Exit::after(&error)
    });
    ExitCode::from(exit.code())
}

/// Prints what clap says; words of the command line that it repeats, which may be names of files, are not obeyed.
fn tell(answer: &clap::Error) -> std::io::Result<()> {
    let obeyed = |word: OsString| word.to_string_lossy().contains(terminal::is_control);
    if answer.use_stderr() && std::env::args_os().any(obeyed) {
        return std::io::stderr().write_all(terminal::in_lines(&answer.render().to_string()).as_bytes());
    }
    answer.print()
}

/// Whether words were not understood that may be a prompt without quotes, or a misspelt command before its arguments.
fn is_of_loose_words(answer: &clap::Error) -> bool {
    let before = answer.get(ContextKind::PriorArg).map(ToString::to_string);
    answer.kind() == ErrorKind::ArgumentConflict && before.is_some_and(|words| words.contains("[PROMPT]"))
}

fn run(cli: &Cli) -> Done {
    match &cli.command {
        None => generate::run(&cli.generate),
        Some(CliCommand::Chat(args)) => chat::run(args),
        Some(CliCommand::Quantize(args)) => quantize::run(args),
        Some(CliCommand::Pull(args)) => pull::run(args),
        Some(CliCommand::List(args)) => list::run(args),
        Some(CliCommand::Rm(args)) => rm::run(args),
        Some(CliCommand::Calibrate(args)) => calibrate::run(args),
        Some(CliCommand::Export(args)) => export::run(args),
        Some(CliCommand::Inspect(args)) => inspect::run(args),
        Some(CliCommand::Verify(args)) => verify::run(args),
        Some(CliCommand::Devices(args)) => devices::run(args),
        Some(CliCommand::Eval(args)) => eval::run(args),
        Some(CliCommand::Logits(args)) => logits::run(args),
        Some(CliCommand::Bench(args)) => bench::run(args),
        Some(CliCommand::Power(args)) => power::run(args),
        Some(CliCommand::Paths(args)) => paths::run(args),
    }
}
