//! The head's product for one token or few.

use super::projection::{self, Extras, Input, Multiply, Params, Projection, SHARED_BINDINGS};
use crate::engine::Traits;
use crate::kernels::declare::bindings;
use crate::recording::{Arguments, Kernel, Recording, Span};

/// `shaders/project_logits.wgsl`; bindings: the `SHARED_BINDINGS`, depth `[T]` u32, y [T, rows].
pub static KERNEL: Kernel = Kernel {
    name: "project_logits",
    wgsl: include_str!("../../../shaders/project_logits.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<12>(SHARED_BINDINGS + 1),
    reference: project_logits,
};

/// Records y = W x, by one dispatch for each range of rows that fits a binding.
pub fn record(recording: &mut Recording, traits: Traits, projection: &Projection<'_>, y: Span) {
    for rows in projection.weight.row_ranges(traits) {
        let mut extras = Extras { bindings: vec![projection.depth, y], ..Extras::default() };
        if let Input::Packed(_) = projection.input {
            extras.constants.push(("Y_ROWS", projection.weight.rows));
        }
        projection::record(recording, &KERNEL, projection, rows, extras);
    }
}

fn project_logits(args: &mut Arguments<'_>) {
    compute(args, projection::products);
}

/// What the kernel does, with products that `multiply` computes.
pub(crate) fn compute(args: &mut Arguments<'_>, multiply: Multiply) {
    let p: Params = args.params();
    let y: &mut [f32] = args.write(11);
    let products = multiply(args, &p, args.read(SHARED_BINDINGS));
    let y_rows = args.constant_or("Y_ROWS", 0) as usize;
    for (token, products) in products.chunks_exact(p.rows as usize).enumerate() {
        y[token * y_rows + p.first_row as usize..][..products.len()].copy_from_slice(products);
    }
}
