//! The part of an answer that is guessed from the conversation before it, and told once it was chosen.

use std::collections::VecDeque;

use super::Answer;
use crate::model::{AsideTokens, CheckedToken};
use crate::session::lookup::Lookup;

/// What an answer guesses by, and what was chosen and is not told yet.
pub(super) struct Guessing {
    pub lookup: Lookup,
    /// Tokens that were chosen. All but the last one have run.
    chosen: VecDeque<CheckedToken>,
}

impl Guessing {
    /// Of an answer to a prompt after these tokens; of nothing where nothing is to be guessed.
    pub fn new(looks_up: bool, before: &[u32], prompt: &[u32]) -> Guessing {
        let tokens = if looks_up { [before, prompt].concat() } else { Vec::new() };
        Guessing { lookup: Lookup::new(tokens), chosen: VecDeque::new() }
    }

    /// Takes note of a token that is told.
    pub fn push(&mut self, looks_up: bool, token: u32) {
        if looks_up {
            self.lookup.push(token);
        }
    }

    /// Whether tokens that have run are still to be told.
    pub fn has_untold(&self) -> bool {
        !self.chosen.is_empty()
    }
}

impl Answer<'_> {
    /// The next token, where it was chosen together with others or there are guesses of what follows it; otherwise
    /// none, and nothing has run.
    pub(super) fn next_guessed(&mut self) -> Option<CheckedToken> {
        // What was not told before a stop was asked for is not told after it.
        if self.session.sequence.cancel_token().is_cancelled() {
            self.take_back_guessed();
            return None;
        }
        if !self.guessing.has_untold() {
            let guesses = self.guesses();
            if guesses.is_empty() {
                return None;
            }
            self.discard_ahead();
            // What fails with guesses is tried without them, and fails by itself, or does not.
            let checked =
                self.session.advance().and_then(|()| self.session.sequence.check_guesses(&self.run, &guesses));
            let Ok((chosen, read)) = checked else { return None };
            self.guessing.lookup.note(guesses.len(), chosen.len() - 1);
            self.run.clear();
            self.read[1].add(&read);
            self.guessing.chosen = chosen.into();
        }
        self.guessing.chosen.pop_front()
    }

    /// Guesses of what follows the token that runs next.
    fn guesses(&self) -> Vec<u32> {
        let sequence = &self.session.sequence;
        let is_plain = self.session.choices.is_plain() && sequence.chooses_at_once() && self.run.len() == 1;
        if !self.session.looks_up || self.prompt_s.is_none() || !is_plain || !sequence.model().can_check_guesses() {
            return Vec::new();
        }
        let context = sequence.model().context() as usize;
        let room = context.saturating_sub(sequence.tokens().len() + self.run.len() + 1);
        let room = self.max_new.map_or(room, |most| room.min((most - self.generated).saturating_sub(1)));
        self.guessing.lookup.guesses(room, |id| self.session.text.is_end(id))
    }

    /// Takes the tokens that were chosen and not told out of sight, if there are any.
    pub(super) fn set_guessed_aside(&mut self) -> Option<AsideTokens> {
        let first = self.guessing.chosen.front()?;
        Some(self.session.sequence.set_checked_aside(self.guessing.chosen.len(), self.last, first.drawn))
    }

    /// Takes back the tokens that were chosen and not told, so that the last one told runs next.
    pub(super) fn take_back_guessed(&mut self) {
        self.put_back();
        let Some(first) = self.guessing.chosen.front() else { return };
        let (count, drawn) = (self.guessing.chosen.len(), first.drawn);
        self.session.sequence.take_back_checked(count, self.last, drawn);
        self.guessing.chosen.clear();
        self.run = vec![self.last];
    }
}
