//! Rows of a sliced embedding, by token id.

use crate::engine::Traits;
use crate::kernels::declare::{WORKGROUP, bindings, params};
use crate::kernels::sample::token::Sampled;
use crate::kernels::sliced::{Rows, SlicedWeight, WEIGHT_BINDINGS};
use crate::kernels::step_rows::StepRow;
use crate::recording::{Arguments, Dispatch, Kernel, Recording, Span};

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
}

/// `shaders/embed_sliced.wgsl`; bindings: those of a [`SlicedWeight`], step rows `[T]` of
/// [`StepRow`], a [`Sampled`] for each sequence, the tokens of the cells `[C]` u32, y [T, D].
pub static KERNEL: Kernel = Kernel {
    name: "embed_sliced",
    wgsl: include_str!("../../shaders/embed_sliced.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<12>(WEIGHT_BINDINGS + 2),
    reference: embed_sliced,
};

/// The tokens of a step, and where their rows go.
#[derive(Debug, Clone, Copy)]
pub struct EmbedBuffers {
    /// `[T]` of [`StepRow`]
    pub step_rows: Span,
    /// A [`Sampled`] for each sequence.
    pub sampled: Span,
    /// The token of each cell of the cache, `[C]` u32.
    pub cell_tokens: Span,
    /// [T, D] f32
    pub y: Span,
}

/// Records `y[t, :] = embedding[token[t], :]`, read as deep as each step row says, and that the token's cell has it. A
/// token outside the embedding leaves its row of y, and its cell, as they were.
pub fn record(recording: &mut Recording, traits: Traits, embedding: &SlicedWeight, buffers: EmbedBuffers) {
    let EmbedBuffers { step_rows, sampled, cell_tokens, y } = buffers;
    let tokens = (step_rows.bytes / StepRow::BYTES) as u32;
    for rows in embedding.row_ranges(traits) {
        let params = Params {
            tokens,
            first_row: rows.start,
            rows: rows.len() as u32,
            chunks: embedding.chunks(),
            group_chunks: embedding.group_chunks(),
        };
        let mut bindings = embedding.bindings(&rows);
        bindings.extend([step_rows, sampled, cell_tokens, y]);
        recording.dispatch(Dispatch {
            kernel: &KERNEL,
            constants: vec![("WORKGROUP", WORKGROUP), embedding.form_constant()],
            params: bytemuck::bytes_of(&params).to_vec(),
            bindings,
            workgroups: [(tokens * params.chunks).div_ceil(WORKGROUP), 1, 1],
        });
    }
}

fn embed_sliced(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let input = p.chunks as usize * 64;
    let rows = Rows::bound(args, input, p.group_chunks);
    let (step_rows, sampled): (&[StepRow], &[Sampled]) = (args.read(8), args.read(9));
    let (cell_tokens, y): (&mut [u32], &mut [f32]) = (args.write(10), args.write(11));
    for (step_row, y) in step_rows.iter().zip(y.chunks_exact_mut(input)).take(p.tokens as usize) {
        let is_sampled = step_row.token == StepRow::SAMPLED;
        let id = if is_sampled { sampled[step_row.slot as usize].id } else { step_row.token };
        let row = id.wrapping_sub(p.first_row);
        if row < p.rows {
            cell_tokens[step_row.cell()] = id;
            rows.dequantize(row as usize, step_row.embed_depth as usize, y);
        }
    }
}
