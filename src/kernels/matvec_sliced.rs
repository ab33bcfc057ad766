//! Product of a sliced weight with few tokens, each on its own.

use super::sliced::{Output, PRODUCT_BINDINGS, Product, ProductShape, reference};
use super::{WORKGROUP, params};
use crate::engine::Traits;
use crate::recording::{Arguments, Dispatch, Kernel, Recording};

params! {
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

/// `shaders/matvec_sliced.wgsl`; bindings: slices 0 to 3, scales, x, depths, y.
pub static KERNEL: Kernel = Kernel {
    name: "matvec_sliced",
    wgsl: include_str!("../../shaders/matvec_sliced.wgsl"),
    params: Params::FIELDS,
    bindings: PRODUCT_BINDINGS,
    reference: matvec_sliced,
};

/// Rows that a team of invocations works on together.
const TEAM_ROWS: u32 = 4;

/// Records the product, in parts where the weight is longer than a binding may be.
pub fn record(recording: &mut Recording, traits: Traits, product: &Product<'_>) {
    let weight = product.weight;
    // On processor cores lanes of a vector are best spent on rows: they then share the loads of x.
    let lanes = if traits.software { 1 } else { 32 };
    let workgroup = if traits.software { 8 } else { WORKGROUP };
    for rows in weight.parts(traits) {
        let params = Params {
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
            constants: vec![("WORKGROUP", workgroup), ("LANES", lanes)],
            params: bytemuck::bytes_of(&params).to_vec(),
            bindings,
            workgroups: [params.rows.div_ceil(TEAM_ROWS * workgroup / lanes), product.tokens, 1],
        });
    }
}

fn matvec_sliced(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let shape = ProductShape {
        rows: p.rows as usize,
        input: p.chunks as usize * 64,
        group: p.group_chunks as usize * 64,
        tokens: args.workgroups[1] as usize,
        first_row: p.first_row as usize,
        y_rows: p.y_rows as usize,
        output: if p.accumulate == 1 { Output::Add } else { Output::Overwrite },
    };
    reference(args, &shape);
}
