//! Reports in columns, for people.

use std::fmt::Write as _;

use edge_run::internals::eval::{Depths, Detail, Figures, PerplexityReport, SiteBits, TaskReport};
use edge_run::internals::shape::Site;

/// The names of the columns of [`report_row`].
pub fn report_header(report: &PerplexityReport) -> String {
    let header = format!(
        "{:<8} {:>5} {:>6} {:>12} {:>8} {:>8} {:>9} {:>9}",
        "depths", "asked", "bits", "perplexity", "windows", "tokens", "seconds", "tokens/s"
    );
    if report.prompt_bits.is_some() { format!("{header} {:>6}", "prompt") } else { header }
}

/// Perplexity in a line; `prompt` are the bits read for the prompts, where answers were scored.
pub fn report_row(depths: Depths, report: &PerplexityReport) -> String {
    let PerplexityReport { bits_asked, bits, perplexity, windows, tokens, seconds, .. } = report;
    let (depths, rate) = (depths.name(), *tokens as f64 / seconds.max(f64::MIN_POSITIVE));
    let row = format!(
        "{depths:<8} {bits_asked:>5} {bits:>6.3} {perplexity:>12.4} {windows:>8} {tokens:>8} {seconds:>9.1} {rate:>9.1}"
    );
    report.prompt_bits.map_or(row.clone(), |bits| format!("{row} {bits:>6.3}"))
}

/// The names of the columns of [`task_row`].
pub fn task_header(report: &TaskReport) -> String {
    let figures = match report.figures {
        Figures::Continuations { .. } => ["mean nll", "perplexity"],
        Figures::Choices { .. } => ["acc_norm", "+-"],
    };
    format!(
        "{:<8} {:>5} {:>6} {:>8} {:>8} {:>8} {:>10} {:>10} {:>8} {:>9}",
        "depths", "asked", "bits", "examples", "acc", "+-", figures[0], figures[1], "tokens", "seconds"
    )
}

/// A task's figures in a line; `+-` is a standard error.
pub fn task_row(depths: Depths, report: &TaskReport) -> String {
    let TaskReport { examples, acc, acc_stderr, bits_asked, bits, tokens, seconds, .. } = report;
    let error = |stderr: Option<f64>| stderr.map_or_else(|| "-".to_string(), |stderr| format!("{stderr:.4}"));
    let figures = match report.figures {
        Figures::Continuations { mean_nll, perplexity } => [format!("{mean_nll:.4}"), format!("{perplexity:.4}")],
        Figures::Choices { acc_norm, acc_norm_stderr } => [format!("{acc_norm:.4}"), error(acc_norm_stderr)],
    };
    let (depths, stderr) = (depths.name(), error(*acc_stderr));
    format!(
        "{depths:<8} {bits_asked:>5} {bits:>6.3} {examples:>8} {acc:>8.4} {stderr:>8} {:>10} {:>10} {tokens:>8} \
         {seconds:>9.1}",
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
            report_row(Depths::Routed, &PerplexityReport { bits: 3.4921, ..report(3.5, 31.25) }),
            report_row(Depths::Shuffled, &report(3.5, 42.0)),
            report_row(Depths::Uniform, &report(2.0, 12345.678)),
        ];
        insta::assert_snapshot!(rows.join("\n"), @r"
        depths   asked   bits   perplexity  windows   tokens   seconds  tokens/s
        routed     3.5  3.492      31.2500       64    65472     100.0     654.7
        shuffled   3.5  3.500      42.0000       64    65472     100.0     654.7
        uniform      2  2.000   12345.6780       64    65472     100.0     654.7
        ");
        let answer = PerplexityReport { prompt_bits: Some(8.0), answer_from: Some(256), ..report(3.5, 31.25) };
        let rows = [report_header(&answer), report_row(Depths::Routed, &answer)];
        insta::assert_snapshot!(rows.join("\n"), @r"
        depths   asked   bits   perplexity  windows   tokens   seconds  tokens/s prompt
        routed     3.5  3.500      31.2500       64    65472     100.0     654.7  8.000
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
        depths   asked   bits examples      acc       +-   mean nll perplexity   tokens   seconds
        routed       4  4.012      500   0.4321   0.0221     2.5000    12.1825    65472     100.0
        depths   asked   bits examples      acc       +-   acc_norm         +-   tokens   seconds
        uniform      4  4.012      500   0.4321        -     0.5000          -    65472     100.0
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
