//! Rotary embedding as config.json states it, in the old fields and in the new ones.

use std::fmt::Display;

use super::super::family::constants::{GEMMA3_LOCAL_THETA, YARN_BETA_FAST, YARN_BETA_SLOW};
use super::super::family::{Family, RopeFacts, RopeStretch, YarnRamp};
use super::super::source::unsupported;
use super::defaults::ConfigDefaults;
use super::fields::ConfigFields;
use crate::arch::QueryGrowth;
use crate::error::Result;
use crate::shape::{LlamaShape, RopeScaling};

const ORIGINAL_CONTEXT: &str = "original_max_position_embeddings";
/// The context of the first training of Phi-3, where no field states it.
const PHI3_ORIGINAL_CONTEXT: u32 = 4096;

/// What config.json states of rotary embeddings.
#[derive(Debug)]
pub struct StatedRope {
    pub global: RopeFacts,
    /// That of layers with a window, where the family has two.
    pub local: Option<RopeFacts>,
    /// R
    pub rotated_dim: u32,
    pub query_growth: Option<QueryGrowth>,
}

/// What counts for more than one kind of scaling.
struct RopeContext<'a> {
    config: &'a ConfigFields<'a>,
    family: Family,
    rotated_dim: u32,
    max_context: u32,
}

/// The rotary embedding of the configuration `config`. Two fields that say the type, the factor or the base must agree:
/// versions of transformers disagree on which one counts.
pub fn read(
    config: &ConfigFields<'_>,
    defaults: &ConfigDefaults,
    shape: &LlamaShape,
    warnings: &mut Vec<String>,
) -> Result<StatedRope> {
    let family = defaults.family;
    let old = config.fields("rope_scaling")?;
    let new = config.fields("rope_parameters")?;
    let has_two = matches!(family, Family::Gemma3 | Family::Olmo3);
    let (new, local) = match new {
        // Newer versions state one object for each kind of layer, of models that mix kinds.
        Some(new) if has_two && is_nested(&new) => (new.fields("full_attention")?, new.fields("sliding_attention")?),
        new => (new, None),
    };
    let stated: Vec<&ConfigFields<'_>> = [&old, &new].into_iter().flatten().collect();
    if let [old, new] = stated[..] {
        check_agreement(old, new)?;
    }
    if let Some(fields) = stated.iter().copied().chain(&local).find(|fields| is_nested(fields)) {
        return unsupported("layers of different shape", fields.name("").trim_end_matches('.'), "one for all layers");
    }
    let everywhere: Vec<&ConfigFields<'_>> = [config].into_iter().chain(stated.iter().copied()).collect();
    let rotated_dim = rotated_dim(&everywhere, family, shape.head_dim)?;
    let theta = agreed("rope_theta", &everywhere, |fields, field| fields.number(field))?.unwrap_or(defaults.rope_theta);
    let context = RopeContext { config, family, rotated_dim, max_context: shape.max_context };
    let global = match stated.last() {
        Some(fields) => context.stretched(fields, theta, warnings)?,
        // What transformers would take then is YaRN.
        None if family == Family::Ministral3 => {
            return Err(config.damaged("rope_parameters", "an object with YaRN's numbers", "none"));
        }
        None => RopeFacts::plain(theta, RopeScaling::None),
    };
    let local = match local {
        Some(fields) => {
            let theta = fields.number("rope_theta")?.unwrap_or(local_theta(config, family, theta)?);
            Some(context.stretched(&fields, theta, warnings)?)
        }
        None if has_two => Some(RopeFacts::plain(local_theta(config, family, theta)?, RopeScaling::None)),
        None => None,
    };
    let query_growth = query_growth(family, &stated)?;
    Ok(StatedRope { global, local, rotated_dim, query_growth })
}

fn is_nested(fields: &ConfigFields<'_>) -> bool {
    fields.values().any(|value| value.is_object())
}

fn check_agreement(old: &ConfigFields<'_>, new: &ConfigFields<'_>) -> Result<()> {
    for field in ["rope_type", "type", "factor"] {
        if let (Some(one), Some(other)) = (old.get(field), new.get(field))
            && one != other
        {
            return Err(new.damaged(field, format!("{one}, as in {}", old.name(field)), other));
        }
    }
    Ok(())
}

