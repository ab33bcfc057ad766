//! How the work of a projection is spread over a device, and whether the device has the memory for it.

use crate::engine::Traits;
use crate::kernels::sliced::CHUNK;
use crate::shape::{LlamaShape, Site};

/// Tokens of a product at most. Shaders are made for 1, 2, 4 or 8 of them, the processor's functions for any number.
pub const FEW_TOKENS_MAX: u32 = 8;

/// Invocations of the smallest workgroup, where its memory leaves no choice, and the rows of one at least.
const SMALLEST: u32 = 128;
const LEAST_ROWS: u32 = 16;
/// Bytes of a workgroup's memory for a chunk of the input.
const CHUNK_BYTES: u32 = 8 * 16 + 12;
/// Invocations of a workgroup for several tokens, where there is no reason for fewer: any GPU has them, and two of them
/// fit in a processor with what registers they take.
const FEW_WORKGROUP: u32 = 256;
/// Hidden units of routers that a workgroup computes, at most; the shader's constant.
pub(super) const HIDDEN_UNITS_MAX: u32 = 16;

/// How the work on a product is spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// Invocations of a workgroup: a power of two.
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
    /// Processors of the device: see [`Traits::processors`].
    pub processors: u32,
}

impl Spread {
    /// The spread for the weight of a site, or of the head. A team has rows in pairs where two make one number.
    pub fn of(traits: Traits, (rows, input): (u32, u32), site: Option<Site>) -> Spread {
        let Traits { subgroup, processors, .. } = traits;
        if traits.software {
            return Spread { workgroup: 32, lanes: 4, rows: 4, rounds: 1, subgroup, processors };
        }
        // Large workgroups for long rows, as each packs the whole input; lanes enough for a row to be in flight at once
        // and not so many that they idle on short ones.
        let (lanes, workgroup, team_rows) = match (input / CHUNK, site == Some(Site::GateUp)) {
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
            // Up to as many workgroups as have a processor each, a team has rows for one round only: each packs the
            // whole input.
            let rounds = rows.div_ceil(traits.row_workgroups() * at_once).clamp(least, workgroup / at_once);
            [rounds, least].map(|rounds| Spread { workgroup, lanes, rows: team_rows, rounds, subgroup, processors })
        });
        let spreads: Vec<Spread> = spreads.collect();
        let fits = |spread: &&Spread| spread.workgroup_bytes(input, site) <= traits.workgroup_bytes;
        *spreads.iter().find(fits).unwrap_or(&spreads[spreads.len() - 1])
    }

    /// The spread of the same product with several tokens, whose inputs are packed before. Lanes have the same parts of
    /// a row, so that sums are made in the same order. A team has two rows, for which it loads each input once.
    pub fn of_few(self) -> Spread {
        let workgroup = if self.workgroup < FEW_WORKGROUP / 4 { 32 } else { FEW_WORKGROUP };
        Spread { workgroup: workgroup.max(self.lanes * 8), rows: 2, rounds: 1, ..self }
    }

    /// Whether the product of several tokens can be spread so.
    pub(super) fn does_few(self) -> bool {
        self.rows == 2 && self.rounds == 1 && self.lanes >= 4 && self.workgroup_rows().is_multiple_of(16)
    }

    /// Bytes of memory that a workgroup needs for rows of `input` numbers at the site.
    fn workgroup_bytes(self, input: u32, site: Option<Site>) -> u32 {
        input / CHUNK * CHUNK_BYTES + self.other_bytes(1, site)
    }

    /// The same where the inputs of several tokens are packed before: their sums and depths, and a place where the
    /// packed input of a single one would be.
    fn few_bytes(self, site: Option<Site>) -> u32 {
        FEW_TOKENS_MAX * (self.workgroup * 8 + 16) + 28 + self.other_bytes(FEW_TOKENS_MAX, site)
    }

    /// Bytes that it needs beside the inputs of so many tokens and their sums.
    fn other_bytes(self, tokens: u32, site: Option<Site>) -> u32 {
        let subgroups = self.workgroup / self.subgroup;
        let has_routers = matches!(site, Some(Site::Qkv | Site::GateUp));
        let hidden = if has_routers { hidden_bytes(subgroups) } else { 0 };
        // The products where they are rotated.
        let outcome = if site == Some(Site::Qkv) { tokens * self.workgroup_rows() * 4 } else { 0 };
        // The subgroups' sums of squares are four bytes each.
        subgroups * 4 + hidden + outcome
    }

    /// Workgroups of a product of so many rows.
    pub(super) fn workgroups(self, rows: u32) -> u32 {
        rows.div_ceil(self.workgroup_rows())
    }

    /// Rows of a workgroup.
    fn workgroup_rows(self) -> u32 {
        self.workgroup / self.lanes * self.rows * self.rounds
    }
}

/// Whether a model's projections can be computed by these kernels on the device.
pub fn fits(traits: Traits, shape: &LlamaShape) -> bool {
    traits.packed_dot
        && needed_bytes(traits, shape) <= traits.workgroup_bytes
        && bound_bytes(shape) <= traits.binding_bytes
}

/// Whether the products of several tokens can be computed at once, where those of one can.
pub fn few_fit(traits: Traits, shape: &LlamaShape) -> bool {
    let fits = |dims, site| Spread::of(traits, dims, site).of_few().few_bytes(site) <= traits.workgroup_bytes;
    traits.packed_dot
        && Site::ALL.into_iter().all(|site| fits(site.dims(shape), Some(site)))
        && fits((shape.vocab, shape.model_dim), None)
}

