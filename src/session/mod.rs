//! A conversation with a model: prefill, decode, plan changes between tokens, stop conditions.

mod ahead;

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::model::{BitsRead, Model};
use crate::precision::PrecisionPlan;
use crate::residency::{Pace, SliceReport};
use crate::shape::Site;
use crate::text::{Detokenizer, Sampler, SamplerSettings, TextModel};

/// A token as it was generated.
#[derive(Debug, Clone, PartialEq)]
pub struct Generated<'a> {
    /// Token id.
    pub id: u32,
    /// Text that became complete with it; empty in the middle of a character, and for special tokens.
    pub text: &'a str,
    /// Bits read of each weight by the step that chose it, weighted by parameters.
    pub bits: f32,
    /// Bytes that the model takes on the device.
    pub device_bytes: u64,
    /// Where the residual slices are, of a model in which they come and go.
    pub slices: Option<SliceReport>,
    /// Slices that could not be had since the token before, in words; they are tried again later.
    pub faults: &'a [String],
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
    /// Text held back when the turn ended or the caller stopped it: that of a last token which may be the beginning of
    /// a character, or a replacement character of the model's own. Empty where the last token's text had it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text_left: String,
    /// Time for the prompt, up to the first token, in seconds.
    pub prompt_s: f64,
    /// Time for the tokens after the first, in seconds.
    pub generate_s: f64,
    /// Bits read, weighted by parameters, over the tokens run.
    pub bits: f32,
    /// The same for each kind of site, by its name.
    #[serde(serialize_with = "as_map")]
    pub bits_by_site: [(&'static str, f32); 4],
    /// Bytes that the model takes on the device, at the end.
    pub device_bytes: u64,
    /// Where the residual slices are at the end, and what was loaded and freed since the model was loaded, of a model
    /// in which they come and go.
    pub slices: Option<SliceReport>,
}

fn as_map<S: serde::Serializer>(
    sites: &[(&'static str, f32); 4],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_map(sites.iter().copied())
}

/// A conversation: the tokens so far, with their keys and values in the model's cache.
pub struct Session {
    model: Model,
    text: TextModel,
    sampler: Sampler,
    plan: PrecisionPlan,
    pace: Pace,
    /// Whether steps are begun ahead.
    runs_ahead: bool,
    /// Tokens that the model has run.
    history: Vec<u32>,
    /// The token sampled last, which the model has not run yet.
    pending: Option<u32>,
}

impl Session {
    /// A session with an empty context. Fails where a setting of the sampler is out of its range, and where the model
    /// cannot follow the plan.
    pub fn new(mut model: Model, text: TextModel, sampler: SamplerSettings, plan: PrecisionPlan) -> Result<Session> {
        let sampler = Sampler::new(sampler)?;
        model.set_plan(&plan)?;
        let runs_ahead = model.overlaps();
        let pace = Pace::default();
        Ok(Session { model, text, sampler, plan, pace, runs_ahead, history: Vec::new(), pending: None })
    }

    /// What is read of the weights from the next token on; the context stays as it is. Fails as [`Model::set_plan`]
    /// does.
    pub fn set_plan(&mut self, plan: PrecisionPlan) -> Result<()> {
        self.model.set_plan(&plan)?;
        self.plan = plan;
        Ok(())
    }

    /// How slices land from the next token on, of a model in which they come and go.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Waits until all slices are there that the plan may read, or no more can be had for now, or for as long as
    /// `patience`: which could not be had, in words. Without this, a generation begins with what is there. Fails where
    /// the device fails.
    pub fn settle(&mut self, patience: Option<Duration>) -> Result<Vec<String>> {
        self.model.settle(patience)?;
        Ok(self.model.take_faults())
    }

    /// What is read of the weights now.
    pub fn plan(&self) -> &PrecisionPlan {
        &self.plan
    }

    /// Whether the step that runs a token is begun before the token is read, which changes no token. At first it is so
    /// where the device computes beside the host; elsewhere, and for an application that stops after most tokens, the
    /// steps that are begun in vain cost more than it gains.
    pub fn run_ahead(&mut self, ahead: bool) {
        self.runs_ahead = ahead;
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
    /// Fails where the prompt is empty, where it does not fit what is left of the context, where `on_token` fails or
    /// asks for a plan that the model cannot follow, and where the device fails; the tokens handed out before stand,
    /// and the session can be prompted again.
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
        let mut run: Vec<u32> = self.pending.iter().chain(prompt).copied().collect();
        let mut read = BitsRead::new(self.model.shape());
        let mut running = self.begin_tokens(&run)?;
        let (mut prompt_s, mut generated_tokens) = (0.0, 0);
        let stop = loop {
            let end = self.history.len() + run.len();
            let full = end == self.model.context() as usize;
            let enough = max_new.is_some_and(|most| generated_tokens + 1 >= most);
            self.land_slices(&running)?;
            let ahead = if full || enough { None } else { self.begin_ahead(&running, end)? };
            let before = running.before();
            let step = self.finish(running)?;
            self.history.append(&mut run);
            self.pending = None;
            read.add(&step.depths);
            if generated_tokens == 0 {
                prompt_s = start.elapsed().as_secs_f64();
            }
            if max_new == Some(0) {
                self.sampler.rewind(before);
                break StopReason::Length;
            }
            self.pending = Some(step.id);
            if self.text.is_end(step.id) {
                self.give_up(ahead);
                break StopReason::EndOfTurn;
            }
            generated_tokens += 1;
            let mut text = detokenizer.push(&self.text, step.id);
            if full || enough {
                text += &detokenizer.finish(&self.text);
            }
            let bits = step.depths.token_bits(self.model.shape(), step.depths.tokens() - 1);
            let (device_bytes, slices) = (self.model.allocated_bytes(), self.model.slices());
            let faults = &self.model.take_faults();
            let next = on_token(&Generated { id: step.id, text: &text, bits, device_bytes, slices, faults });
            let ahead = if matches!(next, Ok(Next::Go)) { ahead } else { self.give_up(ahead) };
            match next? {
                Next::Go => (),
                Next::Replan(plan) => self.set_plan(plan)?,
                Next::Stop => break StopReason::Stopped,
            }
            if full {
                break StopReason::ContextFull;
            }
            if enough {
                break StopReason::Length;
            }
            run.push(step.id);
            running = match ahead {
                Some(ahead) => ahead,
                None => self.begin_tokens(&run)?,
            };
        };
        let generate_s = start.elapsed().as_secs_f64() - prompt_s;
        Ok(Summary {
            stop,
            prompt_tokens: prompt.len(),
            generated_tokens,
            text_left: detokenizer.finish(&self.text),
            prompt_s,
            generate_s,
            bits: read.mean(),
            bits_by_site: Site::ALL.map(|site| (site.name(), read.of_site(site))),
            device_bytes: self.model.allocated_bytes(),
            slices: self.model.slices(),
        })
    }
}
