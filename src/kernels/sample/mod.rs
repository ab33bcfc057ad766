//! What becomes of logits: the choice of the next token, and the score of a given one.

pub mod peaks;
pub mod token;
pub mod token_nll;
