//! The part of an answer that is guessed from the conversation before it, and told once it was chosen.

use std::collections::VecDeque;

use super::Answer;
use crate::error::{Error, Result};
use crate::model::CheckedToken;
use crate::session::lookup::Lookup;

/// What an answer guesses by, and what was chosen and is not told yet.
pub(super) struct Guessing {
    pub lookup: Lookup,
    /// Tokens that were chosen. All but the last one have run.
    chosen: VecDeque<CheckedToken>,
}

impl Guessing {
    /// Of an answer to these tokens.
    pub fn new(tokens: Vec<u32>) -> Guessing {
        Guessing { lookup: Lookup::new(tokens), chosen: VecDeque::new() }
    }

    /// Whether tokens that have run are still to be told.
    pub fn has_untold(&self) -> bool {
        !self.chosen.is_empty()
    }
}

impl Answer<'_> {
    /// The next token, where it was chosen together with others or there are guesses of what follows it; otherwise
    /// none, and nothing has run.
    pub(super) fn next_guessed(&mut self) -> Result<Option<CheckedToken>> {
        if !self.guessing.has_untold() {
            let guesses = self.guesses();
            if guesses.is_empty() {
                return Ok(None);
            }
            self.discard_ahead();
            self.session.advance()?;
            let (chosen, read) = match self.session.sequence.check_guesses(&self.run, &guesses) {
                Err(Error::Stopped(_)) => return Ok(None),
                checked => checked?,
            };
            self.guessing.lookup.note(guesses.len(), chosen.len() - 1);
            self.run.clear();
            self.read[1].add(&read);
            self.guessing.chosen = chosen.into();
        }
        Ok(self.guessing.chosen.pop_front())
    }

    /// Guesses of what follows the token that runs next.
    fn guesses(&self) -> Vec<u32> {
        let sequence = &self.session.sequence;
        let is_plain = self.session.choices.is_plain() && sequence.chooses_plainly() && self.run.len() == 1;
        if !self.session.looks_up || self.prompt_s.is_none() || !is_plain {
            return Vec::new();
        }
        let context = sequence.model().context() as usize;
        let room = context.saturating_sub(sequence.tokens().len() + self.run.len() + 1);
        let room = self.max_new.map_or(room, |most| room.min((most - self.generated).saturating_sub(1)));
        self.guessing.lookup.guesses(room, |id| self.session.text.is_end(id))
    }

    /// Takes back the tokens that were chosen and not told, so that the last one told runs next.
    pub(super) fn take_back_guessed(&mut self) {
        let Some(first) = self.guessing.chosen.front() else { return };
        let (count, drawn) = (self.guessing.chosen.len(), first.drawn);
        self.session.sequence.take_back_checked(count, self.last, drawn);
        self.guessing.chosen.clear();
        self.run = vec![self.last];
    }
}
