//! Product of a sliced weight with many tokens at once.

use super::sliced::{Output, PRODUCT_BINDINGS, Product, ProductShape, reference};
use super::{WORKGROUP, params};
use crate::engine::Traits;
use crate::recording::{Arguments, Dispatch, Kernel, Recording};

params! {
    /// T
    tokens: u32,
    /// Rows of this dispatch.
    rows: u32,
    /// Chunks of 64 weights in a row.
    chunks: u32,
    /// Chunks of 64 weights in a quantization group.
    group_chunks: u32,
    /// Row of y that the first row belongs to.
    first_row: u32,
    /// Rows of y.
    y_rows: u32,
    /// 1: add to y; 0: overwrite it.
    accumulate: u32,
}

/// `shaders/matmul_sliced.wgsl`; bindings: slices 0 to 3, scales, x, depths, y.
pub static KERNEL: Kernel = Kernel {
    name: "matmul_sliced",
    wgsl: include_str!("../../shaders/matmul_sliced.wgsl"),
    params: Params::FIELDS,
    bindings: PRODUCT_BINDINGS,
    reference: matmul_sliced,
};

/// Rows and tokens of an invocation.
const TILE: [u32; 2] = [4, 8];

/// Records the product, in parts where the weight is longer than a binding may be.
pub fn record(recording: &mut Recording, traits: Traits, product: &Product<'_>) {
    let weight = product.weight;
    for rows in weight.parts(traits) {
        let params = Params {
            tokens: product.tokens,
            rows: rows.len() as u32,
            chunks: weight.chunks(),
            group_chunks: weight.group_chunks(),
            first_row: rows.start,
            y_rows: weight.rows,
            accumulate: u32::from(product.output == Output::Add),
        };
        let mut bindings = weight.bindings(&rows);
        bindings.extend([product.x, product.depths, product.y]);
        recording.dispatch(Dispatch {
            kernel: &KERNEL,
            constants: vec![("WORKGROUP", WORKGROUP)],
            params: bytemuck::bytes_of(&params).to_vec(),
            bindings,
            workgroups: [params.rows.div_ceil(TILE[0] * WORKGROUP), product.tokens.div_ceil(TILE[1]), 1],
        });
    }
}

fn matmul_sliced(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let shape = ProductShape {
        rows: p.rows as usize,
        input: p.chunks as usize * 64,
        group: p.group_chunks as usize * 64,
        tokens: p.tokens as usize,
        first_row: p.first_row as usize,
        y_rows: p.y_rows as usize,
        output: if p.accumulate == 1 { Output::Add } else { Output::Overwrite },
    };
    reference(args, &shape);
}
