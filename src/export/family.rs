//! Which of the families that other programs know computes what a model's spec says.

use super::rotation::RotaryTable;
use crate::arch::{ActivationFunction, AttentionSpec, HeadNorm, LayerNorms, LayerSpec, ModelSpec};
use crate::error::{Error, Result};
use crate::shape::LlamaShape;

/// What tells families apart, beside windows and rotary tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FamilyKind {
    /// LLaMA and what folds into it.
    Llama,
    /// With biases of queries, keys and values.
    Qwen2,
    /// With norms of each head of queries and keys.
    Qwen3,
    /// Norms before and after, GELU, caps.
    Gemma2,
    /// Norms before and after, GELU, norms of each head of queries and keys.
    Gemma3,
    /// Norms after only, and of all heads together.
    Olmo2,
    /// Queries grow with their position.
    Ministral3,
}

/// A model as other programs see it.
#[derive(Debug, Clone)]
pub struct ExportFamily {
    /// Which it is.
    pub kind: FamilyKind,
    /// What all its layers have, beside window and rotary table.
    pub layer: LayerSpec,
    /// The window of each layer, [L]; one that reaches as far as the context is none.
    pub windows: Vec<Option<u32>>,
    /// The rotary table of each layer, [L].
    pub tables: Vec<u32>,
}

const PRE_NORMS: LayerNorms =
    LayerNorms { before_attention: true, after_attention: false, before_feed_forward: true, after_feed_forward: false };
const POST_NORMS: LayerNorms =
    LayerNorms { before_attention: false, after_attention: true, before_feed_forward: false, after_feed_forward: true };
const ALL_NORMS: LayerNorms =
    LayerNorms { before_attention: true, after_attention: true, before_feed_forward: true, after_feed_forward: true };

impl ExportFamily {
    /// The family of a model. Fails where none has what the spec says, naming the field.
    pub fn of(shape: &LlamaShape, spec: &ModelSpec) -> Result<ExportFamily> {
        let layer = shared(&spec.layers[0]);
        if let Some(at) = spec.layers.iter().position(|other| shared(other) != layer) {
            let got = format!("{:?}", spec.layers[at]);
            return Err(unsupported(&format!("spec.layers[{at}]"), &got, "the norms and the activation of layers[0]"));
        }
        let kind = kind(&layer, spec)?;
        let layers = || (0..shape.layers).map(|l| spec.layer(l).attention);
        let windows = layers().map(|a| a.window.filter(|window| *window < shape.max_context)).collect();
        Ok(ExportFamily { kind, layer, windows, tables: layers().map(|a| a.rope_table).collect() })
    }

    /// The window of the layers that have one; fails where they have several.
    pub fn window(&self) -> Result<Option<u32>> {
        let mut windows = self.windows.iter().flatten();
        let Some(first) = windows.next() else { return Ok(None) };
        match windows.find(|window| *window != first) {
            Some(other) => Err(unsupported("spec.layers[..].attention.window", &other.to_string(), &first.to_string())),
            None => Ok(Some(*first)),
        }
    }

    /// The rotation of all layers; fails where they differ.
    pub fn rotation(&self, shape: &LlamaShape, spec: &ModelSpec) -> Result<RotaryTable> {
        match self.tables.iter().position(|table| *table != self.tables[0]) {
            Some(layer) => Err(unsupported_table(layer, self.tables[layer], "one table for all layers")),
            None => Ok(RotaryTable::of(shape, spec, self.tables[0])),
        }
    }

    /// The rotations of layers with a window and of those without one; where there are none of a kind, that of the
    /// others. Fails where layers of a kind differ.
    pub fn rotations(&self, shape: &LlamaShape, spec: &ModelSpec) -> Result<(RotaryTable, RotaryTable)> {
        let of = |windowed: bool| -> Result<Option<RotaryTable>> {
            let mut layers = (0..self.tables.len()).filter(|l| self.windows[*l].is_some() == windowed);
            let Some(first) = layers.next() else { return Ok(None) };
            match layers.find(|l| self.tables[*l] != self.tables[first]) {
                Some(layer) => Err(unsupported_table(layer, self.tables[layer], "one for layers with the same window")),
                None => Ok(Some(RotaryTable::of(shape, spec, self.tables[first]))),
            }
        };
        let (windowed, global) = (of(true)?, of(false)?);
        let any = windowed.clone().or(global.clone()).expect("a model has layers");
        Ok((windowed.unwrap_or(any.clone()), global.unwrap_or(any)))
    }

