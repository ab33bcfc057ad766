//! A conversation with a model: prompts, answers, plan changes between tokens, stop conditions.

mod answer;
mod choices;
mod fit;
mod lookup;
mod own_tokens;
mod saved;
mod stop_reason;

use std::sync::Arc;
use std::time::Duration;

use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::model::{Model, PendingStep, SampledToken, Sequence, TokenDepths};
use crate::power::PowerFollower;
use crate::precision::{PrecisionPlan, PromptBits};
use crate::residency::{Pace, SliceReport};
use crate::text::{Message, SamplerSettings, TextModel};

use choices::Choices;
use own_tokens::OwnAnswers;

pub use answer::Answer;
pub use choices::{Logprobs, TokenProbability};
pub use fit::leaving;
pub use saved::{Restored, SavedContext};
pub use stop_reason::StopReason;

/// What happens while an answer is generated.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// A token was generated.
    Token(Token),
    /// From the next token on, the weights are read by this plan.
    Plan(PrecisionPlan),
    /// The answer is over.
    Done(Summary),
}

/// A token as it was generated.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Token {
    /// Token id.
    pub id: u32,
    /// Text that became complete with it; empty in the middle of a character, and for special tokens.
    pub text: String,
    /// Bits read of each weight by the step that chose it, weighted by parameters; 0 where nothing was to choose, as a
    /// constraint forced it.
    pub bits: f32,
    /// Bytes that the model takes on the device.
    pub device_bytes: u64,
    /// Where the residual slices are, of a model in which they come and go.
    pub slices: Option<SliceReport>,
    /// What the model thought of the choice, where [`Session::set_logprobs`] asks for it.
    pub logprobs: Option<Logprobs>,
    /// Slices of the model that could not be had since any session asked last, in words; they are tried again later.
    pub faults: Vec<String>,
}

/// What a caller of [`Session::generate`] wants after a token.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// The next token.
    Go,
    /// The next token, and from it on another precision, set by hand; the context stays as it is.
    Replan(PrecisionPlan),
    /// No more tokens.
    Stop,
}

