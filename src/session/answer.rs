//! An answer as it is generated: one event after the other, for the caller to take at its own pace.

use std::time::Instant;

use super::{Event, Session, StopReason, Summary, Token};
use crate::error::{Error, Result};
use crate::model::{BitsRead, PendingStep, SampledToken};
use crate::precision::PrecisionPlan;
use crate::shape::Site;
use crate::text::Detokenizer;

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
            read: [nothing.clone(), nothing],
            session,
            start: Instant::now(),
            prompt_s: None,
            prompt_tokens: prompt.len(),
            max_new,
            generated: 0,
            run,
            ahead: None,
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
        let begun = self.ahead.take();
        let sampled = match self.session.run_step(begun, &self.run, !full && !enough) {
            Ok((sampled, ahead)) => {
                self.ahead = ahead;
                sampled
            }
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
        if full || enough {
            self.state = AnswerState::Done(if full { StopReason::ContextFull } else { StopReason::Length });
        } else {
            self.run.push(sampled.id);
        }
        Ok(Event::Token(self.token(&sampled, full || enough)))
    }

    fn token(&mut self, sampled: &SampledToken, is_last: bool) -> Token {
        let (text, model) = (&self.session.text, self.session.sequence.model());
        let mut words = self.detokenizer.push(text, sampled.id);
        if is_last {
            words += &self.detokenizer.finish(text);
        }
        Token {
            id: sampled.id,
            text: words,
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
            text_left: self.detokenizer.finish(&self.session.text),
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
