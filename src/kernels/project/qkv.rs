//! Queries, keys and values of one token or few, rotated, and the store of keys and values into the cache.

use half::f16;

use super::projection::{self, Extras, Multiply, Params, Projection, QkvDims, SHARED_BINDINGS, STORAGE_BUFFERS};
use super::router_hidden::{HiddenDispatch, SiteRouters, write_hidden};
use crate::kernels::cache::rope::{RopeDims, Rotated, rotate};
use crate::kernels::declare::bindings;
use crate::kernels::step_rows::{Cells, StepRow};
use crate::recording::{Arguments, Kernel, Recording, Span};
use crate::shape::LlamaShape;

/// `shaders/project_qkv.wgsl`; bindings: the `SHARED_BINDINGS`, depth `[T]` u32, the routers' rest [4 L, REST], w1
/// [S, HIDDEN, input] f16 of the S routers that look at x, step rows `[T]` of [`StepRow`], the rope table
/// [context, A/2, 2], the routers' [hidden units](SiteRouters), q [T, H, A], keys [K, C, A] f16, values [K, C, A] f16.
pub static KERNEL: Kernel = Kernel {
    name: "project_qkv",
    wgsl: include_str!("../../../shaders/project_qkv.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<{ STORAGE_BUFFERS as usize }>(SHARED_BINDINGS + 5),
    reference: project_qkv,
};

/// Buffers besides those of all projections.
#[derive(Debug, Clone, Copy)]
pub struct QkvBuffers {
    /// `[T]` of [`StepRow`].
    pub step_rows: Span,
    /// [context, A/2, 2] f32: cosine and sine of every angle
    pub rope_table: Span,
    /// [T, H, A] f32, or the products of all rows
    pub q: Span,
    /// [K, C, A] f16
    pub keys: Span,
    /// [K, C, A] f16
    pub values: Span,
}

/// What becomes of the products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvFinish {
    /// They are rotated, and keys and values go into the cache.
    Rotate,
    /// All of them go to `q` as they are, which has room for all rows, [T, H + 2K, A]; the buffers after it stay as
    /// they are.
    Leave,
}

/// Records the product, what becomes of it, and the hidden units of the routers that look at the projection's input,
/// which is a norm. The cache of the layer has these `cells`.
pub fn record(
    recording: &mut Recording,
    projection: &Projection<'_>,
    routers: Option<SiteRouters<'_>>,
    shape: &LlamaShape,
    cells: Cells,
    buffers: QkvBuffers,
    finish: QkvFinish,
) {
    let QkvBuffers { step_rows, rope_table, q, keys, values } = buffers;
    let HiddenDispatch { mut constants, workgroups, site, read, written } =
        HiddenDispatch::new(recording, projection, routers);
    constants.extend(cells.constants());
    constants.extend((finish == QkvFinish::Leave).then_some(("RAW", 1)));
    let bindings = [&read[..], &[step_rows, rope_table, written, q, keys, values]].concat();
    let extras = Extras {
        qkv: Some(QkvDims {
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            cells: cells.count,
        }),
        constants,
        site,
        bindings,
        workgroups,
        ..Extras::default()
    };
    projection::record(recording, &KERNEL, projection, 0..projection.weight.rows, extras);
}

fn project_qkv(args: &mut Arguments<'_>) {
    compute(args, projection::products);
}

/// What the kernel does, with products that `multiply` computes.
pub(crate) fn compute(args: &mut Arguments<'_>, multiply: Multiply) {
    let p: Params = args.params();
    let hidden: &mut [f32] = args.write(15);
    let (q, keys, values): (&mut [f32], &mut [f16], &mut [f16]) = (args.write(16), args.write(17), args.write(18));
    let products = multiply(args, &p, args.read(SHARED_BINDINGS));
    write_hidden(args, &p, SHARED_BINDINGS, hidden);
    if args.constant_or("RAW", 0) == 1 {
        return q[..products.len()].copy_from_slice(&products);
    }
    let step_rows: &[StepRow] = args.read(13);
    let [heads, kv_heads, head_dim] = [p.heads, p.kv_heads, args.constant("HEAD_DIM")].map(|n| n as usize);
    let cells = Cells::in_arguments(args, p.cells);
    let dims = RopeDims { heads, kv_heads, head_dim, cells };
    for (token, (products, row)) in products.chunks_exact(p.rows as usize).zip(step_rows).enumerate() {
        rotate(dims, token, *row, args.read(14), products, Rotated { q, keys, values });
    }
}
