//! Logits at a position of a sequence.

use edge_run::internals::model::{NextLogits, Sequence};

/// Runs tokens from `position` on, in the place of what ran there before: what follows them.
pub fn logits_at(sequence: &mut Sequence, ids: &[u32], position: usize) -> NextLogits {
    assert!(position <= sequence.tokens().len(), "{position} of {} tokens", sequence.tokens().len());
    sequence.truncate(position);
    sequence.next_logits(ids).expect("the tokens run")
}