/// Counts and times of a generation.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// Why it ended.
    pub stop: StopReason,
    /// Tokens of the prompt that were run.
    pub prompt_tokens: usize,
    /// Tokens generated, the one that ended the turn left out. For tokens a second, `forced_tokens` do not count.
    pub generated_tokens: usize,
    /// Those of them that a constraint forced, which ran together with others.
    pub forced_tokens: usize,
    /// Text held back when the turn ended or the caller stopped it: that of a last token which may be the beginning of
    /// a character, or a replacement character of the model's own. Empty where the last token's text had it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub text_left: String,
    /// Time for the prompt, up to the first token, in seconds.
    pub prompt_s: f64,
    /// Time for the tokens after the first, in seconds, with what the caller did between them.
    pub generate_s: f64,
    /// Bits read, weighted by parameters, over the tokens run.
    pub bits: f32,
    /// The same over the tokens that ran before the first token was generated: the prompt, and what the session had
    /// generated last.
    pub prompt_bits: f32,
    /// The same over the tokens that ran after it; none where there are none.
    pub answer_bits: Option<f32>,
    /// Over all tokens run, for each kind of site, by its name.
    #[serde(serialize_with = "as_map")]
    pub bits_by_site: [(&'static str, f32); 4],
    /// Bytes that the model takes on the device, at the end.
    pub device_bytes: u64,
    /// Where the residual slices are at the end, and what was loaded and freed since the model was loaded, of a model
    /// in which they come and go.
    pub slices: Option<SliceReport>,
    /// Tokens that were guessed from the conversation, and those of them that were right: see
    /// [`Session::set_prompt_lookup`].
    pub guessed_tokens: usize,
    /// See above.
    pub accepted_tokens: usize,
}

fn as_map<S: serde::Serializer>(
    sites: &[(&'static str, f32); 4],
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_map(sites.iter().copied())
}

/// A conversation: a [`Sequence`] of a model, and the text side.
///
/// Any number of sessions may share a model, each on a thread of its own; a session may move between threads.
pub struct Session {
    sequence: Sequence,
    text: Arc<TextModel>,
    pace: Pace,
    /// Whether steps are begun ahead.
    runs_ahead: bool,
    /// Whether answers are guessed from what was said before.
    looks_up: bool,
    /// What changes the plan by the power state.
    power: Option<PowerFollower>,
    /// What was asked of the answers.
    choices: Choices,
    /// The answers, by the tokens that the model wrote.
    answers: OwnAnswers,
}

impl Session {
    /// A session with an empty context, whose prompts are read at the deepest: see [`Session::set_prompt_bits`].
    ///
    /// Fails where a setting of the sampler is out of its range, where the model cannot follow the plan, and where
    /// [`Model::sequences`] are open.
    pub fn new(
        model: &Model,
        text: impl Into<Arc<TextModel>>,
        sampler: SamplerSettings,
        plan: PrecisionPlan,
    ) -> Result<Session> {
        let mut sequence = model.sequence(&plan)?;
        sequence.set_sampler(sampler)?;
        sequence.set_prompt_bits(PromptBits::default());
        let (pace, power, choices, answers) = (Pace::default(), None, Choices::default(), OwnAnswers::default());
        let (text, runs_ahead, looks_up) = (text.into(), model.overlaps(), !model.overlaps());
        Ok(Session { sequence, text, pace, runs_ahead, looks_up, power, choices, answers })
    }

    /// Sets what is read of the weights from the next token on; the context stays as it is. A power state that was
    /// followed is followed no more. Fails as [`Sequence::set_plan`] does.
    pub fn set_plan(&mut self, plan: PrecisionPlan) -> Result<()> {
        self.sequence.set_plan(&plan)?;
        self.replace_power(None);
        Ok(())
    }

    /// Sets what is read of the weights for prompts from the next step on, under every plan: at first all slices that
    /// the plan allows and that are there. The first token of an answer is chosen by the prompt's last one, and the
    /// tokens after it are read as the plan says. What of a chat runs again is read as a prompt, the answers in it too.
    pub fn set_prompt_bits(&mut self, bits: PromptBits) {
        self.sequence.set_prompt_bits(bits);
    }

    /// Lets the plan follow a power state from here on, within an answer too, until a plan is set by hand.
    ///
    /// Fails where the follower's policy allows no bits that the model can follow.
    pub fn follow_power(&mut self, power: PowerFollower) -> Result<()> {
        self.sequence.set_plan(&power.plan()?)?;
        self.replace_power(Some(power));
        Ok(())
    }

    /// Puts another power state in the place of the one that was followed. Whoever speaks does not wait for its end.
    fn replace_power(&mut self, power: Option<PowerFollower>) {
        if let Some(before) = std::mem::replace(&mut self.power, power) {
            before.dismiss();
        }
    }

    /// Lets the plan follow this device's power state by the usual policy, as [`Session::follow_power`] does.
    ///
    /// Fails where the state cannot be read, and where no thread can be started.
    pub fn follow_system_power(&mut self) -> Result<()> {
        self.follow_power(PowerFollower::system(self.model().has_routers())?)
    }

    /// Why the power state that is followed cannot be read, in words: once for each time that readings begin to fail.
    pub fn take_power_fault(&self) -> Option<String> {
        self.power.as_ref().and_then(PowerFollower::take_fault)
    }

    /// Sets how tokens are sampled from the next one on, with random numbers from their beginning. Fails where a
    /// setting is out of its range.
    pub fn set_sampling(&mut self, settings: SamplerSettings) -> Result<()> {
        self.sequence.set_sampler(settings)
    }

    /// Sets the plan that the power state calls for, where one is followed and it calls for other bits than before.
    /// Returns whether the plan changed.
    fn apply_power_change(&mut self) -> Result<bool> {
        let Some(change) = self.power.as_mut().and_then(PowerFollower::poll) else { return Ok(false) };
        self.sequence.set_plan(&change.decision.plan(self.model().has_routers())?)?;
        Ok(true)
    }

    /// How slices land from the next token on, of a model in which they come and go.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// Waits until all slices are there that the plans of all sessions read, or no more can be had for now, or as long
    /// as `patience`: which could not be had, in words. Without this, a generation begins with what is there. Fails
    /// where a stop is asked for, and where the device fails.
    pub fn settle(&mut self, patience: Option<Duration>) -> Result<Vec<String>> {
        self.sequence.settle(patience)?;
        Ok(self.model().take_faults())
    }

    /// What is read of the weights now.
    pub fn plan(&self) -> &PrecisionPlan {
        self.sequence.plan()
    }

    /// Whether the step that runs a token is begun before the token is read, which changes no token. At first it is so
    /// where the device computes beside the host; elsewhere, and for an application that stops after most tokens, the
    /// steps that are begun in vain cost more than it gains.
    pub fn run_ahead(&mut self, ahead: bool) {
        self.runs_ahead = ahead;
    }

    /// Whether the tokens of answers are guessed by prompt lookup: by what followed the same tokens before. Guesses run
    /// together with the token before them, and each token is chosen as without them, so an answer that repeats parts
    /// of the conversation is faster and no other one; [`Summary::accepted_tokens`] tells how many were right. At first
    /// it is so on the CPU engine. There are no guesses in answers with a constraint, a bias or log-probabilities, with
    /// a cache in few bits, and while slices are loaded.
    ///
    /// Tokens that run together are added up in another order, which may decide between two tokens that are as good as
    /// equally likely.
    pub fn set_prompt_lookup(&mut self, looks_up: bool) {
        self.looks_up = looks_up;
    }

    /// The text side.
    pub fn text(&self) -> &TextModel {
        &self.text
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.sequence.model()
    }

    /// The tokens so far.
    pub fn sequence(&self) -> &Sequence {
        &self.sequence
    }

    /// What stops this session's work: another thread that holds a clone may ask for a stop at any time, which is
    /// heeded within a step too. While it asks, nothing is generated; [`CancelToken::reset`] takes the request back.
    pub fn cancel_token(&self) -> &CancelToken {
        self.sequence.cancel_token()
    }

    /// Forgets the conversation. The random numbers of a seed that was given begin anew, so that the same questions get
    /// the same answers; without one they go on.
    pub fn reset(&mut self) {
        self.sequence.reset();
        self.answers.clear();
    }

    /// Forgets all tokens but the first `length`.
    pub fn truncate(&mut self, length: usize) {
        self.sequence.truncate(length);
    }

    /// A second session that goes on from here, under the plan of now, and without the constraint. Fails as
    /// [`Sequence::fork`] does.
    pub fn fork(&self) -> Result<Session> {
        let (sequence, text) = (self.sequence.fork()?, Arc::clone(&self.text));
        let Session { pace, runs_ahead, looks_up, .. } = *self;
        let (choices, answers) = (self.choices.fork(), self.answers.clone());
        Ok(Session { sequence, text, pace, runs_ahead, looks_up, power: None, choices, answers })
    }

    /// Answers the last of `messages`, the whole conversation from its beginning. What of it has run before, as far as
    /// it is the same, is not run again: an answer of this session keeps the tokens that the model wrote.
    ///
    /// Fails where the model has no chat template, as [`TextModel::encode_chat`] does, and as [`Session::answer`] does.
    pub fn chat(&mut self, messages: &[Message], max_new: Option<usize>) -> Result<Answer<'_>> {
        let Some(ids) = self.text.encode_chat_after(messages, &self.choices.tools, self.answers.known())? else {
            return Err(Error::argument("messages", "a model with a chat template", "a model without one"));
        };
        self.answers.end(self.sequence.tokens(), self.sampled_text());
        let ids = self.answers.kept_in(ids, self.sequence.tokens(), &self.text);
        let same = self.sequence.tokens().iter().zip(&ids).take_while(|(a, b)| a == b).count();
        // The last token runs in any case, as the answer comes of it.
        let same = same.min(ids.len().saturating_sub(1));
        self.sequence.truncate(same);
        self.answer(&ids[same..], max_new)
    }

    /// Goes on with the prompt's tokens, then generates until a stop, an event at a time.
    ///
    /// A session may be prompted again and again: each prompt follows what was said before. Without `max_new` only the
    /// end of the turn and the end of the context stop it. Where [`Session::cancel_token`] asks for a stop after the
    /// first token, that is [`StopReason::Stopped`], and what was generated stands.
    ///
    /// Fails where the prompt is empty. The events fail where it does not fit what is left of the context, where a stop
    /// is asked for before the first token ([`Error::Stopped`]), where the model computes no numbers
    /// ([`Error::NoNumbers`]), and where the device fails.
    pub fn answer(&mut self, prompt: &[u32], max_new: Option<usize>) -> Result<Answer<'_>> {
        if prompt.is_empty() {
            return Err(Error::argument("prompt", "at least one token", 0));
        }
        self.choices.begin()?;
        self.answers.end(self.sequence.tokens(), self.sampled_text());
        let sampled = usize::from(self.sequence.sampled().is_some());
        self.answers.begin(self.sequence.tokens().len() + sampled + prompt.len());
        Ok(Answer::new(self, prompt, max_new))
    }

    /// The whole of [`Session::answer`]: `on_token` sees each token and says what is next.
    ///
    /// Fails as its events do, and where `on_token` fails or asks for a plan that the model cannot follow. The tokens
    /// handed out before stand, and the session can be prompted again.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        max_new: Option<usize>,
        on_token: &mut dyn FnMut(&Token) -> Result<Next>,
    ) -> Result<Summary> {
        let mut answer = self.answer(prompt, max_new)?;
        while let Some(event) = answer.next() {
            match event? {
                Event::Token(token) => match on_token(&token)? {
                    Next::Go => (),
                    Next::Replan(plan) => answer.set_plan(plan)?,
                    Next::Stop => return Ok(answer.stop()),
                },
                Event::Plan(_) => (),
                Event::Done(summary) => return Ok(summary),
            }
        }
        unreachable!("an answer ends with its summary or a failure")
    }

    /// A token boundary: slices come, and weights that have left.
    fn advance(&self) -> Result<()> {
        self.model().advance_unless(self.cancel_token(), self.pace)
    }

    /// Runs tokens, and generates none.
    fn fill(&mut self, tokens: &[u32]) -> Result<TokenDepths> {
        self.advance()?;
        self.sequence.fill(tokens)
    }

    /// Runs `tokens` after those that have run, unless `begun` runs them already, and begins the step after that where
    /// one is wanted and steps are begun ahead: what the step sampled, and the step ahead.
    ///
    /// Where that fails, nothing of it counts.
    fn run_step(
        &mut self,
        begun: Option<PendingStep>,
        tokens: &[u32],
        wants_next: bool,
    ) -> Result<(SampledToken, Option<PendingStep>)> {
        let step = match begun {
            Some(step) => step,
            None => self.sequence.begin(tokens)?,
        };
        // It is between the beginnings of two steps, whether or not the second one is begun ahead, that slices land, so
        // that they land at the same tokens either way.
        let ahead = self.advance().and_then(|()| match wants_next && self.runs_ahead {
            true => self.sequence.begin_after(&step).map(Some),
            false => Ok(None),
        });
        match ahead {
            // Where `finish` fails, it takes back its random number and those after it, that of the step ahead too.
            Ok(ahead) => Ok((self.sequence.finish(step)?, ahead)),
            Err(error) => {
                self.sequence.discard(step);
                Err(error)
            }
        }
    }
}
