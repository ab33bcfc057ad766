//! `edge-run inspect`: what a model folder holds, in numbers.

use std::fmt::Write as _;

use super::Done;
use super::args::InspectArgs;
use super::exit::Exit;
use super::models::model_dir;
use super::output::{print_json, print_line};
use super::{progress, terminal};
use edge_run::internals::format::{DepthBits, FolderSummary, ModelFolder, TokenBytes};
use edge_run::internals::precision::Depth;

/// Shows the folder's summary.
pub fn run(args: &InspectArgs) -> Done {
    let summary = ModelFolder::open(&model_dir(&args.dir)?)?.summary();
    if args.json {
        print_json(&summary)?
    } else {
        print_line(describe(&summary))?
    }
    Ok(Exit::Done)
}

/// The summary in lines of a name and its value.
fn describe(summary: &FolderSummary) -> String {
    let (shape, source) = (&summary.shape, &summary.source);
    let licence = source.licence.as_deref().unwrap_or("not stated");
    let mut lines = vec![
        ("model", if source.name.trim().is_empty() { "not named".into() } else { source.name.clone() }),
        ("source", format!("{}, {}", source.format, source.dtypes.join(", "))),
        ("licence", licence.to_string()),
        ("architecture", summary.architecture.clone()),
        ("layers", shape.layers.to_string()),
        ("dimensions", format!("model {}, feed-forward {}", shape.model_dim, shape.ffn_dim)),
        ("heads", format!("{} of {}, {} for keys and values", shape.heads, shape.head_dim, shape.kv_heads)),
        ("vocabulary", shape.vocab.to_string()),
        ("context", format!("{} tokens", shape.max_context)),
        ("weights", format!("{} in layers, {} in embedding and head", summary.linear_params, summary.embedding_params)),
        ("group size", format!("{} weights share one range", summary.group_size)),
    ];
    for depth in &summary.depths {
        let value = format!("{} read of each weight, {} with ranges", depth.bits, depth.bits_with_ranges);
        lines.push((["bits, 1 slice", "bits, 2 slices", "bits, 3 slices", "bits, 4 slices"][depth.slices - 1], value));
    }
    for depth in &summary.depths {
        lines.push((["a token, 1 slice", "2 slices", "3 slices", "4 slices"][depth.slices - 1], token_bytes(depth)));
    }
    lines.push(("embedding", embedding(summary)));
    // The slices of an answer come and go with its plan; eval and bench load all of them.
    lines.push(("embedding read", "one slice deeper than the plan; by eval and bench all of it".into()));
    lines.push(("ranges", ranges(summary)));
    lines.push(("routers", routers(summary)));
    lines.push(("files", files(summary)));
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let text = lines.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name:width$}  {}", terminal::in_a_line(value));
        text
    });
    text.trim_end().to_string()
}

/// What is read for a token of an answer, keys and values left out.
fn token_bytes(depth: &DepthBits) -> String {
    let TokenBytes { body, head, embedding } = depth.token_bytes;
    let [all, body, head, embedding] =
        [depth.token_bytes.total(), body, head, embedding].map(|bytes| progress::bytes(bytes as u64));
    format!("{all}: body {body}, head {head} at {} bits, embedding {embedding}", depth.outer_bits)
}

/// What embedding and head are stored at.
fn embedding(summary: &FolderSummary) -> String {
    let head = if summary.shape.tied_head { "is the head too" } else { "and a head of its own" };
    let bits = summary.embedding_bytes as f64 * 8.0 / summary.embedding_params as f64;
    format!("{head}; stored at {} bits, {bits} with ranges", Depth::FULL.bits())
}

/// Where the ranges come from.
fn ranges(summary: &FolderSummary) -> String {
    match &summary.calibration {
        Some(pack) => format!("calibrated, with the pack of SHA-256 {}", pack.pack_sha256),
        None => "of the smallest and the largest weight of each group".into(),
    }
}

/// The routers, if there are any.
fn routers(summary: &FolderSummary) -> String {
    let Some(routing) = &summary.routing else { return "none: every token reads the same slices".into() };
    let (size, bits) = (progress::bytes(routing.bytes), routing.overhead_bits);
    let (least, most, rows) = (routing.least_bits, routing.most_bits, routing.rows);
    format!("{}, {size} ({bits:.2} bits a weight); {least} to {most} bits on average, {rows} rows", routing.routers)
}

