//! The products that attention and feed-forward add to the residual stream, for one token.

use super::bindings;
use super::project::{self, Params, Projection, SHARED_BINDINGS};
use super::router_sums::tell;
use crate::recording::{Arguments, Buffer, Kernel, Recording, Span};

/// `shaders/project_residual.wgsl`; bindings: the [shared](super::project) ones, the next router's w1
/// [HIDDEN, rows] f16, the next norm `[rows]`, depth `[1]` u32, the next router's [sums](super::router_sums),
/// y `[rows]`.
pub static KERNEL: Kernel = Kernel {
    name: "project_residual",
    wgsl: include_str!("../../shaders/project_residual.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<17>(SHARED_BINDINGS + 2),
    reference: project_residual,
};

/// Records y += W x; the next router is told of y * `next_norm`, `[rows]` f32.
pub fn record(recording: &mut Recording, projection: &Projection<'_>, next_norm: Buffer, y: Span) {
    let Projection { weight, x, depth, next, .. } = *projection;
    let [w1, sums] = project::told(recording, next, x);
    let more = [w1, next_norm.all(), depth, sums, y];
    project::record(recording, &KERNEL, projection, 0..weight.rows, (None, 0), &more);
}

fn project_residual(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (depth, sums, y): (&mut [u32], &mut [u32], &mut [f32]) = (args.write(14), args.write(15), args.write(16));
    let products = project::multiply(args, &p, depth);
    y.iter_mut().zip(&products).for_each(|(y, product)| *y += product);
    if args.constant("TELLS") == 1 {
        let norm: &[f32] = args.read(13);
        let told: Vec<f32> = y.iter().zip(norm).take(products.len()).map(|(y, norm)| y * norm).collect();
        tell(sums, args.read(12), &told);
    }
}
