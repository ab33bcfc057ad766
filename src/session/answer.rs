//! An answer as it is generated: one event after the other, for the caller to take at its own pace.

mod guessing;
mod state;
mod summary;

use std::collections::VecDeque;
use std::time::Instant;

use super::{Event, Session, StopReason, Summary, Token};
use crate::error::{Error, Result};
use crate::model::{AsideTokens, BitsRead, PendingLogits, PendingStep, SampledToken};
use crate::precision::PrecisionPlan;
use crate::text::{Detokenizer, DrawPosition, StopMatcher};
use guessing::Guessing;
use state::AnswerState;

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
    /// Those of them that nothing was chosen for.
    forced_tokens: usize,
    /// Tokens that run next.
    run: Vec<u32>,
    /// The step that runs them, where it was begun ahead.
    ahead: Option<PendingStep>,
    /// The same of an answer with a constraint, which chooses after it.
    logits_ahead: Option<PendingLogits>,
    /// The last ones of the tokens that run next which a constraint forced, and which are not told yet.
    forced: VecDeque<u32>,
    /// Whether these have run.
    forced_ran: bool,
    /// What was chosen after them, which is told after them.
    chosen: Option<SampledToken>,
    /// Where the random numbers were before that choice.
    drawn: DrawPosition,
    /// What has run and is not told, while the caller looks at the session.
    aside: Option<AsideTokens>,
    guessing: Guessing,
    /// The token that was told last.
    last: u32,
    state: AnswerState,
}

impl<'s> Answer<'s> {
    pub(super) fn new(session: &'s mut Session, prompt: &[u32], max_new: Option<usize>) -> Answer<'s> {
        let nothing = BitsRead::new(session.sequence.model().shape());
        let run: Vec<u32> = session.sequence.sampled().iter().chain(prompt).copied().collect();
        let guessing = Guessing::new(session.looks_up, session.sequence.tokens(), &run);
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
            forced_tokens: 0,
            run,
            ahead: None,
            logits_ahead: None,
            forced: VecDeque::new(),
            forced_ran: false,
            chosen: None,
            drawn: DrawPosition::default(),
            aside: None,
            guessing,
            last: 0,
            state: AnswerState::Step,
        }
    }

    /// The session as it stands between two tokens, to be looked at and saved: with what was told of the answer, and
    /// without tokens that a constraint forces and that have run ahead of that.
    pub fn session(&mut self) -> &Session {
        if self.aside.is_none() {
            self.aside = match self.told_length() {
                Some(told) => Some(self.session.sequence.set_aside(told, self.drawn)),
                None => self.set_guessed_aside(),
            };
        }
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
        self.forget_untold();
        let stop = match self.state {
            AnswerState::Done(stop) => stop,
            AnswerState::Step | AnswerState::Changed | AnswerState::Over => StopReason::Stopped,
        };
        self.state = AnswerState::Over;
        self.summary(stop)
    }

    fn discard_ahead(&mut self) {
        self.take_back_guessed();
        self.logits_ahead = None;
        if let Some(ahead) = self.ahead.take() {
            self.session.sequence.discard(ahead);
        }
    }

    /// How many of the tokens that have run were told, where some were not: those that were forced and the choice after
    /// them.
    fn told_length(&self) -> Option<usize> {
        let untold = self.forced_ran && (!self.forced.is_empty() || self.chosen.is_some());
        untold.then(|| self.session.sequence.tokens().len() - self.forced.len())
    }

    /// Goes on from what has run, after somebody looked at the session.
    fn put_back(&mut self) {
        if let Some(aside) = self.aside.take() {
            self.session.sequence.put_back(aside);
        }
    }

