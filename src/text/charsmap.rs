//! Whether a SentencePiece map of characters may be followed: the library looks things up in it without looking whether
//! they are there.
//!
//! The map is base64 of a double-array trie (its bytes as u32, then the units, each a u32) and of the texts that its
//! values point into; see sentencepiece's `Normalizer` and Darts-clone's `DoubleArrayUnit`.

use std::collections::HashSet;

/// Whether every look-up in the map, whatever the text, stays within it.
pub fn is_sound(base64: &str) -> bool {
    let Some(bytes) = decode(base64.as_bytes()) else { return false };
    let Some((size, rest)) = bytes.split_first_chunk::<4>() else { return false };
    let Some((trie, texts)) = rest.split_at_checked(u32::from_le_bytes(*size) as usize / 4 * 4) else { return false };
    let (units, _) = trie.as_chunks::<4>();
    let units: Vec<u32> = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
    std::str::from_utf8(texts).is_ok_and(|texts| walks_stay_within(&units, texts))
}

/// Follows every walk through the trie.
fn walks_stay_within(units: &[u32], texts: &str) -> bool {
    let Some(root) = units.first() else { return false };
    let mut ahead = vec![offset(*root)];
    let mut seen = HashSet::new();
    while let Some(node) = ahead.pop() {
        if !seen.insert(node) {
            continue;
        }
        for byte in 1..=u32::from(u8::MAX) {
            let at = node ^ byte as usize;
            let Some(unit) = units.get(at) else { return false };
            // Bit 31 marks a value, which no byte leads to.
            if unit & (1 << 31 | 0xff) != byte {
                continue;
            }
            let next = at ^ offset(*unit);
            let has_value = unit >> 8 & 1 == 1;
            let value = units.get(next).map(|value| (value & !(1 << 31)) as usize);
            if has_value && !value.is_some_and(|value| texts.is_char_boundary(value)) {
                return false;
            }
            ahead.push(next);
        }
    }
    true
}

/// How far a unit's children lie.
fn offset(unit: u32) -> usize {
    (unit as usize >> 10) << ((unit & 1 << 9) >> 6)
}

/// The bytes of base64 with its padding; `None` where anything is odd about it.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if !text.len().is_multiple_of(4) || padding > 2 {
        return None;
    }
    let (mut bytes, mut held, mut bits) = (Vec::with_capacity(text.len() / 4 * 3), 0u32, 0);
    for byte in &text[..text.len() - padding] {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = held << 6 | u32::from(digit);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    (held == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(bytes: &[u8]) -> String {
        let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in bytes.chunks(3) {
            let held = chunk.iter().fold(0u32, |held, byte| held << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for place in 0..4 {
                let digit = digits[(held >> (18 - 6 * place)) as usize & 63];
                text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
            }
        }
        text
    }

    /// A map that makes `b` of `a`, with a value of its own instead of 0.
    fn map(value: u32, texts: &str) -> String {
        let mut units = vec![0u32; 256];
        // The root's children lie from 0 on; the unit of `a` leads to the value at 97 ^ 96 = 1.
        units[97] = 97 | 1 << 8 | 96 << 10;
        units[1] = value | 1 << 31;
        let trie: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        encode(&[&(trie.len() as u32).to_le_bytes()[..], &trie, texts.as_bytes()].concat())
    }

    #[test]
    fn base64_is_read_as_it_is_written() {
        for text in ["", "a", "ab", "abc", "abcd\u{ff}"] {
            assert_eq!(decode(encode(text.as_bytes()).as_bytes()).as_deref(), Some(text.as_bytes()));
        }
        for odd in ["A", "AA", "AA=", "A===", "AB==", "AA=A", "A\nAA", "AA-A"] {
            assert_eq!(decode(odd.as_bytes()), None, "{odd}");
        }
    }

    #[test]
    fn a_map_whose_walks_lead_out_of_it_is_not_sound() {
        assert!(is_sound(&map(0, "b\0")));
        assert!(!is_sound(&map(3, "b\0")), "a value behind the texts");
        assert!(!is_sound(&map(1, "é\0")), "a value within a character");
        let cut = |bytes: usize| encode(&decode(map(0, "b\0").as_bytes()).unwrap()[..bytes]);
        for bytes in [0, 3, 4, 400] {
            assert!(!is_sound(&cut(bytes)), "{bytes} bytes");
        }
        let huge = encode(&[u32::MAX.to_le_bytes(), [0; 4]].concat());
        assert!(!is_sound(&huge), "a trie that is not there");
        let short = encode(&[&4u32.to_le_bytes()[..], &[0; 4]].concat());
        assert!(!is_sound(&short), "units that are not there");
    }
}
