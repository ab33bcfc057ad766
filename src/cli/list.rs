//! `edge-run list`: the user's models, with what each takes and where it came from.

use std::fs;
use std::time::SystemTime;

use clap::Args;
use serde::Serialize;

use super::exit::Exit;
use super::models::{Origin, StoredModel, stored};
use super::output::{note, print_json, print_line};
use super::paths::models_dir;
use super::{Done, exit, progress, terminal};
use edge_run::internals::format::{FolderSummary, MANIFEST_FILE, ModelFolder};

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Write a JSON object a line, one for each model
    #[arg(long)]
    pub json: bool,
}

/// A model for `--json`.
#[derive(Debug, Serialize)]
struct StoredLine {
    name: String,
    dir: String,
    #[serde(flatten)]
    content: Option<StoredContent>,
    /// Where it was pulled from, of a model that was.
    origin: Option<Origin>,
    /// When the folder became a model, in seconds since 1970.
    made: Option<i64>,
    /// Why it cannot run, of a damaged model.
    fault: Option<String>,
}

/// What is in a sound model folder.
#[derive(Debug, Serialize)]
struct StoredContent {
    /// "llama", or the name of another family.
    family: String,
    /// Weights of layers, embedding and head.
    params: u64,
    bytes: u64,
    group_size: u32,
    /// Bits that the deepest plan reads of each weight, ranges included.
    stored_bits: f32,
    calibrated: bool,
    /// The model's name in its source, and the source's format.
    source: String,
    format: String,
    licence: Option<String>,
}

/// Lists the models.
pub fn run(args: &ListArgs) -> Done {
    let root = models_dir()?;
    let lines: Vec<StoredLine> = stored(&root)?.iter().map(StoredLine::of).collect();
    if args.json {
        lines.iter().try_for_each(print_json)?;
    } else if lines.is_empty() {
        note(format_args!("there are no models in `{}`; `edge-run pull OWNER/MODEL` gets one", root.display()));
    } else {
        print_line(table(&lines))?;
    }
    Ok(Exit::Done)
}

impl StoredLine {
    fn of(model: &StoredModel) -> StoredLine {
        let opened = ModelFolder::open(&model.dir);
        let made = fs::metadata(model.dir.join(MANIFEST_FILE)).and_then(|found| found.modified()).ok();
        let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|d| d.as_secs() as i64);
        StoredLine {
            name: model.name(),
            dir: model.dir.display().to_string(),
            origin: model.origin(),
            made: made.and_then(seconds),
            fault: opened.as_ref().err().map(exit::sentence),
            content: opened.ok().map(|folder| StoredContent::of(folder.summary())),
        }
    }

    /// The cells of the line's row.
    fn cells(&self) -> [String; 6] {
        let (family, size, bits) = match &self.content {
            Some(content) => (
                content.family.clone(),
                progress::bytes(content.bytes),
                format!("2 to 8, {} stored", content.stored_bits),
            ),
            None => ("damaged".into(), "-".into(), "-".into()),
        };
        let source = match (&self.origin, &self.content) {
            (Some(origin), _) => format!("{}@{}", origin.repository, origin.commit.get(..7).unwrap_or_default()),
            (None, Some(content)) => content.format.clone(),
            (None, None) => "-".into(),
        };
        [self.name.clone(), family, size, bits, source, self.made.map_or("-".into(), date)]
    }
}

impl StoredContent {
    fn of(summary: FolderSummary) -> StoredContent {
        StoredContent {
            params: summary.linear_params + summary.embedding_params,
            bytes: summary.total_bytes,
            group_size: summary.group_size,
            stored_bits: summary.stored_bits,
            calibrated: summary.calibration.is_some(),
            family: summary.architecture,
            source: summary.source.name,
            format: summary.source.format,
            licence: summary.source.licence,
        }
    }
}

/// A day of this place's calendar.
fn date(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds);
    time.map_or("-".into(), |time| time.to_zoned(jiff::tz::TimeZone::system()).date().to_string())
}

fn table(lines: &[StoredLine]) -> String {
    let header = ["NAME", "FAMILY", "SIZE", "BITS", "SOURCE", "DATE"].map(String::from);
    let rows: Vec<[String; 6]> = std::iter::once(header)
        .chain(lines.iter().map(StoredLine::cells))
        .map(|row| row.map(terminal::in_a_line))
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_string()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_row_for_each_model() {
        let content = StoredContent {
            family: "llama".into(),
            params: 7,
            bytes: 3 << 20,
            group_size: 64,
            stored_bits: 10.0,
            calibrated: false,
            source: "M".into(),
            format: "gguf".into(),
            licence: None,
        };
        let origin = Origin {
            repository: "a/m".into(),
            file: None,
            revision: "main".into(),
            commit: "0123456789".into(),
            pulled: 0,
            manifest_sha256: String::new(),
        };
        let line = |name: &str, content, origin, fault| StoredLine {
            name: name.into(),
            dir: name.into(),
            content,
            origin,
            made: None,
            fault,
        };
        let lines = [line("a/m", Some(content), Some(origin), None), line("b\x1b", None, None, Some("cut".into()))];
        let expected = "NAME   FAMILY   SIZE      BITS               SOURCE       DATE\n\
             a/m    llama    3.00 MiB  2 to 8, 10 stored  a/m@0123456  -\n\
             b\\x1b  damaged  -         -                  -            -";
        assert_eq!(table(&lines), expected);
    }
}
