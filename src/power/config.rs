//! The user's table, from a TOML file.

use std::path::Path;

use serde_json::{Number, Value};

use super::fields::{PowerFields, read_text};
use super::policy::PERCENT;
use super::{Policy, PowerMode, Rung};
use crate::error::{Error, Result};
use crate::precision::{BITS, PromptBits};

/// Bytes of a configuration file at most.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Longest dwell, in seconds.
const DWELL_S_MAX: f32 = 3600.0;

/// What a file says about bits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PowerConfig {
    /// The default table with what the file says otherwise.
    pub policy: Policy,
    /// The power mode, if the file names one.
    pub mode: Option<PowerMode>,
    /// What is read for prompts, if the file says it.
    pub prompt_bits: Option<PromptBits>,
}

impl PowerConfig {
    /// What `file` says. Only the table `power` is read; an error names the table and the field. A file of more than a
    /// MiB is refused.
    pub fn read(file: &Path) -> Result<PowerConfig> {
        PowerConfig::parse(file, &read_text(file, CONFIG_BYTES_MAX)?)
    }

    fn parse(file: &Path, text: &str) -> Result<PowerConfig> {
        let table: toml::Table = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            Error::damaged(file, format!("line {line}"), "TOML", error.message().replace('\n', ", "))
        })?;
        let mut root = PowerFields::of(file, "the file", json(toml::Value::Table(table)))?;
        let mut policy = Policy::default();
        let Some(power) = root.take("power") else { return Ok(PowerConfig::default()) };
        let mut fields = PowerFields::of(file, "table [power]", power)?;
        let mode = fields.one_of("mode", &PowerMode::ALL.map(|mode| (mode.name(), mode)))?;
        let prompt_bits = fields.one_of("prompt_bits", &PromptBits::ALL.map(|bits| (bits.name(), bits)))?;
        let (bits, battery) = (fields.take("bits"), fields.take("battery"));
        set(&mut policy.min_bits, fields.number("min_bits", BITS)?);
        set(&mut policy.max_bits, fields.number("max_bits", BITS)?);
        set(&mut policy.dwell_s, fields.number("dwell_s", 0.0..=DWELL_S_MAX)?);
        set(&mut policy.battery_margin, fields.number("battery_margin", PERCENT)?);
        set(&mut policy.memory_from, fields.number("memory_from", PERCENT)?);
        set(&mut policy.memory_margin, fields.number("memory_margin", PERCENT)?);
        if policy.min_bits > policy.max_bits {
            return Err(fields.wrong("min_bits", format!("at most max_bits, {}", policy.max_bits), policy.min_bits));
        }
        fields.end()?;
        if let Some(bits) = bits {
            let mut fields = PowerFields::of(file, "table [power.bits]", bits)?;
            set(&mut policy.ac, fields.number("ac", BITS)?);
            set(&mut policy.saver, fields.number("saver", BITS)?);
            set(&mut policy.thermal_serious, fields.number("thermal_serious", BITS)?);
            set(&mut policy.thermal_critical, fields.number("thermal_critical", BITS)?);
            set(&mut policy.memory_pressure, fields.number("memory_pressure", BITS)?);
            fields.end()?;
        }
        if let Some(battery) = battery {
            policy.battery = ladder(file, battery)?;
        }
        Ok(PowerConfig { policy, mode, prompt_bits })
    }
}

/// The value in JSON, whose numbers are finite: others become their text.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::Float(number) => Number::from_f64(number).map_or(Value::String(number.to_string()), Value::Number),
        toml::Value::Array(values) => values.into_iter().map(json).collect(),
        toml::Value::Table(fields) => fields.into_iter().map(|(name, value)| (name, json(value))).collect(),
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => Value::from(number),
        toml::Value::Boolean(flag) => Value::Bool(flag),
        toml::Value::Datetime(date) => Value::String(date.to_string()),
    }
}

fn set(field: &mut f32, value: Option<f32>) {
    *field = value.unwrap_or(*field);
}

