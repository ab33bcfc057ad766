//! A copy of cells of the cache to other cells of it.

use crate::kernels::declare::{WORKGROUP, params};
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// C: cells of a head.
    cells: u32,
    /// Words of a cell of one head.
    words: u32,
    /// The first cell that is copied.
    source: u32,
    /// The cell that it goes to.
    destination: u32,
    /// Cells that are copied.
    count: u32,
}

/// `shaders/copy_cells.wgsl`; binding: data [heads, C, words] u32.
pub static KERNEL: Kernel = Kernel {
    name: "copy_cells",
    wgsl: include_str!("../../../shaders/copy_cells.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Write],
    reference: copy_cells,
};

/// Which cells go where.
#[derive(Debug, Clone, Copy)]
pub struct CellCopy {
    /// Heads, each with as many cells.
    pub heads: u32,
    /// C: cells of a head.
    pub cells: u32,
    /// Words of a cell of one head.
    pub words: u32,
    /// The first cell that is copied.
    pub from: u32,
    /// The cell that it goes to.
    pub to: u32,
    /// Cells that are copied.
    pub count: u32,
}

/// Words that an invocation copies at least, where the copy is long, so that there are few workgroups.
const EACH: u32 = 16;
/// Workgroups of a head at most, well below what any device takes; beyond, invocations copy more.
const WORKGROUPS: u32 = 1 << 13;

/// Records the copy within `data`, [heads, C, words] u32; panics where the two ranges meet or leave the cells.
pub fn record(recording: &mut Recording, data: Span, copy: CellCopy) {
    let CellCopy { heads, cells, words, from, to, count } = copy;
    assert!(from.max(to) + count <= cells && from.abs_diff(to) >= count, "a copy of {count} from {from} to {to}");
    let params = Params { cells, words, source: from, destination: to, count };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("WORKGROUP", WORKGROUP)],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![data],
        workgroups: [(count * words).div_ceil(WORKGROUP * EACH).min(WORKGROUPS), heads, 1],
    });
}

fn copy_cells(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let data: &mut [u32] = args.write(0);
    let words = p.words as usize;
    for head in data.chunks_exact_mut(p.cells as usize * words) {
        let from = p.source as usize * words;
        head.copy_within(from..from + p.count as usize * words, p.destination as usize * words);
    }
}
