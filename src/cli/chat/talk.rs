//! A conversation on a session: what is said, the answers, and the commands between them.

use std::io::IsTerminal;
use std::path::Path;

use super::args::ChatArgs;
use super::thinking::Thinking;
use crate::cli::generate::{self, bits_style};
use crate::cli::output::{TokenOutput, note};
use crate::cli::power::{Follower, PowerArgs};
use crate::cli::show_bits::BitsStyle;
use crate::cli::{exit, progress, resident, stop};
use edge_run::internals::error::{Error, Result};
use edge_run::internals::model::Model;
use edge_run::internals::power::PowerMode;
use edge_run::internals::session::{Answer, Event, SavedContext, Session, StopReason, Summary};
use edge_run::internals::text::{Message, Role};

/// The part of the context that is kept for an answer: one of so many.
const ANSWER_PART: usize = 4;

/// A conversation.
pub struct Talk<'a> {
    args: &'a ChatArgs,
    /// Opens the model anew, where its device was lost.
    open: &'a dyn Fn() -> Result<Model>,
    session: Session,
    follower: Follower,
    messages: Vec<Message>,
    /// The last question.
    asked: Option<String>,
    /// Whether the last two messages are that question and its answer.
    is_answered: bool,
    /// How text shows the bits of each token, if it does.
    style: Option<BitsStyle>,
    /// Whether thoughts are dimmed.
    dims: bool,
    tokens: usize,
    last: Option<Summary>,
    /// Whether it was told that the memory budget has no room for the bits that were asked for.
    told_what_fits: bool,
}

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerEnd {
    /// It is there, as far as it was wanted.
    Told,
    /// The reader of the answers has gone away.
    Closed,
}

