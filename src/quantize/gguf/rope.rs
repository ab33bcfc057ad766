//! Rotary embedding as GGUF files state it, with the defaults of llama.cpp.

use super::super::family::constants::{GEMMA3_LOCAL_THETA, YARN_BETA_FAST, YARN_BETA_SLOW};
use super::super::family::{Family, RopeFacts, RopeStretch, YarnRamp};
use super::super::source::unsupported;
use super::file::GgufFile;
use super::keys::FamilyKeys;
use super::shape::ReadTensor;
use crate::arch::QueryGrowth;
use crate::error::{Error, Result};
use crate::shape::{LlamaShape, RopeScaling};

/// Name of the tensor of divisors of the rotary frequencies.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";
/// The same of LongRoPE, for contexts of the first training and for longer ones.
pub const SHORT_FACTORS: &str = "rope_factors_short.weight";
pub const LONG_FACTORS: &str = "rope_factors_long.weight";
/// What llama.cpp takes where the file does not state the base of the rotary frequencies.
const DEFAULT_ROPE_THETA: f32 = 10_000.0;

/// What a file states of rotary embeddings.
#[derive(Debug)]
pub struct FileRope {
    pub global: RopeFacts,
    /// That of local layers, where it is another.
    pub local: Option<RopeFacts>,
    pub query_growth: Option<QueryGrowth>,
}

/// The base of the frequencies.
pub fn theta(keys: &FamilyKeys<'_>) -> Result<f32> {
    Ok(keys.f32("rope.freq_base")?.unwrap_or(DEFAULT_ROPE_THETA))
}

