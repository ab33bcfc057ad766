//! A product's inputs as f16, in the order in which it takes the tokens.

use half::f16;

use super::gather_tokens::token_and_depth;
use crate::kernels::declare::{WORKGROUP, params};
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// T
    tokens: u32,
    /// vec4s of a token's input.
    row_vec4s: u32,
}

/// `shaders/gather_inputs.wgsl`; bindings: x [T, input], order `[entries]` u32, y [entries, input] f16.
pub static KERNEL: Kernel = Kernel {
    name: "gather_inputs",
    wgsl: include_str!("../../../shaders/gather_inputs.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Write],
    reference: gather_inputs,
};

/// Records y = x, [tokens, input], in the order of the [entries](super::gather_tokens::entry) in `order`; padding gets
/// zeros, and numbers that are beyond f16 its last one.
pub fn record(recording: &mut Recording, tokens: u32, input: u32, x: Span, order: Span, y: Span) {
    let params = Params { tokens, row_vec4s: input / 4 };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("WORKGROUP", WORKGROUP)],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![x, order, y],
        workgroups: [params.row_vec4s.div_ceil(WORKGROUP), (order.bytes / 4) as u32, 1],
    });
}

fn gather_inputs(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (x, order): (&[f32], &[u32]) = (args.read(0), args.read(1));
    let y: &mut [f16] = args.write(2);
    let input = p.row_vec4s as usize * 4;
    for (y, entry) in y.chunks_exact_mut(input).zip(order) {
        let (token, _) = token_and_depth(*entry);
        if token >= p.tokens {
            y.fill(f16::ZERO);
            continue;
        }
        for (y, x) in y.iter_mut().zip(&x[token as usize * input..]) {
            *y = f16::from_f32(x.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()));
        }
    }
}
