//! `generation_config.json`: special token ids, and the sampling that the model's makers recommend.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::as_absent;
use crate::json;
use crate::sampling::{REPEAT_PENALTY, REPEAT_PENALTY_EXPECTED, SamplerSettings};

/// What a model's makers say about generating with it; everything is optional.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationDefaults {
    /// The token that begins a text.
    pub bos: Option<u32>,
    /// The tokens that end a turn or a text; those that the file names come first.
    pub end: Vec<u32>,
    /// Whether the file says that no token ends a turn: an empty list.
    pub endless: bool,
    /// The token that fills up batches, which nothing here uses.
    pub pad: Option<u32>,
    /// The text of BOS for chat templates, where it is stated.
    pub bos_text: Option<String>,
    /// The text of EOS for chat templates, where it is stated.
    pub eos_text: Option<String>,
    /// Recommended [`temperature`](super::SamplerSettings::temperature); 0 where the likeliest token is recommended.
    pub temperature: Option<f32>,
    /// Recommended [`top_k`](super::SamplerSettings::top_k).
    pub top_k: Option<usize>,
    /// Recommended [`top_p`](super::SamplerSettings::top_p).
    pub top_p: Option<f32>,
    /// Recommended [`min_p`](super::SamplerSettings::min_p).
    pub min_p: Option<f32>,
    /// Recommended [`repeat_penalty`](super::SamplerSettings::repeat_penalty).
    pub repeat_penalty: Option<f32>,
}

impl GenerationDefaults {
    /// Reads the text of the file, which warnings call `file`. Nothing in it is needed, so what cannot be followed, or
    /// all of a text that cannot be read, becomes a warning and counts as absent.
    pub fn parse(file: &Path, text: &str, warnings: &mut Vec<String>) -> GenerationDefaults {
        let fields = match json::parse::<Value>(file, text) {
            Ok(Value::Object(fields)) => fields,
            Ok(other) => {
                warnings.push(as_absent(file, "the file", "an object of settings", other));
                return GenerationDefaults::default();
            }
            Err(fault) => {
                warnings.push(format!("{fault}; it counts as absent"));
                return GenerationDefaults::default();
            }
        };
        GenerationDefaults::of(&mut GenerationFields { file, fields: &fields, warnings })
    }

    fn of(fields: &mut GenerationFields<'_>) -> GenerationDefaults {
        let end = fields.ids("eos_token_id");
        let sampled = fields.read("do_sample", "true or false", Value::as_bool);
        let temperature = fields.number("temperature", "a number of 0 or more", |t| t >= 0.0);
        GenerationDefaults {
            bos: fields.ids("bos_token_id").and_then(|ids| ids.first().copied()),
            endless: fields.fields.get("eos_token_id").and_then(Value::as_array).is_some_and(Vec::is_empty),
            end: end.unwrap_or_default(),
            pad: fields.ids("pad_token_id").and_then(|ids| ids.first().copied()),
            bos_text: fields.text("bos_token"),
            eos_text: fields.text("eos_token"),
            temperature: if sampled == Some(false) { Some(0.0) } else { temperature },
            top_k: fields.top_k(),
            top_p: fields.number("top_p", "a number from 0 to 1", |p| (0.0..=1.0).contains(&p)),
            min_p: fields.number("min_p", "a number from 0 to 1", |p| (0.0..=1.0).contains(&p)),
            repeat_penalty: fields
                .number("repetition_penalty", REPEAT_PENALTY_EXPECTED, |penalty| REPEAT_PENALTY.contains(&penalty)),
        }
    }

