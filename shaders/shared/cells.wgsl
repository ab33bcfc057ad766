// Which cell of a layer's cache has a position; src/kernels/step_rows.rs has the same as `Cells`.

// 0: a sequence has a cell for each of its positions. Else it has so many cells, which its positions take in turn.
override RING: u32 = 0u;

// The first cell of a row's sequence.
fn first_cell_of(row: StepRow) -> u32 {
    if RING == 0u {
        return row.first_cell;
    }
    return row.slot * RING;
}

// The place of a position among the cells of its sequence.
fn place_of(position: u32) -> u32 {
    if RING == 0u {
        return position;
    }
    return position % max(RING, 1u);
}

// The cell of a position of a row's sequence.
fn cell_of(row: StepRow, position: u32) -> u32 {
    return first_cell_of(row) + place_of(position);
}
