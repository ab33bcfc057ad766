//! config.json: the class of transformers that computes what the model's spec says, and its fields.

use serde_json::{Map, Value, json};

use crate::arch::ModelSpec;
use crate::error::Result;
use crate::export::StoredType;
use crate::export::family::{ExportFamily, FamilyKind, unsupported};
use crate::export::rotation::RotaryTable;
use crate::export::text::TextSide;
use crate::shape::{LlamaShape, RopeScaling};

/// A class of transformers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubClass {
    /// Its name.
    pub architecture: &'static str,
    /// Its `model_type`.
    pub model_type: &'static str,
}

/// The class of a family.
pub fn class(shape: &LlamaShape, spec: &ModelSpec, family: &ExportFamily) -> Result<HubClass> {
    let windows = family.windows.iter().flatten().count();
    let of = |architecture, model_type| HubClass { architecture, model_type };
    Ok(match family.kind {
        FamilyKind::Llama => {
            let (still, _) = family.still_layers(shape, spec)?;
            let mixed = windows > 0 && windows < family.windows.len();
            match (still.contains(&true) || mixed, windows > 0) {
                (true, _) => of("SmolLM3ForCausalLM", "smollm3"),
                (false, true) => of("MistralForCausalLM", "mistral"),
                (false, false) => of("LlamaForCausalLM", "llama"),
            }
        }
        FamilyKind::Qwen2 => of("Qwen2ForCausalLM", "qwen2"),
        FamilyKind::Qwen3 => of("Qwen3ForCausalLM", "qwen3"),
        FamilyKind::Gemma2 => of("Gemma2ForCausalLM", "gemma2"),
        FamilyKind::Gemma3 => of("Gemma3ForCausalLM", "gemma3_text"),
        FamilyKind::Olmo2 if windows > 0 => of("Olmo3ForCausalLM", "olmo3"),
        FamilyKind::Olmo2 => of("Olmo2ForCausalLM", "olmo2"),
        FamilyKind::Ministral3 => of("Ministral3ForCausalLM", "ministral3"),
    })
}

/// The file's fields.
pub fn fields(
    (shape, spec): (&LlamaShape, &ModelSpec),
    family: &ExportFamily,
    class: HubClass,
    text: &TextSide,
    stored: StoredType,
) -> Result<Map<String, Value>> {
    let dtype = match stored {
        StoredType::F16 => "float16",
        StoredType::Bf16 => "bfloat16",
        _ => "float32",
    };
    let mut fields = object(json!({
        "architectures": [class.architecture], "model_type": class.model_type,
        "hidden_size": shape.model_dim, "intermediate_size": shape.ffn_dim, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim,
        "vocab_size": shape.vocab, "max_position_embeddings": shape.max_context,
        "rms_norm_eps": number(shape.norm_eps), "tie_word_embeddings": shape.tied_head,
        "attention_bias": false, "mlp_bias": false, "attention_dropout": 0.0, "use_cache": true,
        "torch_dtype": dtype, "bos_token_id": text.generation.bos, "eos_token_id": text.generation.end,
        "pad_token_id": text.generation.pad,
    }));
    match family.kind {
        FamilyKind::Gemma2 | FamilyKind::Gemma3 => fields.extend(object(json!({
            "hidden_activation": "gelu_pytorch_tanh", "hidden_act": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": shape.head_dim,
            "attn_logit_softcapping": family.layer.attention.score_cap.map(number),
            "final_logit_softcapping": spec.logit_cap.map(number),
        }))),
        _ => {
            fields.insert("hidden_act".into(), "silu".into());
        }
    }
    windows(shape, family, class, &mut fields)?;
    rotation((shape, spec), family, class, &mut fields)?;
    Ok(fields)
}

/// The window, and the layers that have it.
fn windows(shape: &LlamaShape, family: &ExportFamily, class: HubClass, fields: &mut Map<String, Value>) -> Result<()> {
    let window = family.window()?;
    match class.model_type {
        "llama" | "olmo2" => return Ok(()),
        "mistral" | "ministral3" => {
            if window.is_some() && family.windows.contains(&None) {
                let got = format!("{:?}", family.windows);
                return Err(unsupported("windows of layers", &got, "one for all layers of this family"));
            }
            fields.insert("sliding_window".into(), json!(window));
            return Ok(());
        }
        _ => {}
    }
    let kind = |window: &Option<u32>| if window.is_some() { "sliding_attention" } else { "full_attention" };
    let kinds: Vec<&str> = family.windows.iter().map(kind).collect();
    fields.insert("layer_types".into(), json!(kinds));
    // The classes with windows need one; as long as the context, it is none.
    let stated = if ["qwen2", "qwen3", "smollm3"].contains(&class.model_type) {
        window
    } else {
        window.or(Some(shape.max_context))
    };
    fields.insert("sliding_window".into(), json!(stated));
    if ["qwen2", "qwen3", "smollm3"].contains(&class.model_type) {
        fields.insert("use_sliding_window".into(), window.is_some().into());
        fields.insert("max_window_layers".into(), kinds.len().into());
    }
    Ok(())
}

