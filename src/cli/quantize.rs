//! `edge-run quantize`: a checkpoint in, a model folder out.

use std::path::Path;

use indicatif::ProgressBar;

use super::Done;
use super::args::QuantizeArgs;
use super::exit::Exit;
use super::output::{note, warn};
use super::progress::{self, BarUnit};
use super::{stop, terminal};
use edge_run::internals::error::Result;
use edge_run::internals::quantize::{self, QuantizeOptions, QuantizeProgress, Stage};

/// Makes the model folder, with an estimate before and a bar meanwhile.
pub fn run(args: &QuantizeArgs) -> Done {
    let options = QuantizeOptions {
        out: args.out.clone(),
        group_size: args.cut.group_size,
        calibration: args.cut.calibration.clone(),
        replace: args.force,
    };
    make(&args.source, &options).map(|()| Exit::Done)
}

/// Makes the model folder of the source.
pub fn make(source: &Path, options: &QuantizeOptions) -> Result<()> {
    let mut source = quantize::open(source)?;
    warn(source.warnings());
    warn(&quantize::checked_text(source.as_ref())?.warnings);
    let estimate = quantize::estimate(source.as_ref(), options)?;
    let (disk, memory) = (progress::bytes(estimate.disk_bytes), progress::bytes(estimate.memory_bytes));
    let name = &source.model_source().name;
    note(format_args!("{name}: will take {disk} of disk and about {memory} of memory"));
    stop::watch();
    let mut bars = QuantizeBars::default();
    let report = quantize::quantize(source.as_mut(), options, &mut |progress| {
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
