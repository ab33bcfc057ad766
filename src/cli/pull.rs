//! `edge-run pull`: a model from the Hugging Face hub, quantized into the place of models.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;

use super::args::CutArgs;
use super::exit::Exit;
use super::models::{Origin, StoredModel, pulled};
use super::output::note;
use super::paths::{hub_cache_dir, hub_home, print_path};
use super::progress::{self, BarUnit};
use super::{Done, quantize, stop, terminal};
use edge_run::internals::error::{Error, Result};
use edge_run::internals::format::{MANIFEST_FILE, ModelFolder, sha256};
use edge_run::internals::hub::{Hub, HubEvent, HubOptions, HubReport, HubSelection, HubStage, RepoName};
use edge_run::internals::quantize::{QuantizeOptions, check_config};

/// Arguments of `pull`.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Repository on the Hugging Face hub; FILE is one of its GGUF files, or a quantization such as Q8_0
    #[arg(value_name = "OWNER/MODEL[:FILE]")]
    pub model: String,
    /// Branch, tag or commit
    #[arg(long, value_name = "REVISION", default_value = "main")]
    pub revision: String,
    /// How the weights are cut.
    #[command(flatten)]
    pub cut: CutArgs,
    /// Quantize again, also where the model is there already, and in the place of one that was not pulled
    #[arg(long)]
    pub force: bool,
    /// Only fetch the source, for `quantize` and `calibrate`, and print where it is
    #[arg(
        long,
        conflicts_with_all = ["group_size", "calibration", "importance", "no_importance", "no_compensation", "force"]
    )]
    pub source_only: bool,
}

/// Fetches and quantizes the model, and prints its folder.
pub fn run(args: &PullArgs) -> Done {
    let (repo, file) = args.model.split_once(':').map_or((&*args.model, None), |(repo, file)| (repo, Some(file)));
    let repo: RepoName = repo.parse()?;
    let hub = Hub::new(hub_options()?)?;
    let text = quantize::importance_text(&args.cut)?;
    stop::watch();
    let mut bars = PullBars::default();
    let _locked = hub.lock(&repo, &mut |event| bars.show(event))?;
    let mut selection = hub.select(&repo, &args.revision, file, &mut |event| bars.show(event))?;
    let model = pulled(&repo, selection.gguf.as_deref())?;
    if !args.source_only && is_there(args, &selection, &model)? {
        note(format_args!("{} is here already, of commit {}", model.name(), selection.commit));
        return print_path(&model.dir).map(|()| Exit::Done);
    }
    let report = fetch(&hub, &mut selection, &mut bars);
    bars.clear();
    let report = report?;
    let (size, kept) = (progress::bytes(report.bytes), report.repo_dir.display());
    let fetched = progress::bytes(report.fetched_bytes);
    note(format_args!("{repo}: {size} of weights, {fetched} of them fetched; they stay in `{kept}`"));
    if args.source_only {
        return print_path(&report.source).map(|()| Exit::Done);
    }
    quantize::make(&report.source, &quantize_options(args, &model), &args.cut, text)?;
    origin(&selection, &model.dir)?.write(&model.dir)?;
    note(format_args!(
        "`edge-run -m {}` runs it; the source is no longer needed: delete `{kept}` to free its disk",
        model.name()
    ));
    print_path(&model.dir).map(|()| Exit::Done)
}

/// Fetches the small files, looks whether such a model runs, and fetches the weights.
fn fetch(hub: &Hub, selection: &mut HubSelection, bars: &mut PullBars) -> Result<HubReport> {
    let folder = hub.fetch_texts(selection, &mut |event| bars.show(event))?;
    if selection.gguf.is_none() {
        check_config(&folder)?;
    }
    hub.fetch_weights(selection, &mut |event| bars.show(event))
}

