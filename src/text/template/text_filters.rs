//! Filters of texts: widths, words, and what HTML needs.

use minijinja::value::Value;
use minijinja::{Environment, State};

use super::filters::Args;
use super::python::{MethodAnswer, bind, charge, flag_argument, number_argument, refusal, text_argument, text_of};
use super::strings::{lines, trimmed};

/// Adds the filters to `environment`.
pub(super) fn add(environment: &mut Environment<'_>) {
    environment.add_filter("center", center);
    environment.add_filter("wordcount", wordcount);
    environment.add_filter("truncate", truncate);
    environment.add_filter("wordwrap", wordwrap);
    environment.add_filter("indent", indent);
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.add_filter("forceescape", |state: &State, value: Value| escape(state, &text_of(state, &value)?.into()));
    environment.add_filter("safe", |state: &State, value: &Value| text_of(state, value).map(Value::from_safe_string));
    environment.add_filter("striptags", striptags);
    environment.add_filter("urlencode", urlencode);
    environment.add_filter("filesizeformat", filesizeformat);
}

fn width(what: &str, value: &Option<Value>, otherwise: i64) -> MethodAnswer<usize> {
    Ok(usize::try_from(number_argument(what, value)?.unwrap_or(otherwise)).unwrap_or(0))
}

fn center(state: &State, value: &Value, args: Args) -> MethodAnswer<Value> {
    let [width] = bind("center", ["width"], &args.into_values())?;
    let text = Value::from(text_of(state, value)?);
    let width = width.unwrap_or_else(|| Value::from(80));
    let text = text.as_str().unwrap_or_default();
    super::strings::call(state, text, "center", &[width]).unwrap_or_else(|| Err(refusal("center")))
}

fn wordcount(state: &State, value: &Value) -> MethodAnswer<usize> {
    let text = text_of(state, value)?;
    let word = |c: char| c.is_alphanumeric() || c == '_';
    Ok(text.split(|c| !word(c)).filter(|run| !run.is_empty()).count())
}

fn truncate(state: &State, value: &Value, args: Args) -> MethodAnswer<Value> {
    let names = ["length", "killwords", "end", "leeway"];
    let [length, killwords, end, leeway] = bind("truncate", names, &args.into_values())?;
    let (length, leeway) = (width("truncate", &length, 255)?, width("truncate", &leeway, 5)?);
    let end = end.map_or(Ok("...".to_string()), |end| text_of(state, &end))?;
    let text = text_of(state, value)?;
    let Some(kept) = length.checked_sub(end.chars().count()) else {
        return Err(refusal(format!("truncate: expected a length of at least that of `{end}`, got {length}")));
    };
    if text.chars().count() <= length + leeway {
        return Ok(Value::from(text));
    }
    let kept: String = text.chars().take(kept).collect();
    let whole =
        if flag_argument(&killwords, false) { &kept } else { kept.rsplit_once(' ').map_or(&*kept, |(all, _)| all) };
    Ok(Value::from(format!("{whole}{end}")))
}

fn wordwrap(state: &State, value: &Value, args: Args) -> MethodAnswer<Value> {
    let names = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let [wide, break_long, between, _] = bind("wordwrap", names, &args.into_values())?;
    let wide = width("wordwrap", &wide, 79)?.max(1);
    let between = between.filter(|b| !b.is_none()).map_or(Ok("\n".to_string()), |b| text_of(state, &b))?;
    let text = text_of(state, value)?;
    charge(state, text.len().saturating_mul(between.len() + 1))?;
    let mut wrapped: Vec<String> = Vec::new();
    for line in lines(&text, false) {
        let first = wrapped.len();
        for word in line.split(' ').filter(|word| !word.is_empty()) {
            let mut chars: Vec<char> = word.chars().collect();
            let room = wrapped.get(first..).and_then(<[String]>::last).map(|last| last.chars().count());
            if let (Some(room), Some(last)) = (room, wrapped.last_mut())
                && room + 1 + chars.len() <= wide
            {
                last.push(' ');
                last.push_str(word);
                continue;
            }
            while flag_argument(&break_long, true) && chars.len() > wide {
                wrapped.push(chars.drain(..wide).collect());
            }
            wrapped.push(chars.into_iter().collect());
        }
        if wrapped.len() == first {
            wrapped.push(String::new());
        }
    }
    Ok(Value::from(wrapped.join(&between)))
}

