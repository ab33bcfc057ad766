//! The environment that transformers gives chat templates: its whitespace rules, its functions, Python's methods.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Object, Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State};

use super::python::{MethodAnswer, bind, charge, guarded, kept, refusal, text_of};
use super::{filters, strings, text_filters};

/// The filter that stands for `'text' % value`, which minijinja has no operator for.
pub(super) const PERCENT_FILTER: &str = "percent_format";

/// The function around both sides of `~`: what minijinja itself makes of a list has no limit.
pub(super) const TEXT_FUNCTION: &str = "text_of_value";

/// The function around what is compared or looked up.
pub(super) const GUARD_FUNCTION: &str = "guarded_value";

/// The function around what a namespace is to keep, from one round of a loop to the next.
pub(super) const KEEP_FUNCTION: &str = "kept_value";

/// Tests of minijinja that Jinja2 does not have.
const FOREIGN_TESTS: [&str; 4] = ["safe", "int", "startingwith", "endingwith"];

/// The environment, in which a template may take `fuel`.
pub(super) fn environment(fuel: u64) -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the default delimiters are sound"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(print);
    environment.set_unknown_method_callback(method);
    environment.set_fuel(Some(fuel));
    environment.remove_global("debug");
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_function("dict", dict);
    environment.add_function(GUARD_FUNCTION, |state: &State<'_, '_>, value: &Value| guarded(state, value).cloned());
    environment.add_function(KEEP_FUNCTION, |state: &State<'_, '_>, value: &Value| kept(state, value));
    environment.add_function(
        "namespace",
        |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| -> MethodAnswer<Value> {
            let args = args.into_values();
            let made = Value::from_function(minijinja::functions::namespace).call(state, &args)?;
            let pairs =
                made.try_iter()?.map(|key| made.get_item(&key).and_then(|value| Ok((key, kept(state, &value)?))));
            let pairs = Value::from_pairs(pairs.collect::<MethodAnswer<Vec<_>>>()?);
            Value::from_function(minijinja::functions::namespace).call(state, &[pairs])
        },
    );
    environment.add_function(TEXT_FUNCTION, |state: &State<'_, '_>, value: &Value| match value.kind() {
        ValueKind::String | ValueKind::Undefined => Ok(value.clone()),
        _ => text_of(state, value).map(Value::from),
    });
    environment.add_function("cycler", |items: Rest<Value>| -> MethodAnswer<Value> {
        if items.is_empty() || items.iter().any(|item| item.as_object().is_some()) {
            return Err(refusal("cycler takes one value at least, and neither lists nor dictionaries"));
        }
        Ok(Value::from_object(Cycler { items: items.0, at: AtomicUsize::new(0) }))
    });
    environment.add_function("joiner", |state: &State<'_, '_>, separator: Option<Value>| -> MethodAnswer<Value> {
        let separator = separator.map_or(Ok(", ".to_string()), |separator| text_of(state, &separator))?;
        Ok(Value::from_object(Joiner { separator: Value::from(separator), calls: AtomicUsize::new(0) }))
    });
    FOREIGN_TESTS.iter().for_each(|name| environment.remove_test(name));
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_test("sequence", is_sequence);
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    comparisons(&mut environment);
    filters::add(&mut environment, PERCENT_FILTER);
    environment
}

/// What has a length and items by position or key, as Jinja2 asks.
fn is_sequence(value: &Value) -> bool {
    use ValueKind::{Iterable, Map, Seq, String, Undefined};
    matches!(value.kind(), Seq | Iterable | Map | String | Undefined)
}

