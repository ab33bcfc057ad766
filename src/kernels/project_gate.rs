//! The gated product of the feed-forward, for one token.

use super::bindings;
use super::project::{self, Params, Projection, SHARED_BINDINGS};
use super::route::silu;
use super::router_sums::tell;
use crate::recording::{Arguments, Kernel, Recording, Span};

/// `shaders/project_gate.wgsl`; bindings: the [shared](super::project) ones, the next router's w1
/// [HIDDEN, rows / 2] f16, depth `[1]` u32, the next router's [sums](super::router_sums), y [rows / 2].
pub static KERNEL: Kernel = Kernel {
    name: "project_gate",
    wgsl: include_str!("../../shaders/project_gate.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<16>(SHARED_BINDINGS + 1),
    reference: project_gate,
};

/// Records y = silu(Gate x) * (Up x) with W = [Gate, Up]; the next router is told of y.
pub fn record(recording: &mut Recording, projection: &Projection<'_>, y: Span) {
    let Projection { weight, x, depth, next, .. } = *projection;
    let [w1, sums] = project::told(recording, next, x);
    project::record(recording, &KERNEL, projection, 0..weight.rows, (None, 0), &[w1, depth, sums, y]);
}

fn project_gate(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (depth, sums, y): (&mut [u32], &mut [u32], &mut [f32]) = (args.write(13), args.write(14), args.write(15));
    let products = project::multiply(args, &p, depth);
    let (gate, up) = products.split_at(products.len() / 2);
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = silu(*gate) * up;
    }
    if args.constant("TELLS") == 1 {
        tell(sums, args.read(12), &y[..gate.len()]);
    }
}