/// What the file states; `read` is asked for the numbers of tensors of divisors, of `rotated_dim / 2` numbers each.
pub fn read(
    keys: &FamilyKeys<'_>,
    family: Family,
    shape: &LlamaShape,
    rotated_dim: u32,
    file: &GgufFile,
    read: &mut ReadTensor<'_>,
) -> Result<FileRope> {
    let theta = theta(keys)?;
    let mut divisors = |name: &str| divisors(file, name, rotated_dim, read);
    let (all, short, long) = (divisors(ROPE_FACTORS)?, divisors(SHORT_FACTORS)?, divisors(LONG_FACTORS)?);
    let original_context = original_context(keys, shape)?;
    let kind = keys.text("rope.scaling.type")?.map(str::trim).unwrap_or_default();
    let factor = factor(keys)?.filter(|_| kind != "none");
    let mut magnitude = keys.positive("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let is_plain = ["", "none", "linear"].contains(&kind) && short.is_none() && long.is_none();
    if all.is_some() && !is_plain {
        return unsupported("rope scaling", &format!("{ROPE_FACTORS} beside {kind} or other factors"), "one of them");
    }
    let stretch = match (kind, short, long) {
        ("yarn", None, None) => {
            let factor = factor.unwrap_or(1.0).into();
            magnitude *= yarn_magnitude(keys, factor)?;
            RopeStretch::Yarn(YarnRamp {
                factor,
                original_context: original_context.into(),
                beta_fast: keys.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(YARN_BETA_FAST),
                beta_slow: keys.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(YARN_BETA_SLOW),
                truncate: true,
            })
        }
        ("" | "none" | "linear" | "longrope", Some(short), Some(long)) => {
            // Both divide the frequencies.
            let linear = factor.unwrap_or(1.0);
            let scaled = |factors: Vec<f32>| factors.into_iter().map(|factor| factor * linear).collect();
            RopeStretch::LongRope { short: scaled(short), long: scaled(long), original_context }
        }
        ("" | "none" | "linear", None, None) => RopeStretch::Plain(plain(factor, all)),
        ("yarn", ..) => return unsupported("rope scaling", &format!("yarn with {SHORT_FACTORS}"), "one of them"),
        ("" | "none" | "linear" | "longrope", short, _) => {
            let missing = if short.is_some() { LONG_FACTORS } else { SHORT_FACTORS };
            let expected = format!("[{}]", rotated_dim / 2);
            return Err(Error::damaged(file.metadata.path(), missing, expected, "no tensor"));
        }
        (other, ..) => return unsupported("rope scaling", other, "none, linear, yarn, longrope"),
    };
    let global = RopeFacts { theta, stretch, magnitude };
    let local = local(keys, family, &global)?;
    Ok(FileRope { global, local, query_growth: query_growth(keys, family, original_context)? })
}

/// A factor without a type is linear, and a factor of 0 is none.
fn factor(keys: &FamilyKeys<'_>) -> Result<Option<f32>> {
    let key = "rope.scaling.factor";
    // Files from before the scaling had a type state a linear factor under a name of its own.
    let key = if keys.f32(key)?.is_some() { key } else { "rope.scale_linear" };
    Ok(keys.positive(key)?.map(|factor| factor as f32).filter(|factor| *factor != 1.0))
}

fn plain(factor: Option<f32>, factors: Option<Vec<f32>>) -> RopeScaling {
    match (factor, factors) {
        (None, None) => RopeScaling::None,
        (Some(factor), None) => RopeScaling::Linear { factor },
        // Both divide the frequencies.
        (linear, Some(factors)) => {
            let linear = linear.unwrap_or(1.0);
            RopeScaling::Factors { factors: factors.into_iter().map(|factor| factor * linear).collect() }
        }
    }
}

/// The numbers of a tensor of divisors, if it is there.
fn divisors(file: &GgufFile, name: &str, rotated_dim: u32, read: &mut ReadTensor<'_>) -> Result<Option<Vec<f32>>> {
    let Some(tensor) = file.tensors.get(name) else { return Ok(None) };
    let expected = [rotated_dim as usize / 2];
    if tensor.dims != expected {
        let (expected, got) = (format!("{expected:?}"), format!("{:?}", tensor.dims));
        return Err(Error::damaged(file.metadata.path(), name, expected, got));
    }
    let numbers = read(name, tensor)?;
    match numbers.iter().find(|number| !(number.is_finite() && **number > 0.0)) {
        Some(number) => Err(Error::damaged(file.metadata.path(), name, "numbers above 0", number)),
        None => Ok(Some(numbers)),
    }
}

/// The context of the first training, in tokens.
fn original_context(keys: &FamilyKeys<'_>, shape: &LlamaShape) -> Result<u32> {
    let stated = keys.u32("rope.scaling.original_context_length")?.filter(|context| *context > 0);
    Ok(stated.unwrap_or(shape.max_context))
}

fn yarn_magnitude(keys: &FamilyKeys<'_>, factor: f64) -> Result<f64> {
    let mixed = "rope.scaling.yarn_ext_factor";
    if let Some(other) = keys.f32(mixed)?.filter(|other| *other != 1.0) {
        return unsupported(&keys.name(mixed), &other.to_string(), "1");
    }
    // The converter writes what transformers multiplies by, which goes before what follows from the factor.
    if let Some(stated) = keys.positive("rope.scaling.yarn_attn_factor")? {
        return Ok(stated);
    }
    let all_dims = keys.f32("rope.scaling.yarn_log_multiplier")?.filter(|scale| *scale != 0.0);
    Ok(YarnRamp::magnitude(factor, all_dims.map(|all_dims| (1.0, all_dims.into()))))
}

/// The rotary embedding of layers with a window, where it is another.
fn local(keys: &FamilyKeys<'_>, family: Family, global: &RopeFacts) -> Result<Option<RopeFacts>> {
    let stated = keys.f32("rope.freq_base_swa")?;
    match family {
        Family::Gemma2 => Ok(stated.map(|theta| RopeFacts { theta, ..global.clone() })),
        Family::Gemma3 => Ok(Some(RopeFacts::plain(stated.unwrap_or(GEMMA3_LOCAL_THETA), RopeScaling::None))),
        // OLMo 3 stretches its global layers only.
        Family::Olmo2 | Family::Olmo3 => Ok(Some(RopeFacts::plain(stated.unwrap_or(global.theta), RopeScaling::None))),
        _ => Ok(None),
    }
}

/// How the queries of Ministral 3 grow.
fn query_growth(keys: &FamilyKeys<'_>, family: Family, original_context: u32) -> Result<Option<QueryGrowth>> {
    let beta = keys.f32("attention.temperature_scale")?.filter(|beta| *beta != 0.0);
    Ok(beta.filter(|_| family == Family::Ministral3).map(|beta| QueryGrowth { beta, original_context }))
}
