//! The combination of the partials of a token's attention, where the kernel that multiplies them does not combine them.

use super::partials::{self, Partials};
use crate::kernels::declare::{bindings, params};
use crate::recording::{Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// vec4s of y.
    vec4s: u32,
}

/// `shaders/attention_combine.wgsl`; bindings: [`Partials`], y [T, H, A].
pub static KERNEL: Kernel = Kernel {
    name: "attention_combine",
    wgsl: include_str!("../../../shaders/attention_combine.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<2>(1),
    reference: attention_combine,
};

/// Few, as there are few vec4s, and many processors.
const WORKGROUP: u32 = 32;

/// Records the attention that the partials come to, y [T, H, A].
pub fn record(recording: &mut Recording, partials: Partials, y: Span) {
    let numbers = (y.bytes / 4) as u32;
    let params = Params { vec4s: numbers / 4 };
    let mut constants = vec![("WORKGROUP", WORKGROUP)];
    constants.extend(partials.constants(numbers));
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants,
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![partials.span, y],
        workgroups: [params.vec4s.div_ceil(WORKGROUP), 1, 1],
    });
}

fn attention_combine(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let numbers = partials::numbers(args, 0, p.vec4s as usize * 4);
    args.write::<f32>(1)[..numbers.len()].copy_from_slice(&numbers);
}
