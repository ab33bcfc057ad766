//! Reports in columns, for people.

use std::fmt::Write as _;

use crate::cli::terminal;
use edge_run::internals::eval::{
    AgreementReport, DRAFTS, Depths, Detail, Figures, KlFigures, KlReport, PerplexityReport, SiteBits, TaskReport,
};
use edge_run::internals::shape::Site;

/// The names of the columns of [`report_row`].
pub fn report_header(report: &PerplexityReport) -> String {
    let header = format!(
        "{:<8} {:>5} {:>6} {:>7} {:>12} {:>8} {:>8} {:>9} {:>9}",
        "depths", "asked", "bits", "ranges", "perplexity", "windows", "tokens", "seconds", "tokens/s"
    );
    if report.prompt_bits.is_some() { format!("{header} {:>6}", "prompt") } else { header }
}

/// Perplexity in a line; `prompt` are the bits read for the prompts, where answers were scored.
pub fn report_row(depths: Depths, report: &PerplexityReport) -> String {
    let PerplexityReport { bits_asked, bits, bits_with_ranges, perplexity, windows, tokens, seconds, .. } = report;
    let (depths, rate) = (depths.name(), *tokens as f64 / seconds.max(f64::MIN_POSITIVE));
    let row = format!(
        "{depths:<8} {bits_asked:>5} {bits:>6.3} {bits_with_ranges:>7.3} {perplexity:>12.4} {windows:>8} {tokens:>8} \
         {seconds:>9.1} {rate:>9.1}"
    );
    report.prompt_bits.map_or(row.clone(), |bits| format!("{row} {bits:>6.3}"))
}

/// The name of all texts together.
const ALL_TEXTS: &str = "all";

/// The names of the columns of [`kl_rows`].
pub fn kl_header(report: &KlReport) -> String {
    let texts = format!("{:<width$}", "text", width = names_width(report));
    format!(
        "{:<8} {:>5} {:>6} {:>7} {texts} {:>9} {:>9} {:>9} {:>8} {:>11} {:>11} {:>8}",
        "depths", "asked", "bits", "ranges", "KL", "median", "99%", "same top", "perplexity", "unquantized", "tokens"
    )
}

/// Divergence from the unquantized model: a line for each text, and one for all where there are several.
pub fn kl_rows(depths: Depths, report: &KlReport) -> String {
    let KlReport { bits_asked, bits, bits_with_ranges, .. } = report;
    let (depths, width) = (depths.name(), names_width(report));
    let row = |name: &str, figures: &KlFigures| {
        let KlFigures { tokens, kl_mean, kl_median, kl_p99, same_top, perplexity, reference_perplexity } = figures;
        format!(
            "{depths:<8} {bits_asked:>5} {bits:>6.3} {bits_with_ranges:>7.3} {name:<width$} {kl_mean:>9.5} \
             {kl_median:>9.5} {kl_p99:>9.5} {:>7.2}% {perplexity:>11.4} {reference_perplexity:>11.4} {tokens:>8}",
            100.0 * same_top
        )
    };
    let texts = report.texts.iter().map(|text| row(&terminal::in_a_line(&text.text), &text.figures));
    let all = (report.texts.len() > 1).then(|| row(ALL_TEXTS, &report.all));
    texts.chain(all).collect::<Vec<_>>().join("\n")
}

/// Letters of the longest name.
fn names_width(report: &KlReport) -> usize {
    let names = report.texts.iter().map(|text| terminal::in_a_line(&text.text).chars().count());
    names.max().unwrap_or_default().max("text".len())
}

/// The names of the columns of [`agreement_row`].
pub fn agreement_header() -> String {
    let mut header = format!("{:<8} {:>5} {:>6} {:>7} {:>8}", "depths", "asked", "bits", "ranges", "alike");
    for draft in DRAFTS {
        let _ = write!(header, " {:>6}", format!("of {draft}"));
    }
    format!("{header} {:>8} {:>8} {:>9}", "windows", "tokens", "seconds")
}

/// How often fewer bits choose as all of them do, and how many tokens of drafts are accepted, in a line.
pub fn agreement_row(depths: Depths, report: &AgreementReport) -> String {
    let AgreementReport { bits_asked, bits, bits_with_ranges, agreement, windows, tokens, seconds, .. } = report;
    let (depths, percent) = (depths.name(), 100.0 * agreement);
    let mut row = format!("{depths:<8} {bits_asked:>5} {bits:>6.3} {bits_with_ranges:>7.3} {percent:>7.2}%");
    for length in DRAFTS {
        let draft = report.drafts.iter().find(|draft| draft.tokens == length);
        let _ = write!(row, " {:>6}", draft.map_or("-".to_string(), |draft| format!("{:.3}", draft.accepted)));
    }
    format!("{row} {windows:>8} {tokens:>8} {seconds:>9.1}")
}

