//! `edge-run rm`: removes one of the user's models, after a question.

use std::fs;
use std::io::{BufRead, IsTerminal, Write};

use clap::Args;

use super::exit::Exit;
use super::models::{ORIGIN_FILE, StoredModel, find, stored};
use super::output::note;
use super::paths::models_dir;
use super::{Done, progress, terminal};
use edge_run::internals::error::{Error, Result};
use edge_run::internals::format::{ModelFolder, remove_model};

/// Arguments of `rm`.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// The model's name, as `edge-run list` shows it
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Remove it without a question
    #[arg(short = 'y', long)]
    pub yes: bool,
}

/// Removes the model, and nothing else of its folder.
pub fn run(args: &RmArgs) -> Done {
    let root = models_dir()?;
    let models = stored(&root)?;
    let Some(model) = find(&models, &args.name)? else {
        let advice = "it is no name of `edge-run list`; folders elsewhere are yours to remove".to_string();
        return Err(Error::ModelMissing { path: args.name.clone().into(), advice });
    };
    if !args.yes && !is_wanted(model)? {
        note("nothing was removed");
        return Ok(Exit::Done);
    }
    remove(model)?;
    note(format_args!("{} is removed", model.name()));
    Ok(Exit::Done)
}

fn is_wanted(model: &StoredModel) -> Result<bool> {
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(Error::argument("rm", "--yes, where nobody can be asked", "no terminal"));
    }
    let size = ModelFolder::open(&model.dir).map_or("damaged".into(), |f| progress::bytes(f.summary().total_bytes));
    let (name, dir) = (terminal::in_a_line(model.name()), terminal::in_a_line(model.dir.display()));
    let mut stderr = std::io::stderr();
    let asked = write!(stderr, "remove {name} ({size}) in `{dir}`? [y/N] ").and_then(|()| stderr.flush());
    asked.map_err(Error::io("write", "standard error"))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(Error::io("read", "standard input"))?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}

fn remove(model: &StoredModel) -> Result<()> {
    // A link in the place of models may lead anywhere; what it leads to is not in that place.
    if fs::symlink_metadata(&model.dir).is_ok_and(|found| found.is_symlink()) {
        let removed = fs::remove_file(&model.dir).or_else(|_| fs::remove_dir(&model.dir));
        removed.map_err(Error::io("remove", &model.dir))?;
        note(format_args!("`{}` was a link: the model that it led to is as it was", model.dir.display()));
        return Ok(());
    }
    if !remove_model(&model.dir, &[ORIGIN_FILE])? {
        note(format_args!("`{}` has other files, which stay", model.dir.display()));
    }
    Ok(())
}
