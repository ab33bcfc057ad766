//! A SentencePiece BPE vocabulary as the BPE model of tokenizer.json.

use std::collections::HashMap;

use serde_json::{Value, json};

/// Stands for a space in SentencePiece vocabularies.
const SPACE: &str = "\u{2581}";

/// The merges that build the vocabulary's pieces, best first: for every piece, each way to make it of two others, as
/// transformers does (`generate_merges` in its convert_slow_tokenizer.py). Pieces are a text, an id and a score.
pub fn merges(pieces: &[(&str, u32, f32)]) -> Vec<(String, String)> {
    /// Two parts, and the score of the piece that they make.
    struct Merge<'a> {
        left: &'a str,
        right: &'a str,
        score: f32,
    }

    let ids: HashMap<&str, u32> = pieces.iter().map(|(text, id, _)| (*text, *id)).collect();
    let mut merges = Vec::new();
    for &(text, _, score) in pieces {
        let halves = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        let known = halves.filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right));
        let mut ways: Vec<_> = known.map(|(left, right)| Merge { left, right, score }).collect();
        ways.sort_by_key(|way| (ids[way.left], ids[way.right]));
        merges.extend(ways);
    }
    let chars = |text: &str| text.chars().count();
    merges.sort_by(|a, b| {
        let by_score = b.score.total_cmp(&a.score);
        by_score.then_with(|| (chars(b.left), chars(b.right)).cmp(&(chars(a.left), chars(a.right))))
    });
    merges.into_iter().map(|merge| (merge.left.to_string(), merge.right.to_string())).collect()
}

/// What is done to a text before the merges; `prefix` puts a space before it.
pub fn normalizer(prefix: bool) -> Value {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    if prefix {
        json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace]})
    } else {
        replace
    }
}

/// What turns tokens to text again; `prefix` takes the space before it away.
pub fn decoder(prefix: bool) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_pieces_are_merged_first() {
        let pieces =
            [("a", 3, -9.0), ("b", 4, -10.0), ("c", 5, -11.0), ("ab", 1, -2.0), ("abc", 2, -1.0), ("bc", 0, -2.0)];
        let merges = merges(&pieces);
        let merges: Vec<(&str, &str)> = merges.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        // "abc" has the best score, and of its two ways the one with the longer left part goes first.
        assert_eq!(merges, [("ab", "c"), ("a", "bc"), ("a", "b"), ("b", "c")]);
    }
}
