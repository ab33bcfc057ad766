//! The gated product of the feed-forward, for one token.

use super::bindings;
use super::project::{self, Own, Params, Projection, SHARED_BINDINGS};
use super::routers::silu;
use super::telling::{RoutersAt, Telling, tell};
use crate::recording::{Arguments, Kernel, Recording, Span};

/// `shaders/project_gate.wgsl`; bindings: the [shared](super::project) ones, depth `[1]` u32, the routers' rest
/// [4 L, REST], w1 [S, HIDDEN, input] f16 of the S routers that are told, their [hidden units](RoutersAt),
/// y [rows / 2].
pub static KERNEL: Kernel = Kernel {
    name: "project_gate",
    wgsl: include_str!("../../shaders/project_gate.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<12>(SHARED_BINDINGS + 3),
    reference: project_gate,
};

/// Records y = silu(Gate x) * (Up x) with W = [Gate, Up]; the routers are told of the input, which is a norm.
pub fn record(recording: &mut Recording, projection: &Projection<'_>, told: Option<RoutersAt<'_>>, y: Span) {
    let Telling { constants, tellers, site, read, written } = Telling::new(recording, projection, told);
    let bindings = [&read[..], &[written, y]].concat();
    let own = Own { constants, site, bindings, workgroups: tellers, ..Own::default() };
    project::record(recording, &KERNEL, projection, 0..projection.weight.rows, own);
}

fn project_gate(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (hidden, y): (&mut [f32], &mut [f32]) = (args.write(10), args.write(11));
    let products = project::multiply(args, &p, args.read::<u32>(SHARED_BINDINGS)[0]);
    let (gate, up) = products.split_at(products.len() / 2);
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = silu(*gate) * up;
    }
    tell(args, &p, SHARED_BINDINGS, hidden);
}
