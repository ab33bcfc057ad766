//! An answer as it is generated: one event after the other, for the caller to take at its own pace.

use std::time::Instant;

use super::{Event, Session, StopReason, Summary, Token};
use crate::error::{Error, Result};
use crate::model::{BitsRead, PendingLogits, PendingStep, SampledToken};
use crate::precision::PrecisionPlan;
use crate::shape::Site;
use crate::text::{Detokenizer, StopMatcher};

/// An answer as it is generated: an iterator over [`Event`]s.
///
/// The next token is computed when it is asked for; on devices that compute beside the host, while the caller looks at
/// the one before. An answer that is dropped ends there, and what was generated stands.
///
/// A stop that is asked for before the first token is the error [`Error::Stopped`]; after it, the answer ends with
/// [`StopReason::Stopped`].
///
/// Its errors are those of [`Session::answer`]; the tokens handed out before stand, and the session can be prompted
/// again.
#[must_use = "nothing is generated until the events are asked for"]
pub struct Answer<'s> {
    session: &'s mut Session,
    detokenizer: Detokenizer,
    stops: StopMatcher,
    /// What was read up to the first token, and after it.
    read: [BitsRead; 2],
    start: Instant,
    /// Time up to the first token, in seconds.
    prompt_s: Option<f64>,
    prompt_tokens: usize,
    max_new: Option<usize>,
    generated: usize,
    /// Tokens that run next.
    run: Vec<u32>,
    /// The step that runs them, where it was begun ahead.
    ahead: Option<PendingStep>,
    /// The same of an answer with a constraint, which chooses after it.
    logits_ahead: Option<PendingLogits>,
    state: AnswerState,
}

/// What comes next.
enum AnswerState {
    /// A step runs next.
    Step,
    /// The plan that was set by hand is told next.
    Changed,
    /// The summary is told next.
    Done(StopReason),
    /// All was told.
    Over,
}

