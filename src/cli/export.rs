//! `edge-run export`: a model folder in, at one depth, and out what other programs run.

use super::Done;
use super::args::ExportArgs;
use super::exit::Exit;
use super::models::model_dir;
use super::output::{note, print_json, warn};
use super::progress::{self, BarUnit};
use super::{stop, terminal};
use edge_run::internals::export::{Deviation, ExportOptions, ExportPlan, ExportReport};
use edge_run::internals::format::ModelFolder;

/// Makes the file or folder, with an estimate before and a bar meanwhile.
pub fn run(args: &ExportArgs) -> Done {
    let folder = ModelFolder::open(&model_dir(&args.dir)?)?;
    let options = ExportOptions {
        out: args.out.clone(),
        depth: args.bits,
        format: args.to,
        stored: args.stored,
        pre_tokenizer: args.pre_tokenizer.clone(),
        replace: args.force,
    };
    let plan = ExportPlan::new(&folder, options)?;
    warn(&plan.warnings);
    let name = &folder.manifest().source.name;
    note(format_args!("{name}: will take {} of disk", progress::bytes(plan.bytes())));
    stop::watch();
    let bar = progress::bar("export", 0, BarUnit::Weights);
    let report = plan.write(&mut |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        bar.set_message(terminal::in_a_line(progress.name));
        stop::flow()
    });
    bar.finish_and_clear();
    let report = report?;
    if args.json {
        print_json(&report)?;
    } else {
        note(describe(&report, args.bits.bits()));
    }
    Ok(Exit::Done)
}

/// What was made, and how far its weights are from those that a run reads.
fn describe(report: &ExportReport, bits: u32) -> String {
    let size = progress::bytes(report.bytes);
    let ExportReport { out, architecture, layers_type, outer_type, params, deviations, seconds, .. } = report;
    format!(
        "`{}`: {architecture}, {params} weights, layers at {bits} bits in {layers_type} ({}), embedding and head in \
         {outer_type} ({}), {size}, in {seconds:.1} s",
        out.display(),
        distance(&deviations.layers),
        distance(&deviations.outer),
    )
}

fn distance(deviation: &Deviation) -> String {
    if deviation.is_none() {
        return "exactly".into();
    }
    format!("off by {:.1e} of a weight, {:.1e} at most", deviation.relative(), deviation.largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_in_words() {
        assert_eq!(distance(&Deviation::default()), "exactly");
        let deviation = Deviation { largest: 0.001, squares: 0.01, weights: 100.0 };
        assert_eq!(distance(&deviation), "off by 1.0e-2 of a weight, 1.0e-3 at most");
    }
}