    /// The layers that turn nothing, and the rotation of all others; fails where these differ.
    pub fn still_layers(&self, shape: &LlamaShape, spec: &ModelSpec) -> Result<(Vec<bool>, RotaryTable)> {
        let rotations: Vec<RotaryTable> =
            self.tables.iter().map(|table| RotaryTable::of(shape, spec, *table)).collect();
        let still: Vec<bool> = rotations.iter().map(|rotation| *rotation == RotaryTable::Still).collect();
        let turning = still.iter().position(|still| !still).unwrap_or(0);
        let differs = (0..still.len()).find(|l| !still[*l] && self.tables[*l] != self.tables[turning]);
        match differs {
            Some(layer) => Err(unsupported_table(layer, self.tables[layer], "one for all layers that are rotated")),
            None => Ok((still, rotations[turning].clone())),
        }
    }

    /// How many layers make a turn whose last one has no window, where those with a window follow such a rule: 1 where
    /// none has one, 0 where all have.
    pub fn window_period(&self) -> Option<u32> {
        if self.windows.iter().all(Option::is_some) {
            return Some(0);
        }
        (1..=self.windows.len() + 1)
            .find(|period| (0..).zip(&self.windows).all(|(l, window)| window.is_some() == (l % period < period - 1)))
            .map(|period| period as u32)
    }
}

/// The layer without what may differ from one to the next.
fn shared(layer: &LayerSpec) -> LayerSpec {
    LayerSpec { attention: AttentionSpec { rope_table: 0, window: None, ..layer.attention }, ..*layer }
}

fn kind(layer: &LayerSpec, spec: &ModelSpec) -> Result<FamilyKind> {
    let AttentionSpec { qkv_bias, head_norm, query_growth, score_cap, .. } = layer.attention;
    let gelu = layer.activation == ActivationFunction::GeluTanh;
    let kind = match (layer.norms, head_norm, gelu) {
        (PRE_NORMS, HeadNorm::None, false) if query_growth.is_some() => FamilyKind::Ministral3,
        (PRE_NORMS, HeadNorm::None, false) if qkv_bias => FamilyKind::Qwen2,
        (PRE_NORMS, HeadNorm::None, false) => FamilyKind::Llama,
        (PRE_NORMS, HeadNorm::EachHead, false) => FamilyKind::Qwen3,
        (ALL_NORMS, HeadNorm::None, true) => FamilyKind::Gemma2,
        (ALL_NORMS, HeadNorm::EachHead, true) => FamilyKind::Gemma3,
        (POST_NORMS, HeadNorm::AllHeads, false) => FamilyKind::Olmo2,
        _ => return Err(unsupported("spec.layers", &format!("{layer:?}"), FAMILIES)),
    };
    let wrong = |field: &str, got: String| Err(unsupported(field, &got, &format!("none beside the rest: {FAMILIES}")));
    if qkv_bias && kind != FamilyKind::Qwen2 {
        return wrong("spec.layers[0].attention.qkv_bias", "true".into());
    }
    if let Some(growth) = query_growth.filter(|_| kind != FamilyKind::Ministral3) {
        return wrong("spec.layers[0].attention.query_growth", format!("{growth:?}"));
    }
    if kind == FamilyKind::Gemma2 {
        let missing = |field: &str| Err(unsupported(field, "none", "one, with norms before and after"));
        return match (score_cap, spec.logit_cap) {
            (None, _) => missing("spec.layers[0].attention.score_cap"),
            (_, None) => missing("spec.logit_cap"),
            _ => Ok(kind),
        };
    }
    if let Some(cap) = score_cap {
        return wrong("spec.layers[0].attention.score_cap", cap.to_string());
    }
    if let Some(cap) = spec.logit_cap {
        return wrong("spec.logit_cap", cap.to_string());
    }
    Ok(kind)
}

/// The families, for messages.
const FAMILIES: &str = "the layers of LLaMA, Qwen 2 and 3, Gemma 2 and 3, OLMo 2, Ministral 3";

/// The error for a layer whose rotary table cannot be written.
pub fn unsupported_table(layer: usize, table: u32, supported: &str) -> Error {
    unsupported(&format!("spec: rope_table of layer {layer}"), &table.to_string(), supported)
}

/// The error for a field of a model that the target cannot express.
pub fn unsupported(what: &str, got: &str, supported: &str) -> Error {
    Error::unsupported(format!("export of {what}"), got, supported)
}

#[cfg(test)]
#[path = "family_tests.rs"]
mod tests;
