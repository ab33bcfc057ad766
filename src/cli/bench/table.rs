//! Rows as Markdown, JSON and CSV, each printed as soon as it is measured.

use serde::Serialize;
use serde_json::{Map, Value};

use super::args::Format;
use crate::cli::output::json;
use crate::cli::{progress, terminal};

/// A test under one plan.
#[derive(Debug, Clone, Serialize)]
pub struct BenchRow {
    pub r#type: &'static str,
    pub model: String,
    pub size_bytes: u64,
    pub params: u64,
    pub device: String,
    pub backend: String,
    pub driver: String,
    /// "f32" or "int8": of a single token.
    pub activations: &'static str,
    /// Of several tokens.
    pub cooperative_matrix: bool,
    /// "f16", "q8", "q6" or "q4".
    pub cache_type: String,
    /// "routed" or "uniform".
    pub depths: &'static str,
    pub bits_asked: f32,
    pub bits_read: f32,
    pub test: String,
    pub repetitions: u32,
    pub tokens_per_second: f64,
    pub tokens_per_second_stddev: f64,
    /// Part of the uniform plan's speed that is lost, where there is such a plan to compare with.
    pub routing_cost: Option<f64>,
    /// Of generation only.
    pub bytes_per_token: Option<f64>,
    /// Of these, what is not keys and values: of the layers, of the head, and of the embedding's row.
    pub body_bytes_per_token: Option<f64>,
    pub head_bytes_per_token: Option<f64>,
    pub embedding_bytes_per_token: Option<f64>,
    pub copy_bytes_per_second: f64,
    /// Bytes read a second over those of the copy.
    pub copy_share: Option<f64>,
    /// Where the machine tells energy.
    pub joules_per_token: Option<f64>,
    /// What told it, its kind first.
    pub energy_source: Option<String>,
    pub memory_bytes: u64,
    pub version: &'static str,
}

/// A kernel's part in a step.
#[derive(Debug, Clone, Serialize)]
pub struct ProfileRow {
    pub r#type: &'static str,
    pub test: String,
    pub depths: &'static str,
    pub bits_asked: f32,
    pub kernel: &'static str,
    pub launches: usize,
    pub total_us: f64,
    pub mean_us: f64,
    pub share: f64,
}

/// What a table is made of.
pub trait TableRow: Serialize {
    /// Name and content of each column for people.
    fn cells(&self) -> Vec<(&'static str, String)>;
}

impl TableRow for BenchRow {
    fn cells(&self) -> Vec<(&'static str, String)> {
        let percent = |share: Option<f64>| share.map_or("-".to_string(), |share| format!("{:.1}%", share * 100.0));
        let megabytes = |bytes: Option<f64>| bytes.map_or("-".to_string(), |bytes| format!("{:.1}", bytes / 1e6));
        let rate = format!("{:.2} ± {:.2}", self.tokens_per_second, self.tokens_per_second_stddev);
        vec![
            ("model", terminal::in_a_line(&self.model)),
            ("size", progress::bytes(self.size_bytes)),
            ("params", format!("{:.2} M", self.params as f64 / 1e6)),
            ("device", terminal::in_a_line(format_args!("{}, {}", self.device, self.backend))),
            ("memory", progress::bytes(self.memory_bytes)),
            ("depths", self.depths.to_string()),
            ("bits", self.bits_asked.to_string()),
            ("read", format!("{:.3}", self.bits_read)),
            ("test", self.test.clone()),
            ("t/s", rate),
            ("routing", percent(self.routing_cost)),
            ("MB/token", megabytes(self.bytes_per_token)),
            ("body", megabytes(self.body_bytes_per_token)),
            ("head", megabytes(self.head_bytes_per_token)),
            ("of copy", percent(self.copy_share)),
            ("J/token", self.energy()),
        ]
    }
}

impl BenchRow {
    /// The energy for people, with the kind of its source.
    fn energy(&self) -> String {
        let Some(joules) = self.joules_per_token else { return "-".to_string() };
        let source = self.energy_source.as_deref().unwrap_or_default();
        format!("{joules:.4} {}", source.split([' ', ',']).next().unwrap_or_default())
    }
}

impl TableRow for ProfileRow {
    fn cells(&self) -> Vec<(&'static str, String)> {
        vec![
            ("test", self.test.clone()),
            ("depths", self.depths.to_string()),
            ("bits", self.bits_asked.to_string()),
            ("kernel", self.kernel.to_string()),
            ("launches", self.launches.to_string()),
            ("total us", format!("{:.1}", self.total_us)),
            ("mean us", format!("{:.2}", self.mean_us)),
            ("share", format!("{:.1}%", self.share * 100.0)),
        ]
    }
}

/// Rows of one kind on their way out.
pub struct Table {
    format: Format,
    /// Of the columns, in characters.
    widths: Vec<usize>,
    /// Whether the header is out.
    begun: bool,
}

impl Table {
    /// A table without rows.
    pub fn new(format: Format) -> Table {
        Table { format, widths: Vec::new(), begun: false }
    }

