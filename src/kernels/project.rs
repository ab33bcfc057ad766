//! The products of one token with numbers that are pairs of int8s: what the four kernels share that compute them.
//!
//! Each workgroup makes the site's whole input into pairs for itself, which costs less than a kernel before that the
//! product would have to wait for. The kernels differ in what becomes of the products: [`project_qkv`] rotates them
//! and keeps keys and values, [`project_residual`] adds them to the residual stream, [`project_gate`] gates them, and
//! [`project_logits`] hands them on. Those that make the input of a site with a router tell the router of it.
//!
//! [`project_qkv`]: super::project_qkv
//! [`project_residual`]: super::project_residual
//! [`project_gate`]: super::project_gate
//! [`project_logits`]: super::project_logits

use std::ops::Range;

use rayon::prelude::*;

use super::packed::{self, Packed};
use super::route::{Control, depth_of, silu};
use super::router_sums::{RouterAt, unit_sums};
use super::sliced::{CHUNK, Rows, SlicedWeight, dot};
use super::{params, router_sums};
use crate::engine::Traits;
use crate::recording::{Arguments, Buffer, Dispatch, Kernel, Recording, Span};
use crate::routing::{EPS, HIDDEN, SCORES};
use crate::shape::{LlamaShape, Site};

params! {
    /// Of the weight, in this dispatch.
    rows: u32,
    /// Row of y that this dispatch's first row belongs to.
    first_row: u32,
    /// Added to the mean square by the norm.
    eps: f32,
    /// Its entry in the control buffer.
    site: u32,
    /// H, where rows are queries, keys and values.
    heads: u32,
    /// K
    kv_heads: u32,
    /// C
    context: u32,
}

/// Bindings that all four kernels begin with: slices 0 to 3, scales, x, norm, b1, w2, b2, control,
/// sums.
pub(super) const SHARED_BINDINGS: usize = 12;
/// Storage buffers that a projection binds at most, which is what [`project_qkv`](super::project_qkv) binds.
pub const STORAGE_BUFFERS: u32 = 18;
/// Workgroups up to which a team has rows for one round only: each packs the whole input.
const WORKGROUPS: u32 = 128;
/// Invocations of the smallest workgroup, where its memory leaves no choice, and the rows of one at least.
const SMALLEST: u32 = 128;
const LEAST_ROWS: u32 = 16;
/// Bytes of a workgroup's memory for a chunk of the input.
const CHUNK_BYTES: u32 = 8 * 16 + 8;

/// The norm that makes an input of x: `x / sqrt(mean(x^2) + eps) * weight`
#[derive(Debug, Clone, Copy)]
pub struct Norm {
    /// `[input]` f32
    pub weight: Buffer,
    /// Added to the mean square.
    pub eps: f32,
}

/// A product with one token.
#[derive(Debug, Clone, Copy)]
pub struct Projection<'a> {
    /// W
    pub weight: &'a SlicedWeight,
    /// `[input]` f32
    pub x: Span,
    /// What makes the input of x; none where x is the input.
    pub norm: Option<Norm>,
    /// `[1]` u32: the depth, or where the one that is chosen goes.
    pub depth: Span,
    /// Who chooses the depth; none where it is there.
    pub router: Option<RouterAt<'a>>,
    /// Who is told of what is made.
    pub next: Option<RouterAt<'a>>,
    /// A [`Control`] for each site.
    pub control: Span,
    /// How the work is spread.
    pub spread: Spread,
}

/// What a router may be told of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nothing.
    Nothing,
    /// Its rows.
    Rows,
    /// What pairs of its rows make.
    Pairs,
}

impl Told {
    /// What one may be told of the product at a site.
    pub fn at(site: Site) -> Told {
        match site {
            Site::Qkv => Told::Nothing,
            Site::O | Site::Down => Told::Rows,
            Site::GateUp => Told::Pairs,
        }
    }
}

