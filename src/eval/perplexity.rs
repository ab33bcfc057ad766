//! Perplexity of a text over windows that do not overlap.

use std::ops::ControlFlow;
use std::time::Instant;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::model::{AnswerScores, BitsRead, Sequence};

/// Tokens of a window where nothing else is asked for and the model's context holds them.
const WINDOW: u32 = 1024;

/// Tokens of a window where nothing else is asked for, of a model that was trained for `trained` tokens.
pub fn default_window(trained: u32) -> u32 {
    trained.min(WINDOW)
}

/// The windows that a text is cut into, and what is scored of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvalWindow {
    /// Tokens of each.
    pub tokens: usize,
    /// Tokens of each that are a prompt, which is read as [`Sequence::prompt_bits`] says. The others are scored as its
    /// answer, all by the plan. Without it, all tokens are read by the plan, and those from the second on are scored.
    pub answer_from: Option<usize>,
}

impl From<usize> for EvalWindow {
    fn from(tokens: usize) -> EvalWindow {
        EvalWindow { tokens, answer_from: None }
    }
}

/// What [`perplexity`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PerplexityReport {
    /// exp of the mean negative log-likelihood.
    pub perplexity: f64,
    /// Mean bits asked for.
    pub bits_asked: f32,
    /// Mean bits read of each weight, over the tokens run, those of a prompt left out.
    pub bits: f32,
    /// Those, and the bits of the ranges.
    pub bits_with_ranges: f32,
    /// The same over the tokens of the prompts, where an answer was scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_bits: Option<f32>,
    /// Tokens of a window's prompt, where an answer was scored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_from: Option<usize>,
    /// Windows evaluated.
    pub windows: usize,
    /// Tokens of a window.
    pub window: usize,
    /// Tokens predicted.
    pub tokens: usize,
    /// Time, in seconds.
    pub seconds: f64,
    /// What was read, by layer and site, prompts left out.
    #[serde(skip)]
    pub read: BitsRead,
}

/// Perplexity, under the plan of `sequence`, of the first `windows` non-overlapping windows of `window` tokens (all
/// whole windows where `None`), each predicting its tokens 2 to `window`, or those of its answer ([`EvalWindow`]).
///
/// `on_window(done, total, perplexity so far)` may break off, and so may [`Sequence::cancel_token`], within a window
/// too: both are [`Error::Stopped`]. Fails where the text is shorter than what is asked for, where a window does not
/// fit the model's context, and as [`Sequence::token_nll`] and [`Sequence::answer_nll`] do.
pub fn perplexity(
    sequence: &mut Sequence,
    ids: &[u32],
    window: impl Into<EvalWindow>,
    windows: Option<usize>,
    on_window: &mut dyn FnMut(usize, usize, f64) -> ControlFlow<()>,
) -> Result<PerplexityReport> {
    let EvalWindow { tokens: window, answer_from } = window.into();
    let context = sequence.model().context() as usize;
    if !(2..=context).contains(&window) {
        return Err(Error::argument("window", format!("2 to {context} tokens"), window));
    }
    let whole = ids.len() / window;
    let total = windows.unwrap_or(whole);
    if total == 0 || total > whole {
        let got = format!("{total} (the text has {} tokens: {whole} windows of {window})", ids.len());
        return Err(Error::argument("windows", "1 up to the whole windows of the text", got));
    }
    let start = Instant::now();
    let (mut nll, mut tokens, mut read) = (0f64, 0, BitsRead::new(sequence.model().shape()));
    let mut prompt_read = read.clone();
    for (at, ids) in ids.chunks_exact(window).take(total).enumerate() {
        let scores = match answer_from {
            None => sequence.token_nll(ids),
            Some(prompt) => sequence.answer_nll(ids, prompt).map(|AnswerScores { prompt_depths, answer }| {
                prompt_read.add(&prompt_depths);
                answer
            }),
        };
        let scores = scores.map_err(|e| e.within("eval"))?;
        nll += scores.nll.iter().map(|nll| f64::from(*nll)).sum::<f64>();
        tokens += scores.nll.len();
        read.add(&scores.depths);
        if on_window(at + 1, total, (nll / tokens as f64).exp()).is_break() {
            return Err(Error::Stopped("eval"));
        }
    }
    Ok(PerplexityReport {
        perplexity: (nll / tokens as f64).exp(),
        bits_asked: sequence.plan().bits(),
        bits: read.mean(),
        bits_with_ranges: read.mean() + sequence.model().range_bits(),
        prompt_bits: answer_from.map(|_| prompt_read.mean()),
        answer_from,
        windows: total,
        window,
        tokens,
        seconds: start.elapsed().as_secs_f64(),
        read,
    })
}
