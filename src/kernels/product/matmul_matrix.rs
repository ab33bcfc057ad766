//! Product of a sliced weight with many tokens at once by cooperative matrices, for GPUs that have them.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::gather_inputs;
use super::gather_tokens::token_and_depth;
use super::problem::{BINDINGS, DEPTHS, Params, Product, ProductLaunch, Tiles, X, compute, record as record_product};
use crate::engine::Traits;
use crate::kernels::sliced::CHUNK;
use crate::recording::{Arguments, Kernel, Recording};

/// `shaders/matmul_matrix.wgsl`; bindings: those of a weight, x [entries, input] f16 in the order's order, order,
/// y. Weights are rounded to f16.
pub static KERNEL: Kernel = Kernel {
    name: "matmul_matrix",
    wgsl: include_str!("../../../shaders/matmul_matrix.wgsl"),
    params: Params::FIELDS,
    bindings: BINDINGS,
    reference: matmul_matrix,
};

/// Tokens of a tile, and rows of a workgroup.
const SMALL_TILE: u32 = 64;
/// The same where it leaves enough of them.
const LARGE_TILE: u32 = 128;
/// Bytes of a workgroup's memory with large tiles.
const LARGE_TILE_BYTES: u32 = 44 << 10;

/// Tokens of a tile for a product of so many rows and tokens.
pub fn tile_tokens(traits: Traits, rows: u32, tokens: u32) -> u32 {
    let workgroups = u64::from(rows.div_ceil(LARGE_TILE)) * u64::from(tokens.div_ceil(LARGE_TILE));
    let enough = workgroups >= u64::from(traits.row_workgroups());
    let large = enough && traits.workgroup_bytes >= LARGE_TILE_BYTES;
    if large { LARGE_TILE } else { SMALL_TILE }
}

/// Records the product as [`matmul_sliced`](super::matmul_sliced) does, after its inputs in the order. Panics without
/// room for them.
pub fn record(recording: &mut Recording, traits: Traits, product: &Product<'_>, tiles: Tiles) {
    let x_f16 = tiles.x_f16.expect("products by matrices have room for inputs in f16");
    let entries = (tiles.order.bytes / 4) as u32;
    let x = x_f16.span(0, u64::from(entries) * u64::from(product.weight.input) * 2);
    gather_inputs::record(recording, product.tokens, product.weight.input, product.x, tiles.order, x);
    let launch = ProductLaunch {
        kernel: &KERNEL,
        constants: vec![
            ("MATRICES", tiles.tile / 32),
            ("PARTIAL", u32::from(tiles.partial && tiles.tile == LARGE_TILE)),
        ],
        rows: tiles.tile,
        depths: tiles.order,
        columns: entries / tiles.tile,
        columns_first: true,
    };
    record_product(recording, traits, &Product { x, ..*product }, &launch);
}

fn matmul_matrix(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let input = (p.chunks * CHUNK) as usize;
    let mut x = vec![0f32; p.tokens as usize * input];
    let mut work = Vec::new();
    for (entry, x_f16) in args.read(DEPTHS).iter().zip(args.read::<f16>(X).chunks_exact(input)) {
        let (token, depth) = token_and_depth(*entry);
        if token < p.tokens {
            x_f16.convert_to_f32_slice(&mut x[token as usize * input..][..input]);
            work.push((token as usize, depth as usize));
        }
    }
    compute(args, &x, &work);
}
