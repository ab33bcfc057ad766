//! Filters of Jinja2 that minijinja lacks or has otherwise.

use minijinja::value::{Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{Environment, ErrorKind, State, filters};

use super::characters::is_space;
use super::json;
use super::printf::filled;
use super::python::{
    MethodAnswer, bind, charge, flag_argument, guarded, named, number_argument, refusal, repr, text_argument, text_of,
};
use super::strings::{self, replaced, trimmed};
use super::text_filters;

/// Filters of minijinja that Jinja2 does not have.
const FOREIGN: [&str; 5] = ["split", "lines", "chain", "zip", "bool"];

/// Bytes of a list of one value, a little more than they are.
const VALUE_BYTES: usize = 128;

/// What a filter is called with, after its value.
pub(super) type Args = Rest<ValueOrKwargs>;

/// Makes the filters of `environment` those of Jinja2. `percent` is the name of the filter for `'text' % value`.
pub(super) fn add(environment: &mut Environment<'_>, percent: &'static str) {
    FOREIGN.iter().for_each(|name| environment.remove_filter(name));
    environment.add_filter("tojson", json::tojson);
    environment.add_filter(percent, fill_in);
    environment.add_filter("format", format_values);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("string", |state: &State, value: &Value| text_of(state, value));
    environment.add_filter("list", list);
    environment.add_filter("trim", trim);
    environment.add_filter("replace", replace);
    environment.add_filter("pprint", |state: &State, value: &Value| repr(state, value));
    environment.add_filter("sort", by_name(filters::sort, ["reverse", "case_sensitive", "attribute"]));
    environment.add_filter("unique", by_name(filters::unique, ["case_sensitive", "attribute"]));
    environment.add_filter("min", by_name(filters::min, ["case_sensitive", "attribute"]));
    environment.add_filter("max", by_name(filters::max, ["case_sensitive", "attribute"]));
    environment.add_filter("dictsort", |state: &mut State, value: &Value, args: Args| {
        let names = ["case_sensitive", "by", "reverse"];
        let given = bind("dictsort", names, &args.into_values())?;
        guarded(state, value)?;
        Value::from_function(filters::dictsort).call(state, &[value.clone(), named(names.into_iter().zip(given))])
    });
    environment.add_filter("batch", |state: &mut State, value: &Value, args: Args| {
        let filter = Value::from_function(filters::batch);
        in_order(state, filter, value, bind("batch", ["linecount", "fill_with"], &args.into_values())?)
    });
    environment.add_filter("slice", |state: &mut State, value: &Value, args: Args| {
        let filter = Value::from_function(filters::slice);
        in_order(state, filter, value, bind("slice", ["slices", "fill_with"], &args.into_values())?)
    });
    environment.add_filter("groupby", |state: &mut State, value: &Value, args: Args| {
        guarded(state, value)?;
        let args: Vec<Value> = std::iter::once(value.clone()).chain(args.into_values()).collect();
        Value::from_function(filters::groupby).call(state, &args)
    });
    environment
        .add_filter("attr", |state: &State, value: &Value, name: &Value| filters::attr(value, guarded(state, name)?));
    environment.add_filter("join", join);
    environment
        .add_filter("title", |state: &State, value: &Value| Ok::<_, minijinja::Error>(title(&text_of(state, value)?)));
    for name in ["upper", "lower", "capitalize"] {
        environment.add_filter(name, move |state: &State, value: &Value| -> MethodAnswer<String> {
            let text = text_of(state, value)?;
            Ok(strings::changed(&text, name).unwrap_or(text))
        });
    }
    text_filters::add(environment);
}

/// The words of a text with capitals. Other than for the method of this name, a word begins behind space, a hyphen or
/// an opening bracket, and nowhere else.
fn title(text: &str) -> String {
    let parts_words = |c: char| is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
    let mut titled = String::with_capacity(text.len());
    for piece in text.split_inclusive(parts_words) {
        let mut rest = piece.chars();
        titled.extend(rest.next().into_iter().flat_map(char::to_uppercase));
        titled += &rest.as_str().to_lowercase();
    }
    titled
}

/// A filter of minijinja that takes its arguments by their names only, called as Jinja2 does.
fn by_name<const N: usize>(
    filter: fn(&State, Value, minijinja::value::Kwargs) -> MethodAnswer<Value>,
    names: [&'static str; N],
) -> impl Fn(&State, &Value, Args) -> MethodAnswer<Value> + Send + Sync {
    move |state: &State, value: &Value, args: Args| {
        let given = bind("the filter", names, &args.into_values())?;
        if matches!(value.kind(), ValueKind::None) {
            return Err(refusal("None is not iterable"));
        }
        guarded(state, value)?;
        filter(state, value.clone(), minijinja::value::Kwargs::try_from(named(names.into_iter().zip(given)))?)
    }
}

/// Calls a filter of minijinja that takes its arguments by their order only.
fn in_order<const N: usize>(
    state: &mut State,
    filter: Value,
    value: &Value,
    given: [Option<Value>; N],
) -> MethodAnswer<Value> {
    // Both fill up lists, of so many values.
    let count = given.first().and_then(Option::as_ref).and_then(Value::as_usize).unwrap_or(0);
    charge(state, count.saturating_mul(VALUE_BYTES))?;
    let args: Vec<Value> = std::iter::once(value.clone()).chain(given.into_iter().map_while(|value| value)).collect();
    filter.call(state, &args)
}

/// `text % value`
fn fill_in(state: &State, text: &Value, value: &Value) -> MethodAnswer<Value> {
    let Some(text) = text.as_str() else {
        return Err(refusal(format!(
            "a value of type {} cannot be divided by a text or by several values",
            text.kind()
        )));
    };
    let values: Vec<Value> =
        if value.is_tuple() { value.try_iter()?.checked().collect::<MethodAnswer<_>>()? } else { vec![value.clone()] };
    filled(state, text, &values)
}

/// The filter `format`.
fn format_values(state: &State, text: &str, values: Args) -> MethodAnswer<Value> {
    let values = values.into_values();
    match values.as_slice() {
        [named] if named.is_kwargs() => filled(state, text, &[dictionary(named)?]),
        values if values.iter().any(Value::is_kwargs) => {
            Err(refusal("format takes values by order or by name, not both"))
        }
        values => filled(state, text, values),
    }
}

/// Arguments by name as a dictionary.
fn dictionary(named: &Value) -> MethodAnswer<Value> {
    let pairs = named.try_iter()?.map(|key| named.get_item(&key).map(|value| (key, value)));
    pairs.collect::<MethodAnswer<Vec<_>>>().map(Value::from_pairs)
}

fn default(value: &Value, args: Args) -> MethodAnswer<Value> {
    let [instead, boolean] = bind("default", ["default_value", "boolean"], &args.into_values())?;
    let absent = value.is_undefined() || (flag_argument(&boolean, false) && !value.is_true());
    Ok(if absent { instead.unwrap_or_else(|| Value::from("")) } else { value.clone() })
}

fn int(value: &Value, args: Args) -> MethodAnswer<Value> {
    let [default, base] = bind("int", ["default", "base"], &args.into_values())?;
    let base = number_argument("int", &base)?.and_then(|base| u32::try_from(base).ok()).unwrap_or(10);
    let otherwise = || default.unwrap_or_else(|| Value::from(0));
    Ok(match value.kind() {
        ValueKind::Bool => Value::from(i64::from(value.is_true())),
        ValueKind::Number if value.is_integer() => value.clone(),
        ValueKind::Number => match f64::try_from(value.clone()) {
            Ok(number) if number.is_finite() && number.abs() < 1e38 => whole(number),
            _ => otherwise(),
        },
        ValueKind::String => {
            let text = trimmed(value.as_str().unwrap_or_default(), None, true, true);
            let number = || number_of(text).filter(|number| number.is_finite() && number.abs() < 1e38);
            match integer(text, base) {
                Some(integer) => small(integer),
                None => number().map_or_else(otherwise, whole),
            }
        }
        _ => otherwise(),
    })
}

/// The whole part of a number below 1e38.
fn whole(number: f64) -> Value {
    small(number as i128)
}

fn small(number: i128) -> Value {
    i64::try_from(number).map_or_else(|_| Value::from(number), Value::from)
}

/// `int(text, base)`
fn integer(text: &str, base: u32) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let marked =
        |prefix: &str| digits.get(..2).filter(|start| start.eq_ignore_ascii_case(prefix)).map(|_| &digits[2..]);
    let digits = match base {
        2 => marked("0b").unwrap_or(digits),
        8 => marked("0o").unwrap_or(digits),
        16 => marked("0x").unwrap_or(digits),
        3..=36 => digits,
        _ => return None,
    };
    let number = i128::from_str_radix(&digits.replace('_', ""), base).ok()?;
    digits.starts_with(|c: char| c.is_ascii_alphanumeric()).then_some(if negative { -number } else { number })
}

/// `float(text)`
fn number_of(text: &str) -> Option<f64> {
    trimmed(text, None, true, true).replace('_', "").parse().ok()
}

fn float(value: &Value, args: Args) -> MethodAnswer<Value> {
    let [default] = bind("float", ["default"], &args.into_values())?;
    let number = match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        ValueKind::String => number_of(value.as_str().unwrap_or_default()),
        _ => None,
    };
    Ok(number.map_or_else(|| default.unwrap_or_else(|| Value::from(0.0)), Value::from))
}

