//! The depth of each token at one site, by the site's router.
//!
//! The formula is told in [`crate::routing`].

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::made::Made;
use super::sliced::dot;
use super::{bindings, params, route_vector};
use crate::engine::Traits;
use crate::recording::{Arguments, Buffer, Dispatch, Kernel, Recording, Span};
use crate::routing::{EPS, HIDDEN, SCORES};

params! {
    /// Eights of numbers in a row of x.
    row_eights: u32,
    /// The site's entry in the control buffer.
    site: u32,
}

/// `shaders/route.wgsl`; bindings: x [T, input], w1 [HIDDEN, input] f16, b1 `[HIDDEN]`, w2 [SCORES, HIDDEN],
/// b2 `[SCORES]`, control [4 L] of [`Control`], deal `[T]` u32, depths `[T]` u32.
pub static KERNEL: Kernel = Kernel {
    name: "route",
    wgsl: include_str!("../../shaders/route.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<8>(7),
    reference: route,
};

/// A site's router, on an engine.
#[derive(Debug, Clone, Copy)]
pub struct Router {
    /// [HIDDEN, input] f16
    pub w1: Buffer,
    /// `[HIDDEN]` f32
    pub b1: Buffer,
    /// [SCORES, HIDDEN] f32
    pub w2: Buffer,
    /// `[SCORES]` f32
    pub b2: Buffer,
    /// Input dimension of the site, a multiple of 8.
    pub input: u32,
}

/// What the host says to a site's router.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Control {
    /// Scores above this open their gates.
    pub threshold: f32,
    /// Slices that may be read, 1 to 4.
    pub most: u32,
}

/// What is routed, and how.
#[derive(Debug, Clone, Copy)]
pub struct Inputs {
    /// The site's input, [T, input] f32.
    pub x: Span,
    /// What makes it, which is recorded with the router.
    pub made: Made,
    /// A [`Control`] for each site.
    pub control: Span,
    /// The site's place in it.
    pub site: u32,
    /// The token that gets the depth chosen for each token, `[T]` u32: a permutation of the step's tokens.
    pub deal: Span,
}

/// Records `depths[deal[t]] = depth(x[t])` for as many tokens as `depths` holds, `[T]` u32.
pub fn record(recording: &mut Recording, traits: Traits, router: &Router, inputs: &Inputs, depths: Span) {
    if route_vector::suits(traits, router.input) {
        return route_vector::record(recording, router, inputs, depths);
    }
    // On processor cores one invocation a unit: lanes that share x need no sum over lanes.
    let lanes = if traits.software { 1 } else { 8 };
    let Inputs { x, made, control, site, deal } = *inputs;
    let params = Params { row_eights: router.input / 8, site };
    let tokens = (depths.bytes / 4) as u32;
    made.record(recording, tokens, x);
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("WORKGROUP", HIDDEN * lanes)],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![x, router.w1.all(), router.b1.all(), router.w2.all(), router.b2.all(), control, deal, depths],
        workgroups: [tokens, 1, 1],
    });
}

fn route(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (x, depths): (&[f32], &mut [u32]) = (args.read(0), args.write(7));
    let input = p.row_eights as usize * 8;
    choose(args, 1, &x[..args.workgroups[0] as usize * input], input, p.site, depths);
}

/// Chooses the depth of each row of x by the router that is bound from `first` on.
pub(super) fn choose(args: &Arguments<'_>, first: usize, x: &[f32], input: usize, site: u32, depths: &mut [u32]) {
    let w1: &[f16] = args.read(first);
    let [b1, w2, b2]: [&[f32]; 3] = [1, 2, 3].map(|at| args.read(first + at));
    let (control, deal): (&[Control], &[u32]) = (args.read(first + 4), args.read(first + 5));
    let mut weights = vec![0f32; w1.len()];
    w1.convert_to_f32_slice(&mut weights);
    let depth = |x: &[f32]| {
        let norm = 1.0 / (dot(x, x) / input as f32 + EPS).sqrt();
        let units = weights.chunks_exact(input).zip(b1);
        let h: Vec<f32> = units.map(|(w, b)| silu(dot(w, x) * norm + b)).collect();
        let o: [f32; SCORES as usize] =
            std::array::from_fn(|e| dot(&w2[e * HIDDEN as usize..][..HIDDEN as usize], &h) + b2[e]);
        depth_of(o, control[site as usize])
    };
    let chosen: Vec<u32> = x.par_chunks_exact(input).map(depth).collect();
    for (to, depth) in deal.iter().zip(chosen) {
        depths[*to as usize] = depth;
    }
}

/// The depth by the router's outputs.
pub(super) fn depth_of(o: [f32; SCORES as usize], Control { threshold, most }: Control) -> u32 {
    let s1 = o[0];
    let s2 = s1 - softplus(o[1]);
    let s3 = s2 - softplus(o[2]);
    let open = [s1, s2, s3].into_iter().filter(|s| *s > threshold).count();
    (1 + open as u32).clamp(1, most)
}

/// log(1 + exp(v)), without overflow.
fn softplus(v: f32) -> f32 {
    v.max(0.0) + (-v.abs()).exp().ln_1p()
}

pub(super) fn silu(v: f32) -> f32 {
    v / (1.0 + (-v).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn softplus_is_exact_far_from_zero() {
        for (v, expected) in [(0.0, std::f32::consts::LN_2), (200.0, 200.0), (-200.0, 0.0), (f32::MAX, f32::MAX)] {
            assert_eq!(softplus(v), expected, "{v}");
        }
    }
}
