//! What the parts of a token's attention come to together, where the kernel that multiplies them takes no parts.

use super::parts::{self, Parts};
use super::{bindings, params};
use crate::recording::{Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// vec4s of y.
    vec4s: u32,
}

/// `shaders/attention_join.wgsl`; bindings: [`Parts`], y [T, H, A].
pub static KERNEL: Kernel = Kernel {
    name: "attention_join",
    wgsl: include_str!("../../shaders/attention_join.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<2>(1),
    reference: attention_join,
};

/// Few, as there are few vec4s, and many processors.
const WORKGROUP: u32 = 32;

/// Records what the parts come to.
pub fn record(recording: &mut Recording, parts: Parts, y: Span) {
    let numbers = (y.bytes / 4) as u32;
    let params = Params { vec4s: numbers / 4 };
    let mut constants = vec![("WORKGROUP", WORKGROUP)];
    constants.extend(parts.constants(numbers));
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants,
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![parts.span, y],
        workgroups: [params.vec4s.div_ceil(WORKGROUP), 1, 1],
    });
}

fn attention_join(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let numbers = parts::numbers(args, 0, p.vec4s as usize * 4);
    args.write::<f32>(1)[..numbers.len()].copy_from_slice(&numbers);
}
