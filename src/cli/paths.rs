//! Where models lie on this machine.

use std::path::PathBuf;

use etcetera::BaseStrategy;

use super::Done;
use super::args::{PathsArgs, Place};
use super::exit::Exit;
use super::output::print_line;
use crate::error::{Error, Result};

/// The command that gets the default model.
pub const FETCH_COMMAND: &str = "scripts/fetch-default-model";

/// Name of the default model's folder.
const DEFAULT_MODEL: &str = "SmolLM2-135M-Instruct";

/// The folder of models: `edge-run/models` in the user's data folder (`XDG_DATA_HOME`, or `%APPDATA%` on Windows).
pub fn models_dir() -> Result<PathBuf> {
    let strategy =
        etcetera::choose_base_strategy().map_err(|e| Error::io("find", "the home folder")(std::io::Error::other(e)))?;
    Ok(strategy.data_dir().join("edge-run").join("models"))
}

/// The folder of the model that runs where none is named.
pub fn default_model_dir() -> Result<PathBuf> {
    Ok(models_dir()?.join(DEFAULT_MODEL))
}

/// Prints one path, or all with their names.
pub fn run(args: &PathsArgs) -> Done {
    match args.which {
        Some(Place::Models) => print_line(models_dir()?.display())?,
        Some(Place::DefaultModel) => print_line(default_model_dir()?.display())?,
        None => {
            print_line(format_args!("models         {}", models_dir()?.display()))?;
            print_line(format_args!("default-model  {}", default_model_dir()?.display()))?;
        }
    }
    Ok(Exit::Done)
}
