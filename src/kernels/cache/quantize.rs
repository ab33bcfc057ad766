//! The quantization of the keys and values of a step's tokens, for the steps to come.

use half::f16;

use super::layout::{CacheConversion, Layout};
use crate::kernels::declare::{WORKGROUP, bindings, params};
use crate::kernels::step_rows::{Cells, StepRow};
use crate::recording::{Arguments, Dispatch, Kernel, Recording};

params! {
    /// T
    tokens: u32,
    /// K
    kv_heads: u32,
    /// C
    cells: u32,
}

/// `shaders/quantize_cache.wgsl`; bindings: step rows `[T]` of [`StepRow`], keys [K, C, A] f16, values [K, C, A] f16,
/// rows [K, C, [words](Layout::row_words)] u32.
pub static KERNEL: Kernel = Kernel {
    name: "quantize_cache",
    wgsl: include_str!("../../../shaders/quantize_cache.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<4>(3),
    reference: quantize_cache,
};

/// Records that the keys and values at the positions of `tokens` tokens are quantized.
pub fn record(recording: &mut Recording, tokens: u32, conversion: &CacheConversion) {
    let CacheConversion { kv_heads, cells, step_rows, keys, values, quantized_kv, .. } = *conversion;
    let params = Params { tokens, kv_heads, cells: cells.count };
    let own = [("WORKGROUP", WORKGROUP)].into_iter().chain(quantized_kv.layout.constants());
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: own.chain(cells.constants()).collect(),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![step_rows, keys, values, quantized_kv.rows],
        workgroups: [(kv_heads * quantized_kv.layout.groups()).div_ceil(WORKGROUP), tokens, 1],
    });
}

fn quantize_cache(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (layout, cells) = (Layout::in_arguments(args), Cells::in_arguments(args, p.cells));
    let step_rows: &[StepRow] = args.read(0);
    let (keys, values): (&[f16], &[f16]) = (args.read(1), args.read(2));
    let rows: &mut [u32] = args.write(3);
    let (dim, words) = (layout.head_dim as usize, layout.row_words());
    for kv_head in 0..p.kv_heads as usize {
        for row in &step_rows[..p.tokens as usize] {
            let at = kv_head * p.cells as usize + cells.cell(*row, row.position as usize);
            layout.write(&mut rows[at * words..], &keys[at * dim..][..dim], &values[at * dim..][..dim]);
        }
    }
}