    /// Takes back what has run and was not told.
    fn forget_untold(&mut self) {
        self.put_back();
        self.discard_ahead();
        if let Some(told) = self.told_length() {
            self.session.sequence.take_back(told, self.drawn);
            self.forced.clear();
            self.chosen = None;
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

    /// Tells the next token, for which a step runs unless it has run before.
    fn step(&mut self) -> Result<Event> {
        if self.max_new == Some(0) {
            let depths = self.session.fill(&self.run)?;
            self.read[0].add(&depths);
            self.run.clear();
            return Ok(self.done(StopReason::Length));
        }
        if let Some(checked) = self.next_guessed() {
            return self.tell(&checked.sampled);
        }
        if self.prompt_s.is_none() {
            self.force();
        }
        if self.forced.is_empty() || !self.forced_ran {
            if self.chosen.is_none() {
                match self.run_next() {
                    Ok(chosen) => self.chosen = chosen,
                    Err(Error::Stopped(_)) if self.generated > 0 => return Ok(self.done(StopReason::Stopped)),
                    Err(error) => return Err(error.within("the prompt")),
                }
            }
            self.forced_ran = !self.forced.is_empty();
        }
        match (self.forced.pop_front(), self.chosen.take()) {
            (Some(id), chosen) => {
                self.chosen = chosen;
                Ok(self.tell_forced(id))
            }
            (None, Some(sampled)) => self.tell(&sampled),
            (None, None) => unreachable!("a step that chooses nothing has tokens that were forced"),
        }
    }

    /// Runs the tokens that run next, and chooses the one after them, unless the answer ends before it.
    fn run_next(&mut self) -> Result<Option<SampledToken>> {
        let context = self.session.sequence.model().context() as usize;
        let full = self.session.sequence.tokens().len() + self.run.len() >= context;
        let after = self.generated + self.forced.len();
        self.drawn = self.session.sequence.drawn();
        let ended = !self.forced.is_empty() && (self.is_enough(after) || self.session.choices.is_complete());
        let (depths, sampled) = if ended {
            (self.session.fill(&self.run)?, None)
        } else {
            let sampled = self.choose(!full && !self.is_enough(after + 1))?;
            (sampled.depths.clone(), Some(sampled))
        };
        self.run.clear();
        self.read[usize::from(self.prompt_s.is_some())].add(&depths);
        self.prompt_s.get_or_insert_with(|| self.start.elapsed().as_secs_f64());
        Ok(sampled)
    }

    /// Whether so many tokens are all that were asked for.
    fn is_enough(&self, tokens: usize) -> bool {
        self.max_new.is_some_and(|most| tokens >= most)
    }

    /// Tells a token that was chosen.
    fn tell(&mut self, sampled: &SampledToken) -> Result<Event> {
        if self.session.text.is_end(sampled.id) {
            self.discard_ahead();
            return Ok(self.done(StopReason::EndOfTurn));
        }
        self.generated += 1;
        let complete = self.session.choices.accept(sampled.id)?;
        let sequence = &self.session.sequence;
        let full = sequence.tokens().len() >= sequence.model().context() as usize;
        let end = match (complete, full, self.is_enough(self.generated)) {
            (true, ..) => Some(StopReason::Complete),
            (_, true, _) => Some(StopReason::ContextFull),
            (.., true) => Some(StopReason::Length),
            _ => None,
        };
        self.last = sampled.id;
        self.guessing.push(self.session.looks_up, sampled.id);
        let words = self.words(sampled.id, end.is_some());
        if !self.ends(end) && !self.guessing.has_untold() {
            self.begin_next(sampled.id);
        }
        let model = self.session.sequence.model();
        let bits = sampled.depths.token_bits(model.shape(), sampled.depths.tokens() - 1);
        let logprobs = self.session.logprobs(sampled);
        Ok(Event::Token(Token { bits, logprobs, ..self.token(sampled.id, words) }))
    }

    /// Tells a token that nothing was chosen for.
    fn tell_forced(&mut self, id: u32) -> Event {
        self.generated += 1;
        self.forced_tokens += 1;
        self.guessing.push(self.session.looks_up, id);
        let complete = self.session.choices.is_complete();
        let is_last = self.forced.is_empty() && self.chosen.is_none();
        let end = is_last.then_some(if complete { StopReason::Complete } else { StopReason::Length });
        let words = self.words(id, is_last);
        self.ends(end);
        Event::Token(self.token(id, words))
    }

    /// Ends the answer with this token where a stop string was found, or where `end` says why.
    fn ends(&mut self, end: Option<StopReason>) -> bool {
        let end = if self.stops.found() { Some(StopReason::StopString) } else { end };
        if let Some(stop) = end {
            self.discard_ahead();
            self.state = AnswerState::Done(stop);
        }
        end.is_some()
    }

    /// Ends the step that runs next, which may be begun already, and begins the one after it where it is wanted and
    /// needs nothing that only the token tells.
    fn choose(&mut self, wants_next: bool) -> Result<SampledToken> {
        if self.session.choices.constraint.is_some() {
            let logits = match self.logits_ahead.take() {
                Some(logits) => logits,
                None => self.session.begin_constrained(&self.run)?,
            };
            let (sampled, ahead) = self.session.finish_constrained(logits, wants_next)?;
            self.logits_ahead = ahead;
            return Ok(sampled);
        }
        let (sampled, ahead) = self.session.run_step(self.ahead.take(), &self.run, wants_next)?;
        self.ahead = ahead;
        Ok(sampled)
    }

    /// Runs the token next, with those that a constraint forces after it. Where steps are begun ahead and some are
    /// forced, their step is begun now that they are known, in place of that of the token alone. Where that fails it is
    /// begun again when it is asked for, so that this token is told first.
    fn begin_next(&mut self, id: u32) {
        self.run.push(id);
        self.force();
        if self.session.choices.constraint.is_none() || !self.session.runs_ahead {
            return;
        }
        let alone = self.logits_ahead.take().filter(|_| self.forced.is_empty());
        if !self.session.choices.is_complete() && !self.is_enough(self.generated + self.forced.len()) {
            self.logits_ahead = alone.or_else(|| self.session.begin_constrained(&self.run).ok());
        }
    }

    /// Adds to the tokens that run next those that must follow, as far as there is room. What is added to logits
    /// changes no choice among one; but where a bias forbids tokens, each is chosen, so that one of these is an error.
    fn force(&mut self) {
        (self.forced, self.forced_ran) = (VecDeque::new(), false);
        if self.session.sequence.forbids_tokens() {
            return;
        }
        let sequence = &self.session.sequence;
        let room = (sequence.model().context() as usize).saturating_sub(sequence.tokens().len() + self.run.len());
        let most = self.max_new.map_or(room, |most| room.min(most - self.generated));
        self.forced = self.session.choices.take_forced(most).into();
        self.run.extend(&self.forced);
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

    fn token(&self, id: u32, words: String) -> Token {
        let model = self.session.sequence.model();
        Token {
            id,
            text: words,
            device_bytes: model.allocated_bytes(),
            slices: model.slices(),
            faults: model.take_faults(),
            ..Token::default()
        }
    }

    fn done(&mut self, stop: StopReason) -> Event {
        self.state = AnswerState::Over;
        let summary = self.summary(stop);
        self.forget_untold();
        self.session.end_answer();
        Event::Done(summary)
    }
}

impl Iterator for Answer<'_> {
    type Item = Result<Event>;

    fn next(&mut self) -> Option<Result<Event>> {
        self.put_back();
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
        self.forget_untold();
    }
}
