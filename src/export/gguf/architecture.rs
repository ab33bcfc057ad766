//! Which architecture of llama.cpp a model is written as, what its metadata say, and how its weights change for it.

use super::file::MetadataWriter;
use crate::arch::ModelSpec;
use crate::error::Result;
use crate::export::family::{ExportFamily, FamilyKind, unsupported, unsupported_table};
use crate::export::rotation::RotaryTable;
use crate::quantize::family::constants::{GEMMA2_27B_LAYERS, GEMMA3_27B_LAYERS, NO_ROPE_INTERVAL};
use crate::shape::LlamaShape;

/// A model as an architecture of llama.cpp.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// Its name.
    pub name: &'static str,
    /// Whether the rows of queries and keys come in the pairs that are rotated.
    pub pairs: bool,
    /// What the embedding is multiplied by, as llama.cpp multiplies it by the inverse.
    pub embed_scale: f32,
    /// What queries are multiplied by, for the same reason: their norm where they have one, else their rows.
    pub query_scale: f32,
    /// Whether a head of its own is needed, whatever the model has.
    pub needs_head: bool,
    /// Tensors beside the model's: names and numbers.
    pub extra: Vec<(&'static str, Vec<f32>)>,
}

/// The architecture of a model; its keys beside the dimensions go to `metadata`.
pub fn choose(
    (shape, spec): (&LlamaShape, &ModelSpec),
    family: &ExportFamily,
    metadata: &mut MetadataWriter,
) -> Result<Architecture> {
    match family.kind {
        FamilyKind::Llama => llama(shape, spec, family, metadata),
        FamilyKind::Qwen2 => match family.rotation(shape, spec)? {
            RotaryTable::Plain { theta, factor } => {
                plain(metadata, "qwen2", theta, factor);
                Ok(Architecture::new("qwen2"))
            }
            // Its graph has no divisors, but that of LLaMA has biases.
            rotation => rotated_llama(shape, rotation, metadata, "llama"),
        },
        FamilyKind::Qwen3 => match family.rotation(shape, spec)? {
            RotaryTable::Plain { theta, factor } => {
                plain(metadata, "qwen3", theta, factor);
                Ok(Architecture::new("qwen3"))
            }
            _ => Err(unsupported_table(0, family.tables[0], "a base and a factor in llama.cpp's qwen3")),
        },
        FamilyKind::Ministral3 => {
            let growth = family.layer.attention.query_growth.expect("what makes the family");
            // One key of the file says both.
            if let RotaryTable::Divided { long: Some((original, _)), .. } = family.rotation(shape, spec)?
                && original != growth.original_context
            {
                return Err(unsupported_table(0, family.tables[0], "the original context of the queries' growth"));
            }
            metadata.f32("mistral3.attention.temperature_scale", growth.beta);
            metadata.u32("mistral3.rope.scaling.original_context_length", growth.original_context);
            rotated_llama(shape, family.rotation(shape, spec)?, metadata, "mistral3")
        }
        FamilyKind::Olmo2 => olmo2(shape, spec, family, metadata),
        FamilyKind::Gemma2 => gemma2(shape, spec, family, metadata),
        FamilyKind::Gemma3 => gemma3(shape, spec, family, metadata),
    }
}

impl Architecture {
    fn new(name: &'static str) -> Architecture {
        Architecture { name, pairs: false, embed_scale: 1.0, query_scale: 1.0, needs_head: false, extra: Vec::new() }
    }
}

fn llama(
    shape: &LlamaShape,
    spec: &ModelSpec,
    family: &ExportFamily,
    metadata: &mut MetadataWriter,
) -> Result<Architecture> {
    let (still, rotation) = family.still_layers(shape, spec)?;
    if !still.contains(&true) {
        return rotated_llama(shape, rotation, metadata, "llama");
    }
    if let Some(layer) = (0..still.len()).find(|l| still[*l] != ((l + 1) % NO_ROPE_INTERVAL as usize == 0)) {
        let supported = "every fourth layer without rotation in llama.cpp's smollm3";
        return Err(unsupported_table(layer, family.tables[layer], supported));
    }
    match rotation {
        RotaryTable::Plain { theta, factor } => {
            plain(metadata, "smollm3", theta, factor);
            Ok(Architecture { pairs: true, ..Architecture::new("smollm3") })
        }
        _ => Err(unsupported_table(0, family.tables[0], "a base and a factor in llama.cpp's smollm3")),
    }
}

/// An architecture with the graph of LLaMA, which takes any table for all layers.
fn rotated_llama(
    shape: &LlamaShape,
    rotation: RotaryTable,
    metadata: &mut MetadataWriter,
    name: &'static str,
) -> Result<Architecture> {
    let mut made = Architecture { pairs: true, ..Architecture::new(name) };
    if let Some(divisors) = rotation.divisors(shape.head_dim) {
        made.extra.push(("rope_freqs.weight", divisors));
    }
    match rotation {
        RotaryTable::Plain { theta, factor } => plain(metadata, name, theta, factor),
        RotaryTable::Divided { theta, divisors, long: Some((original, long)) } => {
            metadata.f32(&format!("{name}.rope.freq_base"), theta);
            metadata.text(&format!("{name}.rope.scaling.type"), "longrope");
            if name != "mistral3" {
                metadata.u32(&format!("{name}.rope.scaling.original_context_length"), original);
            }
            metadata.f32(&format!("{name}.rope.scaling.attn_factor"), 1.0);
            made.extra.push(("rope_factors_short.weight", divisors));
            made.extra.push(("rope_factors_long.weight", long));
        }
        RotaryTable::Divided { theta, .. } | RotaryTable::Llama3 { theta, .. } => plain(metadata, name, theta, 1.0),
        RotaryTable::Still => return Err(unsupported_table(0, 0, "a table that turns something")),
    }
    Ok(made)
}

