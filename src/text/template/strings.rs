//! Python's methods of texts, which count in characters.

use minijinja::State;
use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Tuple, Value};

use super::characters::{is_decimal, is_digit, is_space};
use super::python::{
    MethodAnswer, bind, charge, flag_argument, is_printable, number_argument, refusal, text_argument, text_of,
};

/// Calls the method `name` of `text`, if there is one.
pub(super) fn call(state: &State, text: &str, name: &str, args: &[Value]) -> Option<MethodAnswer<Value>> {
    if let Some(answer) = question(text, name) {
        return Some(bind(name, [], args).map(|[]| Value::from(answer)));
    }
    if let Some(changed) = changed(text, name) {
        return Some(bind(name, [], args).map(|[]| Value::from(changed)));
    }
    Some(match name {
        "strip" | "lstrip" | "rstrip" => stripped(text, name, args),
        "removeprefix" => affix(name, args).map(|affix| text.strip_prefix(&*affix).unwrap_or(text).into()),
        "removesuffix" => affix(name, args).map(|affix| text.strip_suffix(&*affix).unwrap_or(text).into()),
        "split" | "rsplit" => split(text, name, args),
        "partition" | "rpartition" => partition(text, name, args),
        "splitlines" => {
            let lines = bind(name, ["keepends"], args).map(|[keep]| lines(text, flag_argument(&keep, false)));
            lines.map(|lines| lines.into_iter().map(Value::from).collect())
        }
        "replace" => replace(state, text, args),
        "startswith" | "endswith" => has_affix(text, name, args),
        "find" | "rfind" | "index" | "rindex" | "count" => search(text, name, args),
        "join" => join(state, text, args),
        "zfill" => zero_filled(state, text, args),
        "ljust" | "rjust" | "center" => justified(state, text, name, args),
        "expandtabs" => expand_tabs(state, text, args),
        "format" => formatted(state, text, args),
        _ => return None,
    })
}

/// What the methods say that ask about a text.
fn question(text: &str, name: &str) -> Option<bool> {
    let all = |holds: fn(char) -> bool| !text.is_empty() && text.chars().all(holds);
    let cased = || text.chars().filter(|c| c.is_lowercase() || c.is_uppercase());
    Some(match name {
        "isalpha" => all(|c| c.is_alphabetic() && !c.is_numeric()),
        "isalnum" => all(char::is_alphanumeric),
        "isascii" => text.is_ascii(),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(is_digit),
        "isnumeric" => all(|c| c.is_numeric()),
        "isspace" => all(is_space),
        "islower" => cased().next().is_some() && cased().all(char::is_lowercase),
        "isupper" => cased().next().is_some() && cased().all(char::is_uppercase),
        "istitle" => {
            let mut inside = false;
            let mut sound = true;
            for c in text.chars() {
                sound &= if c.is_uppercase() { !inside } else { !c.is_lowercase() || inside };
                inside = c.is_uppercase() || c.is_lowercase();
            }
            sound && cased().next().is_some()
        }
        "isidentifier" => {
            let word = |c: char| c.is_alphanumeric() || c == '_';
            text.chars().next().is_some_and(|c| word(c) && !c.is_numeric()) && text.chars().all(word)
        }
        "isprintable" => text.chars().all(is_printable),
        _ => return None,
    })
}

/// The text in other letters.
pub(super) fn changed(text: &str, name: &str) -> Option<String> {
    Some(match name {
        "upper" => text.to_uppercase(),
        "lower" => text.to_lowercase(),
        // Full case folding, but for letters of which neither case is the other's.
        "casefold" => text
            .chars()
            .flat_map(|c| if c == 'ẞ' { 'ß' } else { c }.to_uppercase())
            .collect::<String>()
            .to_lowercase()
            .replace('ς', "σ"),
        "capitalize" => {
            let mut chars = text.chars();
            chars
                .next()
                .map_or(String::new(), |first| first.to_uppercase().to_string() + &chars.as_str().to_lowercase())
        }
        "swapcase" => {
            let swap =
                |c: char| if c.is_uppercase() { c.to_lowercase().to_string() } else { c.to_uppercase().to_string() };
            text.chars().map(swap).collect()
        }
        "title" => {
            let mut inside = false;
            let mut title = String::new();
            for c in text.chars() {
                if inside {
                    title.extend(c.to_lowercase())
                } else {
                    title.extend(c.to_uppercase())
                }
                inside = c.is_uppercase() || c.is_lowercase();
            }
            title
        }
        _ => return None,
    })
}

/// `text` without the characters of `chars`, or without white space, at its ends.
pub(super) fn trimmed<'a>(text: &'a str, chars: Option<&str>, start: bool, end: bool) -> &'a str {
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if start { text.trim_start_matches(goes) } else { text };
    if end { text.trim_end_matches(goes) } else { text }
}

