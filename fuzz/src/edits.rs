//! Changes to one value of a JSON text, so that what is behind the parser is reached.

use libfuzzer_sys::fuzzer_mutate;
use serde_json::{Value, json};

use crate::readers::SEPARATOR;

/// Numbers at which readers go wrong.
const NUMBERS: [f64; 16] = [
    0.0,
    -1.0,
    1.0,
    2.0,
    7.0,
    64.0,
    255.0,
    65536.0,
    16777217.0,
    4294967295.0,
    4294967296.0,
    9.3e18,
    1e300,
    -1e-300,
    0.5,
    1e9,
];
/// Texts at which readers go wrong.
const TEXTS: [&str; 12] =
    ["", "a", " ", "\u{0}", "<s>", "\u{e9}", "\u{1f600}", "../x", "(a*)*$", "[", "\\p{L}+", "\u{fffd}\u{301}"];

/// libFuzzer's custom mutator: one of the files of the input, where it is JSON, with one value changed; else, and every
/// other time, bytes as libFuzzer changes them.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut random = Random(u64::from(seed) | 1 << 32);
    if random.below(2) == 0
        && let Some(changed) = changed_json(&data[..size], &mut random)
        && changed.len() <= max_size
    {
        data[..changed.len()].copy_from_slice(&changed);
        return changed.len();
    }
    fuzzer_mutate(data, size, max_size)
}

fn changed_json(input: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let mut parts: Vec<Vec<u8>> = input.split(|byte| *byte == SEPARATOR).map(<[u8]>::to_vec).collect();
    let at = random.below(parts.len());
    let mut value: Value = serde_json::from_slice(&parts[at]).ok()?;
    let changes = 1 + random.below(3);
    for _ in 0..changes {
        let nodes = count(&value);
        change(&mut value, &mut random.below(nodes), random);
    }
    parts[at] = serde_json::to_vec(&value).ok()?;
    Some(parts.join(&SEPARATOR))
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

/// Changes the value that `left` values come before, in the order of the text.
fn change(value: &mut Value, left: &mut usize, random: &mut Random) -> bool {
    if *left == 0 {
        change_this(value, random);
        return true;
    }
    *left -= 1;
    match value {
        Value::Array(list) => list.iter_mut().any(|item| change(item, left, random)),
        Value::Object(fields) => fields.values_mut().any(|item| change(item, left, random)),
        _ => false,
    }
}

fn change_this(value: &mut Value, random: &mut Random) {
    let number = json!(NUMBERS[random.below(NUMBERS.len())]);
    let whole = json!(NUMBERS[random.below(12)] as i64);
    let text = json!(TEXTS[random.below(TEXTS.len())]);
    match (random.below(8), &mut *value) {
        (0, _) => *value = Value::Null,
        (1, _) => *value = number,
        (2 | 3, Value::Number(_)) => *value = whole,
        (2, _) => *value = text,
        (3, _) => *value = whole,
        (4, Value::Array(list)) if !list.is_empty() => {
            let at = random.below(list.len());
            list.remove(at);
        }
        (4, Value::Object(fields)) if !fields.is_empty() => {
            let name = fields.keys().nth(random.below(fields.len())).cloned().unwrap_or_default();
            fields.shift_remove(&name);
        }
        (5, Value::Array(list)) if !list.is_empty() => {
            let copy = list[random.below(list.len())].clone();
            (0..=random.below(4)).for_each(|_| list.push(copy.clone()));
        }
        (5, Value::Object(fields)) if !fields.is_empty() => {
            let (name, copy) =
                fields.iter().nth(random.below(fields.len())).map(|(n, c)| (n.clone(), c.clone())).unzip();
            fields.insert(format!("{}{}", name.unwrap_or_default(), random.below(3)), copy.unwrap_or_default());
        }
        (6, Value::String(text)) => *text = text.repeat(random.below(4)),
        (6, _) => *value = json!([value.clone()]),
        (7, Value::Bool(flag)) => *flag = !*flag,
        (7, Value::String(text)) => text.push_str(TEXTS[random.below(TEXTS.len())]),
        _ => *value = json!({"type": text}),
    }
}

/// Numbers that look random, the same for the same seed (xorshift64*).
pub struct Random(pub u64);

impl Random {
    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end
    }
}