/// The rotary tables.
fn rotation(
    (shape, spec): (&LlamaShape, &ModelSpec),
    family: &ExportFamily,
    class: HubClass,
    fields: &mut Map<String, Value>,
) -> Result<()> {
    match class.model_type {
        "gemma3_text" => {
            let (windowed, global) = family.rotations(shape, spec)?;
            let RotaryTable::Plain { theta, factor } = windowed else {
                return Err(unsupported("rotary table of layers with a window", "another", "a base"));
            };
            if factor != 1.0 {
                return Err(unsupported("rotary factor of layers with a window", &factor.to_string(), "1"));
            }
            fields.insert("rope_local_base_freq".into(), number(theta));
            flat(shape, &global, fields)
        }
        "olmo3" => {
            let (windowed, global) = family.rotations(shape, spec)?;
            let of = |rotation: &RotaryTable| -> Result<Value> {
                let mut flattened = Map::new();
                flat(shape, rotation, &mut flattened)?;
                let scaling = flattened.remove("rope_scaling").and_then(|scaling| scaling.as_object().cloned());
                let mut scaling = scaling.unwrap_or_else(|| object(json!({"rope_type": "default"})));
                scaling.extend(flattened.remove("rope_theta").map(|theta| ("rope_theta".to_string(), theta)));
                Ok(scaling.into())
            };
            let both = json!({"sliding_attention": of(&windowed)?, "full_attention": of(&global)?});
            fields.insert("rope_parameters".into(), both);
            Ok(())
        }
        "smollm3" => {
            let (still, rotation) = family.still_layers(shape, spec)?;
            let turned: Vec<u32> = still.iter().map(|still| u32::from(!still)).collect();
            fields.insert("no_rope_layers".into(), json!(turned));
            flat(shape, &rotation, fields)
        }
        "ministral3" => {
            flat(shape, &family.rotation(shape, spec)?, fields)?;
            let growth = family.layer.attention.query_growth.expect("what makes the family");
            let scaling = fields.remove("rope_scaling").and_then(|scaling| scaling.as_object().cloned());
            let mut scaling = scaling.unwrap_or_else(|| object(json!({"rope_type": "default"})));
            scaling.insert("rope_theta".into(), fields.remove("rope_theta").unwrap_or_default());
            scaling.insert("llama_4_scaling_beta".into(), number(growth.beta));
            let original = json!(growth.original_context);
            let stated = scaling.insert("original_max_position_embeddings".into(), original.clone());
            if stated.is_some_and(|stated| stated != json!(shape.max_context) && stated != original) {
                let got = "another than that of the queries' growth";
                return Err(unsupported("context of the first training, of the rotary table,", got, "the same"));
            }
            fields.insert("rope_parameters".into(), scaling.into());
            Ok(())
        }
        _ => flat(shape, &family.rotation(shape, spec)?, fields),
    }
}

/// One table for all layers, as files of before transformers 5 have it, which every version reads.
fn flat(shape: &LlamaShape, rotation: &RotaryTable, fields: &mut Map<String, Value>) -> Result<()> {
    let (theta, scaling) = match rotation {
        RotaryTable::Plain { theta, factor } if *factor == 1.0 => (*theta, Value::Null),
        RotaryTable::Plain { theta, factor } => {
            (*theta, json!({"rope_type": "linear", "type": "linear", "factor": number(*factor)}))
        }
        RotaryTable::Llama3 { theta, scaling } => (*theta, llama3(scaling)),
        RotaryTable::Divided { theta, divisors, long } => {
            let numbers = |numbers: &[f32]| numbers.iter().map(|n| number(*n)).collect::<Vec<_>>();
            let (original, long) = long.as_ref().map_or((shape.max_context, divisors), |(at, long)| (*at, long));
            let scaling = json!({
                "rope_type": "longrope", "type": "longrope", "short_factor": numbers(divisors),
                "long_factor": numbers(long), "original_max_position_embeddings": original, "attention_factor": 1.0,
                "short_mscale": 1.0, "long_mscale": 1.0,
            });
            (*theta, scaling)
        }
        RotaryTable::Still => return Err(unsupported("rotary table", "zeros", "a table that turns something")),
    };
    fields.insert("rope_theta".into(), number(theta));
    fields.insert("rope_scaling".into(), scaling);
    Ok(())
}

fn llama3(scaling: &RopeScaling) -> Value {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } = scaling else {
        unreachable!("{scaling:?} is not that of Llama 3");
    };
    json!({
        "rope_type": "llama3", "factor": number(*factor), "low_freq_factor": number(*low_freq_factor),
        "high_freq_factor": number(*high_freq_factor), "original_max_position_embeddings": *original_context as u64,
    })
}

/// A number of single precision in its shortest writing.
fn number(number: f32) -> Value {
    number.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

/// The fields of an object that is written here.
fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => unreachable!("{other} is no object"),
    }
}
