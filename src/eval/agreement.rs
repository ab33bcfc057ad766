//! How often a model that reads fewer bits chooses the token that the same model chooses with all of them.
//!
//! Both go over a text, and each chooses after every token of it the one that it finds likeliest. If fewer bits drafted
//! tokens for all of them to check, this is how many would be accepted.

use std::ops::ControlFlow;
use std::time::Instant;

use rayon::prelude::*;
use serde::Serialize;

use super::divergence::largest;
use crate::error::{Error, Result};
use crate::model::{BitsRead, Sequence, TokenDepths};
use crate::precision::{Depth, PrecisionPlan};

/// The lengths of drafts that are told, in tokens.
pub const DRAFTS: [usize; 3] = [2, 4, 8];

/// What [`agreement`] found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AgreementReport {
    /// Mean bits asked for.
    pub bits_asked: f32,
    /// Mean bits read of each weight, over the tokens run.
    pub bits: f32,
    /// Those, and the bits of the ranges.
    pub bits_with_ranges: f32,
    /// Share of positions where both choose the same token.
    pub agreement: f64,
    /// The same of several positions in a row, for each of [`DRAFTS`] that fits in a window.
    pub drafts: Vec<DraftFigures>,
    /// Windows evaluated.
    pub windows: usize,
    /// Positions compared.
    pub tokens: usize,
    /// Time, in seconds, without that of the choices that are compared with.
    pub seconds: f64,
    /// What was read, by layer and site.
    #[serde(skip)]
    pub read: BitsRead,
}

/// What would be accepted of drafts of one length.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct DraftFigures {
    /// Tokens of a draft.
    pub tokens: usize,
    /// Mean number of tokens before the first one that both choose differently, over all places where a draft fits.
    pub accepted: f64,
}

/// What the model chooses after each token of each window with all bits of its weights: [windows, tokens]. The plan of
/// `sequence` is afterwards what it was.
///
/// `on_window(done, total)` may break off, and so may [`Sequence::cancel_token`]: both are [`Error::Stopped`]. Fails as
/// [`Sequence::all_logits`] does.
pub fn deepest_choices(
    sequence: &mut Sequence,
    windows: &[&[u32]],
    on_window: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Vec<Vec<u32>>> {
    let plan = sequence.plan().clone();
    sequence.set_plan(&PrecisionPlan::uniform(Depth::FULL, "what fewer bits are compared with"))?;
    let chosen = windows.iter().enumerate().map(|(at, ids)| {
        let (chosen, _) = choices(sequence, ids)?;
        if on_window(at + 1, windows.len()).is_break() { Err(Error::Stopped("eval")) } else { Ok(chosen) }
    });
    let chosen: Result<Vec<Vec<u32>>> = chosen.collect();
    sequence.set_plan(&plan)?;
    chosen
}

/// Compares what the model chooses after each token of each window, under the plan of `sequence`, with `deepest`, which
/// [`deepest_choices`] found for the same windows.
///
/// `on_window(done, total, agreement so far)` may break off, and so may [`Sequence::cancel_token`]: both are
/// [`Error::Stopped`]. Fails where there is no window, and as [`Sequence::all_logits`] does. Panics where `deepest` is
/// of other windows.
pub fn agreement(
    sequence: &mut Sequence,
    windows: &[&[u32]],
    deepest: &[Vec<u32>],
    on_window: &mut dyn FnMut(usize, usize, f64) -> ControlFlow<()>,
) -> Result<AgreementReport> {
    assert!(windows.iter().map(|ids| ids.len()).eq(deepest.iter().map(Vec::len)), "choices of the same windows");
    if windows.is_empty() {
        return Err(Error::argument("windows", "one or more", 0));
    }
    let (start, mut read) = (Instant::now(), BitsRead::new(sequence.model().shape()));
    let (mut all, mut drafts) = (Accepted::of(1), DRAFTS.map(Accepted::of));
    for (at, (ids, deepest)) in windows.iter().zip(deepest).enumerate() {
        let (chosen, depths) = choices(sequence, ids)?;
        read.add(&depths);
        let alike: Vec<bool> = chosen.iter().zip(deepest).map(|(own, deepest)| own == deepest).collect();
        all.add(&alike);
        drafts.iter_mut().for_each(|draft| draft.add(&alike));
        if on_window(at + 1, windows.len(), all.mean()).is_break() {
            return Err(Error::Stopped("eval"));
        }
    }
    let fitting = drafts.iter().filter(|draft| draft.places > 0);
    Ok(AgreementReport {
        agreement: all.mean(),
        drafts: fitting.map(|draft| DraftFigures { tokens: draft.tokens, accepted: draft.mean() }).collect(),
        bits_asked: sequence.plan().bits(),
        bits: read.mean(),
        bits_with_ranges: read.mean() + sequence.model().range_bits(),
        windows: windows.len(),
        tokens: all.places,
        seconds: start.elapsed().as_secs_f64(),
        read,
    })
}

/// The likeliest token after each of these, and what was read for each.
fn choices(sequence: &mut Sequence, ids: &[u32]) -> Result<(Vec<u32>, TokenDepths)> {
    let vocab = sequence.model().shape().vocab as usize;
    let mut chosen: Vec<u32> = Vec::with_capacity(ids.len());
    let depths = sequence.all_logits(ids, &mut |_, logits| {
        chosen.par_extend(logits.par_chunks_exact(vocab).map(|logits| largest(logits).0 as u32));
        Ok(())
    });
    Ok((chosen, depths.map_err(|e| e.within("eval"))?))
}

/// Tokens that are accepted of drafts of one length, over all places of a text.
struct Accepted {
    /// Of a draft.
    tokens: usize,
    accepted: usize,
    places: usize,
}

impl Accepted {
    fn of(tokens: usize) -> Accepted {
        Accepted { tokens, accepted: 0, places: 0 }
    }

    /// Adds a window, by whether both choose alike at each of its positions.
    fn add(&mut self, alike: &[bool]) {
        for draft in alike.windows(self.tokens) {
            self.accepted += draft.iter().take_while(|alike| **alike).count();
            self.places += 1;
        }
    }

    /// Tokens of a draft that are accepted, on average.
    fn mean(&self) -> f64 {
        self.accepted as f64 / self.places as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draft_is_accepted_up_to_its_first_other_token_and_stays_in_its_window() {
        let windows = [[true, true, false, true], [false, true, true, true]];
        let of = |tokens| {
            let mut accepted = Accepted::of(tokens);
            windows.iter().for_each(|alike| accepted.add(alike));
            accepted
        };
        assert_eq!(of(1).mean(), 6.0 / 8.0);
        // 2, 1, 0 and 0, 2, 2.
        assert_eq!((of(2).mean(), of(2).places), (7.0 / 6.0, 6));
        // 2 and 0.
        assert_eq!((of(4).mean(), of(4).places), (1.0, 2));
        assert_eq!(of(5).places, 0);
    }
}