/// Sizes on disk.
fn files(summary: &FolderSummary) -> String {
    let slices: Vec<String> = summary.slice_file_bytes.iter().map(|bytes| progress::bytes(*bytes)).collect();
    let (base, residuals) = slices.split_first().expect("a model has a base");
    let total = progress::bytes(summary.total_bytes);
    format!("{total}: base {base}, residual slices {}", residuals.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use edge_run::internals::format::{Calibration, ModelSource, RoutingSummary};
    use edge_run::internals::shape::{LlamaShape, Rope, RopeScaling};

    fn summary() -> FolderSummary {
        let shape = LlamaShape {
            layers: 30,
            model_dim: 576,
            ffn_dim: 1536,
            heads: 9,
            kv_heads: 3,
            head_dim: 64,
            vocab: 49152,
            max_context: 8192,
            norm_eps: 1e-5,
            tied_head: true,
            rope: Rope { theta: 1e5, scaling: RopeScaling::None },
        };
        FolderSummary {
            architecture: "llama".into(),
            source: ModelSource {
                name: "A model".into(),
                format: "gguf".into(),
                family: None,
                dtypes: vec!["F32".into(), "Q4_1".into()],
                licence: Some("apache-2.0".into()),
            },
            group_size: 64,
            stored_bits: 8.5,
            slice_file_bytes: vec![50 << 20, 32 << 20, 32 << 20, 32 << 20],
            total_bytes: 150 << 20,
            linear_params: shape.linear_params(),
            embedding_params: shape.embedding_params(),
            embedding_bytes: shape.embedding_params() * 17 / 16,
            depths: (1..=4)
                .map(|d| DepthBits {
                    slices: d,
                    bits: 2.0 * d as f32,
                    bits_with_ranges: 2.0 * d as f32 + 0.5,
                    outer_bits: 8.min(2 * d as u32 + 2),
                    token_bytes: TokenBytes { body: 1e6 * d as f64, head: 2e6, embedding: 612.0 },
                })
                .collect(),
            calibration: None,
            routing: None,
            shape,
        }
    }

    #[test]
    fn a_name_is_escaped_and_none_is_said() {
        let named = |name: &str| {
            let source = ModelSource { name: name.into(), ..summary().source };
            describe(&FolderSummary { source, ..summary() })
        };
        assert!(named(" ").starts_with("model             not named\n"));
        let escaped = named("a\x1b[31m\nlicence         mine");
        assert!(escaped.starts_with("model             a\\x1b[31m\\nlicence         mine\nsource "), "{escaped}");
    }

    #[test]
    fn a_summary_in_words() {
        insta::assert_snapshot!(describe(&summary()), @r"
        model             A model
        source            gguf, F32, Q4_1
        licence           apache-2.0
        architecture      llama
        layers            30
        dimensions        model 576, feed-forward 1536
        heads             9 of 64, 3 for keys and values
        vocabulary        49152
        context           8192 tokens
        weights           106168320 in layers, 28311552 in embedding and head
        group size        64 weights share one range
        bits, 1 slice     2 read of each weight, 2.5 with ranges
        bits, 2 slices    4 read of each weight, 4.5 with ranges
        bits, 3 slices    6 read of each weight, 6.5 with ranges
        bits, 4 slices    8 read of each weight, 8.5 with ranges
        a token, 1 slice  2.86 MiB: body 976.56 KiB, head 1.91 MiB at 4 bits, embedding 612 B
        2 slices          3.82 MiB: body 1.91 MiB, head 1.91 MiB at 6 bits, embedding 612 B
        3 slices          4.77 MiB: body 2.86 MiB, head 1.91 MiB at 8 bits, embedding 612 B
        4 slices          5.72 MiB: body 3.81 MiB, head 1.91 MiB at 8 bits, embedding 612 B
        embedding         is the head too; stored at 8 bits, 8.5 with ranges
        embedding read    one slice deeper than the plan; by eval and bench all of it
        ranges            of the smallest and the largest weight of each group
        routers           none: every token reads the same slices
        files             150.00 MiB: base 50.00 MiB, residual slices 32.00 MiB, 32.00 MiB, 32.00 MiB
        ");

        let calibration = Calibration {
            pack_sha256: "0123abcd".into(),
            source_sha256: "4567".into(),
            recipe: serde_json::Map::new(),
        };
        let routing = RoutingSummary {
            routers: 120,
            bytes: 6 << 20,
            overhead_bits: 0.474,
            least_bits: 2.0,
            most_bits: 8.0,
            rows: 13,
        };
        let calibrated = FolderSummary { calibration: Some(calibration), routing: Some(routing), ..summary() };
        assert_eq!(ranges(&calibrated), "calibrated, with the pack of SHA-256 0123abcd");
        assert_eq!(routers(&calibrated), "120, 6.00 MiB (0.47 bits a weight); 2 to 8 bits on average, 13 rows");
    }
}
