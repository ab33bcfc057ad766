//! The `edge-run` program; all of it is in [`edge_run::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    edge_run::cli::main()
}
