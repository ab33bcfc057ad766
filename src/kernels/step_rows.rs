//! The rows of a step: what the kernels read of each of its tokens.

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

    /// The cell of its keys and values.
    pub fn cell(self) -> usize {
        self.first_cell as usize + self.position as usize
    }
}
