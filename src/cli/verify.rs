//! `edge-run verify`: every hash and shape of a model folder, and its text side.

use super::Done;
use super::args::VerifyArgs;
use super::exit::Exit;
use super::models::model_dir;
use super::output::{print_line, warn};
use super::progress::{self, BarUnit};
use super::{stop, terminal};
use edge_run::internals::format::ModelFolder;
use edge_run::internals::text::TextModel;

/// Checks the folder and says so.
pub fn run(args: &VerifyArgs) -> Done {
    let dir = model_dir(&args.dir)?;
    stop::watch();
    // What a run would refuse, or warn about, is told before the weights are hashed.
    let text = TextModel::open(&ModelFolder::open(&dir)?)?;
    warn(text.warnings());
    warn(&text.chat_template_faults());
    let bar = progress::bar("verify", 0, BarUnit::Bytes);
    let report = ModelFolder::verify(&dir, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        stop::flow()
    });
    bar.finish_and_clear();
    let report = report?;
    let (dir, size) = (terminal::in_a_line(dir.display()), progress::bytes(report.bytes));
    print_line(format_args!("`{dir}` is sound: {} files, {size}", report.files))?;
    Ok(Exit::Done)
}
