//! Steps under way: the step whose token comes next, and the one begun ahead of it.
//!
//! The step that runs a token is begun before the host has read that token, so that the device does not wait for the
//! host. It may turn out unwanted: then nothing of it counts. What it wrote to the cache lies beyond the history and is
//! written again before it is read, and its random number is returned.

use super::Session;
use crate::error::Result;
use crate::model::{Chosen, Flight};
use crate::text::DrawPosition;

/// A step under way.
pub(super) struct Running {
    flight: Flight,
    before: DrawPosition,
}

impl Session {
    /// Begins to run tokens after those of the history.
    fn begin_tokens(&mut self, ids: &[u32]) -> Result<Running> {
        let before = self.sampler.position();
        let choice = self.sampler.choice();
        let begun = self.model.begin_tokens(ids, self.history.len() as u32, &choice);
        if begun.is_err() {
            self.sampler.rewind(before);
        }
        Ok(Running { flight: begun?, before })
    }

    /// Runs `tokens` after those of the history, unless `begun` runs them already, and begins the step after that where
    /// one is wanted: what the step chose, where its random number was before, and the step ahead.
    ///
    /// Where that fails, nothing of it counts.
    pub(super) fn run_step(
        &mut self,
        begun: Option<Running>,
        tokens: &[u32],
        wants_next: bool,
    ) -> Result<(Chosen, DrawPosition, Option<Running>)> {
        let running = match begun {
            Some(running) => running,
            None => self.begin_tokens(tokens)?,
        };
        self.land_slices(&running)?;
        let end = self.history.len() + tokens.len();
        let ahead = if wants_next { self.begin_ahead(&running, end)? } else { None };
        let before = running.before;
        Ok((self.finish(running)?, before, ahead))
    }

    /// Lets slices land while `running` runs. It is between the beginnings of two steps, whether or not the second one
    /// is begun ahead, so that they land at the same tokens either way. Where that fails, `running` does not count.
    fn land_slices(&mut self, running: &Running) -> Result<()> {
        let landed = self.model.advance(self.pace);
        if landed.is_err() {
            self.sampler.rewind(running.before);
        }
        landed
    }

    /// Begins to run the token that `running` will choose, at `position`, where steps are begun ahead. Where that
    /// fails, `running` does not count either.
    fn begin_ahead(&mut self, running: &Running, position: usize) -> Result<Option<Running>> {
        if !self.runs_ahead {
            return Ok(None);
        }
        let before = self.sampler.position();
        let choice = self.sampler.choice();
        let begun = self.model.begin_chosen(position as u32, &choice);
        if begun.is_err() {
            self.sampler.rewind(running.before);
        }
        Ok(Some(Running { flight: begun?, before }))
    }

    /// Waits for a step. Where it fails, neither it nor what was begun ahead of it counts.
    fn finish(&mut self, running: Running) -> Result<Chosen> {
        let chosen = self.model.finish(running.flight);
        if chosen.is_err() {
            self.sampler.rewind(running.before);
        }
        chosen
    }

    /// Drops what was begun ahead, if anything was; no step is ahead then.
    pub(super) fn give_up(&mut self, ahead: Option<Running>) -> Option<Running> {
        if let Some(ahead) = ahead {
            self.sampler.rewind(ahead.before);
        }
        None
    }
}