    /// Makes the columns of a Markdown table as wide as the row needs them; the first row does so by itself.
    pub fn fit(&mut self, row: &impl TableRow) {
        /// Room for numbers that grow a little from row to row.
        const LEAST: usize = 8;
        let cells = row.cells();
        self.widths.resize(cells.len(), LEAST);
        for (width, (name, cell)) in self.widths.iter_mut().zip(cells) {
            *width = name.len().max(cell.chars().count()).max(*width);
        }
    }

    /// The row's line, below the header where it is the first.
    pub fn row(&mut self, row: &impl TableRow) -> String {
        match self.format {
            Format::Json => json(row),
            Format::Csv => self.csv(row),
            Format::Md => self.markdown(row),
        }
    }

    fn markdown(&mut self, row: &impl TableRow) -> String {
        if !self.begun {
            self.fit(row);
        }
        let cells = row.cells();
        let line = |cells: Vec<&str>| {
            let padded = cells.iter().zip(&self.widths).map(|(cell, width)| format!(" {cell:>width$} |"));
            padded.fold("|".to_string(), |line, cell| line + &cell)
        };
        let content = line(cells.iter().map(|(_, cell)| cell.as_str()).collect());
        if std::mem::replace(&mut self.begun, true) {
            return content;
        }
        let header = line(cells.iter().map(|(name, _)| *name).collect());
        let rule: String = self.widths.iter().map(|width| format!(" {}: |", "-".repeat(width - 1))).collect();
        format!("{header}\n|{rule}\n{content}")
    }

    /// The fields of the JSON object, by their names.
    fn csv(&mut self, row: &impl TableRow) -> String {
        let fields: Map<String, Value> = serde_json::from_str(&json(row)).expect("a row is an object");
        let content = fields.values().map(csv_field).collect::<Vec<_>>().join(",");
        if std::mem::replace(&mut self.begun, true) {
            return content;
        }
        let names: Vec<&str> = fields.keys().map(String::as_str).collect();
        format!("{}\n{content}", names.join(","))
    }
}

/// A field as RFC 4180 has it.
fn csv_field(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if text.contains([',', '"', '\n', '\r']) => format!("\"{}\"", text.replace('"', "\"\"")),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> [BenchRow; 2] {
        let prompt = BenchRow {
            r#type: "bench",
            model: "A \"small\", tied model".into(),
            size_bytes: 137 << 20,
            params: 134_479_872,
            device: "A GPU".into(),
            backend: "Vulkan".into(),
            driver: "1.2".into(),
            activations: "int8",
            cooperative_matrix: false,
            cache_type: "f16".into(),
            depths: "routed",
            bits_asked: 3.4,
            bits_read: 3.4123,
            test: "pp512".into(),
            repetitions: 5,
            tokens_per_second: 1234.5,
            tokens_per_second_stddev: 6.25,
            routing_cost: None,
            bytes_per_token: None,
            body_bytes_per_token: None,
            head_bytes_per_token: None,
            embedding_bytes_per_token: None,
            copy_bytes_per_second: 1e12,
            copy_share: None,
            joules_per_token: None,
            energy_source: None,
            memory_bytes: 200 << 20,
            version: "0.0.0",
        };
        let generation = BenchRow {
            test: "tg128".into(),
            tokens_per_second: 300.0,
            routing_cost: Some(0.0625),
            bytes_per_token: Some(93.5e6),
            body_bytes_per_token: Some(60.25e6),
            head_bytes_per_token: Some(30e6),
            embedding_bytes_per_token: Some(612.0),
            copy_share: Some(0.02805),
            joules_per_token: Some(0.04251),
            energy_source: Some("RAPL package-0, dram".into()),
            ..prompt.clone()
        };
        [prompt, generation]
    }

    fn lines(format: Format, rows: &[impl TableRow]) -> String {
        let mut table = Table::new(format);
        rows.iter().for_each(|row| table.fit(row));
        rows.iter().map(|row| table.row(row)).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn markdown_lines_up() {
        insta::assert_snapshot!(lines(Format::Md, &rows()));
    }

    #[test]
    fn csv_and_json_have_the_same_fields() {
        insta::assert_snapshot!(lines(Format::Csv, &rows()));
        insta::assert_snapshot!(lines(Format::Json, &rows()));
    }

    #[test]
    fn a_profile_lines_up() {
        let row = |kernel, launches, total_us, share| ProfileRow {
            r#type: "profile",
            test: "tg128".into(),
            depths: "uniform",
            bits_asked: 4.0,
            kernel,
            launches,
            total_us,
            mean_us: total_us / f64::from(launches as u32),
            share,
        };
        let rows = [row("matvec_sliced", 121, 900.0, 0.9), row("(gaps)", 400, 100.0, 0.1)];
        insta::assert_snapshot!(lines(Format::Md, &rows), @r"
        |     test |   depths |     bits |        kernel | launches | total us |  mean us |    share |
        | -------: | -------: | -------: | ------------: | -------: | -------: | -------: | -------: |
        |    tg128 |  uniform |        4 | matvec_sliced |      121 |    900.0 |     7.44 |    90.0% |
        |    tg128 |  uniform |        4 |        (gaps) |      400 |    100.0 |     0.25 |    10.0% |
        ");
    }
}
