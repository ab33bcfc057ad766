//! Where models, the configuration, compiled pipelines and trials lie on this machine.

use std::path::PathBuf;

use etcetera::BaseStrategy;
use etcetera::base_strategy::choose_base_strategy;

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
    Ok(strategy()?.data_dir().join("edge-run").join("models"))
}

/// The folder of the model that runs where none is named.
pub fn default_model_dir() -> Result<PathBuf> {
    Ok(models_dir()?.join(DEFAULT_MODEL))
}

/// The configuration file that is read where none is named: `edge-run/edge-run.toml` in the user's configuration folder
/// (`XDG_CONFIG_HOME`, or `%APPDATA%` on Windows).
pub fn config_file() -> Result<PathBuf> {
    Ok(strategy()?.config_dir().join("edge-run").join("edge-run.toml"))
}

/// The folder of compiled pipelines: `edge-run/pipelines` in the user's cache folder (`XDG_CACHE_HOME`, or
/// `%LOCALAPPDATA%` on Windows).
pub fn pipelines_dir() -> Result<PathBuf> {
    Ok(strategy()?.cache_dir().join("edge-run").join("pipelines"))
}

/// The file of trials of activations: `edge-run/activations.json` in the user's cache folder.
pub fn activations_file() -> Result<PathBuf> {
    Ok(strategy()?.cache_dir().join("edge-run").join("activations.json"))
}

fn strategy() -> Result<impl BaseStrategy> {
    choose_base_strategy().map_err(|e| Error::io("find", "the home folder")(std::io::Error::other(e)))
}

/// Prints one path, or all with their names.
pub fn run(args: &PathsArgs) -> Done {
    match args.which {
        Some(Place::Models) => print_line(models_dir()?.display())?,
        Some(Place::DefaultModel) => print_line(default_model_dir()?.display())?,
        Some(Place::Config) => print_line(config_file()?.display())?,
        Some(Place::Pipelines) => print_line(pipelines_dir()?.display())?,
        Some(Place::Activations) => print_line(activations_file()?.display())?,
        None => {
            print_line(format_args!("models         {}", models_dir()?.display()))?;
            print_line(format_args!("default-model  {}", default_model_dir()?.display()))?;
            print_line(format_args!("config         {}", config_file()?.display()))?;
            print_line(format_args!("pipelines      {}", pipelines_dir()?.display()))?;
            print_line(format_args!("activations    {}", activations_file()?.display()))?;
        }
    }
    Ok(Exit::Done)
}
