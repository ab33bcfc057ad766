//! `edge-run export`: a model folder in, at fixed depths, and out what other programs run.

use std::path::PathBuf;

use clap::Args;

use super::Done;
use super::exit::Exit;
use super::models::model_dir;
use super::output::{note, print_json, warn};
use super::progress::{self, BarUnit};
use super::{choices, numbers, stop, terminal};
use edge_run::internals::export::{
    Deviation, ExportFormat, ExportOptions, ExportPlan, ExportReport, SiteDepths, StoredType,
};
use edge_run::internals::format::ModelFolder;
use edge_run::internals::precision::Depth;

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Model folder, or a name of `edge-run list`
    #[arg(value_name = "DIR|NAME")]
    pub dir: PathBuf,
    /// GGUF file to make, or folder for safetensors
    #[arg(value_name = "OUT")]
    pub out: PathBuf,
    /// Bits read of each weight of the layers; embedding and head leave with all of theirs
    #[arg(long, value_name = "2|4|6|8", value_parser = numbers::depth, required_unless_present = "depths")]
    pub bits: Option<Depth>,
    /// In place of --bits, a file with what `eval --bits N --detail --json` prints for a model with routers: each site
    /// of each layer leaves with those of 2, 4, 6 and 8 bits that are nearest to what it read on average
    #[arg(long, value_name = "FILE", conflicts_with = "bits")]
    pub depths: Option<PathBuf>,
    /// What to make: a GGUF file, for llama.cpp, or a folder of safetensors, for transformers, vLLM and SGLang
    #[arg(long, value_name = "FORMAT", value_parser = choices::export_format())]
    pub to: ExportFormat,
    /// Type of the matrices [default: in a GGUF file q4_1 for 2 and 4 bits, which is exact for 2 and rounds a minimum
    /// for 4, and q8_0 for 6 and 8; in a folder f16]. q5_1 is exact for 2 and 4 bits, f32 for all
    #[arg(long = "type", value_name = "TYPE", value_parser = choices::stored_type())]
    pub stored: Option<StoredType>,
    /// For a GGUF file, llama.cpp's name of the way in which the tokenizer splits text, where it is not found by
    /// itself; it is written as it stands, with a warning where edge-run does not know it
    #[arg(long, value_name = "NAME")]
    pub pre_tokenizer: Option<String>,
    /// Replace an export that is there already
    #[arg(long)]
    pub force: bool,
    /// Write JSON about what was made
    #[arg(long)]
    pub json: bool,
}

/// Makes the file or folder, with an estimate before and a bar meanwhile.
pub fn run(args: &ExportArgs) -> Done {
    let folder = ModelFolder::open(&model_dir(&args.dir)?)?;
    let depths = match (&args.depths, args.bits) {
        (Some(path), _) => SiteDepths::nearest(path, folder.shape())?,
        (None, bits) => bits.unwrap_or(Depth::FULL).into(),
    };
    let options = ExportOptions {
        out: args.out.clone(),
        depths,
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
        note(describe(&report));
    }
    Ok(Exit::Done)
}

/// What was made, and how far its weights are from those that a run reads.
fn describe(report: &ExportReport) -> String {
    let size = progress::bytes(report.bytes);
    let bits = (report.bits * 100.0).round() / 100.0;
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
