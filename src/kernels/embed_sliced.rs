//! Rows of a sliced embedding, by token id.

use crate::engine::Traits;
use crate::kernels::declare::{WORKGROUP, params};
use crate::kernels::sliced::{Rows, SlicedWeight};
use crate::precision::Depth;
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// T
    tokens: u32,
    /// Row of the whole embedding that this dispatch's first row is.
    first_row: u32,
    /// Rows of this dispatch.
    rows: u32,
    /// Chunks of 64 weights in a row.
    chunks: u32,
    /// Chunks of 64 weights in a quantization group.
    group_chunks: u32,
    /// Slices read.
    depth: u32,
}

/// `shaders/embed_sliced.wgsl`; bindings: slices 0 to 3, scales, ids `[T]`, y [T, D].
pub static KERNEL: Kernel = Kernel {
    name: "embed_sliced",
    wgsl: include_str!("../../shaders/embed_sliced.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::Write],
    reference: embed_sliced,
};

/// Records `y[t, :] = embedding[ids[t], :]` at `depth`; an id outside the embedding leaves its row of y as it was.
pub fn record(recording: &mut Recording, traits: Traits, embedding: &SlicedWeight, depth: Depth, ids: Span, y: Span) {
    let tokens = (ids.bytes / 4) as u32;
    for rows in embedding.row_ranges(traits) {
        let params = Params {
            tokens,
            first_row: rows.start,
            rows: rows.len() as u32,
            chunks: embedding.chunks(),
            group_chunks: embedding.group_chunks(),
            depth: depth.slices() as u32,
        };
        let mut bindings = embedding.bindings(&rows);
        bindings.extend([ids, y]);
        recording.dispatch(Dispatch {
            kernel: &KERNEL,
            constants: vec![("WORKGROUP", WORKGROUP)],
            params: bytemuck::bytes_of(&params).to_vec(),
            bindings,
            workgroups: [(tokens * params.chunks).div_ceil(WORKGROUP), 1, 1],
        });
    }
}

fn embed_sliced(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let input = p.chunks as usize * 64;
    let rows = Rows::bound(args, input, p.group_chunks as usize * 64);
    let ids: &[u32] = args.read(5);
    let y: &mut [f32] = args.write(6);
    for (id, y) in ids.iter().zip(y.chunks_exact_mut(input)).take(p.tokens as usize) {
        let row = id.wrapping_sub(p.first_row);
        if row < p.rows {
            rows.dequantize(row as usize, p.depth as usize, y);
        }
    }
}
