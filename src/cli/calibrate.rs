//! `edge-run calibrate`: text in, a pack of ranges and routers out.

use super::Done;
use super::args::CalibrateArgs;

/// Trains, with a bar, and writes the pack.
#[cfg(feature = "calibrate")]
pub fn run(args: &CalibrateArgs) -> Done {
    training::run(args)
}

/// Says what this build lacks.
#[cfg(not(feature = "calibrate"))]
pub fn run(_args: &CalibrateArgs) -> Done {
    Err(edge_run::internals::error::Error::Unsupported {
        what: "command".into(),
        got: "calibrate".into(),
        supported: "a build with `cargo build --release --features calibrate`".into(),
    })
}

#[cfg(feature = "calibrate")]
mod training {
    use indicatif::ProgressBar;

    use super::{CalibrateArgs, Done};
    use crate::cli::exit::Exit;
    use crate::cli::output::note;
    use crate::cli::progress::{self, BarUnit};
    use crate::cli::quantize::{measure, text_of};
    use crate::cli::{devices, stop};
    use edge_run::internals::calibrate::{
        self, CalibrationOptions, CalibrationProgress, Chosen, HeldOut, Memory, StepLog,
    };
    use edge_run::internals::engine::DeviceKind;
    use edge_run::internals::error::{Error, Result};
    use edge_run::internals::format::file_place;
    use edge_run::internals::quantize::{self, MeasureImportance, Source};
    use edge_run::internals::unquantized::ImportancePlan;

    /// Lines that a run leaves on a terminal's scroll, or in a log.
    const LOG_LINES: usize = 10;