/// The names of the columns of [`task_row`].
pub fn task_header(report: &TaskReport) -> String {
    let figures = match report.figures {
        Figures::Continuations { .. } => ["mean nll", "perplexity"],
        Figures::Choices { .. } => ["acc_norm", "+-"],
    };
    format!(
        "{:<8} {:>5} {:>6} {:>7} {:>8} {:>8} {:>8} {:>10} {:>10} {:>8} {:>9}",
        "depths", "asked", "bits", "ranges", "examples", "acc", "+-", figures[0], figures[1], "tokens", "seconds"
    )
}

/// A task's figures in a line; `+-` is a standard error.
pub fn task_row(depths: Depths, report: &TaskReport) -> String {
    let TaskReport { examples, acc, acc_stderr, bits_asked, bits, bits_with_ranges, tokens, seconds, .. } = report;
    let error = |stderr: Option<f64>| stderr.map_or_else(|| "-".to_string(), |stderr| format!("{stderr:.4}"));
    let figures = match report.figures {
        Figures::Continuations { mean_nll, perplexity } => [format!("{mean_nll:.4}"), format!("{perplexity:.4}")],
        Figures::Choices { acc_norm, acc_norm_stderr } => [format!("{acc_norm:.4}"), error(acc_norm_stderr)],
    };
    let (depths, stderr) = (depths.name(), error(*acc_stderr));
    format!(
        "{depths:<8} {bits_asked:>5} {bits:>6.3} {bits_with_ranges:>7.3} {examples:>8} {acc:>8.4} {stderr:>8} {:>10} \
         {:>10} {tokens:>8} {seconds:>9.1}",
        figures[0], figures[1]
    )
}

