//! One token's numbers as pairs of int8s, as the projections' workgroups make them and as references read them.
//!
//! The numbers are taken in chunks of 64. Each becomes a whole number of sixteen bits, 32639 the greatest of the chunk:
//! a high int8, of which one counts 256 low ones, and a low one. In a workgroup's memory, for C chunks of vec4s of u32:
//!
//! ```text
//! [4, C]        high int8s: component c of chunk n in plane i is four of them, numbers 64n + 16c + 4i to + 3
//! [4, C]        low int8s in the same order
//! ```
//!
//! Plane i holds what `(word >> 2i) & 0x03030303` of a slice's words is multiplied with, so a product reads whole
//! `vec4`s, and invocations side by side read side by side.

use super::sliced::CHUNK;

/// Invocations of a chunk, which lie in one subgroup: no smaller subgroup will do.
pub const TEAM: u32 = 4;
/// What the greatest number of a chunk becomes: 127 high int8s and 127 low ones.
pub const PEAK: f32 = 32639.0;
/// Chunks with no number greater than this become zeros.
const LEAST: f32 = 1e-30;

/// Numbers as pairs of int8s.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Of each number: its pair, counted in low int8s.
    pub ints: Vec<i32>,
    /// Of each chunk: what a low int8 counts for.
    pub units: Vec<f32>,
}

impl Packed {
    /// The numbers, a multiple of 64 of them, in pairs.
    pub fn of(x: &[f32]) -> Packed {
        let mut packed = Packed { ints: Vec::with_capacity(x.len()), units: Vec::new() };
        for x in x.chunks_exact(CHUNK as usize) {
            let peak = x.iter().fold(0f32, |peak, x| peak.max(x.abs()));
            let (to_int, unit) = if peak > LEAST { (PEAK / peak, peak / PEAK) } else { (0.0, 0.0) };
            packed.ints.extend(x.iter().map(|x| (x * to_int).round_ties_even() as i32));
            packed.units.push(unit);
        }
        packed
    }

    /// The numbers that the pairs stand for.
    pub fn numbers(&self) -> Vec<f32> {
        let chunks = self.ints.chunks_exact(CHUNK as usize).zip(&self.units);
        chunks.flat_map(|(ints, unit)| ints.iter().map(move |int| *int as f32 * unit)).collect()
    }
}
