//! `edge-run logits`: what an unquantized model finds likely in texts, into a reference for `eval --kl`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::Done;
use super::exit::Exit;
use super::output::{note, warn};
use super::progress::{self, BarUnit};
use super::settings::{STANDARD_INPUT, read_text, text_name};
use super::stop;
use edge_run::internals::error::Result;
use edge_run::internals::eval::default_window;
use edge_run::internals::format::reference_place;
use edge_run::internals::quantize;
use edge_run::internals::text::TextModel;
use edge_run::internals::unquantized::{ReferenceOptions, ReferencePlan, ReferenceReport, ReferenceWindows};

/// Arguments of `logits`.
#[derive(Debug, Args)]
pub struct LogitsArgs {
    /// Hugging Face folder or GGUF file
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// Text to look at, in UTF-8 or UTF-16; several are told apart by `eval --kl`; - for standard input
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    pub text: Vec<PathBuf>,
    /// Reference to write
    #[arg(short = 'o', long = "output", value_name = "REFERENCE")]
    pub out: PathBuf,
    /// Tokens of a window; a text that is shorter is one shorter window [default: 1024, or what the model was trained
    /// for if that is less]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub window: Option<u32>,
    /// Windows of each text [default: all whole ones]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub windows: Option<u32>,
    /// Keep the N largest logits of each token, and the sum of what is below them, in a smaller file [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub top: Option<u32>,
    /// Replace a reference that is there already
    #[arg(long)]
    pub force: bool,
}

/// Computes and writes, with an estimate before and a bar meanwhile.
pub fn run(args: &LogitsArgs) -> Done {
    // Before all else, so that nothing about the place can make the work be for nothing.
    reference_place(&args.out, args.force)?;
    let mut source = quantize::open(&args.source)?;
    warn(source.warnings());
    let tokenizer = quantize::source_text(source.as_ref())?;
    warn(tokenizer.warnings());
    let window = args.window.unwrap_or_else(|| default_window(source.shape().max_context));
    let texts = args.text.iter().map(|file| windows_of(args, &tokenizer, file, window)).collect::<Result<Vec<_>>>()?;
    let options = ReferenceOptions { out: args.out.clone(), top: args.top, replace: args.force };
    let plan = ReferencePlan::new(source.as_ref(), &tokenizer, texts, options)?;
    let (disk, memory) = (progress::bytes(plan.disk_bytes()), progress::bytes(plan.memory_bytes()));
    let name = &source.model_source().name;
    note(format_args!("{name}: will take {disk} of disk and about {memory} of memory"));
    stop::watch();
    let bar = progress::bar("logits", 0, BarUnit::Percent);
    let report = plan.write(source.as_mut(), &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
        stop::flow()
    });
    bar.finish_and_clear();
    note(describe(&report?));
    Ok(Exit::Done)
}

fn windows_of(args: &LogitsArgs, tokenizer: &TextModel, file: &Path, window: u32) -> Result<ReferenceWindows> {
    let text = read_text("--text", file)?;
    let name = if file == Path::new(STANDARD_INPUT) { "standard input".into() } else { name_of(file) };
    let text = tokenizer.encode_for_windows(&text_name("--text", file), &text)?;
    let ids: Vec<u32> = text.windows(window as usize)?.flatten().collect();
    ReferenceWindows::new(&name, &ids, window, args.windows)
}

/// The file's name without its extension.
fn name_of(file: &Path) -> String {
    file.file_stem().unwrap_or(file.as_os_str()).to_string_lossy().into_owned()
}

fn describe(report: &ReferenceReport) -> String {
    let ReferenceReport { out, tokens, windows, perplexities, bytes, seconds } = report;
    let texts: Vec<String> = perplexities.iter().map(|(name, of)| format!("{name} {of:.4}")).collect();
    format!(
        "`{}`: {tokens} tokens in {windows} windows, perplexity {}, {}, in {seconds:.1} s",
        out.display(),
        texts.join(", "),
        progress::bytes(*bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_named_as_its_file() {
        assert_eq!(["a/code.rs", "wiki", "x.tar.gz"].map(|file| name_of(Path::new(file))), ["code", "wiki", "x.tar"]);
    }
}
