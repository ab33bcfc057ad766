//! Values as Python writes them: `str()`, `repr()`, and the arguments of its functions.

use minijinja::value::{Kwargs, Tuple, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

/// What a function that templates call answers.
pub(super) type MethodAnswer<T> = Result<T, Error>;

/// Lists in lists beyond this are refused, as a few bytes of a template can nest them without end.
pub(super) const DEPTH_MAX: usize = 64;

/// Bytes that one unit of a template's fuel pays for, as in minijinja.
const FUEL_BYTES: usize = 64;

/// Items looked at for one unit of fuel where a namespace is to keep them, again and again as a list grows.
const ITEMS_PER_FUEL: u64 = 16;

/// An error that says `message`.
pub(super) fn refusal(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Takes the fuel for `bytes` that are about to be made.
pub(super) fn charge(state: &State, bytes: usize) -> MethodAnswer<()> {
    state.consume_fuel((bytes / FUEL_BYTES) as u64)
}

/// The value, looked through: it is not nested too deep, and there is fuel to compare it. minijinja compares lists
/// without a limit, and a list that holds another one twice, and so on, is soon larger than it looks.
pub(super) fn guarded<'a>(state: &State, value: &'a Value) -> MethodAnswer<&'a Value> {
    fn look(state: &State, value: &Value, depth: usize) -> MethodAnswer<()> {
        if depth > DEPTH_MAX {
            return Err(refusal(format!("a value nested more than {DEPTH_MAX} deep cannot be compared")));
        }
        state.consume_fuel(1)?;
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                value.try_iter()?.checked().try_for_each(|item| look(state, &item?, depth + 1))
            }
            ValueKind::Map => value.try_iter()?.checked().try_for_each(|key| {
                let key = key?;
                look(state, &key, depth + 1)?;
                look(state, &value.get_item(&key)?, depth + 1)
            }),
            _ => Ok(()),
        }
    }
    look(state, value, 0).map(|()| value)
}

/// The value with all that minijinja makes item by item as lists, as Python has them: a view of a view, and so on from
/// one round of a loop to the next, would need a stack for each. Nothing is kept that is nested too deep.
pub(super) fn kept(state: &State, value: &Value) -> MethodAnswer<Value> {
    fn settle(state: &State, value: &Value, depth: usize, seen: &mut u64) -> MethodAnswer<Option<Value>> {
        if depth > DEPTH_MAX {
            return Err(refusal(format!("a value nested more than {DEPTH_MAX} deep cannot be kept")));
        }
        *seen += 1;
        if seen.is_multiple_of(ITEMS_PER_FUEL) {
            state.consume_fuel(1)?;
        }
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                let (mut items, mut changed) = (Vec::new(), value.kind() == ValueKind::Iterable);
                for item in value.try_iter()?.checked() {
                    let item = item?;
                    let settled = settle(state, &item, depth + 1, seen)?;
                    changed |= settled.is_some();
                    items.push(settled.unwrap_or(item));
                }
                let made = || if value.is_tuple() { Value::from(Tuple::from(items)) } else { Value::from(items) };
                Ok(changed.then(made))
            }
            ValueKind::Map => {
                let kind = value.as_object().map_or("", |object| object.type_name());
                if kind.contains("Loop") {
                    return Err(refusal("a namespace cannot keep a loop"));
                }
                let (mut pairs, mut changed) = (Vec::new(), false);
                for key in value.try_iter()?.checked() {
                    let key = key?;
                    let item = value.get_item(&key)?;
                    let settled = settle(state, &item, depth + 1, seen)?;
                    changed |= settled.is_some();
                    pairs.push((key, settled.unwrap_or(item)));
                }
                // What a namespace has was settled when it was put there.
                Ok((changed && !kind.contains("Namespace")).then(|| Value::from_pairs(pairs)))
            }
            _ => Ok(None),
        }
    }
    Ok(settle(state, value, 0, &mut 0)?.unwrap_or_else(|| value.clone()))
}

/// `str(value)`
pub(super) fn text_of(state: &State, value: &Value) -> MethodAnswer<String> {
    match value.kind() {
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_string()),
        ValueKind::Undefined => Ok(String::new()),
        _ => repr(state, value),
    }
}

/// `repr(value)`
pub(super) fn repr(state: &State, value: &Value) -> MethodAnswer<String> {
    let mut out = String::new();
    write_repr(state, value, 0, &mut out)?;
    Ok(out)
}