fn olmo2(
    shape: &LlamaShape,
    spec: &ModelSpec,
    family: &ExportFamily,
    metadata: &mut MetadataWriter,
) -> Result<Architecture> {
    if shape.q_dim() != shape.model_dim {
        let got = shape.q_dim().to_string();
        return Err(unsupported("heads * head_dim", &got, "model_dim in llama.cpp's olmo2"));
    }
    let (windowed, global) = family.rotations(shape, spec)?;
    let RotaryTable::Plain { theta, factor } = global else {
        return Err(unsupported_table(0, family.tables[0], "a base and a factor in llama.cpp's olmo2"));
    };
    plain(metadata, "olmo2", theta, factor);
    if family.window()?.is_some() {
        if windowed != (RotaryTable::Plain { theta, factor: 1.0 }) {
            let supported = "that of the other layers without a factor in llama.cpp's olmo2";
            return Err(unsupported("the rotary table of layers with a window", &format!("{windowed:?}"), supported));
        }
        write_windows(shape, family, metadata, "olmo2", 4)?;
    }
    Ok(Architecture { needs_head: true, ..Architecture::new("olmo2") })
}

fn gemma2(
    shape: &LlamaShape,
    spec: &ModelSpec,
    family: &ExportFamily,
    metadata: &mut MetadataWriter,
) -> Result<Architecture> {
    if !shape.tied_head {
        return Err(unsupported("tied_head", "false", "true in llama.cpp's gemma2"));
    }
    let rotation = family.rotation(shape, spec)?;
    let RotaryTable::Plain { theta, factor } = rotation else {
        return Err(unsupported_table(0, family.tables[0], "a base and a factor in llama.cpp's gemma2"));
    };
    plain(metadata, "gemma2", theta, factor);
    metadata.f32("gemma2.attn_logit_softcapping", family.layer.attention.score_cap.expect("what makes the family"));
    metadata.f32("gemma2.final_logit_softcapping", spec.logit_cap.expect("what makes the family"));
    write_windows(shape, family, metadata, "gemma2", 2)?;
    Ok(gemma(shape, "gemma2", GEMMA2_27B_LAYERS))
}

fn gemma3(
    shape: &LlamaShape,
    spec: &ModelSpec,
    family: &ExportFamily,
    metadata: &mut MetadataWriter,
) -> Result<Architecture> {
    let (windowed, global) = family.rotations(shape, spec)?;
    let (RotaryTable::Plain { theta: local, factor: local_factor }, RotaryTable::Plain { theta, factor }) =
        (windowed, global)
    else {
        return Err(unsupported_table(0, family.tables[0], "a base and a factor in llama.cpp's gemma3"));
    };
    if local_factor != 1.0 {
        let supported = "1 in llama.cpp's gemma3";
        return Err(unsupported("the rotary factor of layers with a window", &local_factor.to_string(), supported));
    }
    plain(metadata, "gemma3", theta, factor);
    metadata.f32("gemma3.rope.freq_base_swa", local);
    write_windows(shape, family, metadata, "gemma3", 6)?;
    Ok(gemma(shape, "gemma3", GEMMA3_27B_LAYERS))
}

/// llama.cpp multiplies the embedding by sqrt(D), and queries by 1/sqrt(A), or in the largest model 1/sqrt(D / H).
fn gemma(shape: &LlamaShape, name: &'static str, largest_layers: u32) -> Architecture {
    let of_largest = shape.layers == largest_layers;
    let divisor = if of_largest { shape.model_dim / shape.heads } else { shape.head_dim };
    Architecture {
        embed_scale: 1.0 / (shape.model_dim as f32).sqrt(),
        query_scale: (f64::from(divisor) / f64::from(shape.head_dim)).sqrt() as f32,
        ..Architecture::new(name)
    }
}

/// The window, and which layers have it where that is not as usual.
fn write_windows(
    shape: &LlamaShape,
    family: &ExportFamily,
    metadata: &mut MetadataWriter,
    name: &str,
    usual: u32,
) -> Result<()> {
    let rule = "after so many layers with one another without, in llama.cpp";
    let period = family.window_period();
    let period = period.ok_or_else(|| unsupported("windows of layers", &format!("{:?}", family.windows), rule))?;
    let window = family.window()?;
    // Some layer must have a window, and one as long as the context is none.
    metadata.u32(&format!("{name}.attention.sliding_window"), window.unwrap_or(shape.max_context));
    if window.is_some() && period != usual {
        metadata.u32(&format!("{name}.attention.sliding_window_pattern"), period);
    }
    Ok(())
}

fn plain(metadata: &mut MetadataWriter, name: &str, theta: f32, factor: f32) {
    metadata.f32(&format!("{name}.rope.freq_base"), theta);
    if factor != 1.0 {
        metadata.text(&format!("{name}.rope.scaling.type"), "linear");
        metadata.f32(&format!("{name}.rope.scaling.factor"), factor);
    }
}
