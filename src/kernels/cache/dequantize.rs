//! The conversion of quantized keys and values back to f16, for kernels that read f16.

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::layout::{CacheConversion, Layout, hadamard};
use crate::kernels::declare::{WORKGROUP, bindings, params};
use crate::kernels::step_rows::{Cells, StepRow};
use crate::recording::{Arguments, Dispatch, Kernel, Recording};

params! {
    /// K
    kv_heads: u32,
    /// C
    cells: u32,
    /// Invocations of all workgroups.
    invocations: u32,
}

/// `shaders/dequantize_cache.wgsl`; bindings: step rows `[T]` of [`StepRow`], rows
/// [K, C, [words](Layout::row_words)] u32, keys [K, C, A] f16, values [K, C, A] f16.
pub static KERNEL: Kernel = Kernel {
    name: "dequantize_cache",
    wgsl: include_str!("../../../shaders/dequantize_cache.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<4>(2),
    reference: dequantize_cache,
};

/// Workgroups at most: how many positions there are is not known when a step is recorded.
const WORKGROUPS: u32 = 1024;

/// Records that keys and values are dequantized at the positions before the first of the step's rows that it looks at.
pub fn record(recording: &mut Recording, conversion: &CacheConversion) {
    let CacheConversion { kv_heads, cells, window, step_rows, keys, values, quantized_kv } = *conversion;
    let workgroups = (kv_heads * cells.count * quantized_kv.layout.groups()).div_ceil(WORKGROUP).min(WORKGROUPS);
    let params = Params { kv_heads, cells: cells.count, invocations: workgroups * WORKGROUP };
    let own = [("WORKGROUP", WORKGROUP)].into_iter().chain(quantized_kv.layout.constants());
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: own.chain(cells.constants()).chain(window.map(|window| ("WINDOW", window))).collect(),
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![step_rows, quantized_kv.rows, keys, values],
        workgroups: [workgroups, 1, 1],
    });
}

/// The window of a dispatch.
pub(crate) fn window(args: &Arguments<'_>) -> Option<u32> {
    Some(args.constant_or("WINDOW", 0)).filter(|window| *window > 0)
}

fn dequantize_cache(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (layout, cells) = (Layout::in_arguments(args), Cells::in_arguments(args, p.cells));
    let row = args.read::<StepRow>(0)[0];
    let rows: &[u32] = args.read(1);
    let (keys, values): (&mut [f16], &mut [f16]) = (args.write(2), args.write(3));
    let (dim, words, watch) = (layout.head_dim as usize, layout.row_words(), args.watch);
    let visible = row.visible(window(args));
    for kv_head in 0..p.kv_heads as usize {
        for cells in cells.stretches(row, visible.start..visible.end - 1) {
            let first = kv_head * p.cells as usize + cells.start;
            let rows = rows[first * words..].par_chunks_exact(words).take(cells.len());
            let [keys, values] = [&mut *keys, &mut *values].map(|to| to[first * dim..].par_chunks_exact_mut(dim));
            rows.zip(keys.zip(values)).for_each_init(
                || vec![0f32; dim],
                |numbers, (row, (key, value))| {
                    if watch.stops() {
                        return;
                    }
                    for (of_value, to) in [(false, key), (true, value)] {
                        layout.row(row).read(layout, of_value, numbers);
                        hadamard(numbers);
                        to.convert_from_f32_slice(numbers);
                    }
                },
            );
        }
    }
}