    pub fn run(args: &CalibrateArgs) -> Done {
        let options = options(args);
        if options.out.exists() && !args.force {
            let expected = "a path where nothing is, or --force";
            return Err(Error::argument("--output", expected, options.out.display()));
        }
        // Before hours of work, so that nothing about the place can make it be for nothing.
        file_place(&options.out)?;
        file_place(&calibrate::checkpoint_path(&options.out))?;
        let text = text_of(args.importance.as_deref(), args.no_importance)?;
        stop::watch();
        let mut source = quantize::open(&args.source)?;
        crate::cli::output::warn(source.warnings());
        let tokenizer = quantize::source_text(source.as_ref())?;
        let plan = text.map(|text| text.plan(source.as_ref(), &tokenizer)).transpose()?;
        // As `quantize` measures it, so that it cuts what was trained on.
        let plan = plan.map(ImportancePlan::with_moments);
        let mut measured = plan.map(|plan| move |source: &mut dyn Source| measure(&plan, source));
        let measured = measured.as_mut().map(|measured| measured as &mut MeasureImportance<'_>);
        let (device, name) = device(args)?;
        note(format_args!("{}: calibration on {name}", source.model_source().name));
        let mut bars = CalibrationBars { options: &options, shown: None };
        let mut on_progress = |progress| {
            bars.show(progress);
            stop::flow()
        };
        let report =
            calibrate::calibrate(source.as_mut(), &device, &options, measured, &stop::token(), &mut on_progress);
        bars.clear();
        let report = report.inspect_err(|error| {
            let kept = calibrate::checkpoint_path(&options.out);
            if matches!(error, Error::Stopped(_)) && kept.exists() {
                note(format_args!("`{}` is kept: the same command goes on from it", kept.display()));
            }
        })?;
        note(format_args!(
            "`{}`: {}, {} steps in {:.0} s, loss {:.3} before and {:.3} after; \
             `edge-run quantize {} --calibration {}{} -o DIR` applies it",
            report.pack.display(),
            progress::bytes(report.bytes),
            report.steps - report.resumed,
            report.seconds,
            report.loss_before,
            report.loss_after,
            args.source.display(),
            report.pack.display(),
            same_start(args),
        ));
        note(chosen(&report.chosen));
        report.held_out.iter().for_each(|text| note(held_out(text)));
        Ok(Exit::Done)
    }

    /// The flag by which `quantize` chooses the lower bits of codes as they were chosen for training.
    fn same_start(args: &CalibrateArgs) -> String {
        match &args.importance {
            Some(file) => format!(" --importance {}", file.display()),
            None if args.no_importance => " --no-importance".to_string(),
            None => String::new(),
        }
    }

    /// What was chosen after the last step, in words.
    fn chosen(chosen: &Chosen) -> String {
        let ranges: Vec<String> = chosen.untrained_ranges.iter().map(|bits| format!("{bits} bits")).collect();
        let ranges = match ranges.is_empty() {
            true => "with the ranges that were trained".to_string(),
            false => format!("with the ranges of {} as they were before training", ranges.join(" and ")),
        };
        let scores = match chosen.scores_apart {
            0.0 => "the gates' scores as they were trained".to_string(),
            distance => format!("the gates' scores {distance} farther apart"),
        };
        format!("nearest to the unquantized model {ranges}, and {scores}")
    }

    /// What was held out of a text, in words.
    fn held_out(text: &HeldOut) -> String {
        let at = |(bits, kl): &(f32, f32)| format!("{kl:.4} at {bits:.2} bits");
        let divergences: Vec<String> = text.divergences.iter().map(at).collect();
        format!("`{}`, {} tokens held out: KL {}", text.text, text.tokens, divergences.join(", "))
    }

    fn options(args: &CalibrateArgs) -> CalibrationOptions {
        CalibrationOptions {
            texts: args.text.clone(),
            steps: args.steps,
            batch: args.batch,
            seq: args.seq,
            seed: args.seed,
            memory: args.memory.as_u64(),
            stream: false,
            out: args.out.clone(),
        }
    }

    fn device(args: &CalibrateArgs) -> Result<(calibrate::Device, String)> {
        let (info, all) = devices::find(args.device.as_deref())?;
        let device = if info.kind == DeviceKind::Processor { calibrate::cpu() } else { calibrate::gpu(&info, &all)? };
        Ok((device, info.name))
    }

    /// One bar at a time, and a line now and then that stays.
    struct CalibrationBars<'a> {
        options: &'a CalibrationOptions,
        shown: Option<(&'static str, ProgressBar)>,
    }

    impl CalibrationBars<'_> {
        fn show(&mut self, progress: CalibrationProgress) {
            match progress {
                CalibrationProgress::Plan(memory) => note(plan(&memory)),
                CalibrationProgress::Weights(done, total) => {
                    self.bar("load", total, BarUnit::Weights).set_position(done)
                }
                CalibrationProgress::Scales(done, total) => {
                    self.bar("scale", total, BarUnit::Percent).set_position(done)
                }
                CalibrationProgress::Resumed(done) => {
                    self.clear();
                    note(resumed(done, self.options));
                }
                CalibrationProgress::Step(step) => {
                    let steps = self.options.steps;
                    let bar = self.bar("calibrate", steps as u64, BarUnit::Steps);
                    bar.set_position(step.done as u64);
                    bar.set_message(format!("KL {:.3}, {:.2} bits", step.kl, step.bits));
                    if step.done.is_multiple_of((steps / LOG_LINES).max(1)) {
                        bar.suspend(|| note(line(&step, steps)));
                    }
                }
                CalibrationProgress::Table(rows) => {
                    self.bar("thresholds", rows as u64, BarUnit::Rows).set_position(rows as u64)
                }
            }
        }

        fn bar(&mut self, what: &'static str, total: u64, unit: BarUnit) -> &ProgressBar {
            if self.shown.as_ref().is_none_or(|(shown, _)| *shown != what) {
                self.clear();
            }
            let (_, bar) = self.shown.get_or_insert_with(|| (what, progress::bar(what, total, unit)));
            bar.set_length(total);
            bar
        }

        fn clear(&mut self) {
            if let Some((_, bar)) = self.shown.take() {
                bar.finish_and_clear();
            }
        }
    }

    fn plan(memory: &Memory) -> String {
        let layers = match memory.scratch {
            None => "all layers stay there".into(),
            Some(file) => {
                format!("layers come one at a time from a scratch file of {} beside the pack", progress::bytes(file))
            }
        };
        format!(
            "will take about {} of the device's memory, {} of it for the work, {} windows at once; {layers}",
            progress::bytes(memory.total()),
            progress::bytes(memory.working),
            memory.micro
        )
    }

    /// Where a run that was stopped goes on.
    fn resumed(done: usize, options: &CalibrationOptions) -> String {
        let kept = calibrate::checkpoint_path(&options.out);
        format!("goes on from step {done} of {}, which `{}` has", options.steps, kept.display())
    }

    fn line(step: &StepLog, steps: usize) -> String {
        let StepLog { done, kl, bits, drawn } = step;
        format!("step {done} of {steps}: KL {kl:.3} at {bits:.2} bits, {drawn:.2} wanted")
    }
}