/// The battery's ladder: each rung from a lower charge than the one before, the last from 0.
fn ladder(file: &Path, value: Value) -> Result<Vec<Rung>> {
    const TABLE: &str = "table [[power.battery]]";
    let Value::Array(values) = value else {
        return Err(Error::damaged(file, TABLE, "a list of tables", value));
    };
    let mut rungs: Vec<Rung> = Vec::new();
    let last = values.len().saturating_sub(1);
    for (at, value) in values.into_iter().enumerate() {
        let mut fields = PowerFields::of(file, format!("{TABLE}, entry {}", at + 1), value)?;
        let (from, bits) = (fields.number("from", PERCENT)?, fields.number("bits", BITS)?);
        let from = from.ok_or_else(|| fields.wrong("from", "0 to 100", "nothing"))?;
        let bits = bits.ok_or_else(|| fields.wrong("bits", "2 to 8", "nothing"))?;
        if let Some(before) = rungs.last().filter(|before| from >= before.from) {
            return Err(fields.wrong("from", format!("less than {}, as the entry before has", before.from), from));
        }
        if at == last && from != 0.0 {
            return Err(fields.wrong("from", "0 in the last entry", from));
        }
        fields.end()?;
        rungs.push(Rung { from, bits });
    }
    if rungs.is_empty() { Err(Error::damaged(file, TABLE, "at least one entry", "none")) } else { Ok(rungs) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PowerConfig> {
        PowerConfig::parse(Path::new("edge-run.toml"), text)
    }

    #[test]
    fn a_file_overrides_what_it_names() {
        let text = r#"
            [power]
            mode = "auto"
            prompt_bits = "plan"
            min_bits = 3
            dwell_s = 2.5
            [power.bits]
            ac = 7
            [[power.battery]]
            from = 30
            bits = 5.5
            [[power.battery]]
            from = 0
            bits = 4
            [server]
            port = 1
        "#;
        let battery = vec![Rung { from: 30.0, bits: 5.5 }, Rung { from: 0.0, bits: 4.0 }];
        let policy = Policy { ac: 7.0, battery, min_bits: 3.0, dwell_s: 2.5, ..Policy::default() };
        let (mode, prompt_bits) = (Some(PowerMode::Auto), Some(PromptBits::Plan));
        assert_eq!(parse(text).unwrap(), PowerConfig { policy, mode, prompt_bits });
        assert_eq!(parse("").unwrap(), PowerConfig::default());
    }

    #[test]
    fn an_error_names_file_table_field_expected_and_got() {
        for (text, words) in [
            (
                "[power]\nmode = \"turbo\"",
                "table [power], field `mode`: expected \"auto\", \"low\", \"balanced\", \"high\"",
            ),
            ("[power]\nprompt_bits = 8", "field `prompt_bits`: expected \"deepest\", \"plan\", got 8"),
            ("[power]\nmin_bits = 1", "table [power], field `min_bits`: expected 2 to 8, got 1"),
            ("[power]\nmin_bits = 7\nmax_bits = 5", "field `min_bits`: expected at most max_bits, 5, got 7"),
            ("[power]\ndwell_s = -1", "field `dwell_s`: expected 0 to 3600, got -1"),
            ("[power]\ndwell_s = inf", "field `dwell_s`: expected 0 to 3600, got inf"),
            ("[[power.battery]]\nfrom = -nan\nbits = 4", "field `from`: expected 0 to 100, got NaN"),
            ("[power]\nspeed = 1", "table [power], field `speed`: expected only the fields mode, "),
            ("[power.bits]\nac = \"all\"", "table [power.bits], field `ac`: expected 2 to 8, got \"all\""),
            ("[power.bits]\nac = nan", "table [power.bits], field `ac`: expected 2 to 8"),
            ("[power.bits]\nfast = 4", "table [power.bits], field `fast`: expected only the fields ac, "),
            ("power = 3", "table [power]: expected a table of fields, got 3"),
            ("[power]\nbattery = 3", "table [[power.battery]]: expected a list of tables, got 3"),
            ("[power]\nbattery = []", "table [[power.battery]]: expected at least one entry, got none"),
            ("[[power.battery]]\nbits = 4", "table [[power.battery]], entry 1, field `from`: expected 0 to 100"),
            ("[[power.battery]]\nfrom = 20\nbits = 4", "entry 1, field `from`: expected 0 in the last entry, got 20"),
            (
                "[[power.battery]]\nfrom = 20\nbits = 4\n[[power.battery]]\nfrom = 30\nbits = 4",
                "entry 2, field `from`: expected less than 20, as the entry before has, got 30",
            ),
            ("[power]\nmode = ", "line 2: expected TOML, got "),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.starts_with("`edge-run.toml` is damaged: ") && error.contains(words), "{text}: {error}");
        }
    }
}