    /// The settings recommended here, and elsewhere those of [`SamplerSettings::default`].
    pub fn sampling(&self) -> SamplerSettings {
        let plain = SamplerSettings::default();
        SamplerSettings {
            temperature: self.temperature.unwrap_or(plain.temperature),
            top_k: self.top_k.unwrap_or(plain.top_k),
            top_p: self.top_p.unwrap_or(plain.top_p),
            min_p: self.min_p.unwrap_or(plain.min_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(plain.repeat_penalty),
            ..plain
        }
    }

    /// Writes what is said here over the fields of a generation_config.json, and takes away what could not be followed.
    pub fn write_into(&self, fields: &mut Map<String, Value>) {
        let mut set = |key: &str, value: Option<Value>| match value {
            Some(value) => {
                fields.insert(key.into(), value);
            }
            None => {
                fields.shift_remove(key);
            }
        };
        // Of a single precision number its shortest writing, not all the digits that a double would have.
        let number =
            |value: Option<f32>| value.and_then(|value| value.to_string().parse::<f64>().ok()).map(Value::from);
        set("bos_token_id", self.bos.map(Value::from));
        set("eos_token_id", (self.endless || !self.end.is_empty()).then(|| self.end.clone().into()));
        set("pad_token_id", self.pad.map(Value::from));
        set("bos_token", self.bos_text.clone().map(Value::from));
        set("eos_token", self.eos_text.clone().map(Value::from));
        set("temperature", number(self.temperature));
        set("top_k", self.top_k.map(Value::from));
        set("top_p", number(self.top_p));
        set("min_p", number(self.min_p));
        set("repetition_penalty", number(self.repeat_penalty));
        if fields.get("do_sample").is_some_and(|value| !value.is_boolean()) {
            fields.shift_remove("do_sample");
        }
    }
}

/// The fields of the file, and what is found of them that cannot be followed.
struct GenerationFields<'a> {
    file: &'a Path,
    fields: &'a Map<String, Value>,
    warnings: &'a mut Vec<String>,
}

impl GenerationFields<'_> {
    /// The value of `key`, if it is there, is not null and is what is expected.
    fn read<T>(&mut self, key: &str, expected: &str, as_type: impl Fn(&Value) -> Option<T>) -> Option<T> {
        let value = self.fields.get(key).filter(|value| !value.is_null())?;
        let read = as_type(value);
        if read.is_none() {
            self.warnings.push(as_absent(self.file, key, expected, value));
        }
        read
    }

    fn number(&mut self, key: &str, expected: &str, fits: impl Fn(f32) -> bool) -> Option<f32> {
        let number = |value: &Value| value.as_f64().map(|number| number as f32);
        self.read(key, expected, |value| number(value).filter(|number| number.is_finite() && fits(*number)))
    }

    fn text(&mut self, key: &str) -> Option<String> {
        self.read(key, "a text", |value| value.as_str().map(String::from))
    }

    /// Token ids as the file gives them, one or a list; those that are none are left out.
    fn ids(&mut self, key: &str) -> Option<Vec<u32>> {
        let value = self.fields.get(key).filter(|value| !value.is_null())?;
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let mut ids = Vec::new();
        for value in values {
            match token_id(value) {
                Some(id) if ids.contains(&id) => (),
                Some(id) => ids.push(id),
                None => self.warnings.push(as_absent(
                    self.file,
                    key,
                    "a token id, which is a whole number from 0 on",
                    value,
                )),
            }
        }
        Some(ids)
    }

    /// 0 and less stand for all tokens, as in llama.cpp.
    fn top_k(&mut self) -> Option<usize> {
        let k = self.read("top_k", "a whole number", |value| whole(value).filter(|k| k.abs() < 2f64.powi(53)))?;
        if k < 0.0 {
            let file = self.file.display();
            self.warnings.push(format!("`{file}`: top_k is {k}: it counts as 0, which draws from all tokens"));
        }
        Some(k.max(0.0) as usize)
    }
}

/// The token id that a value of JSON states; a float will do that is a whole number.
pub fn token_id(value: &Value) -> Option<u32> {
    whole(value).filter(|id| (0.0..=f64::from(u32::MAX)).contains(id)).map(|id| id as u32)
}