/// How the work on a product is spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// Invocations of a workgroup: a power of two, no less than the router's hidden units.
    pub workgroup: u32,
    /// Invocations that share rows, one after the other along them: a power of two, at most a subgroup and no less than
    /// `rows`.
    pub lanes: u32,
    /// Rows that they share at a time: 1, 2 or 4.
    pub rows: u32,
    /// How many times they do.
    pub rounds: u32,
    /// Invocations of a subgroup, at least.
    pub subgroup: u32,
}

impl Spread {
    /// What suits a weight; a team has rows in pairs where they make one number.
    pub fn of(traits: Traits, (rows, input): (u32, u32), told: Told) -> Spread {
        let subgroup = traits.subgroup;
        if traits.software {
            return Spread { workgroup: 32, lanes: 4, rows: 4, rounds: 1, subgroup };
        }
        // Large workgroups for long rows, as each packs the whole input; lanes enough for a row to be in flight at once
        // and not so many that they idle on short ones.
        let (lanes, workgroup, team_rows) = match (input / CHUNK, told == Told::Pairs) {
            (0..12, pairs) => (8, 128, 1 + u32::from(pairs)),
            (12..32, pairs) => (16, 256, 1 + u32::from(pairs)),
            (_, false) => (32, 1024, 1),
            (_, true) => (32, 512, 4),
        };
        let largest = workgroup.min(1 << traits.workgroup_invocations.ilog2());
        let lanes = lanes.min(subgroup);
        // Smaller ones with fewer rows where a workgroup's memory does not hold what all those rows take.
        let sizes = std::iter::successors(Some(largest), |size| (*size > SMALLEST).then_some(size / 2));
        let spreads = sizes.flat_map(|workgroup| {
            let at_once = workgroup / lanes * team_rows;
            let least = LEAST_ROWS.div_ceil(at_once);
            let rounds = rows.div_ceil(WORKGROUPS * at_once).clamp(least, workgroup / at_once);
            [rounds, least].map(|rounds| Spread { workgroup, lanes, rows: team_rows, rounds, subgroup })
        });
        let spreads: Vec<Spread> = spreads.collect();
        let fits = |spread: &&Spread| spread.workgroup_bytes(input, told) <= traits.workgroup_bytes;
        *spreads.iter().find(fits).unwrap_or(&spreads[spreads.len() - 1])
    }

    /// Bytes of memory that a workgroup needs for rows of `input` numbers.
    fn workgroup_bytes(self, input: u32, told: Told) -> u32 {
        let (rows, teams) = (self.workgroup_rows(), self.workgroup / self.lanes);
        // What each team tells, or the products.
        let outcome = if told == Told::Nothing { rows * 4 } else { teams * HIDDEN * 4 };
        // And the squares of each subgroup, and the depth.
        input / CHUNK * CHUNK_BYTES + self.workgroup / self.subgroup * 8 + outcome + 4
    }

    /// Workgroups of a product of so many rows.
    fn workgroups(self, rows: u32) -> u32 {
        rows.div_ceil(self.workgroup_rows())
    }

    /// Rows of a workgroup.
    fn workgroup_rows(self) -> u32 {
        self.workgroup / self.lanes * self.rows * self.rounds
    }
}

/// Whether a model's projections can be computed by these kernels on the device.
pub fn fits(traits: Traits, shape: &LlamaShape) -> bool {
    traits.packed_dot && needed_bytes(traits, shape) <= traits.workgroup_bytes
}

/// Bytes of memory that a workgroup needs for the largest of a model's projections; the least there can be, where the
/// device has less.
pub fn needed_bytes(traits: Traits, shape: &LlamaShape) -> u32 {
    let bytes = |site: Site| {
        let (dims, told) = (site.dims(shape), Told::at(site));
        Spread::of(traits, dims, told).workgroup_bytes(dims.1, told)
    };
    Site::ALL.map(bytes).into_iter().max().expect("a layer has sites")
}

