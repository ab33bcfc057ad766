//! The layers as GGUF files state them: which have windows, and which are rotated.

use super::super::family::constants::{GEMMA2_PERIOD, GEMMA3_PERIOD, NO_ROPE_INTERVAL, OLMO3_PERIOD};
use super::super::family::{Family, LayerFacts, every};
use super::keys::FamilyKeys;
use crate::error::Result;
use crate::shape::LlamaShape;

/// What llama.cpp takes where a file of Gemma 2 does not state its window.
const GEMMA2_WINDOW: u32 = 4096;

/// The layers of a file, as many as the shape has.
pub fn read(
    keys: &FamilyKeys<'_>,
    family: Family,
    shape: &LlamaShape,
    warnings: &mut Vec<String>,
) -> Result<Vec<LayerFacts>> {
    let count = shape.layers;
    let alike = |layer: LayerFacts| vec![layer; count as usize];
    let key = "attention.sliding_window";
    let stated = keys.u32(key)?;
    let window = stated.filter(|window| *window > 0);
    match family {
        Family::SmolLm3 => {
            let rotated = every(NO_ROPE_INTERVAL, count).into_iter();
            Ok(rotated.map(|is_rotated| LayerFacts { is_rotated, ..LayerFacts::GLOBAL }).collect())
        }
        Family::Granite => {
            let is_rotated = keys.truth("rope.scaling.finetuned")?.unwrap_or(true);
            Ok(alike(LayerFacts { is_rotated, ..LayerFacts::GLOBAL }))
        }
        // llama.cpp switches this window off, as some files state a wrong one. Those are beyond the context, and so are
        // none here too; of Phi-3-mini-4k, 2047 positions are what the model was trained with.
        Family::Phi3 => Ok(alike(LayerFacts { window, ..LayerFacts::GLOBAL })),
        Family::Gemma2 => in_turn(keys, stated.map_or(Some(GEMMA2_WINDOW), |_| window), count, GEMMA2_PERIOD),
        Family::Gemma3 if window.is_some() => in_turn(keys, window, count, GEMMA3_PERIOD),
        Family::Olmo2 | Family::Olmo3 if window.is_some() => in_turn(keys, window, count, OLMO3_PERIOD),
        _ => {
            if let Some(window) = window.filter(|window| *window < shape.max_context) {
                warnings.push(format!("{}, {window}, is left out, as in llama.cpp", keys.name(key)));
            }
            Ok(alike(LayerFacts::GLOBAL))
        }
    }
}

/// Layers with a window, and every so many layers one without.
fn in_turn(keys: &FamilyKeys<'_>, window: Option<u32>, count: u32, period: u32) -> Result<Vec<LayerFacts>> {
    let key = "attention.sliding_window_pattern";
    let local = match keys.truths(key, count)? {
        Some(local) => local,
        None => every(keys.u32(key)?.unwrap_or(period), count),
    };
    Ok(local.into_iter().map(|local| if local { LayerFacts::local(window) } else { LayerFacts::GLOBAL }).collect())
}
