//! `edge-run eval`: perplexity of a text, what is chosen in it, KL divergence from the unquantized model or accuracy on
//! a task, at one or several numbers of bits.

mod args;
mod plot;
mod table;

pub use args::EvalArgs;

use std::io::Read;
use std::ops::ControlFlow;
use std::path::Path;

use serde::Serialize;

use super::exit::Exit;
use super::output::{note, print_json, print_line, warn};
use super::progress::{self, BarUnit};
use super::{Done, load, settings, stop, terminal};
use edge_run::internals::engine::DeviceInfo;
use edge_run::internals::error::{Error, Result};
use edge_run::internals::eval::{
    AgreementReport, Depths, Detail, EvalRun, EvalWindow, KlReport, PerplexityReport, Task, TaskFile, TaskReport,
    agreement, check_reference, deepest_choices, default_window, fidelity, perplexity, runs, zero_shot,
};
use edge_run::internals::format::{ModelFolder, Reference, write_whole};
use edge_run::internals::model::{BitsRead, Sequence};
use edge_run::internals::text::TextModel;
use plot::{Chart, Curve, plot};

/// A report's line of JSON.
#[derive(Serialize)]
struct EvalLine<'a, R> {
    r#type: &'static str,
    depths: Depths,
    /// Of the dealing, where there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u32>,
    #[serde(flatten)]
    report: &'a R,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a Detail>,
    device: &'a DeviceInfo,
}

/// A report that a sweep collects.
trait ReportRow: Clone + Serialize {
    /// What a line of JSON calls it.
    const TYPE: &'static str;
    fn header(&self) -> String;
    fn row(&self, depths: Depths) -> String;
    fn read(&self) -> &BitsRead;
}

/// Measures and prints, one run after the other.
pub fn run(args: &EvalArgs) -> Done {
    if args.shuffle_gates && args.model.ubatch_size == Some(1) {
        return Err(Error::argument("--shuffle-gates", "an --ubatch-size of 2 or more, so that tokens can change", 1));
    }
    match (&args.text, &args.kl, &args.task) {
        (Some(text), _, _) => run_text(args, text),
        (None, Some(reference), _) => run_kl(args, reference),
        (None, None, Some(task)) => run_task(args, task),
        (None, None, None) => unreachable!("the command line asks for one of them"),
    }
}

fn run_text(args: &EvalArgs, file: &Path) -> Done {
    let text = settings::read_text("--text", file)?;
    if text.is_empty() {
        return Err(Error::argument("--text", "some text", "none"));
    }
    let folder = settings::open_model(&args.model)?;
    let trained = folder.shape().max_context;
    if let Some(window) = args.window.filter(|window| *window > trained) {
        let expected = format!("at most {trained}, which this model was trained for");
        return Err(Error::argument("--window", expected, window));
    }
    let tokens = args.window.unwrap_or_else(|| default_window(trained));
    check_answer(args.answer_from, tokens)?;
    let tokenizer = TextModel::open(&folder)?;
    warn(tokenizer.warnings());
    let window = tokens as usize;
    let text = tokenizer.encode_for_windows(&settings::text_name("--text", file), &text)?;
    let ids: Vec<u32> = text.windows(window)?.flatten().collect();
    let windows = windows(ids.len(), window, args.windows)?;
    if args.agreement {
        let cut: Vec<&[u32]> = ids.chunks_exact(window).take(windows).collect();
        return run_agreement(args, &folder, &cut, tokens);
    }
    let cut = EvalWindow { tokens: window, answer_from: args.answer_from.map(|tokens| tokens as usize) };
    if let Some(file) = &args.plot {
        check_plot(file)?;
    }
    let reports = sweep(args, &folder, tokens, (windows, BarUnit::Windows), &mut |sequence, show| {
        sequence.set_prompt_bits(args.prompt_bits);
        perplexity(sequence, &ids, cut, Some(windows), &mut |done, _, so_far| {
            show(done, format!("perplexity {so_far:.2}"))
        })
    })?;
    if !reports.is_empty() {
        let title = format!("{windows} windows of {window} tokens");
        draw(args, &folder, &title, &[chart("perplexity", &reports, |report| report.perplexity)])?;
    }
    Ok(ending())
}

