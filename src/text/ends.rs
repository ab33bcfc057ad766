//! The tokens that end a turn, where a model's files name too few of them: answers would go on for ever.
//!
//! The names are those at which llama.cpp ends a generation (`special_eog_ids` in its src/llama-vocab.cpp), and those
//! of further LLaMA models.

use super::GenerationDefaults;

/// Tokens that end a turn, or a text, in every vocabulary that has them.
const TURN_ENDS: [&str; 20] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|im_end|>",
    HARMONY_MESSAGE_END,
    "<|end_of_turn|>",
    "<|endofturn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<end_of_turn>",
    "<turn|>",
    "<end_of_utterance>",
    "<|end_of_text|>",
    "<|EOT|>",
    "<EOT>",
    "_<EOT>",
    "\u{2581}<EOT>",
    "<|end\u{2581}of\u{2581}sentence|>",
    "<\u{ff5c}end\u{2581}of\u{2581}sentence\u{ff5c}>",
    HARMONY[0],
    HARMONY[1],
];

/// Tokens that end a text. Where files state which tokens end a generation, as generation_config.json does, they count
/// if they are among these or if none is stated.
const TEXT_ENDS: [&str; 5] = ["<|endoftext|>", "</s>", "<eos>", "[EOS]", "<|EOS|>"];

/// A vocabulary with both has messages that are no turns, between which [`HARMONY_MESSAGE_END`] lies.
const HARMONY: [&str; 2] = ["<|return|>", "<|call|>"];
/// What ends a turn in other vocabularies.
const HARMONY_MESSAGE_END: &str = "<|end|>";

/// Whether a token of this text ends a turn wherever it is a token.
pub fn is_turn_end(text: &str) -> bool {
    TURN_ENDS.contains(&text)
}

/// Whether a token of this text ends a text wherever it is a control token.
pub fn is_text_end(text: &str) -> bool {
    TEXT_ENDS.contains(&text)
}

/// Adds to the ends of `defaults` those that are well known of `tokens`, the added tokens of a vocabulary in the order
/// of their ids.
pub fn complete(defaults: &mut GenerationDefaults, tokens: &[(u32, &str)]) {
    if defaults.endless && defaults.end.is_empty() {
        return;
    }
    let has = |name: &str| tokens.iter().any(|(_, text)| *text == name);
    let harmony = HARMONY.into_iter().all(has);
    let is_end = |text: &str| is_turn_end(text) && !(harmony && text == HARMONY_MESSAGE_END);
    add(&mut defaults.end, tokens, is_end);
    if defaults.end.is_empty() {
        add(&mut defaults.end, tokens, is_text_end);
    }
}

fn add(ends: &mut Vec<u32>, tokens: &[(u32, &str)], is_end: impl Fn(&str) -> bool) {
    for (id, _) in tokens.iter().filter(|(_, text)| is_end(text)) {
        if !ends.contains(id) {
            ends.push(*id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(named: &[u32], tokens: &[&str]) -> Vec<u32> {
        let tokens: Vec<(u32, &str)> = (0..).zip(tokens.iter().copied()).collect();
        let mut defaults = GenerationDefaults { end: named.to_vec(), ..GenerationDefaults::default() };
        complete(&mut defaults, &tokens);
        defaults.end
    }

    #[test]
    fn turn_ends_are_added_to_what_the_files_name() {
        assert_eq!(ends(&[0], &["<|endoftext|>", "<|im_start|>", "<|im_end|>"]), [0, 2]);
        assert_eq!(ends(&[], &["<|endoftext|>", "<|im_start|>", "<|im_end|>"]), [2]);
        assert_eq!(ends(&[1], &["<|eom_id|>", "<|eot_id|>", "<|end|>", "<end_of_turn>"]), [1, 0, 2, 3]);
        assert_eq!(ends(&[2], &["<|endoftext|>", "<|im_start|>", "<tool>"]), [2]);
    }

    #[test]
    fn the_end_of_a_text_counts_where_nothing_else_ends() {
        assert_eq!(ends(&[], &["<unk>", "<s>", "</s>"]), [2]);
        assert_eq!(ends(&[1], &["<unk>", "<s>", "</s>"]), [1]);
    }

    #[test]
    fn messages_that_are_no_turns_do_not_end_one() {
        assert_eq!(ends(&[], &["<|end|>", "<|return|>", "<|call|>"]), [1, 2]);
        assert_eq!(ends(&[], &["<|end|>", "<|return|>"]), [0, 1]);
    }

    #[test]
    fn a_model_that_is_said_to_have_no_end_has_none() {
        let mut defaults = GenerationDefaults { endless: true, ..GenerationDefaults::default() };
        complete(&mut defaults, &[(0, "<|im_end|>")]);
        assert!(defaults.end.is_empty());
    }
}