/// Bits read at each site of each layer, indented below the row that they belong to.
pub fn detail(detail: &Detail) -> String {
    let mut text = format!("    {:>5}", "layer");
    for name in Site::ALL.map(Site::name).into_iter().chain(["all"]) {
        let _ = write!(text, " {name:>8}");
    }
    let mut row = |name: String, bits: &SiteBits| {
        let _ = write!(text, "\n    {name:>5}");
        for bits in bits.columns() {
            let _ = write!(text, " {bits:>8.3}");
        }
    };
    for (layer, bits) in detail.layers.iter().enumerate() {
        row(layer.to_string(), bits);
    }
    row("all".to_string(), &detail.all);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_run::internals::eval::{DraftFigures, TextKl};
    use edge_run::internals::model::{BitsRead, TokenDepths};
    use edge_run::internals::shape::{LlamaShape, Rope, RopeScaling};

    fn shape() -> LlamaShape {
        LlamaShape {
            layers: 2,
            model_dim: 64,
            ffn_dim: 128,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            vocab: 64,
            max_context: 64,
            norm_eps: 1e-5,
            tied_head: true,
            rope: Rope { theta: 1e4, scaling: RopeScaling::None },
        }
    }

    fn report(bits: f32, perplexity: f64) -> PerplexityReport {
        let read = BitsRead::new(&shape());
        PerplexityReport {
            perplexity,
            bits_asked: bits,
            bits,
            bits_with_ranges: bits + 0.5,
            windows: 64,
            window: 1024,
            tokens: 65472,
            seconds: 100.0,
            prompt_bits: None,
            answer_from: None,
            read,
        }
    }

    #[test]
    fn reports_line_up() {
        let rows = [
            report_header(&report(3.5, 31.25)),
            report_row(
                Depths::Routed,
                &PerplexityReport { bits: 3.4921, bits_with_ranges: 3.9921, ..report(3.5, 31.25) },
            ),
            report_row(Depths::Shuffled, &report(3.5, 42.0)),
            report_row(Depths::Uniform, &report(2.0, 12345.678)),
        ];
        insta::assert_snapshot!(rows.join("\n"), @r"
        depths   asked   bits  ranges   perplexity  windows   tokens   seconds  tokens/s
        routed     3.5  3.492   3.992      31.2500       64    65472     100.0     654.7
        shuffled   3.5  3.500   4.000      42.0000       64    65472     100.0     654.7
        uniform      2  2.000   2.500   12345.6780       64    65472     100.0     654.7
        ");
        let answer = PerplexityReport { prompt_bits: Some(8.0), answer_from: Some(256), ..report(3.5, 31.25) };
        let rows = [report_header(&answer), report_row(Depths::Routed, &answer)];
        insta::assert_snapshot!(rows.join("\n"), @r"
        depths   asked   bits  ranges   perplexity  windows   tokens   seconds  tokens/s prompt
        routed     3.5  3.500   4.000      31.2500       64    65472     100.0     654.7  8.000
        ");
    }

    #[test]
    fn divergences_line_up() {
        let figures = |kl_mean: f64, tokens| KlFigures {
            tokens,
            kl_mean,
            kl_median: kl_mean / 2.0,
            kl_p99: kl_mean * 9.0,
            same_top: 0.98214,
            perplexity: 25.1,
            reference_perplexity: 24.9,
        };
        let text = |name: &str, kl| TextKl { text: name.into(), figures: figures(kl, 384) };
        let mut report = KlReport {
            bits_asked: 8.0,
            bits: 8.0,
            bits_with_ranges: 8.5,
            all: figures(0.0011, 768),
            texts: vec![text("prose", 0.0012), text("code", 0.001)],
            windows: 2,
            seconds: 1.0,
            read: BitsRead::new(&shape()),
        };
        let several = [kl_header(&report), kl_rows(Depths::Routed, &report)];
        report.texts.remove(0);
        let one = [kl_header(&report), kl_rows(Depths::Uniform, &report)];
        insta::assert_snapshot!([several, one].concat().join("\n"), @r"
        depths   asked   bits  ranges text         KL    median       99% same top  perplexity unquantized   tokens
        routed       8  8.000   8.500 prose   0.00120   0.00060   0.01080   98.21%     25.1000     24.9000      384
        routed       8  8.000   8.500 code    0.00100   0.00050   0.00900   98.21%     25.1000     24.9000      384
        routed       8  8.000   8.500 all     0.00110   0.00055   0.00990   98.21%     25.1000     24.9000      768
        depths   asked   bits  ranges text        KL    median       99% same top  perplexity unquantized   tokens
        uniform      8  8.000   8.500 code   0.00100   0.00050   0.00900   98.21%     25.1000     24.9000      384
        ");
    }

    #[test]
    fn agreements_line_up() {
        let draft = |tokens, accepted| DraftFigures { tokens, accepted };
        let report = AgreementReport {
            bits_asked: 3.25,
            bits: 3.2812,
            bits_with_ranges: 3.7812,
            agreement: 0.74219,
            drafts: vec![draft(2, 1.3281), draft(4, 2.1094), draft(8, 2.75)],
            windows: 2,
            tokens: 512,
            seconds: 3.25,
            read: BitsRead::new(&shape()),
        };
        let short = AgreementReport { bits_asked: 8.0, agreement: 1.0, drafts: vec![draft(2, 2.0)], ..report.clone() };
        let rows = [agreement_header(), agreement_row(Depths::Routed, &report), agreement_row(Depths::Uniform, &short)];
        insta::assert_snapshot!(rows.join("\n"), @r"
        depths   asked   bits  ranges    alike   of 2   of 4   of 8  windows   tokens   seconds
        routed    3.25  3.281   3.781   74.22%  1.328  2.109  2.750        2      512       3.2
        uniform      8  3.281   3.781  100.00%  2.000      -      -        2      512       3.2
        ");
    }

    #[test]
    fn tasks_line_up() {
        let report = |figures, stderr| TaskReport {
            examples: 500,
            truncated: 0,
            acc: 0.4321,
            acc_stderr: stderr,
            figures,
            bits_asked: 4.0,
            bits: 4.0123,
            bits_with_ranges: 4.5123,
            tokens: 65472,
            seconds: 100.0,
            read: BitsRead::new(&shape()),
        };
        let going_on = report(Figures::Continuations { mean_nll: 2.5, perplexity: 12.1825 }, Some(0.0221));
        let choosing = report(Figures::Choices { acc_norm: 0.5, acc_norm_stderr: None }, None);
        let rows = [
            task_header(&going_on),
            task_row(Depths::Routed, &going_on),
            task_header(&choosing),
            task_row(Depths::Uniform, &choosing),
        ];
        insta::assert_snapshot!(rows.join("\n"), @r"
        depths   asked   bits  ranges examples      acc       +-   mean nll perplexity   tokens   seconds
        routed       4  4.012   4.512      500   0.4321   0.0221     2.5000    12.1825    65472     100.0
        depths   asked   bits  ranges examples      acc       +-   acc_norm         +-   tokens   seconds
        uniform      4  4.012   4.512      500   0.4321        -     0.5000          -    65472     100.0
        ");
    }

    #[test]
    fn detail_has_a_row_for_each_layer_and_one_for_all() {
        let mut read = BitsRead::new(&shape());
        // Two tokens; depths 1 and 2 in the first layer's qkv, 4 at its o, 1 elsewhere.
        let mut depths = vec![1; 16];
        depths[1] = 2;
        depths[2..4].fill(4);
        read.add(&TokenDepths::new(2, 2, depths));
        insta::assert_snapshot!(detail(&Detail::of(&read, 2)), @r"
        layer      qkv        o  gate_up     down      all
            0    3.000    8.000    2.000    2.000    2.889
            1    2.000    2.000    2.000    2.000    2.000
          all    2.500    5.000    2.000    2.000    2.444
        ");
    }
}
