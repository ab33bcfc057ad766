//! What becomes of logits: their mask and bias, the choice of the next token, and the score of a given one.

pub mod constrain_logits;
pub mod peaks;
pub mod token;
pub mod token_nll;
