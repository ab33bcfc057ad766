//! What is wrong with a grammar: the grammar library's words in one line, and the field of a JSON schema.

use serde_json::{Map, Value, json};

use crate::error::shortened_to;

/// The keywords under which one schema stands.
const SINGLE: [&str; 3] = ["additionalItems", "additionalProperties", "items"];
/// The keywords under which a list of schemas stands.
const LISTS: [&str; 5] = ["allOf", "anyOf", "items", "oneOf", "prefixItems"];
/// The keywords of lists whose schemas are alternatives, as pointers end with them.
const ALTERNATIVES: [&str; 2] = ["/anyOf", "/oneOf"];
/// The keywords under which schemas have names that others refer to.
const DEFINITIONS: [&str; 2] = ["$defs", "definitions"];
/// The keywords under which schemas have names. Definitions are looked at first, as they are muted with what refers to
/// them.
const NAMED: [&str; 4] = [DEFINITIONS[0], DEFINITIONS[1], "patternProperties", "properties"];

/// Bytes of the longest schema that is compiled several times to find a fault.
const COMPILED_BYTES: usize = 16 << 10;

/// Characters of a line of the library's words that are kept, as it repeats what it was given.
const LINE_CHARS: usize = 240;
/// What the library writes between its words and the definition that it was at.
const WHILE: &str = "while processing";
/// What it writes before and after the words of a panic of its own, which it catches.
const PANIC: &str = "panic: ";
const BACKTRACE: &str = "<backtrace>";
/// What it writes where it was asked to leave details out.
const NOT_VERBOSE: &str = "<non-verbose/>";
/// What its panics are called here.
const OWN_FAULT: &str = "a fault of the grammar library: ";

/// What the library says where nothing may follow, and what is said here.
const NO_MORE: &str = "NoExtensionBias";
const NOTHING_FOLLOWS: &str = "nothing that may come next, as where a rule or a reference leads only to itself";
/// What it says, with a number behind, where there is too much at one place.
const POSSIBILITIES_AT_ONCE: &str = "Parser Error: Current row has ";
const STEPS_AT_ONCE: &str = "parser error: Too many items (limit ";
/// What it says about tokens that a vocabulary does not have.
const OF_TOKENS: [&str; 2] = ["unknown special token", "Token range end too large"];

/// Whether the words are about tokens that the vocabulary does not have.
pub fn is_of_tokens(words: &str) -> bool {
    OF_TOKENS.iter().any(|about| words.contains(about))
}

/// What the library says by names of its own parts, in words of a grammar.
fn plain(line: &str) -> Option<String> {
    let number = |rest: &str| rest.split(|c: char| !c.is_ascii_digit()).next().map(String::from).unwrap_or_default();
    if line == NO_MORE {
        return Some(NOTHING_FOLLOWS.to_string());
    }
    if let Some(rest) = line.strip_prefix(POSSIBILITIES_AT_ONCE) {
        let most = rest.split_once("max is ").map_or(String::new(), |(_, most)| number(most));
        let advice = "a rule that comes back to itself at its end should do so at its beginning";
        return Some(format!("{} possibilities at one place, where {most} are the most; {advice}", number(rest)));
    }
    let limit = number(line.strip_prefix(STEPS_AT_ONCE)?);
    Some(format!("more than {limit} steps through its rules at one place, as where one has no end"))
}

/// The words of an error of the grammar library in one line. `chain` is the error and what caused it, the outermost
/// first. A picture of the place in the text and words that were there before are left out.
pub fn in_one_line(chain: impl Iterator<Item = String>) -> String {
    let mut kept = Vec::new();
    let mut before = String::new();
    for part in chain {
        let part = part.split(BACKTRACE).next().unwrap_or_default();
        if before.contains(part) {
            continue;
        }
        for line in part.lines().map(str::trim) {
            let line = line.strip_prefix("error: ").unwrap_or(line);
            let line = line.strip_prefix(PANIC).map_or(line.to_string(), |rest| format!("{OWN_FAULT}{rest}"));
            let is_picture = line.chars().all(|c| "^~-".contains(c)) || is_numbered(&line) || line == NOT_VERBOSE;
            if !is_picture && !line.starts_with(WHILE) {
                kept.push(plain(&line).unwrap_or_else(|| shortened_to(&line, LINE_CHARS)));
            }
        }
        before += part;
    }
    let words = kept.join("; ").replace(":; ", ": ");
    position(&words).map_or_else(|| words.clone(), |(line, column, rest)| format!("line {line}, column {column}{rest}"))
}

/// Whether the line repeats one of the text: a number, a bar, and the text.
fn is_numbered(line: &str) -> bool {
    line.split_once(" |").is_some_and(|(number, _)| number.parse::<u32>().is_ok())
}

/// The line and the column with which the words begin, as in `at 1(8): `, and what follows.
fn position(words: &str) -> Option<(u32, u32, &str)> {
    let (line, rest) = words.strip_prefix("at ").unwrap_or(words).split_once('(')?;
    let (column, rest) = rest.split_once(')')?;
    Some((line.parse().ok()?, column.parse().ok()?, rest))
}

