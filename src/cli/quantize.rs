//! `edge-run quantize`: a checkpoint in, a model folder out.

use std::path::Path;

use indicatif::ProgressBar;

use super::Done;
use super::args::{CutArgs, QuantizeArgs};
use super::exit::Exit;
use super::output::{note, warn};
use super::progress::{self, BarUnit};
use super::settings::{read_text, text_name};
use super::{stop, terminal};
use edge_run::internals::error::Result;
use edge_run::internals::quantize::{
    self, Importance, MeasureImportance, QuantizeOptions, QuantizeProgress, Source, Stage,
};
use edge_run::internals::text::TextModel;
use edge_run::internals::unquantized::ImportancePlan;

/// Prose, code and talk of several kinds.
const SAMPLE: &str = include_str!("../../assets/sample.txt");

/// Makes the model folder, with an estimate before and a bar meanwhile.
pub fn run(args: &QuantizeArgs) -> Done {
    let options = QuantizeOptions {
        out: args.out.clone(),
        group_size: args.cut.group_size,
        calibration: args.cut.calibration.clone(),
        replace: args.force,
    };
    make(&args.source, &options, &args.cut, importance_text(&args.cut)?).map(|()| Exit::Done)
}

/// Makes the model folder of the source, whose weights are cut as the arguments say and by what `text` tells of their
/// importance.
pub fn make(source: &Path, options: &QuantizeOptions, cut: &CutArgs, text: Option<ImportanceText>) -> Result<()> {
    let mut source = quantize::open(source)?;
    warn(source.warnings());
    let estimate = quantize::estimate(source.as_ref(), options)?;
    let (assets, tokenizer) = quantize::checked_text(source.as_ref())?;
    warn(&assets.warnings);
    let plan = text.map(|text| text.plan(source.as_ref(), &tokenizer)).transpose()?;
    let plan = if cut.no_compensation { plan } else { plan.map(ImportancePlan::with_moments) };
    let measuring = plan.as_ref().map_or(0, ImportancePlan::memory_bytes);
    let cutting = estimate.memory_bytes + plan.as_ref().map_or(0, ImportancePlan::cutting_bytes);
    let memory = cutting.max(measuring);
    let (disk, memory) = (progress::bytes(estimate.disk_bytes), progress::bytes(memory));
    let name = &source.model_source().name;
    note(format_args!("{name}: will take {disk} of disk and about {memory} of memory"));
    stop::watch();
    let mut measured = plan.map(|plan| move |source: &mut dyn Source| measure(&plan, source));
    let measured = measured.as_mut().map(|measured| measured as &mut MeasureImportance<'_>);
    let mut bars = QuantizeBars::default();
    let report = quantize::quantize_by(source.as_mut(), options, measured, &mut |progress| {
        bars.show(progress);
        stop::flow()
    });
    bars.clear();
    let report = report?;
    let size = progress::bytes(report.bytes);
    note(format_args!(
        "`{}`: {} weights in groups of {}, {size}, in {:.1} s",
        report.dir.display(),
        report.params,
        report.group_size,
        report.seconds
    ));
    Ok(())
}

/// A text that the importance of inputs is measured on, and what errors call it.
pub struct ImportanceText {
    name: String,
    text: String,
}

impl ImportanceText {
    /// A measurement on it.
    pub fn plan(&self, source: &dyn Source, tokenizer: &TextModel) -> Result<ImportancePlan> {
        ImportancePlan::new(source, tokenizer, &self.name, &self.text)
    }
}

/// The text that the importance of inputs is measured on when weights are cut; `None` where none is asked for and no
/// more than the ranges of the embedding and the head would depend on it.
pub fn importance_text(cut: &CutArgs) -> Result<Option<ImportanceText>> {
    let is_idle = cut.no_compensation && cut.calibration.is_some();
    text_of(cut.importance.as_deref(), cut.no_importance || is_idle)
}

/// The text of the file, or else the sample, unless none is wanted. A text may come from a pipe, for which this waits,
/// so it is read while a signal still ends the program.
pub fn text_of(file: Option<&Path>, is_unwanted: bool) -> Result<Option<ImportanceText>> {
    let (name, text) = match file {
        Some(file) => (text_name("--importance", file), read_text("--importance", file)?),
        None if is_unwanted => return Ok(None),
        None => ("the sample text".to_string(), SAMPLE.to_string()),
    };
    Ok(Some(ImportanceText { name, text }))
}

/// Runs the unquantized model, with a bar.
pub fn measure(plan: &ImportancePlan, source: &mut dyn Source) -> Result<Importance> {
    let bar = progress::bar("measure", 0, BarUnit::Percent);
    let importance = plan.measure(source, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        stop::flow()
    });
    bar.finish_and_clear();
    importance
}

/// One bar at a time, for the stage at hand.
#[derive(Default)]
struct QuantizeBars {
    shown: Option<(Stage, ProgressBar)>,
}

impl QuantizeBars {
    fn show(&mut self, progress: &QuantizeProgress<'_>) {
        if self.shown.as_ref().is_none_or(|(stage, _)| *stage != progress.stage) {
            self.clear();
            let (what, unit) = match progress.stage {
                Stage::SourceHash => ("check", BarUnit::Weights),
                Stage::Channels => ("scale", BarUnit::Percent),
                Stage::Weights => ("quantize", BarUnit::Weights),
                Stage::Hashes => ("hash", BarUnit::Bytes),
            };
            self.shown = Some((progress.stage, progress::bar(what, progress.total, unit)));
        }
        if let Some((_, bar)) = &self.shown {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            bar.set_message(terminal::in_a_line(progress.name));
        }
    }

    fn clear(&mut self) {
        if let Some((_, bar)) = self.shown.take() {
            bar.finish_and_clear();
        }
    }
}
