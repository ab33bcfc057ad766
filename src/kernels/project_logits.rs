//! The head's product for one token.

use super::bindings;
use super::project::{self, Params, Projection, SHARED_BINDINGS};
use crate::engine::Traits;
use crate::recording::{Arguments, Kernel, Recording, Span};

/// `shaders/project_logits.wgsl`; bindings: the [shared](super::project) ones, depth `[1]` u32, y `[rows]`.
pub static KERNEL: Kernel = Kernel {
    name: "project_logits",
    wgsl: include_str!("../../shaders/project_logits.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<14>(SHARED_BINDINGS),
    reference: project_logits,
};

/// Records y = W x; in parts where the weight is longer than a binding may be.
pub fn record(recording: &mut Recording, traits: Traits, projection: &Projection<'_>, y: Span) {
    for rows in projection.weight.parts(traits) {
        let more = [projection.depth, y];
        project::record(recording, &KERNEL, projection, rows, (None, 0), &more);
    }
}

fn project_logits(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (depth, y): (&mut [u32], &mut [f32]) = (args.write(12), args.write(13));
    let products = project::multiply(args, &p, depth);
    y[p.first_row as usize..][..products.len()].copy_from_slice(&products);
}
