//! Progress bars, on standard error, and only where it is a terminal.

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// What a bar counts.
#[derive(Debug, Clone, Copy)]
pub enum BarUnit {
    /// Bytes.
    Bytes,
    /// Weights of a model.
    Weights,
    /// Windows of a text.
    Windows,
    /// Steps of a training.
    #[cfg(feature = "calibrate")]
    Steps,
    /// Rows of a table.
    #[cfg(feature = "calibrate")]
    Rows,
    /// Examples of a task.
    Examples,
    /// Hundredths of the work.
    Percent,
}

/// A bar that counts up to `total`.
pub fn bar(what: &str, total: u64, unit: BarUnit) -> ProgressBar {
    let count = match unit {
        BarUnit::Bytes => "{bytes}/{total_bytes}",
        BarUnit::Weights => "{human_pos}/{human_len} weights",
        BarUnit::Windows => "{pos}/{len} windows",
        #[cfg(feature = "calibrate")]
        BarUnit::Steps => "{pos}/{len} steps",
        #[cfg(feature = "calibrate")]
        BarUnit::Rows => "{pos} rows",
        BarUnit::Examples => "{human_pos}/{human_len} examples",
        BarUnit::Percent => "{percent}%",
    };
    let style = ProgressStyle::with_template(&format!("{{prefix}} [{{wide_bar}}] {count} {{eta}} {{msg}}"));
    let style = style.expect("the template is sound").progress_chars("=> ");
    ProgressBar::new(total).with_style(style).with_prefix(what.to_string())
}

/// A number of bytes for people.
pub fn bytes(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}
