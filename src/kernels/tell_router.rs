//! Tells a router of what no product makes: the input of the first layer, for one token.

use super::router_sums::{RouterAt, tell};
use super::{bindings, params};
use crate::recording::{Arguments, Buffer, Dispatch, Kernel, Recording, Span};

params! {
    /// Numbers of x.
    input: u32,
}

/// `shaders/tell_router.wgsl`; bindings: x `[input]`, norm `[input]`, w1 [HIDDEN, input] f16,
/// [sums](super::router_sums).
pub static KERNEL: Kernel = Kernel {
    name: "tell_router",
    wgsl: include_str!("../../shaders/tell_router.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<4>(3),
    reference: tell_router,
};

const WORKGROUP: u32 = 128;
/// Numbers of a workgroup; the shader's constant.
const OWN: u32 = 64;

/// Records that the site's router is told of x * norm, `[input]` f32 each.
pub fn record(recording: &mut Recording, to: RouterAt<'_>, x: Span, norm: Buffer) {
    let params = Params { input: to.router.input };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("WORKGROUP", WORKGROUP)],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![x, norm.all(), to.router.w1.all(), to.sums],
        workgroups: [params.input.div_ceil(OWN), 1, 1],
    });
}

fn tell_router(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (x, norm): (&[f32], &[f32]) = (args.read(0), args.read(1));
    let told: Vec<f32> = x.iter().zip(norm).take(p.input as usize).map(|(x, norm)| x * norm).collect();
    let w1 = args.read(2);
    tell(args.write(3), w1, &told);
}