impl<'a> Talk<'a> {
    /// A conversation that begins.
    pub fn new(
        args: &'a ChatArgs,
        open: &'a dyn Fn() -> Result<Model>,
        session: Session,
        follower: Follower,
    ) -> Talk<'a> {
        let terminal = std::io::stdout().is_terminal();
        let can = BitsStyle::choose(args.color, terminal, &|name| std::env::var(name).ok()) != BitsStyle::Marks;
        Talk {
            messages: args.system.iter().map(Message::system).collect(),
            style: bits_style(args.show_bits, args.color),
            dims: terminal && can,
            args,
            open,
            session,
            follower,
            asked: None,
            is_answered: false,
            tokens: 0,
            last: None,
            told_what_fits: false,
        }
    }

    /// Answers a question. Where there is no answer, the question is as if it had not been asked, but for
    /// [`Talk::retry`].
    pub fn ask(&mut self, question: String) -> Result<AnswerEnd> {
        if let Some(words) = resident::weights_that_left(self.session.model().weights_report().presence) {
            note(format_args!("note: {words}, and come back before the answer"));
        }
        self.tell_what_fits();
        self.asked = Some(question.clone());
        self.is_answered = false;
        self.messages.push(Message::user(question));
        let mut end = self.answer();
        if let Err(error @ Error::Device { .. }) = &end
            && self.is_unanswered()
        {
            note(format_args!("error: {}; the model is opened again", exit::sentence(error)));
            // Where that fails too, the device's own error tells more.
            if self.reopen().is_ok() {
                end = self.answer();
            }
        }
        if end.is_err() && self.is_unanswered() {
            self.messages.pop();
        }
        end
    }

    /// Tells once that the memory budget has no room for the bits that are asked for. Slices that are still on their
    /// way have room.
    fn tell_what_fits(&mut self) {
        if self.told_what_fits || self.args.resident.memory_budget.is_none() {
            return;
        }
        let asked = self.follower.decision().bits;
        let fitting = self.session.model().fitting_depth().bits() as f32;
        self.told_what_fits = generate::tell_what_fits(fitting.min(asked), asked);
    }

    /// Whether a question is the last that was said.
    fn is_unanswered(&self) -> bool {
        self.messages.last().is_some_and(|last| last.role == Role::User)
    }

    /// Goes on with the model opened anew, after its device was lost in a suspend or with its driver.
    fn reopen(&mut self) -> Result<()> {
        let mut session = self.session.resume_on(&(self.open)()?)?;
        generate::warn(&resident::begin(&self.args.resident, &self.follower, &mut session)?);
        self.session = session;
        Ok(())
    }

    /// Answers the last question again, where there is one.
    pub fn retry(&mut self) -> Result<AnswerEnd> {
        let Some(question) = self.asked.clone() else {
            note("/retry: nothing was asked yet");
            return Ok(AnswerEnd::Told);
        };
        if self.is_answered {
            self.messages.truncate(self.messages.len() - 2);
        }
        self.ask(question)
    }

    fn answer(&mut self) -> Result<AnswerEnd> {
        let most = usize::try_from(self.args.n_predict).ok();
        let part = self.session.model().context() as usize / ANSWER_PART;
        let dropped = self.session.drop_old_turns(&mut self.messages, most.unwrap_or(part).min(part))?;
        if dropped > 0 {
            note(format_args!("note: the context is full, so that the {dropped} oldest messages are forgotten"));
        }
        let mut thinking = match self.dims {
            true => Thinking::after(&self.session.text().render_chat(&self.messages)?.unwrap_or_default()),
            false => Thinking::Over,
        };
        let mut output = TokenOutput::stdout(false, self.style);
        let mut said = String::new();
        let has_routers = self.session.model().has_routers();
        let mut answer = self.session.chat(&self.messages, most)?;
        let summary = loop {
            let event = match answer.next() {
                Some(Ok(event)) => event,
                Some(Err(error)) => {
                    output.end_line()?;
                    drop(answer);
                    return self.end_early(said, error);
                }
                None => unreachable!("an answer ends with its summary or a failure"),
            };
            match event {
                Event::Token(token) => {
                    output.token_in(&token, thinking.push(&token.text))?;
                    generate::warn(&token.faults);
                    said += &token.text;
                    self.tokens += 1;
                    if output.is_closed() {
                        return Ok(AnswerEnd::Closed);
                    }
                    replan(&mut answer, &mut self.follower, (self.tokens, has_routers), &mut output)?;
                }
                Event::Done(summary) => break summary,
                _ => (),
            }
        };
        drop(answer);
        output.rest(&summary.text_left)?;
        output.end_line()?;
        said += &summary.text_left;
        self.answered(said);
        let closed = output.is_closed();
        drop(output);
        self.tell(&summary);
        self.last = Some(summary);
        Ok(if closed { AnswerEnd::Closed } else { AnswerEnd::Told })
    }

    fn answered(&mut self, said: String) {
        self.messages.push(Message::assistant(said));
        self.is_answered = true;
    }

    /// What is left of an answer that failed: what was said of it stands.
    fn end_early(&mut self, said: String, error: Error) -> Result<AnswerEnd> {
        if !said.is_empty() {
            self.answered(said);
        }
        match error {
            Error::Stopped(_) if stop::asked() && !stop::leaving() => {
                self.messages.pop_if(|last| last.role == Role::User);
                note("stopped before the first token; /retry asks again");
                Ok(AnswerEnd::Told)
            }
            other => Err(other),
        }
    }

    fn tell(&self, summary: &Summary) {
        if self.args.verbose {
            note(generate::sentence(summary, self.session.model().device()));
        } else if let StopReason::ContextFull | StopReason::Length | StopReason::Stopped = summary.stop {
            note(format_args!("[{}]", summary.stop));
        }
    }

    /// Tells about the last answer, the context and what is read.
    pub fn stats(&self) {
        let model = self.session.model();
        if let Some(summary) = &self.last {
            note(generate::sentence(summary, model.device()));
        }
        let (tokens, messages) = (self.session.sequence().tokens().len(), self.messages.len());
        note(format_args!("context: {tokens} of {} tokens, {messages} messages", model.context()));
        if let Some(words) = resident::weights_in_words(model.weights_report(), self.args.keep_alive.is_some()) {
            note(format_args!("weights: {words}; {} of memory now", progress::bytes(model.allocated_bytes())));
        }
        self.tell_plan();
    }

    /// Tells what is read, and why.
    pub fn tell_plan(&self) {
        let (plan, prompt_bits) = (self.session.plan(), self.session.sequence().prompt_bits());
        note(format_args!(
            "plan: {}",
            generate::plan_in_words(plan, prompt_bits, self.session.model().outer_depth(plan))
        ));
    }

    /// Reads so many bits from here on, or what the power state allows.
    pub fn set_bits(&mut self, bits: Option<f32>) -> Result<()> {
        let mode = bits.is_none().then_some(PowerMode::Auto);
        self.steer(PowerArgs { bits, power_mode: mode, ..self.args.power.clone() })
    }

    /// Reads the bits of a power mode from here on.
    pub fn set_mode(&mut self, mode: PowerMode) -> Result<()> {
        self.steer(PowerArgs { bits: None, power_mode: Some(mode), ..self.args.power.clone() })
    }

    fn steer(&mut self, power: PowerArgs) -> Result<()> {
        let follower = Follower::start(&power, self.session.model().has_routers())?;
        self.session.set_plan(follower.plan()?)?;
        self.follower = follower;
        self.tell_plan();
        Ok(())
    }

    /// Sets the assistant up from here on.
    pub fn set_up(&mut self, system: Option<String>) {
        self.messages.retain(|message| message.role != Role::System);
        if let Some(system) = system {
            self.messages.insert(0, Message::system(system));
        }
    }

    /// Forgets what was said, but for what sets the assistant up.
    pub fn clear(&mut self) {
        self.messages.retain(|message| message.role == Role::System);
        self.session.truncate(0);
        (self.asked, self.is_answered, self.last) = (None, false, None);
    }

    /// Saves the conversation in a folder that is there: another one is more likely mistyped than meant.
    pub fn save(&self, file: &Path, keys: bool) -> Result<()> {
        let folder =
            file.parent().filter(|folder| !folder.as_os_str().is_empty() && matches!(folder.try_exists(), Ok(false)));
        if let Some(folder) = folder {
            let words = format!("the folder `{}` is not there", folder.display());
            return Err(Error::io("write", file)(std::io::Error::new(std::io::ErrorKind::NotFound, words)));
        }
        let context = if keys { SavedContext::KeysAndValues } else { SavedContext::Tokens };
        let bytes = self.session.save(file, &self.messages, context)?;
        let (messages, bytes) = (self.messages.len(), progress::bytes(bytes));
        note(format_args!("saved {messages} messages to `{}`, {bytes}", file.display()));
        Ok(())
    }

    /// Goes on with a saved conversation.
    pub fn load(&mut self, file: &Path) -> Result<()> {
        let restored = self.session.restore(file)?;
        let (messages, tokens) = (restored.messages.len(), restored.tokens);
        let again = restored.computed_again.map_or(String::new(), |why| format!("; computed again, as {why}"));
        note(format_args!("loaded {messages} messages and {tokens} tokens{again}"));
        self.messages = restored.messages;
        let asked = self.messages.iter().rev().find(|message| message.role == Role::User);
        self.asked = asked.map(|message| message.content.clone());
        self.is_answered = matches!(&self.messages[..], [.., asked, answer]
            if (asked.role, answer.role) == (Role::User, Role::Assistant));
        self.last = None;
        Ok(())
    }
}

/// Lets an answer follow the power state, and tells of it.
fn replan<W: std::io::Write>(
    answer: &mut Answer<'_>,
    follower: &mut Follower,
    (tokens, has_routers): (usize, bool),
    output: &mut TokenOutput<W>,
) -> Result<()> {
    if let Some(change) = follower.before(tokens) {
        output.change(tokens, &change)?;
        answer.set_plan(change.decision.plan(has_routers)?)?;
    }
    Ok(())
}