/// Compares what is chosen in windows of `window` tokens with what 8 bits choose there.
fn run_agreement(args: &EvalArgs, folder: &ModelFolder, windows: &[&[u32]], window: u32) -> Done {
    let mut deepest = None;
    sweep(args, folder, window, (windows.len(), BarUnit::Windows), &mut |sequence, show| {
        // The same for all rows, so found once.
        let deepest = match &mut deepest {
            Some(found) => found,
            none => {
                none.insert(deepest_choices(sequence, windows, &mut |done, _| show(done, "first at 8 bits".into()))?)
            }
        };
        agreement(sequence, windows, deepest, &mut |done, _, so_far| {
            show(done, format!("alike {:.2}%", 100.0 * so_far))
        })
    })?;
    Ok(ending())
}

fn run_kl(args: &EvalArgs, path: &Path) -> Done {
    let reference = Reference::open(path)?;
    let folder = settings::open_model(&args.model)?;
    let tokenizer = TextModel::open(&folder)?;
    warn(tokenizer.warnings());
    check_reference(&reference, folder.shape(), &tokenizer)?;
    if let Some(file) = &args.plot {
        check_plot(file)?;
    }
    let windows: Vec<usize> = reference.info().windows().collect();
    let context = windows.iter().copied().max().unwrap_or_default() as u32;
    let reports = sweep(args, &folder, context, (windows.len(), BarUnit::Windows), &mut |sequence, show| {
        fidelity(sequence, &reference, &mut |done, _, so_far| show(done, format!("KL {so_far:.4}")))
    })?;
    if !reports.is_empty() {
        let kl = chart("KL divergence in nats a token", &reports, |report: &KlReport| report.all.kl_mean);
        let perplexity = chart("perplexity", &reports, |report| report.all.perplexity);
        draw(args, &folder, &format!("{} windows", windows.len()), &[kl, perplexity])?;
    }
    Ok(ending())
}

/// Writes the plot that the command line may ask for.
fn draw(args: &EvalArgs, folder: &ModelFolder, measured: &str, charts: &[Chart]) -> Result<()> {
    let Some(file) = &args.plot else { return Ok(()) };
    let title = format!("{}, {measured}", terminal::in_a_line(&folder.manifest().source.name));
    let svg = plot(&title, charts).map_err(|e| Error::argument("--plot", "figures to draw", e))?;
    // Whole or not at all; but a device or a pipe is written to, and not replaced.
    let write =
        if file.exists() && !file.is_file() { std::fs::write(file, svg) } else { write_whole(file, svg.as_bytes()) };
    write.map_err(Error::io("write", file))
}

fn run_task(args: &EvalArgs, path: &Path) -> Done {
    let mut file = TaskFile::parse(path, &settings::read_text("--task", path)?)?;
    if let Some(most) = args.limit {
        file.limit(most as usize);
    }
    let folder = settings::open_model(&args.model)?;
    let text = TextModel::open(&folder)?;
    warn(text.warnings());
    let task = Task::encode(&file, &text, folder.shape().max_context as usize)?;
    let (context, examples) = (task.longest() as u32, task.examples());
    sweep(args, &folder, context, (examples, BarUnit::Examples), &mut |sequence, show| {
        zero_shot(sequence, &task, &mut |done, _, so_far| show(done, format!("accuracy {so_far:.4}")))
    })?;
    Ok(ending())
}

/// What a run shows of itself, and asks whether to go on: how much is done, and the figure so far.
type Show<'a> = &'a mut dyn FnMut(usize, String) -> ControlFlow<()>;

