//! The depth of each token at some neighbouring sites, by the sites' routers, and the norm that these look at: what the
//! kernels share.

use std::ops::Range;

use half::f16;
use rayon::prelude::*;

use super::weights::{Control, RouterNumbers};
use crate::kernels::declare::{bindings, params};
use crate::kernels::rms_norm::{Norm, normalize};
use crate::kernels::step_rows::StepRow;
use crate::recording::{Access, Arguments, Span};

params! {
    /// Eights of numbers in a row of x.
    row_eights: u32,
    /// The first site, whose router is the first in w1.
    first_site: u32,
    /// Entries of a site's row of depths.
    depths_row: u32,
    /// Added to the mean square by the norm.
    eps: f32,
}

/// Bindings of the kernels: x [T, D], norm `[D]`, w1 [S, HIDDEN, D] f16 of the S sites, rest [4 L, REST] of all,
/// control [4 L] of [`Control`] for each sequence, step rows `[T]` of [`StepRow`], normed [T, D], depths [S, T] u32, in
/// rows of `depths_row`.
pub(super) const BINDINGS: &[Access] = &bindings::<8>(6);

/// The tokens that are routed, the sites, and where the results go.
#[derive(Debug, Clone)]
pub struct RouteInputs {
    /// The residual stream, [T, D] f32.
    pub x: Span,
    /// The norm that the routers look at.
    pub norm: Norm,
    /// Where x normalised goes, [T, D] f32.
    pub normed: Span,
    /// The sites.
    pub sites: Range<u32>,
    /// A [`Control`] for each site, of each sequence.
    pub control: Span,
    /// The step's rows, `[T]` of [`StepRow`].
    pub step_rows: Span,
    /// Where the depths go: [S, T] u32, in rows of `depths_row` entries.
    pub depths: Span,
    /// Entries from a site's row of depths to the next one's.
    pub depths_row: u32,
}

impl RouteInputs {
    /// T
    pub(super) fn tokens(&self) -> u32 {
        (self.step_rows.bytes / StepRow::BYTES) as u32
    }
}

pub(super) fn route(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let [tokens, sites, _] = args.workgroups.map(|count| count as usize);
    let dim = p.row_eights as usize * 8;
    let (normed, depths): (&mut [f32], &mut [u32]) = (args.write(6), args.write(7));
    let normed = &mut normed[..tokens * dim];
    normalize(args.read(0), args.read(1), p.eps, normed);
    let (w1, rest): (&[f16], &[f32]) = (args.read(2), args.read(3));
    let (control, step_rows): (&[Control], &[StepRow]) = (args.read(4), args.read(5));
    let of = |row: &StepRow, site: usize| control[row.first_control as usize + site];
    for (at, depths) in depths.chunks_mut(p.depths_row as usize).take(sites).enumerate() {
        let site = p.first_site as usize + at;
        let router = RouterNumbers::of(w1, at, rest, site, dim);
        let hidden = router.hidden();
        let selected: Vec<u32> = normed
            .par_chunks_exact(dim)
            .zip(step_rows)
            .map(|(x, row)| router.depth(&hidden(x), of(row, site)))
            .collect();
        for (row, depth) in step_rows.iter().zip(selected) {
            depths[row.depth_row as usize] = depth;
        }
    }
}
