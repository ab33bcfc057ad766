//! The sum of the residual stream and the norm of what a block adds to it.

use crate::kernels::rms_norm::{Norm, Params, dispatch, normalize};
use crate::recording::{Access, Arguments, Kernel, Recording, Span};

/// `shaders/add_norm.wgsl`; bindings: x [T, D], weight `[D]`, y [T, D].
pub static KERNEL: Kernel = Kernel {
    name: "add_norm",
    wgsl: include_str!("../../shaders/add_norm.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Write],
    reference: add_norm,
};

/// Records y += norm(x) for `tokens` rows of the weight's length.
pub fn record(recording: &mut Recording, tokens: u32, norm: Norm, x: Span, y: Span) {
    dispatch(recording, &KERNEL, tokens, norm, [x, y]);
}

fn add_norm(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let row = p.row_vec4s as usize * 4;
    let y: &mut [f32] = args.write(2);
    let mut normed = vec![0f32; args.workgroups[0] as usize * row];
    normalize(args.read(0), &args.read(1)[..row], p.eps, &mut normed);
    y.iter_mut().zip(&normed).for_each(|(y, normed)| *y += normed);
}
