// What the kernels read of a token of a step; src/kernels/step_rows.rs has the same struct.

struct StepRow {
    // The token's id, or SAMPLED.
    token: u32,
    // Its position in its sequence.
    position: u32,
    // The first of its sequence's cells in the cache.
    first_cell: u32,
    // Its sequence's entry of all that there is once for each sequence.
    slot: u32,
    // The first of its sequence's entries of `control`, one for each site.
    first_control: u32,
    // The row that gets the depths which routers choose for this one.
    depth_row: u32,
    // Slices read of its row of the embedding.
    embed_depth: u32,
}

// In place of a token's id: the token that the sequence's step before sampled.
const SAMPLED: u32 = 0xffffffffu;