/// The JSON pointer of the field that the error `fault` is about, empty for the whole schema or where it is not found.
/// `compile` tells what is wrong with a schema.
///
/// The library does not tell the place. So parts of the schema are muted, and the fault is where it is gone with them.
pub fn place(schema: &Value, fault: &str, compile: impl Fn(&Value) -> Option<String>) -> String {
    let is_there = |tried: &Value| compile(tried).is_some_and(|words| words == fault);
    if is_there(&ending_in_a_fault(schema.clone())) {
        return search(schema, |tried| is_there(&ending_in_a_fault(tried.clone())));
    }
    if schema.to_string().len() <= COMPILED_BYTES { search(schema, is_there) } else { String::new() }
}

/// The schema with a fault at its end. The library reads all of a schema before it compiles any of it. So faults that
/// it sees in reading are told as before, and where there are none, this one saves the time to compile.
fn ending_in_a_fault(mut schema: Value) -> Value {
    if let Value::Object(fields) = &mut schema {
        let mut list = fields.shift_remove("allOf").unwrap_or_else(|| json!([]));
        if let Value::Array(list) = &mut list {
            list.push(json!({"type": "no type"}));
        }
        fields.insert("allOf".into(), list);
    }
    schema
}

/// The place where `still_there` is false if that is muted. This asks a few times for each level of the schema, and
/// more often by the logarithm of its width.
fn search(schema: &Value, still_there: impl Fn(&Value) -> bool) -> String {
    let (mut place, mut muted) = (String::new(), Vec::new());
    while let Some(inner) = faulty_part(schema, &place, &mut muted, &still_there) {
        place = inner;
    }
    let Some(fields) = schema.pointer(&place).and_then(Value::as_object) else { return place };
    let is_at_fault = |key: &&String| {
        let mut tried = schema.clone();
        if let Some(Value::Object(fields)) = tried.pointer_mut(&place) {
            fields.shift_remove(*key);
        }
        !still_there(&without(tried, &muted))
    };
    // Where it takes two fields to make the fault, it is in neither of them.
    let at_fault: Vec<&String> = fields.keys().filter(is_at_fault).take(2).collect();
    if let [key] = at_fault[..] { below(&place, key) } else { place }
}

/// The part of the schema at `place` that has the fault. Those before it, some of which may have the same fault, become
/// muted.
fn faulty_part(
    schema: &Value,
    place: &str,
    muted: &mut Vec<String>,
    still_there: &impl Fn(&Value) -> bool,
) -> Option<String> {
    let parts = parts(schema.pointer(place)?.as_object()?, place);
    let is_there = |further: &[String]| still_there(&without(schema.clone(), &[muted, further].concat()));
    if parts.is_empty() || is_there(&parts) {
        return None;
    }
    // The fault is there without the first `few`, and not without the first `many`.
    let (mut few, mut many) = (0, parts.len());
    while many - few > 1 {
        let middle = few.midpoint(many);
        if is_there(&parts[..middle]) { few = middle } else { many = middle }
    }
    let part = &parts[few];
    // Parts may be at odds with each other, or too many, and then the fault is in none of them. What has only a name is
    // no fault without the others, which refer to it.
    let is_beside = |other: &&String| *other != part && list_of(other) == list_of(part);
    let others: Vec<String> = parts.iter().filter(is_beside).cloned().collect();
    let has_users = DEFINITIONS.iter().any(|key| list_of(part) == below(place, key));
    if !has_users && !others.is_empty() && !is_there(&others) {
        return None;
    }
    muted.extend_from_slice(&parts[..few]);
    Some(part.clone())
}

/// The pointers of the schemas that stand directly in a schema, which itself stands at `place`.
fn parts(fields: &Map<String, Value>, place: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for key in NAMED {
        let named = fields.get(key).and_then(Value::as_object).into_iter().flat_map(Map::keys);
        parts.extend(named.map(|name| below(&below(place, key), name)));
    }
    for (key, value) in fields {
        let inner = below(place, key);
        match value {
            Value::Object(_) | Value::Bool(_) if SINGLE.contains(&key.as_str()) => parts.push(inner),
            Value::Array(list) if LISTS.contains(&key.as_str()) => {
                parts.extend((0..list.len()).map(|index| below(&inner, &index.to_string())));
            }
            _ => {}
        }
    }
    parts
}

/// The pointer of a field of what stands at `place`.
fn below(place: &str, key: &str) -> String {
    format!("{place}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// The schema with the parts at `muted` saying nothing, each of which stands beside or in the ones before it.
/// Alternatives are left out, as one that says nothing would make the others needless.
fn without(mut schema: Value, muted: &[String]) -> Value {
    // The last one first, so that the pointers of the others stay right.
    for part in muted.iter().rev() {
        let index = part[list_of(part).len()..].trim_start_matches('/').parse::<usize>();
        let is_alternative = ALTERNATIVES.iter().any(|end| list_of(part).ends_with(end));
        match (schema.pointer_mut(list_of(part)), index) {
            (Some(Value::Array(list)), Ok(index)) if is_alternative && list.len() > 1 => {
                list.remove(index);
            }
            _ => {
                if let Some(inner) = schema.pointer_mut(part) {
                    *inner = Value::Bool(true);
                }
            }
        }
    }
    schema
}

/// The pointer of what a part stands in.
fn list_of(part: &str) -> &str {
    part.rsplit_once('/').map_or("", |(list, _)| list)
}