/// Whether the model is there as it was asked for. Fails where another one is in its place, which would be lost.
fn is_there(args: &PullArgs, selection: &HubSelection, model: &StoredModel) -> Result<bool> {
    if args.force || !model.dir.join(MANIFEST_FILE).exists() {
        return Ok(false);
    }
    let Some(origin) = model.origin() else {
        let got = "a model that was not pulled: --force replaces it";
        return Err(Error::argument(format!("output `{}`", model.dir.display()), "no model or a pulled one", got));
    };
    // A damaged one is made anew.
    let Ok(folder) = ModelFolder::open(&model.dir) else { return Ok(false) };
    let CutArgs { calibration, importance, no_importance, no_compensation, group_size } = &args.cut;
    let as_always = calibration.is_none() && importance.is_none() && !no_importance && !no_compensation;
    let same_cut = as_always && group_size.is_none_or(|size| size == folder.group_size());
    Ok(same_cut && origin.commit == selection.commit && origin.file == selection.gguf)
}

fn quantize_options(args: &PullArgs, model: &StoredModel) -> QuantizeOptions {
    QuantizeOptions {
        out: model.dir.clone(),
        group_size: args.cut.group_size,
        calibration: args.cut.calibration.clone(),
        // Whether that may be was asked before.
        replace: model.dir.join(MANIFEST_FILE).exists(),
    }
}

fn origin(selection: &HubSelection, dir: &Path) -> Result<Origin> {
    let manifest = dir.join(MANIFEST_FILE);
    let bytes = fs::read(&manifest).map_err(Error::io("read", manifest))?;
    Ok(Origin {
        repository: selection.repo.to_string(),
        file: selection.gguf.clone(),
        revision: selection.revision.clone(),
        commit: selection.commit.clone(),
        pulled: jiff::Timestamp::now().as_second(),
        manifest_sha256: sha256(&bytes),
    })
}

/// What the environment says of the hub, in the variables of Hugging Face's own programs.
fn hub_options() -> Result<HubOptions> {
    let mut options = HubOptions::new(hub_cache_dir()?);
    if let Some(endpoint) = variable("HF_ENDPOINT") {
        options.endpoint = endpoint;
    }
    options.offline = variable("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value));
    options.token = token()?;
    Ok(options)
}

/// The access token of the environment, else that of the hub's token file.
fn token() -> Result<Option<String>> {
    if let Some(token) = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].into_iter().find_map(variable) {
        return Ok(Some(token));
    }
    let named = variable("HF_TOKEN_PATH").map(PathBuf::from);
    // Without a home folder there is no such file.
    let Some(path) = named.or_else(|| Some(hub_home().ok()?.join("token"))) else { return Ok(None) };
    let text = match fs::read_to_string(&path) {
        Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(Error::io("read", path))?,
    };
    Ok(Some(text.trim().to_string()).filter(|token| !token.is_empty()))
}

/// The value of an environment variable that is set to something.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().map(|value| value.trim().to_string()).filter(|value| !value.is_empty())
}

fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str())
}

/// One bar at a time, for the file at hand.
#[derive(Default)]
struct PullBars {
    shown: Option<(HubStage, ProgressBar)>,
}

impl PullBars {
    fn show(&mut self, event: HubEvent) -> std::ops::ControlFlow<()> {
        match event {
            HubEvent::Note(sentence) => {
                self.clear();
                note(sentence);
            }
            HubEvent::Progress { stage, name, done, total } => self.bar(stage, name, done, total),
            HubEvent::Waiting => {}
        }
        stop::flow()
    }

    fn bar(&mut self, stage: HubStage, name: &str, done: u64, total: u64) {
        if self.shown.as_ref().is_none_or(|(shown, _)| *shown != stage) {
            self.clear();
            let what = match stage {
                HubStage::Download => "pull",
                HubStage::Check => "check",
            };
            self.shown = Some((stage, progress::bar(what, total, BarUnit::Bytes)));
        }
        if let Some((_, bar)) = &self.shown {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(terminal::in_a_line(name));
        }
    }

    fn clear(&mut self) {
        if let Some((_, bar)) = self.shown.take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_switch_is_on_in_four_words() {
        assert!(["1", "ON", "Yes", "true"].into_iter().all(is_true));
        assert!(!["0", "off", "", "2"].into_iter().any(is_true));
    }
}
