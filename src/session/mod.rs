//! A conversation with a model: prefill, decode, plan changes between tokens, stop conditions.

use std::time::Instant;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::precision::PrecisionPlan;
use crate::text::{Detokenizer, Sampler, SamplerSettings, TextModel};

/// A token as it was generated.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated<'a> {
    /// Token id.
    pub id: u32,
    /// Text that became complete with it; empty in the middle of a character, and for special tokens.
    pub text: &'a str,
    /// Bits read of each weight for it.
    pub bits: f32,
}

/// What a caller wants after a token.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// The next token.
    Go,
    /// The next token, and from it on another precision; the context stays as it is.
    Replan(PrecisionPlan),
    /// No more tokens.
    Stop,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model ended its turn.
    EndOfTurn,
    /// The number of tokens asked for was reached.
    Length,
    /// The context is full.
    ContextFull,
    /// The caller stopped it.
    Stopped,
}

/// Counts and times of a generation.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Summary {
    /// Why it ended.
    pub stop: StopReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated, the one that ended the turn left out.
    pub generated_tokens: usize,
    /// Time for the prompt, up to the first token, in seconds.
    pub prompt_s: f64,
    /// Time for the tokens after the first, in seconds.
    pub generate_s: f64,
    /// Bits read, weighted by parameters, over the tokens run.
    pub bits: f32,
}

/// A conversation: the tokens so far, with their keys and values in the model's cache.
pub struct Session {
    model: Model,
    text: TextModel,
    sampler: Sampler,
    plan: PrecisionPlan,
    /// Tokens that the model has run.
    history: Vec<u32>,
    /// The token sampled last, which the model has not run yet.
    pending: Option<u32>,
}

impl Session {
    /// A session with an empty context. Fails where a setting of the sampler is out of its range.
    pub fn new(mut model: Model, text: TextModel, sampler: SamplerSettings, plan: PrecisionPlan) -> Result<Session> {
        let sampler = Sampler::new(sampler)?;
        model.set_plan(&plan);
        Ok(Session { model, text, sampler, plan, history: Vec::new(), pending: None })
    }

    /// What is read of the weights from the next token on; the context stays as it is.
    pub fn set_plan(&mut self, plan: PrecisionPlan) {
        self.model.set_plan(&plan);
        self.plan = plan;
    }

    /// What is read of the weights now.
    pub fn plan(&self) -> &PrecisionPlan {
        &self.plan
    }

    /// The text side.
    pub fn text(&self) -> &TextModel {
        &self.text
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Goes on with the prompt's tokens, then generates until a stop; `on_token` sees each token and says what is next.
    ///
    /// A session may be prompted again and again: each prompt follows what was said before. Without `max_new` only the
    /// end of the turn and the end of the context stop it.
    ///
    /// Fails where the prompt is empty, where it does not fit what is left of the context, where `on_token` fails, and
    /// where the device does; the tokens handed out before stand, and the session can be prompted again.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        max_new: Option<usize>,
        on_token: &mut dyn FnMut(&Generated<'_>) -> Result<Next>,
    ) -> Result<Summary> {
        if prompt.is_empty() {
            return Err(Error::argument("prompt", "at least one token", 0));
        }
        let start = Instant::now();
        let mut detokenizer = Detokenizer::continuing(&self.text, prompt);
        let unheard: Vec<u32> = self.pending.iter().chain(prompt).copied().collect();
        let mut tally = Tally::new(self.plan.bits(), unheard.len());
        let mut logits = self.run(&unheard)?;
        self.pending = None;
        let prompt_s = start.elapsed().as_secs_f64();
        let mut generated_tokens = 0;
        let stop = loop {
            if max_new.is_some_and(|most| generated_tokens >= most) {
                break StopReason::Length;
            }
            let id = self.sampler.sample(&logits, &self.history);
            self.pending = Some(id);
            if self.text.is_end(id) {
                break StopReason::EndOfTurn;
            }
            generated_tokens += 1;
            let full = self.history.len() == self.model.context() as usize;
            let enough = max_new.is_some_and(|most| generated_tokens >= most);
            let mut text = detokenizer.push(&self.text, id);
            if full || enough {
                text += &detokenizer.finish(&self.text);
            }
            match on_token(&Generated { id, text: &text, bits: self.plan.bits() })? {
                Next::Go => (),
                Next::Replan(plan) => self.set_plan(plan),
                Next::Stop => break StopReason::Stopped,
            }
            if full {
                break StopReason::ContextFull;
            }
            if enough {
                break StopReason::Length;
            }
            tally.add(self.plan.bits(), 1);
            logits = self.run(&[id])?;
            self.pending = None;
        };
        let generate_s = start.elapsed().as_secs_f64() - prompt_s;
        let (prompt_tokens, bits) = (prompt.len(), tally.mean());
        Ok(Summary { stop, prompt_tokens, generated_tokens, prompt_s, generate_s, bits })
    }

    /// Runs tokens after those of the history; logits of the one that follows.
    fn run(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        let logits = self.model.next_logits(ids, self.history.len() as u32)?;
        self.history.extend(ids);
        Ok(logits)
    }
}

/// Bits read, over the tokens run.
struct Tally {
    bits: f64,
    tokens: usize,
}

impl Tally {
    fn new(bits: f32, tokens: usize) -> Tally {
        Tally { bits: f64::from(bits) * tokens as f64, tokens }
    }

    fn add(&mut self, bits: f32, tokens: usize) {
        self.bits += f64::from(bits) * tokens as f64;
        self.tokens += tokens;
    }

    fn mean(&self) -> f32 {
        (self.bits / self.tokens as f64) as f32
    }
}