/// `text.format(...)`, whose values and widths are paid for before anything is made of them.
fn formatted(state: &State, text: &str, args: &[Value]) -> MethodAnswer<Value> {
    let widths = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    charge(state, widths.map(|digits| digits.parse().unwrap_or(usize::MAX)).fold(0, usize::saturating_add))?;
    for value in args {
        charge(state, text_of(state, value)?.len().saturating_mul(text.matches('{').count()))?;
    }
    format(FormatStyle::StrFormat, text, args).map(Value::from)
}

fn stripped(text: &str, name: &str, args: &[Value]) -> MethodAnswer<Value> {
    let [chars] = bind(name, ["chars"], args)?;
    let chars = chars.filter(|chars| !chars.is_none());
    let given = if chars.is_some() { Some(text_argument(name, &chars)?) } else { None };
    Ok(trimmed(text, given, name != "rstrip", name != "lstrip").into())
}

fn affix(name: &str, args: &[Value]) -> MethodAnswer<String> {
    let [affix] = bind(name, ["affix"], args)?;
    text_argument(name, &affix).map(String::from)
}

fn split(text: &str, name: &str, args: &[Value]) -> MethodAnswer<Value> {
    let [separator, most] = bind(name, ["sep", "maxsplit"], args)?;
    let most = number_argument(name, &most)?.and_then(|most| usize::try_from(most).ok());
    let pieces = most.map_or(usize::MAX, |most| most.saturating_add(1));
    let from_end = name == "rsplit";
    let mut parts: Vec<&str> = match separator.filter(|separator| !separator.is_none()) {
        None => words(text, pieces, from_end),
        separator => match text_argument(name, &separator)? {
            "" => return Err(refusal(format!("{name}: empty separator"))),
            separator if from_end => text.rsplitn(pieces, separator).collect(),
            separator => text.splitn(pieces, separator).collect(),
        },
    };
    if from_end {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// The words of a text, in `pieces` at most, the last of which holds the rest; from its end, the last word is first.
fn words(text: &str, pieces: usize, from_end: bool) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = trimmed(text, None, !from_end, from_end);
    while !rest.is_empty() {
        let cut = if from_end { rest.rfind(is_space) } else { rest.find(is_space) };
        let (Some(cut), true) = (cut, found.len() + 1 < pieces) else {
            found.push(rest);
            break;
        };
        let (word, left) = if from_end { (&rest[cut..], &rest[..cut]) } else { (&rest[..cut], &rest[cut..]) };
        found.push(trimmed(word, None, true, true));
        rest = trimmed(left, None, !from_end, from_end);
    }
    found
}

fn partition(text: &str, name: &str, args: &[Value]) -> MethodAnswer<Value> {
    let separator = affix(name, args)?;
    if separator.is_empty() {
        return Err(refusal(format!("{name}: empty separator")));
    }
    let at = if name == "partition" { text.find(&separator) } else { text.rfind(&separator) };
    let parts = match at {
        Some(at) => [&text[..at], &separator, &text[at + separator.len()..]],
        None if name == "partition" => [text, "", ""],
        None => ["", "", text],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

/// The lines of a text, by all that Python takes for line ends.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end = |c: char| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let (mut found, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let end = rest.find(is_end).unwrap_or(rest.len());
        let length = match &rest[end..] {
            windows if windows.starts_with("\r\n") => 2,
            other => other.chars().next().map_or(0, char::len_utf8),
        };
        found.push(&rest[..if keep_ends { end + length } else { end }]);
        rest = &rest[end + length..];
    }
    found
}

fn replace(state: &State, text: &str, args: &[Value]) -> MethodAnswer<Value> {
    let [old, new, count] = bind("replace", ["old", "new", "count"], args)?;
    let (old, new) = (text_argument("replace", &old)?, text_argument("replace", &new)?);
    let count = number_argument("replace", &count)?;
    replaced(state, text, old, new, count).map(Value::from)
}

/// `text` with `old` replaced by `new`, `count` times at most where that is 0 or more.
pub(super) fn replaced(state: &State, text: &str, old: &str, new: &str, count: Option<i64>) -> MethodAnswer<String> {
    let count = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
    let places = (text.len() / old.len().max(1) + 1).min(count);
    charge(state, text.len().saturating_add(places.saturating_mul(new.len())))?;
    Ok(text.replacen(old, new, count))
}

/// The part of `text` between two positions in characters, counted from the end where negative, and where it begins.
fn window<'a>(
    what: &str,
    text: &'a str,
    start: &Option<Value>,
    end: &Option<Value>,
) -> MethodAnswer<Option<(&'a str, usize)>> {
    let length = text.chars().count() as i64;
    let place = |at: i64| if at < 0 { (at + length).max(0) } else { at };
    let start = place(number_argument(what, start)?.unwrap_or(0));
    let end = place(number_argument(what, end)?.unwrap_or(length)).min(length);
    if start > end {
        return Ok(None);
    }
    let byte = |at: i64| text.char_indices().nth(at as usize).map_or(text.len(), |(byte, _)| byte);
    Ok(Some((&text[byte(start)..byte(end)], start as usize)))
}

