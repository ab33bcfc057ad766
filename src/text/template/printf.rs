//! Python's `text % values`.

use minijinja::State;
use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Value, ValueKind};

use super::python::{MethodAnswer, charge, refusal, repr, text_of};

/// One conversion, `%(key)flags width.precision letter`.
struct Conversion<'a> {
    key: Option<&'a str>,
    flags: &'a str,
    width: usize,
    precision: Option<usize>,
    letter: char,
}

/// `text` with its conversions filled in by `values`: those in order, all of which must be used, or of the only one,
/// a dictionary, those with the keys that the conversions name.
pub(super) fn filled(state: &State, text: &str, values: &[Value]) -> MethodAnswer<Value> {
    let mut left = values.iter();
    let mut next = || left.next().ok_or_else(|| refusal("there are fewer values than the format has conversions"));
    let (mut out, mut rest, mut keyed) = (String::new(), text, false);
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let (conversion, after) = conversion(&rest[at + 1..], &mut next)?;
        rest = after;
        if conversion.letter == '%' {
            out.push('%');
            continue;
        }
        let value = match (conversion.key, values) {
            (Some(key), [map]) if map.kind() == ValueKind::Map => {
                keyed = true;
                let value = map.get_item(&Value::from(key))?;
                if value.is_undefined() {
                    return Err(refusal(format!("the format names a key `{key}` that there is not")));
                }
                value
            }
            (Some(key), _) => {
                return Err(refusal(format!("the format names a key `{key}`, and there is no dictionary")));
            }
            (None, _) => next()?.clone(),
        };
        charge(state, conversion.width.saturating_add(conversion.precision.unwrap_or(0)))?;
        out.push_str(&conversion.written(state, &value)?);
    }
    out.push_str(rest);
    let unused = left.next().is_some_and(|value| !(keyed || (values.len() == 1 && value.kind() == ValueKind::Map)));
    if unused {
        return Err(refusal("there are more values than the format has conversions"));
    }
    Ok(Value::from(out))
}

/// The conversion that `text` begins with, after its percent sign, and what follows it.
fn conversion<'a, 'v>(
    text: &'a str,
    next: &mut dyn FnMut() -> MethodAnswer<&'v Value>,
) -> MethodAnswer<(Conversion<'a>, &'a str)> {
    let (key, text) = match text.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((key, rest)) => (Some(key), rest),
        None => (None, text),
    };
    let after_flags = text.trim_start_matches(['-', '+', ' ', '#', '0']);
    let flags = &text[..text.len() - after_flags.len()];
    let mut number = |text: &'a str| -> MethodAnswer<(Option<usize>, &'a str)> {
        if let Some(rest) = text.strip_prefix('*') {
            let number = next()?.as_usize().ok_or_else(|| refusal("a `*` of the format takes a whole number"))?;
            return Ok((Some(number), rest));
        }
        let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
        let digits = &text[..text.len() - rest.len()];
        Ok((if digits.is_empty() { None } else { Some(digits.parse().unwrap_or(usize::MAX)) }, rest))
    };
    let (width, text) = number(after_flags)?;
    let (precision, text) = match text.strip_prefix('.') {
        Some(text) => number(text).map(|(precision, text)| (precision.or(Some(0)), text))?,
        None => (None, text),
    };
    let text = text.trim_start_matches(['h', 'l', 'L']);
    let letter = text.chars().next().ok_or_else(|| refusal("the format ends in the middle of a conversion"))?;
    Ok((Conversion { key, flags, width: width.unwrap_or(0), precision, letter }, &text[letter.len_utf8()..]))
}

impl Conversion<'_> {
    fn written(&self, state: &State, value: &Value) -> MethodAnswer<String> {
        let text = match self.letter {
            's' => text_of(state, value)?,
            'r' | 'a' => repr(state, value)?,
            'c' if value.as_str().is_some_and(|text| text.chars().count() == 1) => text_of(state, value)?,
            letter => return self.number(letter, value),
        };
        let text: String = text.chars().take(self.precision.unwrap_or(usize::MAX)).collect();
        let spaces = " ".repeat(self.width.saturating_sub(text.chars().count()));
        Ok(if self.flags.contains('-') { text + &spaces } else { spaces + &text })
    }

    fn number(&self, letter: char, value: &Value) -> MethodAnswer<String> {
        let truncated = match letter {
            'd' | 'i' | 'u' if value.is_number() && !value.is_integer() => {
                let number = f64::try_from(value.clone()).unwrap_or(f64::NAN);
                if !number.is_finite() {
                    return Err(refusal("the format takes a whole number, got one without an end"));
                }
                Value::from(number as i128)
            }
            _ if value.kind() == ValueKind::Bool => Value::from(i64::from(value.is_true())),
            _ => value.clone(),
        };
        let width = if self.width > 0 { self.width.to_string() } else { String::new() };
        let precision = self.precision.map_or_else(String::new, |precision| format!(".{precision}"));
        format(FormatStyle::Printf, &format!("%{}{width}{precision}{letter}", self.flags), &[truncated])
    }
}
