//! The gated product of the feed-forward, for one token or few.

use rayon::prelude::*;

use super::projection::{self, Extras, Multiply, Params, Projection, SHARED_BINDINGS};
use super::router_hidden::{HiddenDispatch, SiteRouters, write_hidden};
use crate::arch::ActivationFunction;
use crate::kernels::declare::bindings;
use crate::kernels::gate::{activation, constants as activation_constants};
use crate::recording::{Arguments, Kernel, Recording, Span};

/// `shaders/project_gate.wgsl`; bindings: the `SHARED_BINDINGS`, depth `[T]` u32, the routers' rest
/// [4 L, REST], w1 [S, HIDDEN, input] f16 of the S routers that look at x, their [hidden units](SiteRouters),
/// y [T, rows / 2].
pub static KERNEL: Kernel = Kernel {
    name: "project_gate",
    wgsl: include_str!("../../../shaders/project_gate.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<15>(SHARED_BINDINGS + 3),
    reference: project_gate,
};

/// Records y = activation(Gate x) * (Up x) with W = [Gate, Up]; and the hidden units of the routers that look at
/// the input, which is a norm.
pub fn record(
    recording: &mut Recording,
    projection: &Projection<'_>,
    activation: ActivationFunction,
    routers: Option<SiteRouters<'_>>,
    y: Span,
) {
    let HiddenDispatch { mut constants, workgroups, site, read, written } =
        HiddenDispatch::new(recording, projection, routers);
    constants.extend(activation_constants(activation));
    let bindings = [&read[..], &[written, y]].concat();
    let extras = Extras { constants, site, bindings, workgroups, ..Extras::default() };
    projection::record(recording, &KERNEL, projection, 0..projection.weight.rows, extras);
}

fn project_gate(args: &mut Arguments<'_>) {
    compute(args, projection::products);
}

/// What the kernel does, with products that `multiply` computes.
pub(crate) fn compute(args: &mut Arguments<'_>, multiply: Multiply) {
    let p: Params = args.params();
    let (hidden, y): (&mut [f32], &mut [f32]) = (args.write(13), args.write(14));
    let products = multiply(args, &p, args.read(SHARED_BINDINGS));
    let activation = activation(args);
    let rows = p.rows as usize;
    y.par_chunks_exact_mut(rows / 2).zip(products.par_chunks_exact(rows)).for_each(|(y, products)| {
        let (gate, up) = products.split_at(rows / 2);
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = activation(*gate) * up;
        }
    });
    write_hidden(args, &p, SHARED_BINDINGS, hidden);
}
