//! How a router of one token learns its input: from the kernels that make it, each of whose workgroups tells what its
//! part of the input comes to in each hidden unit.
//!
//! What a router is told is [2, HIDDEN] u32: of each sum a high part, signed, which counts 1/16, and a low one, which
//! counts 2^-24. Terms are split in the same way, so that additions are exact in any order, and the same token always
//! reads the same depth. The sums are W1 u for the site's input u, without the factors that u's norm and the router's
//! own have for all of u alike: who reads them knows u, and so the factors.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::route::Router;
use super::sliced::dot;
use crate::recording::Span;
use crate::routing::HIDDEN;

/// Bytes of what one router is told; a range that begins at a multiple of them can be bound.
pub const BYTES: u64 = 2 * HIDDEN as u64 * 4;
/// What the high part and the low part of a sum count.
const HIGH_PARTS: f32 = 16.0;
const LOW_PARTS: f32 = 16_777_216.0;
/// Terms are no larger, so that a hundred of them fit.
const LARGEST: f32 = 1_048_576.0;

/// A site's router, the site's place among all, and what the router is told.
#[derive(Debug, Clone, Copy)]
pub struct RouterAt<'a> {
    /// The router.
    pub router: &'a Router,
    /// The site's entry in the control buffer.
    pub site: u32,
    /// [2, HIDDEN] u32, which is zero before it is told.
    pub sums: Span,
}

/// Adds what the input comes to in each unit; w1: [HIDDEN, input].
pub(super) fn tell(sums: &mut [u32], w1: &[f16], told: &[f32]) {
    let input = w1.len() / HIDDEN as usize;
    let mut row = vec![0f32; input];
    let (highs, lows) = sums.split_at_mut(HIDDEN as usize);
    for ((high, low), w1) in highs.iter_mut().zip(lows).zip(w1.chunks_exact(input)) {
        w1.convert_to_f32_slice(&mut row);
        let term = dot(&row, &told[..input]).clamp(-LARGEST, LARGEST);
        let whole = (term * HIGH_PARTS).floor();
        *high = high.wrapping_add(whole as i32 as u32);
        *low = low.wrapping_add(((term - whole / HIGH_PARTS) * LOW_PARTS) as u32);
    }
}

/// What the units come to.
pub fn unit_sums(sums: &[u32]) -> [f32; HIDDEN as usize] {
    let (high, low) = sums.split_at(HIDDEN as usize);
    std::array::from_fn(|unit| high[unit] as i32 as f32 / HIGH_PARTS + low[unit] as f32 / LOW_PARTS)
}
