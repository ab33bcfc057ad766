//! A conversation with a model: prefill, decode, plan changes between tokens, stop conditions.

mod ahead;

use std::time::{Duration, Instant};

use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::model::{BitsRead, Chosen, Model};
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
    /// The caller stopped it, or the session's token did.
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

    /// What stops this session's work: another thread that holds a clone may ask for a stop at any time, which is
    /// heeded within a step too. While it asks, nothing is generated; [`CancelToken::reset`] takes the request back.
    pub fn cancel_token(&self) -> &CancelToken {
        self.model.cancel_token()
    }

    /// Goes on with the prompt's tokens, then generates until a stop; `on_token` sees each token and says what is next.
    ///
    /// A session may be prompted again and again: each prompt follows what was said before. Without `max_new` only the
    /// end of the turn and the end of the context stop it. Where [`Session::cancel_token`] asks for a stop after the
    /// first token, that is [`StopReason::Stopped`], and what was generated stands.
    ///
    /// Fails where the prompt is empty, where it does not fit what is left of the context, where a stop is asked for
    /// before the first token ([`Error::Stopped`]), where `on_token` fails or asks for a plan that the model cannot
    /// follow, where the model computes no numbers ([`Error::NoNumbers`]), and where the device fails; the tokens
    /// handed out before stand, and the session can be prompted again.
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
        let mut turn = Turn {
            detokenizer: Detokenizer::continuing(&self.text, prompt),
            read: BitsRead::new(self.model.shape()),
            max_new,
            generated: 0,
            prompt_s: None,
        };
        let run = self.pending.iter().chain(prompt).copied().collect();
        let stop = self.run_turn(run, &mut turn, start, on_token)?;
        let prompt_s = turn.prompt_s.unwrap_or_default();
        Ok(Summary {
            stop,
            prompt_tokens: prompt.len(),
            generated_tokens: turn.generated,
            text_left: turn.detokenizer.finish(&self.text),
            prompt_s,
            generate_s: start.elapsed().as_secs_f64() - prompt_s,
            bits: turn.read.mean(),
            bits_by_site: Site::ALL.map(|site| (site.name(), turn.read.of_site(site))),
            device_bytes: self.model.allocated_bytes(),
            slices: self.model.slices(),
        })
    }

    /// Runs tokens, and one by one those that are chosen after them.
    fn run_turn(
        &mut self,
        mut run: Vec<u32>,
        turn: &mut Turn,
        start: Instant,
        on_token: &mut dyn FnMut(&Generated<'_>) -> Result<Next>,
    ) -> Result<StopReason> {
        let mut begun = None;
        loop {
            let end = self.history.len() + run.len();
            let full = end == self.model.context() as usize;
            let enough = turn.max_new.is_some_and(|most| turn.generated + 1 >= most);
            let (step, before, ahead) = match self.run_step(begun, &run, !full && !enough) {
                Ok(done) => done,
                Err(Error::Stopped(_)) if turn.generated > 0 => return Ok(StopReason::Stopped),
                Err(error) => return Err(error.within("the prompt")),
            };
            self.history.append(&mut run);
            self.pending = None;
            turn.read.add(&step.depths);
            turn.prompt_s.get_or_insert_with(|| start.elapsed().as_secs_f64());
            if turn.max_new == Some(0) {
                self.sampler.rewind(before);
                return Ok(StopReason::Length);
            }
            self.pending = Some(step.id);
            if self.text.is_end(step.id) {
                self.give_up(ahead);
                return Ok(StopReason::EndOfTurn);
            }
            turn.generated += 1;
            let next = self.hand_out(&step, turn, full || enough, on_token);
            let ahead = if matches!(next, Ok(Next::Go)) { ahead } else { self.give_up(ahead) };
            match next? {
                Next::Go => (),
                Next::Replan(plan) => self.set_plan(plan)?,
                Next::Stop => return Ok(StopReason::Stopped),
            }
            if full {
                return Ok(StopReason::ContextFull);
            }
            if enough {
                return Ok(StopReason::Length);
            }
            run.push(step.id);
            begun = ahead;
        }
    }

    /// Shows the caller a token, and asks what is next.
    fn hand_out(
        &mut self,
        step: &Chosen,
        turn: &mut Turn,
        last: bool,
        on_token: &mut dyn FnMut(&Generated<'_>) -> Result<Next>,
    ) -> Result<Next> {
        let mut text = turn.detokenizer.push(&self.text, step.id);
        if last {
            text += &turn.detokenizer.finish(&self.text);
        }
        let bits = step.depths.token_bits(self.model.shape(), step.depths.tokens() - 1);
        let (device_bytes, slices) = (self.model.allocated_bytes(), self.model.slices());
        let faults = &self.model.take_faults();
        on_token(&Generated { id: step.id, text: &text, bits, device_bytes, slices, faults })
    }
}

/// What a generation has come to.
struct Turn {
    detokenizer: Detokenizer,
    read: BitsRead,
    max_new: Option<usize>,
    generated: usize,
    /// Once the first token is there.
    prompt_s: Option<f64>,
}
