//! Answers keep the model's own tokens where their text is the same, and nothing else does.

use super::*;
use crate::text::test_models::byte_level;

/// Tokens 0 to 3 are `a`, `b`, `ab` and `x`; the one after them is special.
fn text() -> TextModel {
    byte_level(&["a", "b", "ab", "x"].map(str::as_bytes))
}

/// The answers after `tokens` ran, of which those from `start` on are the answer.
fn answered(tokens: &[u32], start: usize, sampled: Option<u32>) -> OwnAnswers {
    let mut answers = OwnAnswers::default();
    answers.begin(start);
    answers.end(tokens, sampled);
    answers
}

#[test]
fn an_answer_that_would_be_cut_otherwise_keeps_its_tokens() {
    let (text, special) = (text(), text().special_for_test());
    // x | a b | special x: the model wrote `ab` as two tokens.
    let ran = [3, 0, 1];
    let answers = answered(&ran, 1, None);
    assert_eq!(answers.kept_in(vec![3, 2, special, 3], &ran, &text), [3, 0, 1, special, 3]);
    // The last token was sampled and has not run.
    let answers = answered(&[3, 0], 1, Some(1));
    assert_eq!(answers.kept_in(vec![3, 2, special, 3], &[3, 0], &text), [3, 0, 1, special, 3]);
    assert_eq!(answers.ranges(&[3, 0], Some(1)), [[1, 3]]);
    // What is the same already stays, and what lies before the answer may have melted with it.
    assert_eq!(answers.kept_in(vec![3, 0, 1, special], &[3, 0], &text), [3, 0, 1, special]);
    let answers = answered(&[3, 0, 1, 3], 2, None);
    assert_eq!(answers.kept_in(vec![3, 2, 3, special], &[3, 0, 1, 3], &text), [3, 0, 1, 3, special]);
}

#[test]
fn another_text_keeps_the_tokenizer_s_tokens() {
    let (text, special) = (text(), text().special_for_test());
    let ran = [3, 0, 1];
    let answers = answered(&ran, 1, None);
    for ids in [vec![3, 2, 2, special], vec![3, 0, 3, special], vec![3, 0, special, 1], vec![3, 0], vec![]] {
        let kept = answers.kept_in(ids.clone(), &ran, &text);
        // An answer's text with more after it, as a template's own, is the answer's text.
        let expected = if ids.get(1) == Some(&2) { vec![3, 0, 1, 2, special] } else { ids };
        assert_eq!(kept, expected);
    }
    // Too much before the answer is not the same.
    let mut ran = vec![0; 20];
    ran.extend([0, 1]);
    let answers = answered(&ran, 20, None);
    let mut ids = vec![1; 20];
    ids.push(2);
    assert_eq!(answers.kept_in(ids.clone(), &ran, &text), ids);
}

#[test]
fn later_answers_follow_earlier_ones_and_forgotten_ones_are_none() {
    let text = text();
    let special = text.special_for_test();
    let ran = [3, 0, 1, special, 0, 1];
    let mut answers = answered(&ran[..3], 1, None);
    answers.begin(4);
    answers.end(&ran, None);
    assert_eq!(answers.kept_in(vec![3, 2, special, 2, special], &ran, &text), [3, 0, 1, special, 0, 1, special]);
    assert_eq!(answers.ranges(&ran, None), [[1, 3], [4, 6]]);
    let again = OwnAnswers::of_ranges(&answers.ranges(&ran, None), &ran, None);
    assert_eq!(again.kept_in(vec![3, 2, special, 2], &ran, &text), ran);
    // Tokens that were forgotten since, and an answer that never began.
    assert_eq!(answers.ranges(&ran[..4], None), [[1, 3]]);
    assert_eq!(answered(&ran, 7, None).ranges(&ran, None), [[0u32; 2]; 0]);
}