/// Makes tests that compare look at their values first.
fn comparisons(environment: &mut Environment<'_>) {
    type Holds = fn(&Value, &Value) -> bool;
    let tests: [(&[&'static str], Holds); 6] = [
        (&["eq", "equalto", "=="], |a, b| a == b),
        (&["ne", "!="], |a, b| a != b),
        (&["lt", "lessthan", "<"], |a, b| a < b),
        (&["le", "<="], |a, b| a <= b),
        (&["gt", "greaterthan", ">"], |a, b| a > b),
        (&["ge", ">="], |a, b| a >= b),
    ];
    for (names, holds) in tests {
        for name in names {
            environment.add_test(*name, move |state: &State<'_, '_>, a: &Value, b: &Value| -> MethodAnswer<bool> {
                Ok(holds(guarded(state, a)?, guarded(state, b)?))
            });
        }
    }
    environment.add_test("in", |state: &State<'_, '_>, a: &Value, b: &Value| -> MethodAnswer<bool> {
        minijinja::tests::is_in(state, guarded(state, a)?, guarded(state, b)?)
    });
}

/// Writes what stands in braces.
fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> MethodAnswer<()> {
    if value.kind() == ValueKind::Invalid {
        return minijinja::escape_formatter(out, state, value);
    }
    let escapes = !matches!(state.auto_escape(), AutoEscape::None);
    match value.as_str() {
        Some(text) if !escapes => out.write_str(text)?,
        _ if escapes => out.write_str(&text_of(state, &text_filters::escape(state, value)?)?)?,
        _ => out.write_str(&text_of(state, value)?)?,
    }
    Ok(())
}

/// Python's methods of texts, lists and dictionaries.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> MethodAnswer<Value> {
    if let Some(text) = value.as_str() {
        return strings::call(state, text, name, args).unwrap_or_else(|| Err(Error::from(ErrorKind::UnknownMethod)));
    }
    match (value.kind(), name) {
        (ValueKind::Seq | ValueKind::Iterable, "index" | "count") => {
            let [item] = bind(name, ["value"], args)?;
            let item = item.ok_or_else(|| refusal(format!("{name} takes a value")))?;
            guarded(state, &item)?;
            let mut count = 0;
            for (i, other) in value.try_iter()?.checked().enumerate() {
                let same = item == *guarded(state, &other?)?;
                count += usize::from(same);
                if same && name == "index" {
                    return Ok(Value::from(i));
                }
            }
            if name == "count" { Ok(Value::from(count)) } else { Err(refusal("index: the list has no such value")) }
        }
        (ValueKind::Seq, "copy") => {
            bind("copy", [], args).and_then(|[]| minijinja::filters::list(state, value.clone()))
        }
        (ValueKind::Map, "copy") => bind("copy", [], args).map(|[]| value.clone()),
        (ValueKind::Map, "get") => {
            args.iter().try_for_each(|arg| guarded(state, arg).map(|_| ()))?;
            minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// Templates call this for conversations that they do not take.
fn raise_exception(state: &State<'_, '_>, message: &Value) -> MethodAnswer<Value> {
    Err(refusal(text_of(state, message)?))
}

/// The local time in a format of C's `strftime`.
fn strftime_now(format: &str) -> MethodAnswer<String> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now()).map_err(|e| refusal(format!("strftime_now: {e}")))
}

/// `dict()` of another one, of pairs, or of arguments by name.
fn dict(state: &State<'_, '_>, args: Rest<ValueOrKwargs>) -> MethodAnswer<Value> {
    let mut pairs: Vec<(Value, Value)> = Vec::new();
    for from in args.into_values() {
        let keyed = from.kind() == ValueKind::Map || from.is_kwargs();
        for item in from.try_iter()?.checked() {
            let item = item?;
            let (key, value) = if keyed {
                let value = from.get_item(&item)?;
                (item, value)
            } else {
                (item.get_item_by_index(0)?, item.get_item_by_index(1)?)
            };
            guarded(state, &key)?;
            charge(state, pairs.len())?;
            match pairs.iter_mut().find(|(other, _)| *other == key) {
                Some((_, old)) => *old = value,
                None => pairs.push((key, value)),
            }
        }
    }
    Ok(Value::from_pairs(pairs))
}

/// Hands out its items in turn.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Object for Cycler {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current"))
            .then(|| self.items[self.at.load(Ordering::Relaxed) % self.items.len()].clone())
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, name: &str, args: &[Value]) -> MethodAnswer<Value> {
        let [] = bind(name, [], args)?;
        match name {
            "next" => Ok(self.items[self.at.fetch_add(1, Ordering::Relaxed) % self.items.len()].clone()),
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// Says nothing at first, and its separator from then on.
#[derive(Debug)]
struct Joiner {
    separator: Value,
    calls: AtomicUsize,
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> minijinja::value::ObjectRepr {
        minijinja::value::ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> MethodAnswer<Value> {
        let [] = bind("joiner", [], args)?;
        let first = self.calls.fetch_add(1, Ordering::Relaxed) == 0;
        Ok(if first { Value::from("") } else { self.separator.clone() })
    }
}
