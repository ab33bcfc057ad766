//! Product of a sliced weight with one token of numbers that are pairs of int8s, at a depth that may be chosen here.

use rayon::prelude::*;

use super::product::Output;
use super::route::depth_of;
use super::site_input::Ready;
use super::sliced::{CHUNK, Rows, SlicedWeight};
use super::{bindings, params};
use crate::engine::Traits;
use crate::recording::{Arguments, Dispatch, Kernel, Recording, Span};

params! {
    /// Rows of this dispatch.
    rows: u32,
    /// Chunks of 64 weights in a row.
    chunks: u32,
    /// Row of y that the first row belongs to.
    first_row: u32,
    /// 1: add to y; 0: overwrite it.
    accumulate: u32,
    /// 1: the router chooses the depth, and it is written; 0: it is read.
    routed: u32,
}

/// `shaders/matvec_packed.wgsl`; bindings: slices 0 to 3, scales, what [`site_input`](super::site_input) made, depth
/// `[1]` u32, y.
pub static KERNEL: Kernel = Kernel {
    name: "matvec_packed",
    wgsl: include_str!("../../shaders/matvec_packed.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<8>(6),
    reference: matvec_packed,
};

/// Who says how many slices are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DepthFrom {
    /// What is in the buffer, in 1..=4.
    Buffer,
    /// The site's router, by what the input has of it; the depth is written to the buffer.
    Router,
}

/// `y[r] (+)= sum over k of W[r, k] * x[k]` for one token.
#[derive(Debug, Clone, Copy)]
pub struct PackedProduct<'a> {
    /// W
    pub weight: &'a SlicedWeight,
    /// x, as [`site_input`](super::site_input) makes it.
    pub x: Span,
    /// `[rows]` f32
    pub y: Span,
    /// What becomes of y's contents.
    pub output: Output,
    /// `[1]` u32
    pub depth: Span,
    /// Where the depth comes from.
    pub from: DepthFrom,
}

/// How the work on a product is spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// Invocations of a workgroup: a power of two.
    pub workgroup: u32,
    /// Invocations that share rows, one after the other along them: a power of two, at most a subgroup.
    pub lanes: u32,
    /// Rows that they share: 1, 2 or 4.
    pub rows: u32,
}

impl Spread {
    /// What suits a weight of so many chunks. On GPUs, lanes enough for a row to be in flight at once and not so many
    /// that they idle on short ones; one row a team, as more subgroups hide more of the memory's latency than shared
    /// loads of x save.
    pub fn of(traits: Traits, chunks: u32) -> Spread {
        if traits.software {
            // On processor cores lanes of a vector are best spent on rows: they then share the loads of x.
            return Spread { workgroup: 16, lanes: 1, rows: 4 };
        }
        let lanes = match chunks {
            0..12 => 8,
            12..24 => 16,
            _ => 32,
        };
        Spread { workgroup: 128, lanes: lanes.min(traits.subgroup), rows: 1 }
    }
}

/// Records the product; in parts where the weight is longer than a binding may be.
pub fn record(recording: &mut Recording, traits: Traits, product: &PackedProduct<'_>) {
    let spread = Spread::of(traits, product.weight.chunks());
    record_spread(recording, traits, product, spread);
}

/// Records the product, spread as told.
pub fn record_spread(recording: &mut Recording, traits: Traits, product: &PackedProduct<'_>, spread: Spread) {
    let weight = product.weight;
    let workgroup_rows = spread.workgroup / spread.lanes * spread.rows;
    for rows in weight.parts(traits) {
        let params = Params {
            rows: rows.len() as u32,
            chunks: weight.chunks(),
            first_row: rows.start,
            accumulate: u32::from(product.output == Output::Add),
            routed: u32::from(product.from == DepthFrom::Router),
        };
        let mut bindings = weight.bindings(&rows);
        bindings.extend([product.x, product.depth, product.y]);
        recording.dispatch(Dispatch {
            kernel: &KERNEL,
            constants: vec![
                ("WORKGROUP", spread.workgroup),
                ("LANES", spread.lanes),
                ("ROWS", spread.rows),
                ("GROUP_CHUNKS", weight.group_chunks()),
            ],
            params: bytemuck::bytes_of(&params).to_vec(),
            bindings,
            workgroups: [params.rows.div_ceil(workgroup_rows), 1, 1],
        });
    }
}

fn matvec_packed(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (row_count, chunks) = (p.rows as usize, p.chunks as usize);
    let input = chunks * CHUNK as usize;
    let groups: usize = args.read::<u32>(4).len() / row_count;
    let rows = Rows::bound(args, input, input / groups);
    let x = Ready::new(args.read(5), chunks);
    let depth: &mut [u32] = args.write(6);
    let y: &mut [f32] = args.write(7);
    if p.routed == 1 {
        let (outputs, control) = x.outputs();
        depth[0] = depth_of(outputs, control);
    }
    let slices = depth[0] as usize;
    let x: Vec<_> = (0..chunks).map(|chunk| (x.ints(chunk), x.unit_and_sum(chunk))).collect();
    y[p.first_row as usize..][..row_count].par_iter_mut().enumerate().for_each(|(row, y)| {
        let parts = x.iter().enumerate().map(|(chunk, (ints, (unit, sum)))| {
            let codes = rows.codes(row, chunk, slices);
            let products = codes.iter().zip(ints).map(|(code, int)| i32::from(*code) * *int);
            let (bin, middle) = rows.bin(row, chunk, slices);
            bin * unit * products.sum::<i32>() as f32 + middle * sum
        });
        let product: f32 = parts.sum();
        *y = if p.accumulate == 1 { *y + product } else { product };
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: [u32; 8] = [1, 64, 576, 1536, 4096, 6144, 28672, 128_256];
    const CHUNKS: [u32; 8] = [1, 9, 12, 24, 64, 172, 224, 512];

    #[test]
    fn every_shape_gets_a_spread_that_the_shader_can_do() {
        for subgroup in [4, 8, 32, 64] {
            let traits = Traits {
                software: false,
                packed_dot: true,
                subgroup,
                cooperative_matrix: false,
                binding_bytes: 1 << 27,
            };
            for (rows, chunks) in ROWS.into_iter().flat_map(|rows| CHUNKS.map(|chunks| (rows, chunks))) {
                let Spread { workgroup, lanes, rows: team_rows } = Spread::of(traits, chunks);
                assert!([workgroup, lanes, team_rows].iter().all(|n| n.is_power_of_two()));
                assert!(lanes <= subgroup && team_rows <= 4 && workgroup <= 256);
                assert!(rows.div_ceil(workgroup / lanes * team_rows) <= 65535, "{rows} rows of {chunks} chunks");
            }
        }
    }
}