/// Records a product, or some rows of it, by a kernel that binds `more` besides.
pub(super) fn record(
    recording: &mut Recording,
    kernel: &'static Kernel,
    projection: &Projection<'_>,
    rows: Range<u32>,
    (shape, context): (Option<&LlamaShape>, u32),
    more: &[Span],
) {
    let Projection { weight, x, norm, router, next, control, spread, .. } = *projection;
    let params = Params {
        rows: rows.len() as u32,
        first_row: rows.start,
        eps: norm.map_or(0.0, |norm| norm.eps),
        site: router.map_or(0, |at| at.site),
        heads: shape.map_or(0, |shape| shape.heads),
        kv_heads: shape.map_or(0, |shape| shape.kv_heads),
        context,
    };
    let mut bindings = weight.bindings(&rows);
    bindings.extend([x, norm.map_or(x, |norm| norm.weight.all())]);
    bindings
        .extend(router.map_or([x; 3], |RouterAt { router, .. }| [router.b1, router.w2, router.b2].map(Buffer::all)));
    bindings.extend([control, router.map_or(x, |at| at.sums)]);
    bindings.extend(more);
    recording.dispatch(Dispatch {
        kernel,
        constants: vec![
            ("WORKGROUP", spread.workgroup),
            ("LANES", spread.lanes),
            ("ROWS", spread.rows),
            ("ROUNDS", spread.rounds),
            ("TEAM", packed::team(spread.workgroup, spread.subgroup, weight.chunks())),
            ("CHUNKS", weight.chunks()),
            ("GROUP_CHUNKS", weight.group_chunks()),
            ("HEAD_DIM", shape.map_or(0, |shape| shape.head_dim)),
            ("NORMED", u32::from(norm.is_some())),
            ("ROUTED", u32::from(router.is_some())),
            ("TELLS", u32::from(next.is_some())),
            ("SUBGROUPS", spread.workgroup / spread.subgroup),
            ("UNITS", HIDDEN.div_ceil(spread.subgroup)),
        ],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings,
        workgroups: [spread.workgroups(params.rows), 1, 1],
    });
}

/// What a kernel binds to tell a router: w1, and the sums; something that is not looked at where there is none.
pub(super) fn told(recording: &mut Recording, next: Option<RouterAt<'_>>, unused: Span) -> [Span; 2] {
    match next {
        Some(next) => [next.router.w1.all(), next.sums],
        None => [unused, recording.transient(router_sums::BYTES).all()],
    }
}

/// The products of the bound rows, at the depth that is in `depth` or is chosen and written there.
pub(super) fn multiply(args: &Arguments<'_>, p: &Params, depth: &mut [u32]) -> Vec<f32> {
    let row_count = p.rows as usize;
    let x: &[f32] = args.read(5);
    let input = args.read::<u32>(0).len() / row_count * 16;
    let x = &x[..input];
    let groups = args.read::<u32>(4).len() / row_count;
    let rows = Rows::bound(args, input, input / groups);
    let (numbers, factor) = match args.constant("NORMED") {
        0 => (x.to_vec(), 1.0),
        _ => {
            let norm: &[f32] = args.read(6);
            let numbers = x.iter().zip(norm).map(|(x, norm)| x * norm).collect();
            (numbers, 1.0 / (dot(x, x) / input as f32 + p.eps).sqrt())
        }
    };
    if args.constant("ROUTED") == 1 {
        let mean_square = dot(&numbers, &numbers) * factor * factor / input as f32;
        depth[0] = chosen_depth(args, p, factor / (mean_square + EPS).sqrt());
    }
    let slices = depth[0] as usize;
    let packed = Packed::of(&numbers);
    let chunks: Vec<(&[i32], f32)> = packed.ints.chunks_exact(CHUNK as usize).zip(packed.units).collect();
    let product = |row: usize| {
        let parts = chunks.iter().enumerate().map(|(chunk, (ints, unit))| {
            let codes = rows.codes(row, chunk, slices);
            let products = codes.iter().zip(*ints).map(|(code, int)| i32::from(*code) * *int);
            let (bin, middle) = rows.bin(row, chunk, slices);
            let sum = *unit * ints.iter().sum::<i32>() as f32;
            bin * unit * products.sum::<i32>() as f32 + middle * sum
        });
        parts.sum::<f32>() * factor
    };
    (0..row_count).into_par_iter().map(product).collect()
}

