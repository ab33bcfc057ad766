//! Reads tokenizer.json, a file of strangers: what its library would panic about is refused or written otherwise first.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::charsmap;
use crate::error::{Error, Result, shortened};
use crate::json;

/// Bytes of a token of a Unigram vocabulary: its library keeps them in a tree that takes stack for each.
const UNIGRAM_TOKEN_BYTES_MAX: usize = 1024;
/// How many times as long the replacements of a file may make a text; one of a few bytes for a space is usual.
const GROWTH_MAX: usize = 10_000;
/// Characters that a decoder may take off a token's end.
const STRIP_MAX: u64 = 1000;

/// The tokenizer that `text` describes, the content of `file`. Added tokens that get another id than the file states
/// are a warning.
pub fn read(file: &Path, text: &str, warnings: &mut Vec<String>) -> Result<Tokenizer> {
    const EXPECTED: &str = "a tokenizer as Hugging Face writes it";
    let mut value: Value = json::parse(file, text)?;
    let fields = value.as_object_mut().ok_or_else(|| Error::damaged(file, "JSON", EXPECTED, "no object"))?;
    mend(fields).map_err(|Fault { what, expected, got }| Error::damaged(file, what, expected, shortened(&got)))?;
    let added = fields.get("added_tokens").cloned();
    let damaged = |fault: &str| Error::damaged(file, "JSON", EXPECTED, shortened(fault));
    let read: serde_json::Result<Tokenizer> =
        unwinding(|| serde_json::from_value(value)).ok_or_else(|| damaged("one that its library fails on"))?;
    let tokenizer = read.map_err(|fault| damaged(&fault.to_string()))?;
    warnings.extend(moved(&tokenizer, added.as_ref()).map(|moved| format!("`{}`: {moved}", file.display())));
    Ok(tokenizer)
}

/// What is to be said of added tokens whose ids are not those that the file states: the library counts on from the
/// vocabulary's size, as in transformers.
fn moved(tokenizer: &Tokenizer, added: Option<&Value>) -> Option<String> {
    let stated = added?.as_array()?.iter();
    let stated = stated.filter_map(|token| Some((token.get("content")?.as_str()?, token.get("id")?.as_u64()?)));
    let mut moved = stated.filter_map(|(text, id)| {
        let got = tokenizer.token_to_id(text).filter(|got| u64::from(*got) != id)?;
        Some(format!("`{}` is stated to have id {id} and has {got}", shortened(text)))
    });
    let first = moved.next()?;
    Some(match moved.count() {
        0 => format!("the added token {first}, by its place"),
        others => format!("the added token {first}, by its place; so it is with {others} others"),
    })
}

/// The answer of a call into the library; `None` where it panics, of which nothing is printed. Files that are known to
/// make it panic are refused before: this is for those that nobody has thought of.
pub fn unwinding<T>(call: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                others(panic);
            }
        }));
    });
    let was = QUIET.replace(true);
    let answer = catch_unwind(AssertUnwindSafe(call)).ok();
    QUIET.set(was);
    answer
}

thread_local! {
    /// Whether a panic of this thread is an answer of the library, and no fault of the program.
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What is wrong, and with what.
struct Fault {
    what: String,
    expected: &'static str,
    got: String,
}

fn fault<T>(what: impl Into<String>, expected: &'static str, got: impl Into<String>) -> std::result::Result<T, Fault> {
    Err(Fault { what: what.into(), expected, got: got.into() })
}

type Checked = std::result::Result<(), Fault>;

/// Takes away what only training uses, and looks through the parts.
fn mend(fields: &mut Map<String, Value>) -> Checked {
    // A prompt is never cut or filled up, and merges are not left out at random.
    fields.insert("padding".into(), Value::Null);
    fields.insert("truncation".into(), Value::Null);
    match fields.get_mut("model") {
        Some(Value::Object(model)) => {
            model.shift_remove("dropout");
            check_model(model)?;
        }
        _ => return fault("model", "an object", "none"),
    }
    for name in ["normalizer", "decoder"] {
        let growth = growth(fields.get(name).unwrap_or(&Value::Null));
        if growth > GROWTH_MAX {
            return fault(name, "replacements that do not multiply a text's length", format!("a factor of {growth}"));
        }
    }
    check_steps(fields.get("normalizer"), &check_normalizer)?;
    check_steps(fields.get("pre_tokenizer"), &check_pre_tokenizer)?;
    check_steps(fields.get("post_processor"), &check_post_processor)?;
    check_steps(fields.get("decoder"), &|_| Ok(()))?;
    fields.get_mut("decoder").into_iter().for_each(mend_decoder);
    Ok(())
}

/// Calls `check` for a step, or for each of those that it is a sequence of.
fn check_steps(step: Option<&Value>, check: &dyn Fn(&Map<String, Value>) -> Checked) -> Checked {
    let fields = match step {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Object(fields)) => fields,
        // The library would take a list for the fields of any step that has as many.
        Some(other) => return fault("a step of the tokenizer", "an object", other.to_string()),
    };
    check(fields)?;
    let lists = ["normalizers", "pretokenizers", "processors", "decoders"];
    let steps = lists.into_iter().filter_map(|name| fields.get(name)?.as_array()).flatten();
    steps.into_iter().try_for_each(|step| check_steps(Some(step), check))
}

