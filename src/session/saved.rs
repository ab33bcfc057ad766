//! Sessions that outlive their process or their device: saved to a file and restored, or taken to another device.

use std::path::Path;

use super::Session;
use super::own_tokens::OwnAnswers;
use crate::error::{Error, Result};
use crate::format::{SESSION_VERSION, SavedDraws, SavedSession, SavedSessionWriter, SessionFacts};
use crate::model::{Model, ModelIdentity};
use crate::text::Message;

/// What a saved session has of its context.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SavedContext {
    /// The tokens, a few kilobytes. They are computed again before the next ones run.
    #[default]
    Tokens,
    /// The tokens, and the keys and values in the bits in which the cache stores them: as many bytes as the context
    /// takes on the device. Nothing is computed again.
    KeysAndValues,
}

/// What [`Session::restore`] found.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Restored {
    /// The conversation, as it was given to [`Session::save`].
    pub messages: Vec<Message>,
    /// Tokens that the session has now.
    pub tokens: usize,
    /// Why these are computed again before the next ones run, in words; none where their keys and values are there.
    pub computed_again: Option<String>,
}

impl Session {
    /// Saves the session to a file: its tokens, the conversation `messages`, and on request keys and values; its bytes.
    /// The file appears whole or not at all, and replaces a saved session that is there.
    ///
    /// Fails where the model is of no model folder, where another file is there, where none can be written, and where
    /// the device fails.
    pub fn save(&self, path: impl AsRef<Path>, messages: &[Message], context: SavedContext) -> Result<u64> {
        let ModelIdentity { name, sha256 } = identity(self.model())?;
        let (sequence, mut answers) = (&self.sequence, self.answers.clone());
        let (tokens, sampled) = (sequence.tokens(), sequence.sampled());
        answers.end(tokens, self.sampled_text());
        let message = |message| serde_json::to_value(message).expect("messages have only text");
        let cells = if context == SavedContext::KeysAndValues { sequence.cells() } else { None };
        let has_cells = cells.is_some();
        let facts = SessionFacts {
            session_version: SESSION_VERSION,
            model_sha256: sha256.clone(),
            model_name: name.clone(),
            tokens: tokens.len() as u32,
            sampled,
            answers: answers.ranges(tokens, sampled),
            draws: sequence.draws().map(|position| SavedDraws { seed: sequence.seed(), position }),
            messages: messages.iter().map(message).collect(),
            cells,
        };
        let mut file = SavedSessionWriter::create(path.as_ref(), &facts, tokens)?;
        if has_cells {
            sequence.read_cells(&mut |tensor, bytes| file.write_cells(tensor, bytes))?;
        }
        file.finish()
    }

    /// Goes on where the saved session at `path` ended, in the place of this session's own conversation. Plan and
    /// sampling stay; the random numbers go on where they were, if the seed is the same.
    ///
    /// The tokens are computed again before the next ones run where the file has no keys and values, or where these do
    /// not fit this session's cache. Where the tokens are more than the context holds, the session is empty, and the
    /// messages say what was said.
    ///
    /// Fails where the file is damaged, is no saved session, is of another version or of another model, and where the
    /// context holds neither its tokens nor messages stand for them; the session is then as it was. Fails too where the
    /// device fails; the tokens are then the file's.
    pub fn restore(&mut self, path: impl AsRef<Path>) -> Result<Restored> {
        let path = path.as_ref();
        let saved = SavedSession::open(path)?;
        let facts = saved.facts();
        check_model(path, facts, identity(self.model())?)?;
        let messages = messages_of(path, facts)?;
        let (vocab, context) = (self.model().shape().vocab, self.model().context() as usize);
        if let Some(id) = saved.tokens().iter().chain(&facts.sampled).find(|id| **id >= vocab) {
            return Err(Error::damaged(path, "tokens", format!("ids below {vocab}"), id));
        }
        let tokens = saved.tokens().len();
        if tokens > context {
            if messages.is_empty() {
                let trained = self.model().shape().max_context as usize;
                return Err(Error::PromptTooLong { tokens, context, trained });
            }
            self.reset();
            let why = format!("its {tokens} tokens are more than this context of {context} holds");
            return Ok(Restored { messages, tokens: 0, computed_again: Some(why) });
        }
        self.answers = OwnAnswers::of_ranges(&facts.answers, saved.tokens(), facts.sampled);
        if let Some(draws) = facts.draws.filter(|draws| draws.seed == self.sequence.seed()) {
            self.sequence.set_draws(draws.position);
        }
        let computed_again = match &facts.cells {
            Some(layout) => {
                let cells = |tensor| saved.cells(tensor);
                self.sequence.replace_cells(saved.tokens(), facts.sampled, layout, &cells)?
            }
            None => {
                self.sequence.replace_tokens(saved.tokens(), facts.sampled)?;
                (tokens > 0).then(|| "it has no keys and values".to_string())
            }
        };
        Ok(Restored { messages, tokens, computed_again })
    }

    /// A session on another model that goes on from here, such as on the same one opened anew after its device was
    /// lost: with the same tokens, plan, stop strings, bias, tools and random numbers to come. The tokens are computed
    /// again before the next ones run. A power state is not followed any more, and a constraint does not come along.
    ///
    /// Fails where the other model is of another folder, where its context does not hold the tokens, and as
    /// [`Session::new`] does.
    pub fn resume_on(&self, model: &Model) -> Result<Session> {
        if let (Some(own), Some(other)) = (self.model().identity(), model.identity())
            && own.sha256 != other.sha256
        {
            let named = |identity: &ModelIdentity| format!("{} of SHA-256 {}", identity.name, identity.sha256);
            return Err(Error::argument("model", named(own), named(other)));
        }
        let (sequence, text, power) = (self.sequence.resume_on(model)?, self.text.clone(), None);
        let (pace, runs_ahead, looks_up) = (self.pace, model.overlaps(), !model.overlaps());
        let (choices, answers) = (self.choices.fork(), self.answers.clone());
        Ok(Session { sequence, text, pace, runs_ahead, looks_up, power, choices, answers })
    }

    /// The token that was sampled last, where it has not run and belongs to an answer.
    pub(super) fn sampled_text(&self) -> Option<u32> {
        self.sequence.sampled().filter(|id| !self.text.is_end(*id))
    }
}

fn identity(model: &Model) -> Result<&ModelIdentity> {
    model.identity().ok_or_else(|| Error::argument("model", "one of a model folder", "one that is of none"))
}

fn check_model(path: &Path, facts: &SessionFacts, here: &ModelIdentity) -> Result<()> {
    if facts.model_sha256 == here.sha256 {
        return Ok(());
    }
    let name = format!("model of the saved session `{}`", path.display());
    let named = |name: &str, sha256: &str| format!("{name}, whose manifest has the SHA-256 {sha256}");
    Err(Error::argument(name, named(&here.name, &here.sha256), named(&facts.model_name, &facts.model_sha256)))
}

fn messages_of(path: &Path, facts: &SessionFacts) -> Result<Vec<Message>> {
    let message = |value: &serde_json::Value| {
        let fault = |fault| Error::damaged(path, "messages", "a role and a content", fault);
        serde_json::from_value(value.clone()).map_err(fault)
    };
    facts.messages.iter().map(message).collect()
}
