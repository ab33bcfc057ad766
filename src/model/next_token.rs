//! Steps that choose the token after them, begun before the step before them is over.

use super::{Kind, Model, TokenDepths};
use crate::error::{Error, Result};
use crate::kernels::sample::token::Sampled;
use crate::recording::Ticket;
use crate::sampling::Choice;

/// A step under way. One that is dropped runs all the same, and nobody is told what it chose.
pub struct Flight {
    ticket: Ticket,
    /// Tokens of the last step.
    tokens: u32,
    /// Tokens of the context, these included.
    context_tokens: u32,
    /// Of the steps before it.
    depths: Vec<TokenDepths>,
}

/// What a [`Flight`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// The token that follows.
    pub id: u32,
    /// What was read for each token run.
    pub depths: TokenDepths,
}

impl Model {
    /// Whether the device computes beside the host, so that it pays to begin a step early.
    pub fn overlaps(&self) -> bool {
        self.engine.overlaps()
    }

    /// Begins to run tokens at positions `position` on, filling the cache, and to choose the token that follows, after
    /// these and all that were run at the positions before. At most the last step still runs when it returns:
    /// see [`Model::set_step_tokens`].
    ///
    /// Fails and panics as [`Model::next_logits`] does.
    pub fn begin_tokens(&mut self, ids: &[u32], position: u32, choice: &Choice) -> Result<Flight> {
        self.check(ids, position)?;
        let mut depths = Vec::new();
        let step = self.step_tokens as usize;
        let (filling, last) = ids.split_at((ids.len() - 1) / step * step);
        for (at, ids) in filling.chunks(step).enumerate() {
            let position = position + (at * step) as u32;
            self.inputs.write_tokens(self.engine.as_mut(), ids, position);
            depths.push(self.run(Kind::Fill, self.step_tokens, position)?.1);
        }
        let position = position + filling.len() as u32;
        self.inputs.write_tokens(self.engine.as_mut(), last, position);
        self.begin(last.len() as u32, position, depths, choice)
    }

    /// Begins to run the token that the step begun last chooses, at `position`, and to choose the one that follows. The
    /// step before need not be over; it is one that chooses.
    ///
    /// Fails where the position leaves the context, and where the device fails.
    pub fn begin_chosen(&mut self, position: u32, choice: &Choice) -> Result<Flight> {
        // Any token of the vocabulary will do for the check. A step that could not choose leaves none, which this one
        // embeds as nothing in particular; whoever waits for the step before is told.
        self.check(&[0], position)?;
        self.inputs.write_positions(self.engine.as_mut(), position, 1);
        self.begin(1, position, Vec::new(), choice)
    }

    /// Waits for a step. Fails where no logit is a finite number, where it was stopped, and where the device
    /// fails; the cache before the step's positions is as it was.
    pub fn finish(&mut self, flight: Flight) -> Result<Chosen> {
        let Flight { ticket, tokens, context_tokens, mut depths } = flight;
        let (sampled, read) = self.results(tokens, ticket)?;
        depths.push(read);
        let sampled: Sampled = bytemuck::pod_read_unaligned(&sampled.expect("the step reads back its choice"));
        if !sampled.is_sound() {
            return Err(self.no_numbers(context_tokens as usize));
        }
        Ok(Chosen { id: sampled.id, depths: TokenDepths::concat(&depths) })
    }

    /// The error of a step whose logits are no numbers, after so many tokens of the context.
    pub(super) fn no_numbers(&self, tokens: usize) -> Error {
        Error::NoNumbers { device: self.engine.info().name.clone(), tokens }
    }

    fn begin(&mut self, tokens: u32, position: u32, depths: Vec<TokenDepths>, choice: &Choice) -> Result<Flight> {
        self.inputs.write_choice(self.engine.as_mut(), choice);
        let ticket = self.submit(Kind::NextToken, tokens, position)?;
        Ok(Flight { ticket, tokens, context_tokens: position + tokens, depths })
    }
}