/// Bytes of the longest range that the kernels bind of a layer: all of a slice, as its rows belong together. Ranges of
/// groups are shorter.
pub fn bound_bytes(shape: &LlamaShape) -> u64 {
    Site::ALL.map(|site| site.weights(shape) / 4).into_iter().max().expect("a layer has sites")
}

/// Bytes of memory that a workgroup needs for the largest of a model's projections; the least there can be, where the
/// device has less.
pub fn needed_bytes(traits: Traits, shape: &LlamaShape) -> u32 {
    let bytes = |site: Site| {
        let dims = site.dims(shape);
        Spread::of(traits, dims, Some(site)).workgroup_bytes(dims.1, Some(site))
    };
    Site::ALL.map(bytes).into_iter().max().expect("a layer has sites")
}

/// Bytes of a workgroup's memory for the hidden units of routers, where it has so many subgroups.
fn hidden_bytes(subgroups: u32) -> u32 {
    (subgroups.min(HIDDEN_UNITS_MAX) + 2) * subgroups * 4
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::USUAL_PROCESSORS;
    use crate::shape::{Rope, RopeScaling};

    const ROWS: [u32; 8] = [1, 64, 576, 1536, 4096, 6144, 28672, 128_256];
    const CHUNKS: [u32; 8] = [1, 9, 12, 24, 64, 172, 224, 512];

    #[test]
    fn every_shape_gets_a_spread_that_the_shader_can_do() {
        for (software, subgroup) in
            [(true, 4), (true, 8), (false, 4), (false, 8), (false, 16), (false, 32), (false, 64)]
        {
            let traits = Traits { software, subgroup, workgroup_bytes: 1 << 15, ..Traits::LARGE_GPU };
            for (rows, chunks) in ROWS.into_iter().flat_map(|rows| CHUNKS.map(|chunks| (rows, chunks))) {
                let spread = Spread::of(traits, (rows, chunks * CHUNK), (rows > 64).then_some(Site::GateUp));
                let Spread { workgroup, lanes, rows: team_rows, rounds, .. } = spread;
                assert!([workgroup, lanes, team_rows].iter().all(|n| n.is_power_of_two()));
                assert!(lanes <= subgroup && team_rows <= lanes.min(4) && (32..=1024).contains(&workgroup));
                assert!(spread.workgroup_rows().is_multiple_of(16), "{spread:?}");
                assert!((1..=workgroup).contains(&(spread.workgroup_rows())), "{rounds}");
                assert!(rows.div_ceil(spread.workgroup_rows()) <= 65535, "{rows} rows of {chunks} chunks");
                let few = spread.of_few();
                assert!(few.does_few() && few.lanes == lanes && few.workgroup <= 256, "{few:?}");
                assert!(few.workgroup >= subgroup && rows.div_ceil(few.workgroup_rows()) <= 65535, "{few:?}");
            }
        }
    }

    #[test]
    fn weights_that_one_binding_does_not_hold_are_left_to_products_that_split_them() {
        // 70 billion weights: gate and up have 112 MiB of two bits a slice.
        let shape = LlamaShape {
            layers: 80,
            model_dim: 8192,
            ffn_dim: 28672,
            heads: 64,
            kv_heads: 8,
            head_dim: 128,
            vocab: 128_256,
            max_context: 8192,
            norm_eps: 1e-5,
            tied_head: false,
            rope: Rope { theta: 500_000.0, scaling: RopeScaling::default() },
        };
        let traits = Traits { workgroup_bytes: 96 << 10, ..Traits::LARGE_GPU };
        assert_eq!(bound_bytes(&shape), 2 * 28672 * 8192 / 4);
        assert!(fits(Traits { binding_bytes: 2 * 28672 * 8192 / 4, ..traits }, &shape));
        assert!(!fits(Traits { binding_bytes: 2 * 28672 * 8192 / 4 - 1, ..traits }, &shape));
    }

    #[test]
    fn small_gpus_have_fewer_workgroups_and_the_usual_one_as_many_as_ever() {
        let workgroups = |processors| {
            let traits = Traits { processors, ..Traits::LARGE_GPU };
            [(6144, 4096), (128_256, 4096), (4096, 11008)].map(|dims| Spread::of(traits, dims, None).workgroups(dims.0))
        };
        assert_eq!(Traits::LARGE_GPU.row_workgroups(), 128);
        assert_eq!(workgroups(USUAL_PROCESSORS), [96, 126, 128]);
        // A workgroup has one row an invocation at most, so that large heads have more of them.
        assert_eq!(workgroups(24), [24, 126, 22]);
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
        let traits = |workgroup_bytes| Traits { workgroup_bytes, ..Traits::LARGE_GPU };
        assert!(fits(traits(32 << 10), &shape));
        assert!(!fits(traits(16 << 10), &shape));
        // Eight tokens' sums take 16 KiB alone.
        assert!(few_fit(traits(32 << 10), &shape));
        assert!(!few_fit(traits(16 << 10), &shape));
        let larger = LlamaShape { ffn_dim: 14336, kv_heads: 8, vocab: 128_256, ..shape };
        assert!(fits(traits(32 << 10), &larger));
        let down = |bytes| Spread::of(traits(bytes), Site::Down.dims(&larger), Some(Site::Down));
        assert_eq!((down(31 << 10).workgroup, down(32 << 10).workgroup), (1024, 1024));
        let head = Spread::of(traits(48 << 10), (128_256, 4096), None);
        assert!(head.workgroups(128_256) <= traits(0).row_workgroups(), "the input is packed in one wave: {head:?}");
    }
}
