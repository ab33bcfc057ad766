//! Where models, the configuration, compiled pipelines, trials and the history lie on this machine.

use std::io::{ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use etcetera::BaseStrategy;
use etcetera::base_strategy::choose_base_strategy;

use super::exit::Exit;
use super::output::print_line;
use super::{Done, terminal};
use edge_run::internals::error::{Error, Result};

/// Arguments of `paths`.
#[derive(Debug, Args)]
pub struct PathsArgs {
    /// Print only this one, and nothing but it
    #[arg(value_enum)]
    pub which: Option<KnownPath>,
}

/// A path that the program knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KnownPath {
    /// The folder of models
    Models,
    /// The model that runs without -m
    DefaultModel,
    /// The configuration file that is read without --config
    Config,
    /// The folder of pipelines that the GPU's driver has compiled
    Pipelines,
    /// The file of trials by which --activations auto chooses
    Activations,
    /// The file of what was typed in `edge-run chat`
    History,
    /// The cache of the Hugging Face hub, where `pull` keeps sources
    HubCache,
}

/// How this system names a user's folders: as [`choose_base_strategy`] chooses.
#[cfg(windows)]
type Strategy = etcetera::base_strategy::Windows;
#[cfg(not(windows))]
type Strategy = etcetera::base_strategy::Xdg;

/// The command that gets the default model.
pub const FETCH_COMMAND: &str = "scripts/fetch-default-model";

/// Name of the default model's folder.
const DEFAULT_MODEL: &str = "SmolLM2-135M-Instruct";

/// The folder of models: `edge-run/models` in the user's data folder (`XDG_DATA_HOME`, or `%APPDATA%` on Windows).
///
/// This, and each of the others, fails where the user has no home folder and no variable names that folder.
pub fn models_dir() -> Result<PathBuf> {
    Ok(folder("XDG_DATA_HOME", BaseStrategy::data_dir)?.join("models"))
}

/// The folder of the model that runs where none is named.
pub fn default_model_dir() -> Result<PathBuf> {
    Ok(models_dir()?.join(DEFAULT_MODEL))
}

/// The configuration file that is read where none is named: `edge-run/edge-run.toml` in the user's configuration folder
/// (`XDG_CONFIG_HOME`, or `%APPDATA%` on Windows).
pub fn config_file() -> Result<PathBuf> {
    Ok(folder("XDG_CONFIG_HOME", BaseStrategy::config_dir)?.join("edge-run.toml"))
}

/// The folder of compiled pipelines: `edge-run/pipelines` in the user's cache folder (`XDG_CACHE_HOME`, or
/// `%LOCALAPPDATA%` on Windows).
pub fn pipelines_dir() -> Result<PathBuf> {
    Ok(folder("XDG_CACHE_HOME", BaseStrategy::cache_dir)?.join("pipelines"))
}

/// The file of trials of activations: `edge-run/activations.json` in the user's cache folder.
pub fn activations_file() -> Result<PathBuf> {
    Ok(folder("XDG_CACHE_HOME", BaseStrategy::cache_dir)?.join("activations.json"))
}

/// The file of what was typed in conversations: `edge-run/history` in the user's state folder (`XDG_STATE_HOME`, or
/// `%APPDATA%` on Windows).
pub fn history_file() -> Result<PathBuf> {
    let of = |strategy: &Strategy| strategy.state_dir().unwrap_or_else(|| strategy.data_dir());
    Ok(folder("XDG_STATE_HOME", of)?.join("history"))
}

/// The folder of Hugging Face's own programs: `HF_HOME`, or `huggingface` in the user's cache folder, which is
/// `XDG_CACHE_HOME` or `~/.cache` on every system.
pub fn hub_home() -> Result<PathBuf> {
    if let Some(home) = named_folder("HF_HOME")? {
        return Ok(home);
    }
    match named_folder("XDG_CACHE_HOME")?.filter(|cache| cache.is_absolute()) {
        Some(cache) => Ok(cache.join("huggingface")),
        None => Ok(home()?.join(".cache/huggingface")),
    }
}

/// The cache of the Hugging Face hub, as its own programs find it: `HF_HUB_CACHE`, or `hub` in [`hub_home`].
pub fn hub_cache_dir() -> Result<PathBuf> {
    for variable in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"] {
        if let Some(folder) = named_folder(variable)? {
            return Ok(folder);
        }
    }
    Ok(hub_home()?.join("hub"))
}

/// The folder that an environment variable names, if it does; `~` in it is the user's home folder.
fn named_folder(variable: &str) -> Result<Option<PathBuf>> {
    let Some(named) = std::env::var_os(variable).filter(|named| !named.is_empty()) else { return Ok(None) };
    let named = PathBuf::from(named);
    match named.strip_prefix("~") {
        Ok(rest) => Ok(Some(home()?.join(rest))),
        Err(_) => Ok(Some(named)),
    }
}

fn home() -> Result<PathBuf> {
    etcetera::home_dir().ok().filter(|home| home.is_absolute()).ok_or_else(|| no_home("HF_HOME"))
}

/// What to say where the default model is asked for and there is no home folder that it could lie in.
pub fn no_default_model() -> Error {
    Error::ModelMissing {
        path: Path::new("~").join(".local/share/edge-run/models").join(DEFAULT_MODEL),
        advice: "this user has no home folder for it, as HOME names none; -m DIR names a model".into(),
    }
}

/// edge-run's own folder in one of the user's. Without a home folder the one that `variable` names still counts; none
/// that is relative does, as it would be another one from each place where the program starts.
fn folder(variable: &str, of: fn(&Strategy) -> PathBuf) -> Result<PathBuf> {
    let folder = match choose_base_strategy() {
        Ok(strategy) => of(&strategy),
        Err(_) => std::env::var_os(variable).map(PathBuf::from).unwrap_or_default(),
    };
    if folder.is_absolute() { Ok(folder.join("edge-run")) } else { Err(no_home(variable)) }
}

fn no_home(variable: &str) -> Error {
    let reason = format!("neither HOME nor {variable} names a folder by its whole path");
    Error::io("find", "the home folder")(std::io::Error::new(ErrorKind::NotFound, reason))
}

/// Prints one path, or all with their names.
pub fn run(args: &PathsArgs) -> Done {
    if let Some(which) = args.which {
        return print_path(&find(which)?).map(|()| Exit::Done);
    }
    for place in KnownPath::value_variants() {
        let name = place.to_possible_value().expect("no place is hidden");
        let path = find(*place).map_or("none, without a home folder".to_string(), |path| path.display().to_string());
        print_line(format_args!("{:<13}  {}", name.get_name(), terminal::in_a_line(path)))?;
    }
    Ok(Exit::Done)
}

/// Prints a path for scripts, which get it as it is; a terminal is shown its control characters.
pub fn print_path(path: &Path) -> Result<()> {
    if std::io::stdout().is_terminal() {
        return print_line(terminal::in_a_line(path.display()));
    }
    print_line(path.display())
}

fn find(place: KnownPath) -> Result<PathBuf> {
    match place {
        KnownPath::Models => models_dir(),
        KnownPath::DefaultModel => default_model_dir(),
        KnownPath::Config => config_file(),
        KnownPath::Pipelines => pipelines_dir(),
        KnownPath::Activations => activations_file(),
        KnownPath::History => history_file(),
        KnownPath::HubCache => hub_cache_dir(),
    }
}