fn has_affix(text: &str, name: &str, args: &[Value]) -> MethodAnswer<Value> {
    let [affix, start, end] = bind(name, ["affix", "start", "end"], args)?;
    let texts = match &affix {
        Some(texts) if texts.is_tuple() => texts.try_iter()?.collect(),
        affix => vec![Value::from(text_argument(name, affix)?)],
    };
    let window = window(name, text, &start, &end)?;
    let has = |affix: Value| {
        let affix = Some(affix);
        let affix = text_argument(name, &affix)?;
        let found = |(text, _): (&str, usize)| {
            if name == "startswith" { text.starts_with(affix) } else { text.ends_with(affix) }
        };
        Ok(window.is_some_and(found))
    };
    let answers = texts.into_iter().map(has).collect::<MethodAnswer<Vec<bool>>>()?;
    Ok(Value::from(answers.contains(&true)))
}

fn search(text: &str, name: &str, args: &[Value]) -> MethodAnswer<Value> {
    let [what, start, end] = bind(name, ["sub", "start", "end"], args)?;
    let what = text_argument(name, &what)?;
    let window = window(name, text, &start, &end)?;
    if name == "count" {
        return Ok(Value::from(window.map_or(0, |(text, _)| text.matches(what).count())));
    }
    let found = window.and_then(|(text, start)| {
        let byte = if name.starts_with('r') { text.rfind(what) } else { text.find(what) };
        byte.map(|byte| start + text[..byte].chars().count())
    });
    match found {
        Some(at) => Ok(Value::from(at)),
        None if name.ends_with("find") => Ok(Value::from(-1)),
        None => Err(refusal(format!("{name}: the text has no `{what}`"))),
    }
}

fn join(state: &State, text: &str, args: &[Value]) -> MethodAnswer<Value> {
    let [items] = bind("join", ["items"], args)?;
    let items = items.filter(|items| !items.is_none()).ok_or_else(|| refusal("join takes texts, got none"))?;
    let mut joined = String::new();
    for (i, item) in items.try_iter()?.checked().enumerate() {
        let item = Some(item?);
        let item = text_argument("join", &item)?;
        charge(state, text.len() + item.len())?;
        joined.push_str(if i == 0 { "" } else { text });
        joined.push_str(item);
    }
    Ok(Value::from(joined))
}

fn zero_filled(state: &State, text: &str, args: &[Value]) -> MethodAnswer<Value> {
    let [width] = bind("zfill", ["width"], args)?;
    let missing = missing(state, "zfill", text, &width)?;
    let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
    Ok(Value::from(format!("{sign}{}{digits}", "0".repeat(missing))))
}

/// How many characters `text` is short of a width, which are paid for.
fn missing(state: &State, what: &str, text: &str, width: &Option<Value>) -> MethodAnswer<usize> {
    let width = number_argument(what, width)?.ok_or_else(|| refusal(format!("{what} takes a width")))?;
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count());
    charge(state, missing)?;
    Ok(missing)
}

fn justified(state: &State, text: &str, name: &str, args: &[Value]) -> MethodAnswer<Value> {
    let [width, fill] = bind(name, ["width", "fillchar"], args)?;
    let missing = missing(state, name, text, &width)?;
    let fill = text_of(state, &fill.unwrap_or_else(|| Value::from(" ")))?;
    if fill.chars().count() != 1 {
        return Err(refusal(format!("{name} fills up with one character, got `{fill}`")));
    }
    charge(state, missing.saturating_mul(fill.len()))?;
    let left = match name {
        "ljust" => 0,
        "rjust" => missing,
        // As CPython rounds: the odd one goes left where the width is odd.
        _ => missing / 2 + (missing & (missing + text.chars().count()) & 1),
    };
    Ok(Value::from(fill.repeat(left) + text + &fill.repeat(missing - left)))
}

fn expand_tabs(state: &State, text: &str, args: &[Value]) -> MethodAnswer<Value> {
    let [size] = bind("expandtabs", ["tabsize"], args)?;
    let size = usize::try_from(number_argument("expandtabs", &size)?.unwrap_or(8)).unwrap_or(0);
    let (mut out, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' => {
                let spaces = if size == 0 { 0 } else { size - column % size };
                charge(state, spaces)?;
                out.extend(std::iter::repeat_n(' ', spaces));
                column += spaces;
            }
            c => {
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
                out.push(c);
            }
        }
    }
    Ok(Value::from(out))
}
