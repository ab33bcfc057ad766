//! The depth of each token at one site, on processor cores with vectors of eight, by a kernel that can make the site's
//! input too.

use super::made::make;
use super::route::{Inputs, Router, choose};
use super::{bindings, params};
use crate::engine::Traits;
use crate::recording::{Arguments, Buffer, Dispatch, Kernel, Recording, Span};

params! {
    /// Eights of numbers in a row of x.
    row_eights: u32,
    /// The site's entry in the control buffer.
    site: u32,
    /// Added to the mean square by the norm.
    eps: f32,
}

/// `shaders/route_vector.wgsl`; bindings: what x is made from and the norm's weight, or anything, w1 [HIDDEN, input]
/// f16, b1 `[HIDDEN]`, w2 [SCORES, HIDDEN], b2 `[SCORES]`, control [4 L] of [`Control`](super::route::Control),
/// deal `[T]` u32, x [T, input], depths `[T]` u32.
pub static KERNEL: Kernel = Kernel {
    name: "route_vector",
    wgsl: include_str!("../../shaders/route_vector.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<10>(8),
    reference: route_vector,
};

/// Invocations of a subgroup.
const LANES: u32 = 8;
/// Numbers that a subgroup loads at a time.
const NUMBERS: u32 = 4 * LANES;

/// Whether the device computes as the kernel was made for, and rows of `input` numbers are whole loads. Renderers that
/// do so bind more buffers than the kernel has.
pub(super) fn suits(traits: Traits, input: u32) -> bool {
    traits.software && traits.subgroup == LANES && input.is_multiple_of(NUMBERS)
}

/// Records what [`route::record`](super::route::record) does.
pub(super) fn record(recording: &mut Recording, router: &Router, inputs: &Inputs, depths: Span) {
    let Inputs { x, made, control, site, deal } = *inputs;
    let params = Params { row_eights: router.input / 8, site, eps: made.eps() };
    let mut bindings = Vec::from(made.bindings(router.w1.all()));
    bindings.extend([router.w1, router.b1, router.w2, router.b2].map(Buffer::all));
    bindings.extend([control, deal, x, depths]);
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("MADE", made.constant())],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings,
        workgroups: [(depths.bytes / 4) as u32, 1, 1],
    });
}

fn route_vector(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (x, depths): (&mut [f32], &mut [u32]) = (args.write(8), args.write(9));
    let input = p.row_eights as usize * 8;
    let x = &mut x[..args.workgroups[0] as usize * input];
    make(args.constant("MADE"), [args.read(0), args.read(1)], p.eps, input, x);
    choose(args, 2, x, input, p.site, depths);
}