/// How many times as long the replacements of a step, or of a sequence of them, make a text at most.
fn growth(step: &Value) -> usize {
    let lists = ["normalizers", "decoders"].into_iter().filter_map(|name| step.get(name)?.as_array());
    let within = lists.flatten().map(growth).fold(1, usize::saturating_mul);
    let Some((content, pattern)) = step.get("content").and_then(Value::as_str).zip(step.get("pattern")) else {
        return within;
    };
    // An expression may match nothing between any two characters.
    let own = match pattern.get("String").and_then(Value::as_str).filter(|pattern| !pattern.is_empty()) {
        Some(pattern) => content.len().div_ceil(pattern.len()).max(1),
        None => content.len() + 1,
    };
    within.saturating_mul(own)
}

fn check_model(model: &Map<String, Value>) -> Checked {
    match (model.get("vocab"), model.get("merges").and_then(Value::as_array)) {
        (Some(Value::Object(vocab)), Some(merges)) => {
            let prefix = model.get("continuing_subword_prefix").and_then(Value::as_str).unwrap_or("");
            merges.iter().try_for_each(|merge| check_merge(vocab, prefix, merge))
        }
        (Some(Value::Array(vocab)), _) => {
            let texts = vocab.iter().filter_map(|piece| piece.get(0)?.as_str());
            match texts.map(str::len).find(|bytes| *bytes > UNIGRAM_TOKEN_BYTES_MAX) {
                Some(bytes) => fault("vocab", "tokens of at most 1024 bytes", bytes.to_string()),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Both parts of a merge, and what they make, are tokens; without this, the library writes past the end of a buffer.
fn check_merge(vocab: &Map<String, Value>, prefix: &str, merge: &Value) -> Checked {
    let (left, right) = match merge {
        Value::Array(pair) => match &pair[..] {
            [Value::String(left), Value::String(right)] => (left.as_str(), right.as_str()),
            _ => return Ok(()),
        },
        Value::String(pair) => match pair.split_once(' ') {
            Some(parts) => parts,
            None => return Ok(()),
        },
        _ => return Ok(()),
    };
    let Some(end) = right.get(prefix.len()..) else {
        return fault("merges", "parts that begin with the prefix of later parts", right);
    };
    match [left, right, &format!("{left}{end}")].into_iter().find(|token| !vocab.contains_key(*token)) {
        Some(token) => {
            let merge = format!("merge of `{}` and `{}`", shortened(left), shortened(right));
            fault(merge, "tokens", format!("`{token}`, which is none"))
        }
        None => Ok(()),
    }
}

fn check_normalizer(fields: &Map<String, Value>) -> Checked {
    let map = fields.get("precompiled_charsmap");
    if map.is_none() && fields.get("type").and_then(Value::as_str) != Some("Precompiled") {
        return Ok(());
    }
    match map.and_then(Value::as_str).is_some_and(charsmap::is_sound) {
        true => Ok(()),
        false => fault("precompiled_charsmap", "a map of characters whose places all lie in it", "another"),
    }
}

fn check_pre_tokenizer(fields: &Map<String, Value>) -> Checked {
    match fields.get("length").and_then(Value::as_u64) {
        Some(0) => fault("length of pieces", "at least 1", "0"),
        _ => Ok(()),
    }
}

/// A template has the text once, and no special token that is not described beside it.
fn check_post_processor(fields: &Map<String, Value>) -> Checked {
    let Some(single) = fields.get("single") else { return Ok(()) };
    let mut texts = 0;
    for piece in single.as_array().into_iter().flatten() {
        let id = |kind: &str| piece.pointer(kind).and_then(Value::as_str);
        match (id("/Sequence/id"), id("/SpecialToken/id")) {
            (Some("A"), None) => texts += 1,
            (None, Some(id)) if is_described(fields, id) => (),
            _ => return fault("post_processor", "the text and special tokens that are described", piece.to_string()),
        }
    }
    if texts == 1 { Ok(()) } else { fault("post_processor", "the text once", format!("it {texts} times")) }
}

fn is_described(template: &Map<String, Value>, id: &str) -> bool {
    let token = template.get("special_tokens").and_then(|tokens| tokens.get(id));
    let length = |list: &str| token?.get(list)?.as_array().map(Vec::len);
    length("ids").is_some() && length("ids") == length("tokens")
}

/// Writes a decoder that takes characters off the end of a token as a replacement: the library's panics where a token
/// is shorter than what is to be taken off.
fn mend_decoder(decoder: &mut Value) {
    if let Some(steps) = decoder.get_mut("decoders").and_then(Value::as_array_mut) {
        steps.iter_mut().for_each(mend_decoder);
    }
    if let Some(pattern) = strip_pattern(decoder) {
        *decoder = json!({"type": "Replace", "pattern": {"Regex": pattern}, "content": ""});
    }
}

/// What the decoder takes away, if it is one that takes a character off the end.
fn strip_pattern(decoder: &Value) -> Option<String> {
    let count = |name: &str| decoder.get(name)?.as_u64().map(|count| count.min(STRIP_MAX));
    let (start, stop) = (count("start")?, count("stop").filter(|stop| *stop > 0)?);
    let mut content = decoder.get("content")?.as_str()?.chars();
    let (Some(character), None) = (content.next(), content.next()) else { return None };
    let content = format!("\\x{{{:X}}}", u32::from(character));
    let end = format!("{content}{{1,{stop}}}\\z");
    Some(if start == 0 { end } else { format!("\\A{content}{{1,{start}}}|{end}") })
}

#[cfg(test)]
#[path = "tokenizer_file_tests.rs"]
mod tests;