/// The depth that a site's router chooses by what it was told, of which `factor` makes that of the router's norm.
fn chosen_depth(args: &Arguments<'_>, p: &Params, factor: f32) -> u32 {
    let (b1, w2, b2): (&[f32], &[f32], &[f32]) = (args.read(7), args.read(8), args.read(9));
    let control: &[Control] = args.read(10);
    let units = unit_sums(args.read(11)).into_iter().zip(b1);
    let h: Vec<f32> = units.map(|(sum, b1)| silu(sum * factor + b1)).collect();
    let output = |e: usize| dot(&w2[e * HIDDEN as usize..][..HIDDEN as usize], &h) + b2[e];
    let outputs: [f32; SCORES as usize] = std::array::from_fn(output);
    depth_of(outputs, control[p.site as usize])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Activations;
    use crate::shape::{Rope, RopeScaling};

    const ROWS: [u32; 8] = [1, 64, 576, 1536, 4096, 6144, 28672, 128_256];
    const CHUNKS: [u32; 8] = [1, 9, 12, 24, 64, 172, 224, 512];

    #[test]
    fn every_shape_gets_a_spread_that_the_shader_can_do() {
        for (software, subgroup) in [(true, 4), (true, 8), (false, 4), (false, 8), (false, 32), (false, 64)] {
            let traits = Traits {
                software,
                packed_dot: true,
                activations: Activations::Auto,
                subgroup,
                cooperative_matrix: false,
                binding_bytes: 1 << 27,
                workgroup_invocations: 1024,
                workgroup_bytes: 1 << 15,
            };
            for (rows, chunks) in ROWS.into_iter().flat_map(|rows| CHUNKS.map(|chunks| (rows, chunks))) {
                let told = if rows > 64 { Told::Pairs } else { Told::Rows };
                let spread = Spread::of(traits, (rows, chunks * CHUNK), told);
                let Spread { workgroup, lanes, rows: team_rows, rounds, .. } = spread;
                assert!([workgroup, lanes, team_rows].iter().all(|n| n.is_power_of_two()));
                assert!(lanes <= subgroup && team_rows <= lanes.min(4) && (HIDDEN..=1024).contains(&workgroup));
                assert!(spread.workgroup_rows().is_multiple_of(16), "{spread:?}");
                assert!((1..=workgroup).contains(&(spread.workgroup_rows())), "{rounds}");
                assert!(rows.div_ceil(spread.workgroup_rows()) <= 65535, "{rows} rows of {chunks} chunks");
            }
        }
    }

    #[test]
    fn models_of_7b_and_8b_fit_the_32_kib_that_every_desktop_has_and_not_half_of_them() {
        let shape = LlamaShape {
            layers: 32,
            model_dim: 4096,
            ffn_dim: 11008,
            heads: 32,
            kv_heads: 32,
            head_dim: 128,
            vocab: 32000,
            max_context: 4096,
            norm_eps: 1e-5,
            tied_head: false,
            rope: Rope { theta: 10_000.0, scaling: RopeScaling::default() },
        };
        let traits = |workgroup_bytes| Traits {
            software: false,
            packed_dot: true,
            activations: Activations::Auto,
            subgroup: 32,
            cooperative_matrix: false,
            workgroup_invocations: 1024,
            workgroup_bytes,
            binding_bytes: 1 << 27,
        };
        assert!(fits(traits(32 << 10), &shape));
        assert!(!fits(traits(16 << 10), &shape));
        let larger = LlamaShape { ffn_dim: 14336, kv_heads: 8, vocab: 128_256, ..shape };
        assert!(fits(traits(32 << 10), &larger));
        let down = |bytes| Spread::of(traits(bytes), Site::Down.dims(&larger), Told::Rows);
        assert_eq!((down(32 << 10).workgroup, down(48 << 10).workgroup), (512, 1024));
        let head = Spread::of(traits(48 << 10), (128_256, 4096), Told::Nothing);
        assert!(head.workgroups(128_256) <= WORKGROUPS, "the input is packed in one wave: {head:?}");
    }
}
