//! What the layers with a window keep of a sequence: its last positions, in a ring of cells.

use crate::arch::ModelSpec;
use crate::error::{Error, Result};

/// The ring of a sequence's cells, as all layers have it whose window is so much shorter than the context.
///
/// Position `p` is in cell `p % cells`. A step writes the keys and values of all its tokens before the first of them
/// looks back, so that the ring has room for a window and the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ring {
    /// Cells of a sequence.
    pub cells: u32,
    /// The longest window of these layers.
    pub window: u32,
}

impl Ring {
    /// The cells that a window needs where steps have so many tokens at most, in whole multiples of 64.
    pub fn cells_of(window: u32, step_tokens: u32) -> u32 {
        window.saturating_add(step_tokens).saturating_sub(1).checked_next_multiple_of(64).unwrap_or(u32::MAX)
    }

    /// The ring of a model, where any of its windows needs less cells than the context has tokens.
    pub fn of(spec: &ModelSpec, layers: u32, context: u32, step_tokens: u32) -> Option<Ring> {
        let windows = (0..layers).filter_map(|layer| window(spec, layer));
        let short = windows.filter(|window| Ring::cells_of(*window, step_tokens) < context);
        short.max().map(|window| Ring { cells: Ring::cells_of(window, step_tokens), window })
    }

    /// Whether a layer with such a window has this ring.
    pub fn is_of(self, window: Option<u32>) -> bool {
        window.is_some_and(|window| window <= self.window)
    }

    /// Tokens of a step at most.
    pub fn step_tokens(self) -> u32 {
        self.cells - self.window + 1
    }
}

/// The window of a layer; without it, tokens look at all positions up to their own.
pub fn window(spec: &ModelSpec, layer: u32) -> Option<u32> {
    spec.layer(layer).attention.window
}

/// Which positions of a sequence its ring has.
#[derive(Debug, Clone, Copy)]
pub struct RingHistory {
    /// None where all positions have cells.
    ring: Option<Ring>,
    /// The position behind the last one that was ever written: those before it by more than a ring are lost.
    end: usize,
    /// Whether a position was needed and lost, so that the tokens are to be computed again.
    lost: bool,
}

impl RingHistory {
    /// That of a sequence without tokens.
    pub fn new(ring: Option<Ring>) -> RingHistory {
        RingHistory { ring, end: 0, lost: false }
    }

    /// Takes note of positions that are written. Those from 0 on begin a new history.
    pub fn write(&mut self, first: usize, count: usize) {
        self.end = if first == 0 { count } else { self.end.max(first + count) };
    }

    /// Whether the cells have all that a token at `position` looks at.
    pub fn has_window(&self, position: usize) -> bool {
        let keeps = |ring: Ring| {
            let first = (position + 1).saturating_sub(ring.window as usize);
            self.end <= first + ring.cells as usize
        };
        position == 0 || (!self.lost && self.ring.is_none_or(keeps))
    }

    /// The position behind the last one that was ever written.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Fails where the ring lacks what a token at `position` looks at, which begins after a step under way, so that
    /// nothing can be computed again: more steps behind it were begun and given up than a ring has room for.
    pub fn check_window(&self, position: usize) -> Result<()> {
        if self.has_window(position) {
            return Ok(());
        }
        let most = self.ring.map_or(0, Ring::step_tokens);
        let expected = format!("at most {most} that were begun after the one under way");
        Err(Error::argument("steps given up", expected, self.end.saturating_sub(position)))
    }

    /// Takes note that tokens are to be computed again, until [`RingHistory::recover`], whether or not there are rings.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    /// Takes note that all tokens were computed again, or that there are none.
    pub fn recover(&mut self) {
        self.lost = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::LayerSpec;

    fn spec(windows: &[Option<u32>]) -> ModelSpec {
        let layer = |window: &Option<u32>| {
            let mut layer = LayerSpec::default();
            layer.attention.window = *window;
            layer
        };
        ModelSpec { layers: windows.iter().map(layer).collect(), ..ModelSpec::default() }
    }

    #[test]
    fn a_ring_holds_a_window_and_a_step_and_is_shorter_than_the_context() {
        assert_eq!(Ring::of(&spec(&[None]), 4, 10_000, 512), None);
        let ring = Ring::of(&spec(&[Some(512), None]), 4, 10_000, 512).unwrap();
        assert_eq!(ring, Ring { cells: 1024, window: 512 });
        assert_eq!(ring.step_tokens(), 513);
        assert!(ring.is_of(Some(512)) && ring.is_of(Some(1)) && !ring.is_of(None) && !ring.is_of(Some(513)));
        assert_eq!(Ring::of(&spec(&[Some(512), None]), 4, 1024, 512), None, "the context has no more");
        assert!(Ring::of(&spec(&[Some(512), None]), 4, 1025, 512).is_some());
        // The layer with the longer window has as many cells as the context; that of the shorter one has a ring.
        assert_eq!(Ring::of(&spec(&[Some(4096), Some(512)]), 4, 4096, 512).unwrap().window, 512);
        assert_eq!(Ring::of(&spec(&[Some(1024), Some(512)]), 4, 4096, 512).unwrap().cells, 1536);
        // The only layer has the first kind.
        assert_eq!(Ring::of(&spec(&[None, Some(512)]), 1, 4096, 512), None);
        assert_eq!(Ring::of(&spec(&[Some(u32::MAX)]), 1, 4096, 512), None);
    }

    #[test]
    fn what_is_written_over_is_lost() {
        let ring = Ring { cells: 10, window: 4 };
        let mut history = RingHistory::new(Some(ring));
        history.write(0, 9);
        history.write(9, 6);
        // Positions 5 to 14 are there.
        assert!(history.has_window(15) && history.has_window(8) && !history.has_window(7));
        assert!(history.has_window(0), "the first token looks at itself");
        history.write(8, 1);
        assert!(!history.has_window(7), "what was lost stays so");
        history.lose();
        assert!(!history.has_window(8));
        history.write(0, 8);
        assert!(!history.has_window(8), "a part of it may have failed");
        history.recover();
        assert!(history.has_window(8) && history.has_window(1));
        history.write(8, 3);
        // Positions 1 to 10 are there.
        assert!(history.has_window(4) && !history.has_window(3));
        let message = history.check_window(3).unwrap_err().to_string();
        assert_eq!(message, "steps given up: expected at most 7 that were begun after the one under way, got 8");
        let mut all = RingHistory::new(None);
        all.write(0, 1000);
        assert!(all.has_window(1) && all.check_window(1).is_ok());
        all.lose();
        assert!(!all.has_window(1) && all.has_window(0));
    }
}
