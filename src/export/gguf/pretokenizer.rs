//! llama.cpp's name of the way in which a tokenizer splits text before byte-level BPE.

use serde_json::{Map, Value};

use crate::quantize::gguf::splitting;

/// The names that are tried; of those that split text alike, the one that people know.
const NAMES: [&str; 8] = ["smollm", "gpt-2", "llama-bpe", "smaug-bpe", "qwen2", "tekken", "gpt-4o", "default"];

/// The name that splits text as the tokenizer does, and whether it also takes a piece that is a token as one, whatever
/// the merges make of it, where the tokenizer does.
pub fn name(tokenizer: &Map<String, Value>) -> Option<(&'static str, bool)> {
    let own = steps(tokenizer.get("pre_tokenizer"));
    let model = tokenizer.get("model").and_then(Value::as_object);
    let ignores = model.and_then(|model| model.get("ignore_merges")).and_then(Value::as_bool).unwrap_or(false);
    let known: Vec<_> = NAMES.into_iter().filter_map(|name| Some((name, splitting(name).ok()?))).collect();
    let alike = known.iter().filter(|(_, splitting)| steps(Some(&splitting.pre_tokenizer)) == own);
    let alike: Vec<_> = alike.map(|(name, splitting)| (*name, splitting.ignore_merges == ignores)).collect();
    alike.iter().find(|(_, same)| *same).or(alike.first()).copied()
}

/// The steps of a splitting, each in words that do not depend on how a file writes it.
fn steps(step: Option<&Value>) -> Vec<String> {
    let Some(step) = step.filter(|step| !step.is_null()) else { return Vec::new() };
    if let Some(steps) = step.get("pretokenizers").and_then(Value::as_array) {
        return steps.iter().flat_map(steps_of_one).collect();
    }
    steps_of_one(step)
}

fn steps_of_one(step: &Value) -> Vec<String> {
    let truth = |field: &str, default: bool| step.get(field).and_then(Value::as_bool).unwrap_or(default);
    match step.get("type").and_then(Value::as_str) {
        Some("Sequence") => steps(Some(step)),
        Some("Split") => {
            let pattern = step.get("pattern").map(Value::to_string).unwrap_or_default();
            let behaviour = step.get("behavior").map(Value::to_string).unwrap_or_default();
            vec![format!("split {pattern} {behaviour} {}", truth("invert", false))]
        }
        Some("ByteLevel") => {
            vec![format!("bytes {} {}", truth("add_prefix_space", true), truth("use_regex", true))]
        }
        Some("Digits") => vec![format!("digits {}", truth("individual_digits", false))],
        _ => vec![step.to_string()],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(pre_tokenizer: Value, ignore_merges: bool) -> Option<(&'static str, bool)> {
        let tokenizer = json!({"pre_tokenizer": pre_tokenizer, "model": {"ignore_merges": ignore_merges}});
        name(tokenizer.as_object().unwrap())
    }

    #[test]
    fn a_way_of_splitting_has_its_name_however_it_is_written() {
        for known in ["smollm", "gpt-2", "llama-bpe", "smaug-bpe", "qwen2", "tekken", "default"] {
            let splitting = splitting(known).unwrap();
            assert_eq!(named(splitting.pre_tokenizer, splitting.ignore_merges), Some((known, true)));
        }
        let other = json!({"type": "ByteLevel", "add_prefix_space": false});
        assert_eq!(named(other, false), Some(("gpt-2", true)));
        let llama = splitting("llama-bpe").unwrap();
        assert_eq!(named(llama.pre_tokenizer, false), Some(("smaug-bpe", true)));
        let qwen = splitting("qwen2").unwrap();
        assert_eq!(named(qwen.pre_tokenizer, true), Some(("qwen2", false)));
        assert_eq!(named(json!({"type": "Whitespace"}), false), None);
        assert_eq!(named(Value::Null, false), None);
    }
}
