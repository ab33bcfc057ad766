//! `tojson` as transformers has it: Python's `json.dumps` with `ensure_ascii=False`.

use minijinja::value::{Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{Error, ErrorKind, State};

use super::python::{DEPTH_MAX, MethodAnswer, bind, charge, flag_argument, float, refusal};

/// The filter.
pub(super) fn tojson(state: &State, value: &Value, args: Rest<ValueOrKwargs>) -> MethodAnswer<Value> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sort] = bind("tojson", names, &args.into_values())?;
    let indent = match indent.filter(|indent| !indent.is_none()) {
        None => None,
        Some(indent) => Some(match (indent.as_str(), indent.as_i64()) {
            (Some(text), _) => text.to_string(),
            (None, Some(width @ ..=1000)) => " ".repeat(usize::try_from(width).unwrap_or(0)),
            _ => return Err(refusal(format!("tojson: indent is a number up to 1000 or a text, got {indent}"))),
        }),
    };
    let (between, after_key) = match separators.filter(|separators| !separators.is_none()) {
        None if indent.is_some() => (",".to_string(), ": ".to_string()),
        None => (", ".to_string(), ": ".to_string()),
        Some(pair) => {
            let texts: Vec<Value> = pair.try_iter()?.collect();
            match texts.as_slice() {
                [between, after_key] => (between.to_string(), after_key.to_string()),
                _ => return Err(refusal(format!("tojson: separators are two texts, got {}", texts.len()))),
            }
        }
    };
    let ascii = flag_argument(&ascii, false);
    let writer = Writer { state, ascii, indent, between, after_key, sort: flag_argument(&sort, false) };
    let mut out = String::new();
    writer.write(value, 0, &mut out)?;
    Ok(Value::from(out))
}

/// How JSON is written.
struct Writer<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    ascii: bool,
    indent: Option<String>,
    between: String,
    after_key: String,
    sort: bool,
}

impl Writer<'_, '_, '_> {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> MethodAnswer<()> {
        if depth > DEPTH_MAX {
            return Err(refusal(format!("tojson: a value nested more than {DEPTH_MAX} deep")));
        }
        self.state.consume_fuel(1)?;
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.text(value.as_str().unwrap_or_default(), out)?,
            ValueKind::Seq | ValueKind::Iterable => {
                out.push('[');
                let mut any = false;
                for item in value.try_iter()?.checked() {
                    self.begin(any, depth + 1, out)?;
                    self.write(&item?, depth + 1, out)?;
                    any = true;
                }
                self.end(any, depth, out)?;
                out.push(']');
            }
            ValueKind::Map => self.map(value, depth, out)?,
            kind => {
                let message = format!("tojson: a value of type {kind} is not JSON");
                return Err(Error::new(ErrorKind::BadSerialization, message));
            }
        }
        Ok(())
    }

    fn map(&self, map: &Value, depth: usize, out: &mut String) -> MethodAnswer<()> {
        let mut keys = map.try_iter()?.checked().collect::<MethodAnswer<Vec<Value>>>()?;
        self.state.consume_fuel(keys.len() as u64)?;
        if self.sort {
            let text = |key: &Value| key.kind() == ValueKind::String;
            if keys.iter().any(text) && !keys.iter().all(text) {
                return Err(refusal("tojson: keys of several types cannot be sorted"));
            }
            keys.sort();
        }
        out.push('{');
        for (i, key) in keys.iter().enumerate() {
            self.begin(i > 0, depth + 1, out)?;
            match key.kind() {
                ValueKind::String => self.text(key.as_str().unwrap_or_default(), out)?,
                ValueKind::None => out.push_str("\"null\""),
                ValueKind::Bool => out.push_str(if key.is_true() { "\"true\"" } else { "\"false\"" }),
                ValueKind::Number => out.push_str(&format!("\"{}\"", number(key))),
                kind => return Err(refusal(format!("tojson: a key of type {kind}"))),
            }
            out.push_str(&self.after_key);
            self.write(&map.get_item(key)?, depth + 1, out)?;
        }
        self.end(!keys.is_empty(), depth, out)?;
        out.push('}');
        Ok(())
    }

    /// What comes before an item.
    fn begin(&self, any: bool, depth: usize, out: &mut String) -> MethodAnswer<()> {
        if any {
            charge(self.state, self.between.len())?;
            out.push_str(&self.between);
        }
        self.line(depth, out)
    }

    /// What comes after the last item.
    fn end(&self, any: bool, depth: usize, out: &mut String) -> MethodAnswer<()> {
        if any { self.line(depth, out) } else { Ok(()) }
    }

    fn line(&self, depth: usize, out: &mut String) -> MethodAnswer<()> {
        let Some(indent) = &self.indent else { return Ok(()) };
        charge(self.state, indent.len() * depth)?;
        out.push('\n');
        (0..depth).for_each(|_| out.push_str(indent));
        Ok(())
    }

    fn text(&self, text: &str, out: &mut String) -> MethodAnswer<()> {
        charge(self.state, text.len())?;
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ascii && c > '~') => {
                    c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
                }
                c => out.push(c),
            }
        }
        out.push('"');
        Ok(())
    }
}

fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(number) if !value.is_integer() => match float(number).as_str() {
            "nan" => "NaN".into(),
            "inf" => "Infinity".into(),
            "-inf" => "-Infinity".into(),
            finite => finite.into(),
        },
        _ => value.to_string(),
    }
}