fn indent(state: &State, value: &Value, args: Args) -> MethodAnswer<Value> {
    let [width, first, blank] = bind("indent", ["width", "first", "blank"], &args.into_values())?;
    let text = text_of(state, value)?;
    let by = match &width {
        Some(text) if text.as_str().is_some() => text_argument("indent", &width)?.to_string(),
        width => {
            let spaces = self::width("indent", width, 4)?;
            charge(state, spaces)?;
            " ".repeat(spaces)
        }
    };
    let text = text + "\n";
    let mut indented = String::new();
    let all = lines(&text, false);
    for (i, line) in all.iter().enumerate() {
        let wanted =
            (i > 0 || flag_argument(&first, false)) && (i == 0 || !line.is_empty() || flag_argument(&blank, false));
        charge(state, by.len() + line.len())?;
        indented.push_str(if i == 0 { "" } else { "\n" });
        indented.push_str(if wanted { &by } else { "" });
        indented.push_str(line);
    }
    Ok(Value::from(indented))
}

pub(super) fn escape(state: &State, value: &Value) -> MethodAnswer<Value> {
    let text = text_of(state, value)?;
    if value.is_safe() {
        return Ok(Value::from_safe_string(text));
    }
    charge(state, text.len().saturating_mul(5))?;
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&#34;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    Ok(Value::from_safe_string(escaped))
}

fn striptags(state: &State, value: &Value) -> MethodAnswer<Value> {
    let text = text_of(state, value)?;
    let mut plain = String::new();
    let mut rest = text.as_str();
    while let Some(open) = rest.find('<') {
        plain.push_str(&rest[..open]);
        rest = &rest[open..];
        let Some(close) = rest.find('>') else { break };
        rest = &rest[close + 1..];
    }
    plain.push_str(rest);
    let words: Vec<&str> = plain.split(super::characters::is_space).filter(|word| !word.is_empty()).collect();
    let mut joined = words.join(" ");
    for (entity, c) in [("&lt;", "<"), ("&gt;", ">"), ("&#34;", "\""), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")]
    {
        joined = joined.replace(entity, c);
    }
    Ok(Value::from(joined))
}

fn urlencode(state: &State, value: &Value) -> MethodAnswer<Value> {
    let quoted = |text: &str, query: bool| {
        let mut quoted = String::new();
        for byte in text.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => quoted.push(char::from(byte)),
                b'/' if !query => quoted.push('/'),
                b' ' if query => quoted.push('+'),
                byte => quoted.push_str(&format!("%{byte:02X}")),
            }
        }
        quoted
    };
    if value.as_str().is_some() || value.try_iter().is_err() {
        let text = text_of(state, value)?;
        charge(state, text.len().saturating_mul(3))?;
        return Ok(Value::from(quoted(trimmed(&text, Some(""), false, false), false)));
    }
    let mut pairs = Vec::new();
    for item in value.try_iter()?.checked() {
        let item = item?;
        let (key, value) = match value.kind() {
            minijinja::value::ValueKind::Map => (item.clone(), value.get_item(&item)?),
            _ => (item.get_item_by_index(0)?, item.get_item_by_index(1)?),
        };
        let (key, value) = (text_of(state, &key)?, text_of(state, &value)?);
        charge(state, (key.len() + value.len()).saturating_mul(3))?;
        pairs.push(format!("{}={}", quoted(&key, true), quoted(&value, true)));
    }
    Ok(Value::from(pairs.join("&")))
}

fn filesizeformat(value: &Value, args: Args) -> MethodAnswer<Value> {
    let [binary] = bind("filesizeformat", ["binary"], &args.into_values())?;
    let parsed = value.as_str().and_then(|text| text.trim().parse().ok());
    let bytes = parsed.or_else(|| f64::try_from(value.clone()).ok());
    let bytes = bytes.ok_or_else(|| refusal(format!("filesizeformat takes a number, got {}", value.kind())))?;
    let binary = flag_argument(&binary, false);
    let base = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return Ok(Value::from("1 Byte"));
    }
    if bytes < base {
        return Ok(Value::from(format!("{} Bytes", bytes.trunc())));
    }
    let mut unit = base;
    let letters = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
    for (i, letter) in letters.iter().enumerate() {
        unit *= base;
        if bytes < unit || i + 1 == letters.len() {
            let name = if binary { format!("{}iB", letter.to_uppercase()) } else { format!("{letter}B") };
            return Ok(Value::from(format!("{:.1} {name}", base * bytes / unit)));
        }
    }
    Err(refusal("filesizeformat"))
}
