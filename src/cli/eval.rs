//! `edge-run eval`: perplexity of a text at one or several numbers of bits.

use std::fmt::Write as _;

use serde::Serialize;

use super::args::EvalArgs;
use super::exit::Exit;
use super::output::{note, print_json, print_line};
use super::progress::{self, Unit};
use super::{Done, load, settings, stop};
use crate::engine::DeviceInfo;
use crate::error::{Error, Result};
use crate::eval::{Report, perplexity};
use crate::model::Model;
use crate::precision::PrecisionPlan;
use crate::text::TextModel;

/// A report's line of JSON.
#[derive(Serialize)]
struct EvalLine<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    report: &'a Report,
    device: &'a DeviceInfo,
}

/// Measures and prints, one number of bits after the other.
pub fn run(args: &EvalArgs) -> Done {
    let text = settings::read_text("--text", &args.text)?;
    let folder = settings::open_model(&args.model)?;
    let trained = folder.shape().max_context;
    if args.window > trained {
        let expected = format!("at most {trained}, which this model was trained for");
        return Err(Error::argument("--window", expected, args.window));
    }
    let ids = TextModel::open(&folder)?.encode(&text, false)?;
    let windows = windows(ids.len(), args.window as usize, args.windows)?;
    let mut model = load::load(&args.model, &folder, args.window)?;
    stop::watch();
    let mut reports = Vec::new();
    for bits in &args.bits {
        let report = measure(&mut model, &ids, args.window as usize, windows, *bits);
        if stop::asked() {
            note("stopped");
            break;
        }
        let report = report?;
        if args.json {
            print_json(&EvalLine { r#type: "eval", report: &report, device: model.device() })?;
        }
        reports.push(report);
    }
    if !args.json && !reports.is_empty() {
        print_line(table(&reports))?;
    }
    Ok(if stop::asked() { Exit::Stopped } else { Exit::Done })
}

/// Perplexity at `bits`, with a bar.
fn measure(model: &mut Model, ids: &[u32], window: usize, windows: usize, bits: u32) -> Result<Report> {
    let plan = PrecisionPlan::uniform(bits, format!("--bits {bits}"))?;
    let bar = progress::bar(&format!("{bits} bits"), windows as u64, Unit::Windows);
    bar.tick();
    let report = perplexity(model, ids, window, Some(windows), &plan, &mut |done, total, so_far| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
        bar.set_message(format!("perplexity {so_far:.2}"));
        stop::flow()
    });
    bar.finish_and_clear();
    report
}

/// Windows to measure: those asked for, or as many as there are.
fn windows(tokens: usize, window: usize, asked: Option<u32>) -> Result<usize> {
    let whole = tokens / window;
    if whole == 0 {
        return Err(Error::argument(
            "--text",
            format!("a window of {window} tokens or more"),
            format!("{tokens} tokens"),
        ));
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

/// Reports in columns, one a line.
fn table(reports: &[Report]) -> String {
    let mut text = format!(
        "{:>5} {:>12} {:>8} {:>8} {:>9} {:>9}",
        "bits", "perplexity", "windows", "tokens", "seconds", "tokens/s"
    );
    for report in reports {
        let Report { bits, perplexity, windows, tokens, seconds, .. } = report;
        let rate = *tokens as f64 / seconds.max(f64::MIN_POSITIVE);
        let _ = write!(text, "\n{bits:>5.1} {perplexity:>12.4} {windows:>8} {tokens:>8} {seconds:>9.1} {rate:>9.1}");
    }
    text
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
        assert_eq!(short, "--text: expected a window of 1024 tokens or more, got 10 tokens");
    }

    #[test]
    fn reports_line_up() {
        let report =
            |bits, perplexity| Report { perplexity, bits, windows: 64, window: 1024, tokens: 65472, seconds: 100.0 };
        insta::assert_snapshot!(table(&[report(8.0, 24.99), report(2.0, 12345.678)]), @r"
        bits   perplexity  windows   tokens   seconds  tokens/s
         8.0      24.9900       64    65472     100.0     654.7
         2.0   12345.6780       64    65472     100.0     654.7
        ");
    }
}