/// Loads the model, makes every run that the command line asks for, with a bar of `total`, and prints each report.
fn sweep<R: ReportRow>(
    args: &EvalArgs,
    folder: &ModelFolder,
    context: u32,
    (total, unit): (usize, BarUnit),
    measure: &mut dyn FnMut(&mut Sequence, Show<'_>) -> Result<R>,
) -> Result<Vec<(EvalRun, R)>> {
    let routed = folder.thresholds().is_some();
    let shuffled = args.shuffle_gates || (args.plot.is_some() && routed);
    let runs = runs(&args.bits, routed, shuffled, args.plot.is_some() || args.agreement)?;
    stop::watch();
    let model = load::load(&args.model, folder, context)?;
    let mut reports: Vec<(EvalRun, R)> = Vec::new();
    for run in runs {
        let seed = (run.depths == Depths::Shuffled).then_some(args.seed);
        let measured = reports.iter().find(|(other, _)| run.same_as(other)).map(|(_, report)| report.clone());
        let report = match measured {
            Some(report) => report,
            None => {
                let mut sequence = model.sequence(&run.plan)?;
                sequence.shuffle_gates(seed.map(u64::from));
                let bar =
                    progress::bar(&format!("{} bits, {}", run.plan.bits(), run.depths.name()), total as u64, unit);
                bar.tick();
                let report = measure(&mut sequence, &mut |done, figure| {
                    bar.set_position(done as u64);
                    bar.set_message(figure);
                    stop::flow()
                });
                bar.finish_and_clear();
                if stop::asked() {
                    note("stopped");
                    break;
                }
                report?
            }
        };
        // Dealing leaves the means as they are, and uniform depths have nothing to tell.
        let telling = args.detail && (run.depths == Depths::Routed || !routed);
        let detail = telling.then(|| Detail::of(report.read(), model.shape().layers as usize));
        if args.json {
            let (depths, detail, device) = (run.depths, detail.as_ref(), model.device());
            print_json(&EvalLine { r#type: R::TYPE, depths, seed, report: &report, detail, device })?;
        } else {
            if reports.is_empty() {
                print_line(report.header())?;
            }
            print_line(report.row(run.depths))?;
            if let Some(detail) = &detail {
                print_line(table::detail(detail))?;
            }
        }
        reports.push((run, report));
    }
    Ok(reports)
}

fn ending() -> Exit {
    if stop::asked() { Exit::Stopped } else { Exit::Done }
}

/// A chart of one figure, with a curve for each way that depths can come about, empty where none did.
fn chart<R: ReportRow>(name: &str, reports: &[(EvalRun, R)], figure: impl Fn(&R) -> f64) -> Chart {
    let curve = |depths: Depths, name: &str| {
        let of = reports.iter().filter(|(run, _)| run.depths == depths);
        let points = of.map(|(_, report)| (f64::from(report.read().mean()), figure(report)));
        Curve { name: name.to_string(), points: points.collect() }
    };
    let curves =
        [curve(Depths::Routed, "routed"), curve(Depths::Shuffled, "shuffled"), curve(Depths::Uniform, "uniform depth")];
    Chart { figure: name.to_string(), curves: curves.to_vec() }
}

/// Refuses a file that could not be written, or that is no plot, before hours of measuring.
fn check_plot(file: &Path) -> Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_folder = std::fs::metadata(folder).map_err(Error::io("find", folder))?.is_dir();
    if !is_folder || file.is_dir() {
        return Err(Error::argument("--plot", "a file in a folder that is there", file.display()));
    }
    let mut begin = Vec::new();
    if file.is_file() {
        let read = std::fs::File::open(file).and_then(|file| file.take(4).read_to_end(&mut begin));
        read.map_err(Error::io("read", file))?;
    }
    if !begin.is_empty() && begin != *b"<svg" {
        let expected = "a path where nothing is, or a plot, which is replaced";
        return Err(Error::argument("--plot", expected, format!("`{}`, which is no plot", file.display())));
    }
    Ok(())
}

/// Refuses a prompt that leaves no answer of two tokens in a window of so many.
fn check_answer(from: Option<u32>, window: u32) -> Result<()> {
    match from {
        Some(from) if from > window.saturating_sub(2) => {
            let expected = format!("at least 2 tokens fewer than the window's {window}");
            Err(Error::argument("--answer-from", expected, from))
        }
        _ => Ok(()),
    }
}

/// Windows to measure: those asked for, or as many as there are.
fn windows(tokens: usize, window: usize, asked: Option<u32>) -> Result<usize> {
    let whole = tokens / window;
    if whole == 0 {
        let expected = format!("a window of {window} tokens or more (--window makes it shorter)");
        return Err(Error::argument("--text", expected, format!("{tokens} tokens")));
    }
    match asked.map(|windows| windows as usize) {
        None => Ok(whole),
        Some(windows) if windows <= whole => Ok(windows),
        Some(windows) => {
            let expected = format!("at most {whole}, which the text has of {window} tokens");
            Err(Error::argument("--windows", expected, windows))
        }
    }
}

impl ReportRow for PerplexityReport {
    const TYPE: &'static str = "eval";

    fn header(&self) -> String {
        table::report_header(self)
    }

    fn row(&self, depths: Depths) -> String {
        table::report_row(depths, self)
    }

    fn read(&self) -> &BitsRead {
        &self.read
    }
}

impl ReportRow for AgreementReport {
    const TYPE: &'static str = "agreement";

    fn header(&self) -> String {
        table::agreement_header()
    }

    fn row(&self, depths: Depths) -> String {
        table::agreement_row(depths, self)
    }

    fn read(&self) -> &BitsRead {
        &self.read
    }
}

impl ReportRow for KlReport {
    const TYPE: &'static str = "kl";

    fn header(&self) -> String {
        table::kl_header(self)
    }

    fn row(&self, depths: Depths) -> String {
        table::kl_rows(depths, self)
    }

    fn read(&self) -> &BitsRead {
        &self.read
    }
}

impl ReportRow for TaskReport {
    const TYPE: &'static str = "task";

    fn header(&self) -> String {
        table::task_header(self)
    }

    fn row(&self, depths: Depths) -> String {
        table::task_row(depths, self)
    }

    fn read(&self) -> &BitsRead {
        &self.read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_whole_and_no_more_than_there_are() {
        assert_eq!([windows(2050, 1024, None).unwrap(), windows(2050, 1024, Some(1)).unwrap()], [2, 1]);
        let error = |asked| windows(2050, 1024, asked).unwrap_err().to_string();
        assert_eq!(error(Some(3)), "--windows: expected at most 2, which the text has of 1024 tokens, got 3");
        let short = windows(10, 1024, None).unwrap_err().to_string();
        assert_eq!(
            short,
            "--text: expected a window of 1024 tokens or more (--window makes it shorter), got 10 tokens"
        );
    }

    #[test]
    fn a_prompt_leaves_an_answer_in_its_window() {
        assert!(check_answer(None, 2).is_ok() && check_answer(Some(30), 32).is_ok());
        let message = check_answer(Some(31), 32).unwrap_err().to_string();
        assert_eq!(message, "--answer-from: expected at least 2 tokens fewer than the window's 32, got 31");
    }

    #[test]
    fn a_plot_needs_a_folder_to_lie_in_and_replaces_nothing_but_plots() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check_plot(&dir.path().join("plot.svg")).is_ok());
        assert!(check_plot(Path::new("plot.svg")).is_ok());
        assert!(check_plot(dir.path()).is_err());
        assert!(check_plot(&dir.path().join("nowhere/plot.svg")).is_err());
        for (name, text, is_fine) in [("old.svg", "<svg>", true), ("empty", "", true), ("text.txt", "Once upon", false)]
        {
            let file = dir.path().join(name);
            std::fs::write(&file, text).unwrap();
            assert_eq!(check_plot(&file).is_ok(), is_fine, "{name}");
        }
    }
}
