//! A conversation with a model: prefill, decode, plan changes between tokens, stop conditions.

use std::time::Instant;

use crate::error::{Error, Result};
use crate::model::{BitsRead, Model, Step};
use crate::precision::PrecisionPlan;
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
    /// The same for each kind of site, by its name.
    #[serde(serialize_with = "as_map")]
    pub bits_by_site: [(&'static str, f32); 4],
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
        Ok(Session { model, text, sampler, plan, history: Vec::new(), pending: None })
    }

    /// What is read of the weights from the next token on; the context stays as it is. Fails as [`Model::set_plan`]
    /// does.
    pub fn set_plan(&mut self, plan: PrecisionPlan) -> Result<()> {
        self.model.set_plan(&plan)?;
        self.plan = plan;
        Ok(())
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
        let unheard: Vec<u32> = self.pending.iter().chain(prompt).copied().collect();
        let mut read = BitsRead::new(self.model.shape());
        let mut step = self.run(&unheard)?;
        read.add(&step.depths);
        self.pending = None;
        let prompt_s = start.elapsed().as_secs_f64();
        let mut generated_tokens = 0;
        let stop = loop {
            if max_new.is_some_and(|most| generated_tokens >= most) {
                break StopReason::Length;
            }
            let id = self.sampler.sample(&step.logits, &self.history);
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
            let bits = step.depths.token_bits(self.model.shape(), step.depths.tokens() - 1);
            match on_token(&Generated { id, text: &text, bits })? {
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
            step = self.run(&[id])?;
            read.add(&step.depths);
            self.pending = None;
        };
        let generate_s = start.elapsed().as_secs_f64() - prompt_s;
        let bits_by_site = Site::ALL.map(|site| (site.name(), read.of_site(site)));
        let (prompt_tokens, bits) = (prompt.len(), read.mean());
        Ok(Summary { stop, prompt_tokens, generated_tokens, prompt_s, generate_s, bits, bits_by_site })
    }

    /// Runs tokens after those of the history; logits of the one that follows.
    fn run(&mut self, ids: &[u32]) -> Result<Step> {
        let step = self.model.next_logits(ids, self.history.len() as u32)?;
        self.history.extend(ids);
        Ok(step)
    }
}