fn whole(value: &Value) -> Option<f64> {
    value.as_f64().filter(|number| number.fract() == 0.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> (GenerationDefaults, Vec<String>) {
        let mut warnings = Vec::new();
        let defaults = GenerationDefaults::parse(Path::new("generation_config.json"), text, &mut warnings);
        assert!(warnings.iter().all(|warning| warning.contains("generation_config.json")), "{warnings:?}");
        (defaults, warnings)
    }

    /// What a text without anything odd says.
    fn sound(text: &str) -> GenerationDefaults {
        let (defaults, warnings) = parse(text);
        assert_eq!(warnings, [""; 0], "{text}");
        defaults
    }

    #[test]
    fn end_tokens_may_be_one_or_a_list_or_absent() {
        assert_eq!(sound(r#"{"bos_token_id": 1, "eos_token_id": 2}"#).end, [2]);
        let many = sound(r#"{"eos_token_id": [5, 7, 5.0], "bos_token_id": [3], "transformers_version": "4"}"#);
        assert_eq!((many.bos, many.end, many.endless), (Some(3), vec![5, 7], false));
        assert_eq!(sound("{}"), GenerationDefaults::default());
        assert_eq!(sound(r#"{"eos_token_id": null}"#), GenerationDefaults::default());
        assert!(sound(r#"{"eos_token_id": []}"#).endless);
    }

    #[test]
    fn ids_that_are_none_are_warned_about_and_count_as_absent() {
        for bad in ["-1", "4294967296", "18446744073709551615", "2.5", "\"2\"", "true", "NaN", "{}", "[null]"] {
            let (defaults, warnings) = parse(&format!(r#"{{"eos_token_id": {bad}, "bos_token_id": 1}}"#));
            assert_eq!((defaults.bos, defaults.end, warnings.len()), (Some(1), vec![], 1), "{bad}: {warnings:?}");
            assert!(warnings[0].contains("eos_token_id"), "{warnings:?}");
        }
        let (defaults, warnings) = parse(r#"{"eos_token_id": [2, -1, 2.0, 7]}"#);
        assert_eq!((defaults.end, warnings.len()), (vec![2, 7], 1), "{warnings:?}");
    }

    #[test]
    fn the_recommended_sampling_is_read() {
        let full = sound(
            r#"{"temperature": 0.6, "top_k": 20.0, "top_p": 1, "min_p": 0.2, "repetition_penalty": 1.9, "do_sample": true}"#,
        );
        assert_eq!((full.temperature, full.top_k, full.top_p), (Some(0.6), Some(20), Some(1.0)));
        assert_eq!((full.min_p, full.repeat_penalty), (Some(0.2), Some(1.9)));
        assert_eq!(sound(r#"{"do_sample": false, "temperature": 0.9}"#).temperature, Some(0.0));
        assert_eq!(sound(r#"{"top_k": 0, "temperature": null}"#).top_k, Some(0));
    }

    #[test]
    fn a_recommendation_that_cannot_be_followed_is_a_warning_and_the_others_count() {
        for (key, bad) in [
            ("top_p", "1.5"),
            ("top_p", "\"0.9\""),
            ("min_p", "-0.1"),
            ("temperature", "-1"),
            ("temperature", "NaN"),
            ("temperature", "Infinity"),
            ("temperature", "1e300"),
            ("temperature", "[1]"),
            ("repetition_penalty", "0"),
            ("repetition_penalty", "1e-40"),
            ("repetition_penalty", "true"),
            ("top_k", "2.5"),
            ("top_k", "\"all\""),
            ("top_k", "1e300"),
            ("do_sample", "\"no\""),
            ("bos_token", "7"),
        ] {
            let (defaults, warnings) = parse(&format!(r#"{{"{key}": {bad}, "eos_token_id": 2}}"#));
            let expected = GenerationDefaults { end: vec![2], ..GenerationDefaults::default() };
            assert_eq!(defaults, expected, "{key} {bad}");
            assert!(warnings.len() == 1 && warnings[0].contains(key), "{key} {bad}: {warnings:?}");
        }
    }

    #[test]
    fn a_top_k_below_nothing_draws_from_all_tokens() {
        let (defaults, warnings) = parse(r#"{"top_k": -1}"#);
        assert_eq!((defaults.top_k, warnings.len()), (Some(0), 1));
    }

    #[test]
    fn a_file_that_is_no_object_is_a_warning() {
        for text in ["{", "", "[1]", "null", "{\"a\": }"] {
            let (defaults, warnings) = parse(text);
            assert_eq!((defaults, warnings.len()), (GenerationDefaults::default(), 1), "{text}");
        }
    }

    #[test]
    fn what_was_understood_is_written_over_what_was_there() {
        let text = r#"{"a": 1, "temperature": 0.6, "top_p": 7, "top_k": -1, "eos_token_id": 2, "pad_token_id": -1}"#;
        let mut fields = json::parse::<Value>(Path::new("x"), text).unwrap().as_object().unwrap().clone();
        let (mut defaults, _) = parse(text);
        defaults.end.push(3);
        defaults.eos_text = Some("</s>".into());
        defaults.write_into(&mut fields);
        let expected = json!({"a": 1, "temperature": 0.6, "top_k": 0, "eos_token_id": [2, 3], "eos_token": "</s>"});
        assert_eq!(Value::Object(fields.clone()), expected);
        assert_eq!(sound(&Value::Object(fields).to_string()), GenerationDefaults { top_k: Some(0), ..defaults });
    }
}