fn write_repr(state: &State, value: &Value, depth: usize, out: &mut String) -> MethodAnswer<()> {
    if depth > DEPTH_MAX {
        return Err(refusal(format!("a value nested more than {DEPTH_MAX} deep cannot be written")));
    }
    state.consume_fuel(1)?;
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            charge(state, text.len())?;
            write_quoted(text, out);
        }
        ValueKind::Number if !value.is_integer() => {
            out.push_str(&f64::try_from(value.clone()).map(float).unwrap_or_else(|_| value.to_string()));
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let tuple = value.is_tuple();
            out.push(if tuple { '(' } else { '[' });
            let mut items = 0;
            for item in value.try_iter()?.checked() {
                out.push_str(if items == 0 { "" } else { ", " });
                write_repr(state, &item?, depth + 1, out)?;
                items += 1;
            }
            out.push_str(match (tuple, items) {
                (true, 1) => ",)",
                (true, _) => ")",
                (false, _) => "]",
            });
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.checked().enumerate() {
                let key = key?;
                out.push_str(if i == 0 { "" } else { ", " });
                write_repr(state, &key, depth + 1, out)?;
                out.push_str(": ");
                write_repr(state, &value.get_item(&key)?, depth + 1, out)?;
            }
            out.push('}');
        }
        ValueKind::None | ValueKind::Bool | ValueKind::Number => out.push_str(&value.to_string()),
        // What minijinja writes of its own objects has no limit.
        kind => out.push_str(&format!("<{kind}>")),
    }
    Ok(())
}

/// The `repr()` of a text.
fn write_quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if is_printable(c) => out.push(c),
            c => match u32::from(c) {
                code @ 0..=0xff => out.push_str(&format!("\\x{code:02x}")),
                code @ 0x100..=0xffff => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            },
        }
    }
    out.push(quote);
}

/// `str.isprintable` of one character.
pub(super) fn is_printable(c: char) -> bool {
    matches!(c, '\'' | '"' | '\\') || c.escape_debug().count() == 1
}

/// `repr()` of a float: the fewest digits that give it back, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = value.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// The arguments of a call of `what` by the names of its parameters, as Python hands them out.
pub(super) fn bind<const N: usize>(what: &str, names: [&str; N], args: &[Value]) -> MethodAnswer<[Option<Value>; N]> {
    let (positional, named) = match args.split_last() {
        Some((last, before)) if last.is_kwargs() => (before, Some(last)),
        _ => (args, None),
    };
    if positional.len() > N {
        let message = format!("{what} takes {N} arguments at most, got {}", positional.len());
        return Err(Error::new(ErrorKind::TooManyArguments, message));
    }
    let mut bound: [Option<Value>; N] = std::array::from_fn(|i| positional.get(i).cloned());
    for key in named.into_iter().flat_map(Value::try_iter).flatten() {
        let name = key.as_str().unwrap_or_default();
        let at = names.iter().position(|known| *known == name);
        let free = at.filter(|at| bound[*at].is_none());
        let at = free.ok_or_else(|| refusal(format!("{what} takes no argument `{name}`, or has it already")))?;
        bound[at] = Some(args[args.len() - 1].get_item(&key)?);
    }
    Ok(bound)
}

/// Arguments by name, for a function of minijinja.
pub(super) fn named(values: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Value {
    let given = values.into_iter().filter_map(|(name, value)| Some((name, value?)));
    Value::from(given.collect::<Kwargs>())
}

/// The text that an argument must be.
pub(super) fn text_argument<'a>(what: &str, value: &'a Option<Value>) -> MethodAnswer<&'a str> {
    let text = value.as_ref().and_then(Value::as_str);
    text.ok_or_else(|| {
        let got = value.as_ref().map_or("nothing".to_string(), |value| format!("a value of type {}", value.kind()));
        refusal(format!("{what} takes a text, got {got}"))
    })
}

/// The whole number that an argument must be where it is given and not None.
pub(super) fn number_argument(what: &str, value: &Option<Value>) -> MethodAnswer<Option<i64>> {
    let Some(value) = value.as_ref().filter(|value| !value.is_none()) else { return Ok(None) };
    let whole = if value.kind() == ValueKind::Bool { Some(i64::from(value.is_true())) } else { value.as_i64() };
    whole.map(Some).ok_or_else(|| refusal(format!("{what} takes a whole number, got a value of type {}", value.kind())))
}

/// Whether an argument is given and true, or what it is where it is not given.
pub(super) fn flag_argument(value: &Option<Value>, otherwise: bool) -> bool {
    value.as_ref().map_or(otherwise, Value::is_true)
}
