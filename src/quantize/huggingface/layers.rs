//! The layers as config.json states them: which have windows, and which are rotated.

use super::super::family::constants::{GEMMA2_PERIOD, GEMMA3_PERIOD, NO_ROPE_INTERVAL, OLMO3_PERIOD};
use super::super::family::{Family, LayerFacts, every};
use super::super::source::unsupported;
use super::defaults::{ConfigDefaults, GRANITE_HYBRID};
use super::fields::ConfigFields;
use crate::error::Result;
use crate::shape::LlamaShape;

/// The first layer with a window, of a Qwen whose windows are on.
const MAX_WINDOW_LAYERS: u32 = 28;

/// The layers of the configuration `config`, as many as the shape has.
pub fn read(config: &ConfigFields<'_>, defaults: &ConfigDefaults, shape: &LlamaShape) -> Result<Vec<LayerFacts>> {
    let count = shape.layers;
    let alike = |layer: LayerFacts| Ok(vec![layer; count as usize]);
    match defaults.family {
        Family::Llama | Family::Olmo2 => alike(LayerFacts::GLOBAL),
        Family::Granite => {
            // A model of the hybrids' architecture is rotated only where it says so.
            let is_rotated = defaults.architecture != GRANITE_HYBRID
                || config.text("position_embedding_type")?.is_some_and(|kind| kind == "rope");
            alike(LayerFacts { is_rotated, ..LayerFacts::GLOBAL })
        }
        Family::Mistral | Family::Ministral3 | Family::Phi3 => {
            alike(LayerFacts { window: window(config, defaults)?, ..LayerFacts::GLOBAL })
        }
        Family::Qwen2 | Family::Qwen3 => qwen(config, defaults, count),
        Family::SmolLm3 => smollm3(config, defaults, count),
        Family::Gemma2 => in_turn(config, defaults, count, GEMMA2_PERIOD),
        Family::Gemma3 => {
            let period = config.whole("sliding_window_pattern")?.unwrap_or(GEMMA3_PERIOD);
            in_turn(config, defaults, count, period)
        }
        Family::Olmo3 => in_turn(config, defaults, count, OLMO3_PERIOD),
    }
}

/// Windows from a layer on, where they are on at all.
fn qwen(config: &ConfigFields<'_>, defaults: &ConfigDefaults, count: u32) -> Result<Vec<LayerFacts>> {
    let is_on = config.flag("use_sliding_window")?.unwrap_or(false);
    let window = if is_on { window(config, defaults)? } else { None };
    let first = config.whole("max_window_layers")?.unwrap_or(MAX_WINDOW_LAYERS);
    let local = local_layers(config, count)?;
    check_window(config, window, local.as_deref())?;
    let local = local.unwrap_or_else(|| (0..count).map(|layer| layer >= first).collect());
    Ok(local.into_iter().map(|local| LayerFacts { window: window.filter(|_| local), ..LayerFacts::GLOBAL }).collect())
}

/// Layers without rotation, which may have windows.
fn smollm3(config: &ConfigFields<'_>, defaults: &ConfigDefaults, count: u32) -> Result<Vec<LayerFacts>> {
    let rotated = match config.wholes("no_rope_layers", count as usize)? {
        Some(stated) => stated.into_iter().map(|rotated| rotated != 0).collect(),
        None => every(config.whole("no_rope_layer_interval")?.unwrap_or(NO_ROPE_INTERVAL), count),
    };
    let is_on = config.flag("use_sliding_window")?.unwrap_or(false);
    let window = if is_on { window(config, defaults)? } else { None };
    let local = local_layers(config, count)?;
    check_window(config, window, local.as_deref())?;
    let local = local.unwrap_or_else(|| rotated.iter().map(|rotated| !rotated).collect());
    let layers = rotated.into_iter().zip(local);
    Ok(layers
        .map(|(is_rotated, local)| LayerFacts { window: window.filter(|_| local), is_local: false, is_rotated })
        .collect())
}

/// Layers with a window, and every so many layers one without.
fn in_turn(config: &ConfigFields<'_>, defaults: &ConfigDefaults, count: u32, period: u32) -> Result<Vec<LayerFacts>> {
    let window = window(config, defaults)?;
    let local = local_layers(config, count)?.unwrap_or_else(|| every(period, count));
    Ok(local.into_iter().map(|local| if local { LayerFacts::local(window) } else { LayerFacts::GLOBAL }).collect())
}

/// The window. Only a field that is not there has the default of transformers; null means none.
fn window(config: &ConfigFields<'_>, defaults: &ConfigDefaults) -> Result<Option<u32>> {
    let field = "sliding_window";
    match config.whole(field)? {
        Some(0) => Err(config.damaged(field, "1 position or more, or null", 0)),
        None if !config.has(field) => Ok(defaults.window),
        stated => Ok(stated),
    }
}

/// Which layers are of the kind with a window, where `layer_types` says it.
fn local_layers(config: &ConfigFields<'_>, count: u32) -> Result<Option<Vec<bool>>> {
    let Some(types) = config.texts("layer_types", count as usize)? else { return Ok(None) };
    let is_local = |kind: &&str| match *kind {
        "sliding_attention" => Ok(true),
        "full_attention" => Ok(false),
        other => unsupported(&config.name("layer_types"), other, "full_attention, sliding_attention"),
    };
    types.iter().map(is_local).collect::<Result<_>>().map(Some)
}

/// Fails where a layer is of the kind with a window and there is none.
fn check_window(config: &ConfigFields<'_>, window: Option<u32>, local: Option<&[bool]>) -> Result<()> {
    if window.is_none() && local.is_some_and(|local| local.contains(&true)) {
        let expected = "full_attention, as use_sliding_window and sliding_window state no window";
        return Err(config.damaged("layer_types", expected, "sliding_attention"));
    }
    Ok(())
}
