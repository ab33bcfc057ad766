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

/// What is to be said of a name that was given by hand: nothing where it is known to split text as the tokenizer does.
/// Names that are not known here may be given, as llama.cpp knows more of them, for tokenizers that have none of ours.
pub fn doubt(name: &str, tokenizer: &Map<String, Value>) -> Option<String> {
    match splitting(name) {
        Ok(known) if steps(Some(&known.pre_tokenizer)) == steps(tokenizer.get("pre_tokenizer")) => None,
        Ok(_) => Some(format!(
            "llama.cpp's `{name}` splits text in another way than this tokenizer: words may become other tokens there"
        )),
        Err(_) => Some(format!(
            "`{name}` is written as it stands, as it is no name that edge-run knows: llama.cpp reads no file with a \
             name that it does not know"
        )),
    }
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

    #[test]
    fn a_name_by_hand_is_doubted_unless_it_splits_alike() {
        let qwen = json!({"pre_tokenizer": splitting("qwen2").unwrap().pre_tokenizer});
        let doubted = |name: &str| doubt(name, qwen.as_object().unwrap());
        assert_eq!(doubted("deepseek-r1-qwen"), None);
        assert!(doubted("gpt-2").unwrap().contains("`gpt-2` splits text in another way"));
        assert!(doubted("viking").unwrap().contains("`viking` is written as it stands"));
    }
}
