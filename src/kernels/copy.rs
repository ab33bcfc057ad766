//! A copy from one buffer to another: what memory can do at best, for benchmarks.

use rayon::prelude::*;

use crate::kernels::declare::params;
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// Elements, 16 bytes each.
    vec4s: u32,
}

/// `shaders/copy.wgsl`; bindings: x, y, of the same length.
pub static KERNEL: Kernel = Kernel {
    name: "copy",
    wgsl: include_str!("../../shaders/copy.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Write],
    reference: copy,
};

/// Invocations of a workgroup: memory is busiest with many loads in flight.
const WORKGROUP: u32 = 256;
/// Workgroups at most, well below what any device takes; beyond, invocations copy several elements.
const WORKGROUPS: u32 = 1 << 14;

/// Records y = x; panics where the lengths differ or are no multiple of 16 bytes.
pub fn record(recording: &mut Recording, x: Span, y: Span) {
    assert!(x.bytes == y.bytes && x.bytes.is_multiple_of(16), "a copy of {} bytes to {}", x.bytes, y.bytes);
    let params = Params { vec4s: (x.bytes / 16) as u32 };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("WORKGROUP", WORKGROUP)],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![x, y],
        workgroups: [params.vec4s.div_ceil(WORKGROUP).min(WORKGROUPS), 1, 1],
    });
}

fn copy(args: &mut Arguments<'_>) {
    const PIECE: usize = 1 << 16;
    let p: Params = args.params();
    let (x, y): (&[[u32; 4]], &mut [[u32; 4]]) = (args.read(0), args.write(1));
    let pieces = x[..p.vec4s as usize].par_chunks(PIECE).zip(y.par_chunks_mut(PIECE));
    pieces.for_each(|(x, y)| y[..x.len()].copy_from_slice(x));
}