/// What `read` reads of a field that may stand in several places, and is the same in all.
fn agreed<T: PartialEq + Display>(
    field: &str,
    places: &[&ConfigFields<'_>],
    read: impl Fn(&ConfigFields<'_>, &str) -> Result<Option<T>>,
) -> Result<Option<T>> {
    let mut found: Option<(T, String)> = None;
    for fields in places {
        let Some(other) = read(fields, field)? else { continue };
        match &found {
            Some((one, name)) if *one != other => {
                return Err(fields.damaged(field, format!("{one}, as in {name}"), other));
            }
            _ => found = Some((other, fields.name(field))),
        }
    }
    Ok(found.map(|(number, _)| number))
}

/// R, of which only a part of the families has less than A.
fn rotated_dim(places: &[&ConfigFields<'_>], family: Family, head_dim: u32) -> Result<u32> {
    let field = "partial_rotary_factor";
    let Some(part) = agreed(field, places, |fields, field| fields.real(field))?.filter(|part| *part != 1.0) else {
        return Ok(head_dim);
    };
    if !family.has_partial_rotation() {
        return unsupported(field, &part.to_string(), "1");
    }
    // Cut off as Python does it, with as many bits.
    let rotated = (f64::from(head_dim) * part) as u32;
    if !(0.0..1.0).contains(&part) || rotated == 0 || !rotated.is_multiple_of(2) {
        let supported = format!("a part of {head_dim} dimensions that is an even number of them");
        return unsupported(field, &part.to_string(), &supported);
    }
    Ok(rotated)
}

fn local_theta(config: &ConfigFields<'_>, family: Family, global: f32) -> Result<f32> {
    match family {
        Family::Gemma3 => Ok(config.number("rope_local_base_freq")?.unwrap_or(GEMMA3_LOCAL_THETA)),
        _ => Ok(global),
    }
}

/// How the queries of Ministral 3 grow.
fn query_growth(family: Family, stated: &[&ConfigFields<'_>]) -> Result<Option<QueryGrowth>> {
    let Some(fields) = stated.last().filter(|_| family == Family::Ministral3) else { return Ok(None) };
    let Some(beta) = fields.number("llama_4_scaling_beta")?.filter(|beta| *beta != 0.0) else { return Ok(None) };
    match fields.whole(ORIGINAL_CONTEXT)? {
        None | Some(0) => Err(fields.damaged(ORIGINAL_CONTEXT, "a number above 0, as queries grow", "none")),
        Some(original_context) => Ok(Some(QueryGrowth { beta, original_context })),
    }
}

impl RopeContext<'_> {
    /// The rotary embedding that `fields` states.
    fn stretched(&self, fields: &ConfigFields<'_>, theta: f32, warnings: &mut Vec<String>) -> Result<RopeFacts> {
        let needed = |field: &str| {
            let number = fields.number(field)?.ok_or_else(|| fields.damaged(field, "a number", "none"))?;
            if number > 0.0 { Ok(number) } else { Err(fields.damaged(field, "a number above 0", number)) }
        };
        let scaling = match kind(fields)? {
            "default" | "none" => {
                if let Some(factor) = fields.number("factor")?.filter(|factor| *factor != 1.0) {
                    let name = fields.name("factor");
                    warnings.push(format!(
                        "{name}, {factor}, is left out, as rotary embeddings of the type default have none"
                    ));
                }
                RopeScaling::None
            }
            "linear" => RopeScaling::Linear { factor: needed("factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: needed("factor")?,
                low_freq_factor: needed("low_freq_factor")?,
                high_freq_factor: needed("high_freq_factor")?,
                original_context: match self.stated_context(fields)? {
                    Some(context) => context as f32,
                    None => needed(ORIGINAL_CONTEXT)?,
                },
            },
            // Old files of Phi-3 call it so, as transformers knows.
            "su" | "longrope" => return self.longrope(fields, theta),
            "yarn" if self.family == Family::Phi3 => return self.longrope(fields, theta),
            "yarn" => return self.yarn(fields, theta),
            other => return unsupported("rope type", other, "default, linear, llama3, yarn, longrope"),
        };
        Ok(RopeFacts::plain(theta, scaling))
    }

    fn yarn(&self, fields: &ConfigFields<'_>, theta: f32) -> Result<RopeFacts> {
        let original_context = self.original_context(fields)?;
        let stated = fields.positive("factor")?;
        let factor = stated.unwrap_or(f64::from(self.max_context) / f64::from(original_context));
        // As in transformers, 0 counts as absent for these.
        let nonzero = |field: &str| Ok::<_, crate::error::Error>(fields.real(field)?.filter(|number| *number != 0.0));
        let scales = nonzero("mscale")?.zip(nonzero("mscale_all_dim")?);
        let magnitude = fields.positive("attention_factor")?.unwrap_or(YarnRamp::magnitude(factor, scales));
        let ramp = YarnRamp {
            factor,
            original_context: original_context.into(),
            beta_fast: nonzero("beta_fast")?.unwrap_or(YARN_BETA_FAST),
            beta_slow: nonzero("beta_slow")?.unwrap_or(YARN_BETA_SLOW),
            truncate: fields.flag("truncate")?.unwrap_or(true),
        };
        Ok(RopeFacts { theta, stretch: RopeStretch::Yarn(ramp), magnitude })
    }

    fn longrope(&self, fields: &ConfigFields<'_>, theta: f32) -> Result<RopeFacts> {
        let original_context = self.original_context(fields)?;
        let divisors = |field: &str| {
            let count = self.rotated_dim as usize / 2;
            let divisors = fields.positives(field, count)?;
            divisors.ok_or_else(|| fields.damaged(field, format!("a list of {count} numbers above 0"), "none"))
        };
        let (short, long) = (divisors("short_factor")?, divisors("long_factor")?);
        let original = f64::from(original_context);
        let factor = fields.positive("factor")?.unwrap_or(f64::from(self.max_context) / original);
        let grown = if factor > 1.0 { (1.0 + factor.ln() / original.ln()).sqrt() } else { 1.0 };
        let magnitude = fields.positive("attention_factor")?.unwrap_or(grown);
        Ok(RopeFacts { theta, stretch: RopeStretch::LongRope { short, long, original_context }, magnitude })
    }

    /// The context of the first training, or what stands for it where no field states it.
    fn original_context(&self, fields: &ConfigFields<'_>) -> Result<u32> {
        // The default of transformers' Phi3Config; other families have none.
        let default = if self.family == Family::Phi3 { PHI3_ORIGINAL_CONTEXT } else { self.max_context };
        Ok(self.stated_context(fields)?.unwrap_or(default))
    }

    /// The context of the first training, where it is stated: the model's own field goes before that of the scaling, as
    /// in transformers.
    fn stated_context(&self, fields: &ConfigFields<'_>) -> Result<Option<u32>> {
        for fields in [self.config, fields] {
            match fields.whole(ORIGINAL_CONTEXT)? {
                Some(0) => return Err(fields.damaged(ORIGINAL_CONTEXT, "a number above 0", 0)),
                Some(context) => return Ok(Some(context)),
                None => {}
            }
        }
        Ok(None)
    }
}

/// The type: older files call it `type`, some write both.
fn kind<'a>(fields: &ConfigFields<'a>) -> Result<&'a str> {
    let stated = |field| fields.text(field).map(|kind| kind.filter(|kind| !kind.trim().is_empty()));
    match (stated("rope_type")?, stated("type")?) {
        (Some(one), Some(other)) if one != other => {
            Err(fields.damaged("type", format!("{one}, as in {}", fields.name("rope_type")), other))
        }
        (Some(kind), _) | (None, Some(kind)) => Ok(kind),
        // No two programs agree on what a factor without a type does, so it is not dropped in silence.
        (None, None) => match fields.number("factor")?.filter(|factor| *factor != 1.0) {
            Some(factor) => {
                let expected = format!("a type for the factor {factor}, such as linear");
                Err(fields.damaged("rope_type", expected, "none"))
            }
            None => Ok("default"),
        },
    }
}
