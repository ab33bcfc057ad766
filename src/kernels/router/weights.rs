//! The routers of a model on an engine, and what the kernels share that compute them.
//!
//! [`crate::routing`] has the formula, and says which norm each router looks at.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::kernels::gate::silu;
use crate::kernels::sliced::dot;
use crate::recording::{Buffer, Span};
use crate::routing::{EPS, HIDDEN, REST, SCORES};

/// The routers of all sites.
#[derive(Debug, Clone, Copy)]
pub struct Routers {
    /// [4 L, HIDDEN, D] f16
    pub w1: Buffer,
    /// [4 L, REST] f32
    pub rest: Buffer,
    /// D, a multiple of 8.
    pub dim: u32,
}

impl Routers {
    /// w1 of these sites' routers.
    pub(crate) fn w1(&self, sites: &Range<u32>) -> Span {
        let site = u64::from(HIDDEN) * u64::from(self.dim) * 2;
        self.w1.span(u64::from(sites.start) * site, sites.len() as u64 * site)
    }
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

/// The numbers of a router.
pub(crate) struct RouterNumbers<'a> {
    w1: &'a [f16],
    b1: &'a [f32],
    w2: &'a [f32],
    b2: &'a [f32],
}

impl<'a> RouterNumbers<'a> {
    /// The router of site `site`, whose w1 is the one at `at` of those that are bound.
    pub fn of(w1: &'a [f16], at: usize, rest: &'a [f32], site: usize, dim: usize) -> RouterNumbers<'a> {
        let length = HIDDEN as usize * dim;
        RouterNumbers { w1: &w1[at * length..][..length], ..RouterNumbers::without_w1(rest, site) }
    }

    /// The same without w1, where the hidden units are known.
    pub fn without_w1(rest: &'a [f32], site: usize) -> RouterNumbers<'a> {
        let (b1, rest) = rest[site * REST as usize..][..REST as usize].split_at(HIDDEN as usize);
        let (w2, rest) = rest.split_at((SCORES * HIDDEN) as usize);
        RouterNumbers { w1: &[], b1, w2, b2: &rest[..SCORES as usize] }
    }

    /// What makes the hidden units of what the router looks at, `[D]`.
    pub fn hidden(&self) -> impl Fn(&[f32]) -> [f32; HIDDEN as usize] {
        let mut w1 = vec![0f32; self.w1.len()];
        self.w1.convert_to_f32_slice(&mut w1);
        move |x| {
            let norm = 1.0 / (dot(x, x) / x.len() as f32 + EPS).sqrt();
            std::array::from_fn(|unit| silu(dot(&w1[unit * x.len()..][..x.len()], x) * norm + self.b1[unit]))
        }
    }

    /// The depth by the hidden units.
    pub fn depth(&self, hidden: &[f32], control: Control) -> u32 {
        let output = |e: usize| dot(&self.w2[e * HIDDEN as usize..][..HIDDEN as usize], hidden) + self.b2[e];
        depth_of(std::array::from_fn(output), control)
    }
}

/// The depth by the router's outputs.
fn depth_of(o: [f32; SCORES as usize], Control { threshold, most }: Control) -> u32 {
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
