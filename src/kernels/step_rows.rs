//! The rows of a step: what the kernels read of each of its tokens, and which cells its sequence has.

use std::ops::Range;

use crate::recording::Arguments;

/// What the kernels read of a token of a step; the struct `StepRow` of `shaders/shared/step_rows.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct StepRow {
    /// The token's id, or [`StepRow::SAMPLED`].
    pub token: u32,
    /// Its position in its sequence.
    pub position: u32,
    /// The first of its sequence's cells in the cache.
    pub first_cell: u32,
    /// Its sequence's entry of all that there is once for each sequence.
    pub slot: u32,
    /// The first of its sequence's entries of what the host says to the routers, one for each site.
    pub first_control: u32,
    /// The row that gets the depths which routers choose for this one: itself, unless gates are shuffled.
    pub depth_row: u32,
    /// Slices read of its row of the embedding.
    pub embed_depth: u32,
}

impl StepRow {
    /// In place of a token's id: the token that the sequence's step before sampled.
    pub const SAMPLED: u32 = u32::MAX;
    /// Bytes of a row.
    pub const BYTES: u64 = size_of::<StepRow>() as u64;

    /// The cell of the token itself, where each position has one.
    pub fn cell(self) -> usize {
        self.first_cell as usize + self.position as usize
    }

    /// The positions that the token looks at, through a window of so many or without one.
    pub fn visible(self, window: Option<u32>) -> Range<usize> {
        let first = window.map_or(0, |window| (self.position + 1).saturating_sub(window));
        first as usize..self.position as usize + 1
    }
}

/// The cells of a layer's cache; `shaders/shared/cells.wgsl` has the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cells {
    /// C: those of all sequences.
    pub count: u32,
    /// Cells of a sequence, which its positions take in turn, so that it has its last positions only. Without it, each
    /// position has a cell.
    pub ring: Option<u32>,
}

impl Cells {
    /// So many cells, one for each position of each sequence.
    pub const fn of_all_positions(count: u32) -> Cells {
        Cells { count, ring: None }
    }

    /// The cells of a dispatch that has `count` of them.
    pub(crate) fn in_arguments(args: &Arguments<'_>, count: u32) -> Cells {
        Cells { count, ring: Some(args.constant_or("RING", 0)).filter(|ring| *ring > 0) }
    }

    /// The constants of the shaders, where they are not the shaders' own.
    pub(crate) fn constants(self) -> Option<(&'static str, u32)> {
        self.ring.map(|ring| ("RING", ring))
    }

    /// The cell of a position of a row's sequence.
    pub fn cell(self, row: StepRow, position: usize) -> usize {
        match self.ring {
            None => row.first_cell as usize + position,
            Some(ring) => row.slot as usize * ring as usize + position % ring as usize,
        }
    }

    /// The cells of neighbouring positions of a row's sequence, in two stretches of neighbours, of which the second may
    /// be empty. They are no more than a ring has.
    pub(crate) fn stretches(self, row: StepRow, positions: Range<usize>) -> [Range<usize>; 2] {
        let first = self.cell(row, positions.start);
        let room = self.ring.map_or(usize::MAX, |ring| ring as usize - positions.start % ring as usize);
        let (before, after) = (positions.len().min(room), positions.len().saturating_sub(room));
        let start = self.cell(row, positions.start + before);
        [first..first + before, start..start + after]
    }
}
