//! The depth of each token at some neighbouring sites, by the sites' routers, and the norm that these look at.

use std::ops::Range;

use half::f16;
use rayon::prelude::*;

use super::rms_norm::normalize;
use super::routers::{Control, Numbers, Routers};
use super::{bindings, params, route_vector};
use crate::engine::Traits;
use crate::recording::{Arguments, Buffer, Dispatch, Kernel, Recording, Span};
use crate::routing::HIDDEN;

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

/// `shaders/route.wgsl`; bindings: x [T, D], norm `[D]`, w1 [S, HIDDEN, D] f16 of the S sites, rest [4 L, REST] of all,
/// control [4 L] of [`Control`], deal `[T]` u32, normed [T, D], depths [S, T] u32, in rows of `depths_row`.
pub static KERNEL: Kernel = Kernel {
    name: "route",
    wgsl: include_str!("../../shaders/route.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<8>(6),
    reference: route,
};

/// What is routed, and how.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The residual stream, [T, D] f32.
    pub x: Span,
    /// The norm's weight, `[D]` f32, and what is added to the mean square.
    pub norm: (Buffer, f32),
    /// Where x normalised goes, [T, D] f32.
    pub normed: Span,
    /// The sites.
    pub sites: Range<u32>,
    /// A [`Control`] for each site of the model.
    pub control: Span,
    /// The token that gets the depth chosen for each token, `[T]` u32: a permutation of the step's tokens.
    pub deal: Span,
    /// Where the depths go: [S, T] u32, in rows of so many entries.
    pub depths: (Span, u32),
}

impl Inputs {
    /// T
    pub(super) fn tokens(&self) -> u32 {
        (self.deal.bytes / 4) as u32
    }
}

/// Records `normed = norm(x)`, and `depths[s, deal[t]] = depth(normed[t])` by the router of each site s.
pub fn record(recording: &mut Recording, traits: Traits, routers: &Routers, inputs: &Inputs) {
    let by_vectors = route_vector::suits(traits, routers.dim);
    // On processor cores one invocation a unit: lanes that share x need no sum over lanes. One token has one workgroup
    // for a site, in which loads are better all under way at once.
    let lanes = match (traits.software, inputs.tokens()) {
        (true, _) => 1,
        (false, 1) => (traits.workgroup_invocations / HIDDEN).clamp(8, 32),
        (false, _) => 8,
    };
    let Inputs { x, norm: (weight, eps), normed, sites, control, deal, depths: (depths, depths_row) } = inputs;
    let params = Params { row_eights: routers.dim / 8, first_site: sites.start, depths_row: *depths_row, eps: *eps };
    recording.dispatch(Dispatch {
        kernel: if by_vectors { &route_vector::KERNEL } else { &KERNEL },
        constants: if by_vectors { vec![] } else { vec![("WORKGROUP", HIDDEN * lanes)] },
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![*x, weight.all(), routers.w1(sites), routers.rest.all(), *control, *deal, *normed, *depths],
        workgroups: [inputs.tokens(), sites.len() as u32, 1],
    });
}

pub(super) fn route(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let [tokens, sites, _] = args.workgroups.map(|count| count as usize);
    let dim = p.row_eights as usize * 8;
    let (normed, depths): (&mut [f32], &mut [u32]) = (args.write(6), args.write(7));
    let normed = &mut normed[..tokens * dim];
    normalize(args.read(0), args.read(1), p.eps, normed);
    let (w1, rest): (&[f16], &[f32]) = (args.read(2), args.read(3));
    let (control, deal): (&[Control], &[u32]) = (args.read(4), args.read(5));
    for (at, depths) in depths.chunks_mut(p.depths_row as usize).take(sites).enumerate() {
        let site = p.first_site as usize + at;
        let router = Numbers::of((w1, at), rest, site, dim);
        let hidden = router.hidden();
        let chosen: Vec<u32> = normed.par_chunks_exact(dim).map(|x| router.depth(&hidden(x), control[site])).collect();
        for (to, depth) in deal.iter().zip(chosen) {
            depths[*to as usize] = depth;
        }
    }
}