impl<'s> Answer<'s> {
    pub(super) fn new(session: &'s mut Session, prompt: &[u32], max_new: Option<usize>) -> Answer<'s> {
        let nothing = BitsRead::new(session.sequence.model().shape());
        let run = session.sequence.sampled().iter().chain(prompt).copied().collect();
        Answer {
            detokenizer: Detokenizer::continuing(&session.text, prompt),
            stops: session.choices.stops.clone(),
            read: [nothing.clone(), nothing],
            session,
            start: Instant::now(),
            prompt_s: None,
            prompt_tokens: prompt.len(),
            max_new,
            generated: 0,
            run,
            ahead: None,
            logits_ahead: None,
            state: AnswerState::Step,
        }
    }

    /// The session, as it stands between two tokens.
    pub fn session(&self) -> &Session {
        self.session
    }

    /// Sets what is read of the weights from the next token on; the context stays as it is. An [`Event::Plan`] follows,
    /// and a power state that was followed is followed no more.
    ///
    /// Fails where the plan is routed and the model has no routers; the plan before then stands.
    pub fn set_plan(&mut self, plan: PrecisionPlan) -> Result<()> {
        self.discard_ahead();
        self.session.set_plan(plan)?;
        if matches!(self.state, AnswerState::Step) {
            self.state = AnswerState::Changed;
        }
        Ok(())
    }

    /// Ends the answer here; what came of it.
    pub fn stop(mut self) -> Summary {
        self.discard_ahead();
        let stop = match self.state {
            AnswerState::Done(stop) => stop,
            AnswerState::Step | AnswerState::Changed | AnswerState::Over => StopReason::Stopped,
        };
        self.state = AnswerState::Over;
        self.summary(stop)
    }

    fn discard_ahead(&mut self) {
        self.logits_ahead = None;
        if let Some(ahead) = self.ahead.take() {
            self.session.sequence.discard(ahead);
        }
    }

    /// Runs the next step, unless the power state calls for another plan before it.
    fn step_under_power(&mut self) -> Result<Event> {
        if self.session.apply_power_change()? {
            self.discard_ahead();
            return Ok(Event::Plan(self.session.plan().clone()));
        }
        self.step()
    }

    /// Runs the next step.
    fn step(&mut self) -> Result<Event> {
        let context = self.session.sequence.model().context() as usize;
        let full = self.session.sequence.tokens().len() + self.run.len() >= context;
        if self.max_new == Some(0) {
            let depths = self.session.fill(&self.run)?;
            self.read[0].add(&depths);
            self.run.clear();
            return Ok(self.done(StopReason::Length));
        }
        let enough = self.max_new.is_some_and(|most| self.generated + 1 >= most);
        let sampled = match self.choose(!full && !enough) {
            Ok(sampled) => sampled,
            Err(Error::Stopped(_)) if self.generated > 0 => return Ok(self.done(StopReason::Stopped)),
            Err(error) => return Err(error.within("the prompt")),
        };
        self.run.clear();
        self.read[usize::from(self.prompt_s.is_some())].add(&sampled.depths);
        self.prompt_s.get_or_insert_with(|| self.start.elapsed().as_secs_f64());
        if self.session.text.is_end(sampled.id) {
            self.discard_ahead();
            return Ok(self.done(StopReason::EndOfTurn));
        }
        self.generated += 1;
        let complete = self.session.choices.accept(sampled.id)?;
        let end = match (complete, full, enough) {
            (true, ..) => Some(StopReason::Complete),
            (_, true, _) => Some(StopReason::ContextFull),
            (.., true) => Some(StopReason::Length),
            _ => None,
        };
        let words = self.words(sampled.id, end.is_some());
        match if self.stops.found() { Some(StopReason::StopString) } else { end } {
            Some(stop) => {
                self.discard_ahead();
                self.state = AnswerState::Done(stop);
            }
            None => self.begin_next(sampled.id),
        }
        Ok(Event::Token(self.token(&sampled, words)))
    }

    /// Ends the step that runs next, which may be begun already, and begins the one after it where it is wanted and
    /// needs nothing that only the token tells.
    fn choose(&mut self, wants_next: bool) -> Result<SampledToken> {
        if self.session.choices.constraint.is_some() {
            let logits = match self.logits_ahead.take() {
                Some(logits) => logits,
                None => self.session.begin_constrained(&self.run)?,
            };
            return self.session.finish_constrained(logits);
        }
        let (sampled, ahead) = self.session.run_step(self.ahead.take(), &self.run, wants_next)?;
        self.ahead = ahead;
        Ok(sampled)
    }

    /// Runs the token next. With a constraint, the step is begun now that its token is known, where steps are begun
    /// ahead. Where that fails it is begun again when it is asked for, so that this token is told first.
    fn begin_next(&mut self, id: u32) {
        self.run.push(id);
        if self.session.choices.constraint.is_some() && self.session.runs_ahead {
            self.logits_ahead = self.session.begin_constrained(&self.run).ok();
        }
    }

    /// The text that became complete with a token, as far as no stop string begins in it.
    fn words(&mut self, id: u32, is_last: bool) -> String {
        let text = &self.session.text;
        let words = self.detokenizer.push(text, id);
        let mut shown = self.stops.push(&words);
        if is_last {
            shown += &self.rest();
        }
        shown
    }

    /// The text that is held back, when nothing follows it.
    fn rest(&mut self) -> String {
        let held = self.detokenizer.finish(&self.session.text);
        let shown = self.stops.push(&held);
        shown + &self.stops.finish()
    }

    fn token(&self, sampled: &SampledToken, words: String) -> Token {
        let model = self.session.sequence.model();
        Token {
            id: sampled.id,
            text: words,
            logprobs: self.session.logprobs(sampled),
            bits: sampled.depths.token_bits(model.shape(), sampled.depths.tokens() - 1),
            device_bytes: model.allocated_bytes(),
            slices: model.slices(),
            faults: model.take_faults(),
        }
    }

    fn done(&mut self, stop: StopReason) -> Event {
        self.state = AnswerState::Over;
        Event::Done(self.summary(stop))
    }

    fn summary(&mut self, stop: StopReason) -> Summary {
        let text_left = self.rest();
        let model = self.session.sequence.model();
        let elapsed = self.start.elapsed().as_secs_f64();
        let prompt_s = *self.prompt_s.get_or_insert(elapsed);
        let [prompt, answer] = &self.read;
        let mut read = prompt.clone();
        read.add_all(answer);
        Summary {
            stop,
            prompt_tokens: self.prompt_tokens,
            generated_tokens: self.generated,
            text_left,
            prompt_s,
            generate_s: elapsed - prompt_s,
            bits: read.mean(),
            prompt_bits: prompt.mean(),
            answer_bits: (answer.tokens() > 0).then(|| answer.mean()),
            bits_by_site: Site::ALL.map(|site| (site.name(), read.of_site(site))),
            device_bytes: model.allocated_bytes(),
            slices: model.slices(),
        }
    }
}

impl Iterator for Answer<'_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        let event = match self.state {
            AnswerState::Over => return None,
            AnswerState::Changed => {
                self.state = AnswerState::Step;
                Ok(Event::Plan(self.session.plan().clone()))
            }
            AnswerState::Done(stop) => Ok(self.done(stop)),
            AnswerState::Step => self.step_under_power(),
        };
        if event.is_err() {
            self.state = AnswerState::Over;
        }
        Some(event)
    }
}

impl std::iter::FusedIterator for Answer<'_> {}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        self.discard_ahead();
    }
}
