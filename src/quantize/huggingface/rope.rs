//! Rotary embedding as config.json states it, in the old fields and in the new ones.

use super::config::unsupported;
use super::fields::ConfigFields;
use crate::error::Result;
use crate::shape::{Rope, RopeScaling};

/// What transformers takes where config.json has no `rope_theta`.
const DEFAULT_ROPE_THETA: f32 = 10_000.0;

/// The rotary embedding of the configuration `config`. Where two fields say the same thing they must agree: versions of
/// transformers disagree on which one counts.
pub fn read(config: &ConfigFields<'_>, warnings: &mut Vec<String>) -> Result<Rope> {
    let old = config.fields("rope_scaling")?;
    let new = config.fields("rope_parameters")?;
    let stated = [old, new];
    let stated: Vec<&ConfigFields<'_>> = stated.iter().flatten().collect();
    if let [old, new] = stated[..] {
        for field in ["rope_type", "type", "factor"] {
            if let (Some(one), Some(other)) = (old.get(field), new.get(field))
                && one != other
            {
                return Err(new.damaged(field, format!("{one}, as in {}", old.name(field)), other));
            }
        }
    }
    if let Some(fields) = stated.iter().find(|fields| fields.values().any(|value| value.is_object())) {
        // Newer versions state one object for each kind of layer, of models that mix kinds.
        return unsupported("layers of different shape", fields.name("").trim_end_matches('.'), "one for all layers");
    }
    for fields in [config].into_iter().chain(stated.iter().copied()) {
        if let Some(part) = fields.number("partial_rotary_factor")?.filter(|part| *part != 1.0) {
            return unsupported("partial_rotary_factor", &part.to_string(), "1");
        }
    }
    let theta = theta(config, &stated)?.unwrap_or(DEFAULT_ROPE_THETA);
    let scaling = match stated.last() {
        Some(fields) => scaling(fields, warnings)?,
        None => RopeScaling::None,
    };
    Ok(Rope { theta, scaling })
}

fn theta(config: &ConfigFields<'_>, stated: &[&ConfigFields<'_>]) -> Result<Option<f32>> {
    let mut theta: Option<(f32, String)> = None;
    for fields in [config].into_iter().chain(stated.iter().copied()) {
        let Some(other) = fields.number("rope_theta")? else { continue };
        match &theta {
            Some((one, name)) if *one != other => {
                return Err(fields.damaged("rope_theta", format!("{one}, as in {name}"), other));
            }
            _ => theta = Some((other, fields.name("rope_theta"))),
        }
    }
    Ok(theta.map(|(theta, _)| theta))
}

fn scaling(fields: &ConfigFields<'_>, warnings: &mut Vec<String>) -> Result<RopeScaling> {
    let needed = |field: &str| {
        let number = fields.number(field)?.ok_or_else(|| fields.damaged(field, "a number", "none"))?;
        if number > 0.0 { Ok(number) } else { Err(fields.damaged(field, "a number above 0", number)) }
    };
    match kind(fields)? {
        "default" | "none" => {
            if let Some(factor) = fields.number("factor")?.filter(|factor| *factor != 1.0) {
                let name = fields.name("factor");
                warnings
                    .push(format!("{name}, {factor}, is left out, as rotary embeddings of the type default have none"));
            }
            Ok(RopeScaling::None)
        }
        "linear" => Ok(RopeScaling::Linear { factor: needed("factor")? }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: needed("factor")?,
            low_freq_factor: needed("low_freq_factor")?,
            high_freq_factor: needed("high_freq_factor")?,
            original_context: needed("original_max_position_embeddings")?,
        }),
        other => unsupported("rope type", other, "default, linear, llama3"),
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