fn join(state: &State, value: &Value, args: Args) -> MethodAnswer<Value> {
    let [between, attribute] = bind("join", ["d", "attribute"], &args.into_values())?;
    let between = between.map_or(Ok(String::new()), |between| text_of(state, &between))?;
    let attribute = attribute.filter(|attribute| !attribute.is_none());
    let mut joined = String::new();
    for (i, item) in value.try_iter()?.checked().enumerate() {
        let mut item = item?;
        if let Some(attribute) = &attribute {
            for part in text_of(state, attribute)?.split('.') {
                let key = part.parse::<i64>().map_or_else(|_| Value::from(part), Value::from);
                item = item.get_item(&key)?;
            }
        }
        let text = text_of(state, &item)?;
        charge(state, between.len() + text.len())?;
        state.consume_fuel(1)?;
        joined.push_str(if i == 0 { "" } else { &between });
        joined.push_str(&text);
    }
    Ok(Value::from(joined))
}

fn list(state: &State, value: Value) -> MethodAnswer<Value> {
    if value.is_none() {
        return Err(refusal("None is not iterable"));
    }
    filters::list(state, value)
}

fn trim(state: &State, value: &Value, args: Args) -> MethodAnswer<Value> {
    let [chars] = bind("trim", ["chars"], &args.into_values())?;
    let chars = chars.filter(|chars| !chars.is_none());
    let given = if chars.is_some() { Some(text_argument("trim", &chars)?) } else { None };
    Ok(trimmed(&text_of(state, value)?, given, true, true).into())
}

fn replace(state: &State, value: &Value, args: Args) -> MethodAnswer<Value> {
    let [old, new, count] = bind("replace", ["old", "new", "count"], &args.into_values())?;
    let text = |value: &Option<Value>| match value {
        Some(value) => text_of(state, value),
        None => Err(minijinja::Error::new(ErrorKind::MissingArgument, "replace takes two texts")),
    };
    let count = number_argument("replace", &count)?;
    replaced(state, &text_of(state, value)?, &text(&old)?, &text(&new)?, count).map(Value::from)
}
