//! One token's numbers as pairs of int8s, as the projections' workgroups make them and as references read them.
//!
//! The numbers are taken in chunks of 64. Each becomes a whole number of sixteen bits, the greatest of the chunk one in
//! 16319 to 32639: a high int8, of which one counts 256 low ones, and a low one. In a workgroup's memory, for C chunks
//! of vec4s of u32:
//!
//! ```text
//! [4, C]        high int8s: component c of chunk n in plane i is four of them, numbers 64n + 16c + 4i to + 3
//! [4, C]        low int8s in the same order
//! ```
//!
//! The inputs of several tokens are packed by [`pack`](super::pack), which writes both behind each other for each
//! token, and behind these, as vec4s of u32, `[C]` what is known of each chunk (its unit as f32, and the sums of its
//! halves as i32), and the norm's factor.
//!
//! Plane i holds what `(word >> 2i) & 0x03030303` of a slice's words is multiplied with, so a product reads whole
//! `vec4`s, and invocations side by side read side by side.
//!
//! A product that reads the base slice alone takes the high int8s alone ([`Packed::taken_at`]).

use std::borrow::Cow;

use crate::kernels::sliced::{CHUNK, HALF_CHUNK};

/// Invocations of a chunk at least, which lie in one subgroup: no smaller subgroup will do.
pub const TEAM: u32 = 4;
/// Invocations of a chunk at most: each has four of the chunk's numbers then.
const LARGEST_TEAM: u32 = 16;
/// Whole numbers are x times a power of two, times this: the greatest of a chunk becomes 32639 at most, which is 127
/// high int8s and 127 low ones.
const WHOLE: f32 = 32639.0 / 32768.0;
/// The exponent to which the greatest number of a chunk is raised by that power.
const BITS: u32 = 14;
/// The exponent of a chunk's greatest number, where f32 has it, counts for no less than this.
const LEAST_EXPONENT: u32 = 15 << 23;
/// The bits of a number that is greater than any that is finite but for the last few.
const INFINITE: u32 = 3.4e38f32.to_bits();

/// Numbers as pairs of int8s.
#[derive(Debug, Clone)]
pub struct Packed {
    /// The pair of each number, counted in low int8s.
    pub ints: Vec<i32>,
    /// What a low int8 of each chunk counts for.
    pub units: Vec<f32>,
}

/// How the numbers of a chunk become whole ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChunkScale {
    /// What a number is multiplied with.
    pub to_int: f32,
    /// What a low int8 counts for.
    pub unit: f32,
}

impl ChunkScale {
    /// The scale of a chunk. One with NaN or infinity counts for NaN as a whole, so that nothing hides it.
    #[inline(always)]
    pub fn of(chunk: &[f32]) -> ChunkScale {
        // Sizes are compared by their bits, which have the same order, with NaN above infinity.
        let peak = chunk.iter().fold(0, |peak, x| x.abs().to_bits().max(peak));
        if peak > INFINITE {
            return ChunkScale { to_int: 0.0, unit: f32::NAN };
        }
        let exponent = (peak & 0x7f80_0000).max(LEAST_EXPONENT);
        ChunkScale {
            to_int: f32::from_bits(((254 + BITS) << 23) - exponent) * WHOLE,
            unit: f32::from_bits(exponent - (BITS << 23)) * (1.0 / WHOLE),
        }
    }
}

impl Packed {
    /// The numbers, a multiple of 64 of them, in pairs.
    pub fn of(x: &[f32]) -> Packed {
        let mut packed = Packed { ints: Vec::with_capacity(x.len()), units: Vec::new() };
        for x in x.chunks_exact(CHUNK as usize) {
            let ChunkScale { to_int, unit } = ChunkScale::of(x);
            // What is no number becomes 0.
            packed.ints.extend(x.iter().map(|x| (x * to_int).round_ties_even() as i32));
            packed.units.push(unit);
        }
        packed
    }

    /// What a product that reads so many slices takes of the pairs: all, and at depth 1 their high int8s.
    pub fn taken_at(&self, slices: u32) -> Cow<'_, [i32]> {
        if slices > 1 {
            return Cow::Borrowed(&self.ints);
        }
        Cow::Owned(self.ints.iter().map(|int| high(*int) << 8).collect())
    }

    /// Words of a token's packed input of so many chunks.
    pub fn words(chunks: u32) -> u32 {
        (9 * chunks + 1) * 4
    }

    /// Writes the pairs, and what the norm multiplies the numbers with, as the shaders do: [`Packed::words`] words.
    pub fn write(&self, factor: f32, words: &mut [u32]) {
        let chunks = self.units.len();
        words.fill(0);
        for (chunk, (ints, unit)) in self.ints.chunks_exact(CHUNK as usize).zip(&self.units).enumerate() {
            for (entry, four) in ints.chunks_exact(4).enumerate() {
                let at = (entry % 4 * chunks + chunk) * 4 + entry / 4;
                let bytes = |byte: fn(i32) -> u8| u32::from_le_bytes(std::array::from_fn(|i| byte(four[i])));
                words[at] = bytes(|int| high(int) as u8);
                words[at + 16 * chunks] = bytes(|int| int as u8);
            }
            let [first, second] = [0, 1].map(|half| ints[half * HALF_CHUNK..][..HALF_CHUNK].iter().sum::<i32>());
            let about = (8 * chunks + chunk) * 4;
            words[about..about + 3].copy_from_slice(&[unit.to_bits(), first as u32, second as u32]);
        }
        words[9 * chunks * 4] = factor.to_bits();
    }

    /// What [`Packed::write`] wrote of so many chunks: the pairs, and the norm's factor.
    pub fn read(words: &[u32], chunks: usize) -> (Packed, f32) {
        let unit = |chunk: usize| f32::from_bits(words[(8 * chunks + chunk) * 4]);
        let four = |chunk: usize, entry: usize| {
            let at = (entry % 4 * chunks + chunk) * 4 + entry / 4;
            let [high, low] = [words[at], words[at + 16 * chunks]].map(u32::to_le_bytes);
            (0..4).map(move |i| i32::from(high[i] as i8) * 256 + i32::from(low[i] as i8))
        };
        let ints = (0..chunks).flat_map(|chunk| (0..16).flat_map(move |entry| four(chunk, entry))).collect();
        (Packed { ints, units: (0..chunks).map(unit).collect() }, f32::from_bits(words[9 * chunks * 4]))
    }

    /// The numbers that the pairs stand for.
    pub fn numbers(&self) -> Vec<f32> {
        let chunks = self.ints.chunks_exact(CHUNK as usize).zip(&self.units);
        chunks.flat_map(|(ints, unit)| ints.iter().map(move |int| *int as f32 * unit)).collect()
    }
}

/// The high int8 of a pair, rounded, so that what is left is an int8 too.
fn high(int: i32) -> i32 {
    (int + 128) >> 8
}

/// Invocations that pack a chunk together: as many as find work in a workgroup, and fit in a subgroup.
pub(super) fn team(workgroup: u32, subgroup: u32, chunks: u32) -> u32 {
    let busy = |team: &u32| team * chunks <= workgroup && *team <= subgroup;
    [LARGEST_TEAM, LARGEST_TEAM / 2].into_iter().find(busy).unwrap_or(TEAM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let numbers: Vec<f32> = (0..192).map(|at| (at as f32 * 0.7).sin() * (at as f32 - 100.0)).collect();
        let packed = Packed::of(&numbers);
        let mut words = vec![7; Packed::words(3) as usize];
        packed.write(0.25, &mut words);
        let (read, factor) = Packed::read(&words, 3);
        assert_eq!((read.ints, read.units, factor), (packed.ints.clone(), packed.units, 0.25));
        let sums = [4 * (8 * 3 + 1) + 1, 4 * (8 * 3 + 1) + 2].map(|at| words[at] as i32);
        let expected = [&packed.ints[64..96], &packed.ints[96..128]].map(|half| half.iter().sum::<i32>());
        assert_eq!(sums, expected);
    }

    #[test]
    fn the_greatest_numbers_fit_and_what_is_nothing_or_not_finite_stays_so() {
        for peak in [0.5f32, 0.999_999_9, 1.0, 1.999_999_9, 3.3e38, 1e-30] {
            let numbers = [peak, -peak].repeat(32);
            let packed = Packed::of(&numbers);
            assert!(packed.ints.iter().all(|int| (16319..=32639).contains(&int.abs())), "{peak}: {:?}", packed.ints[0]);
            assert!((packed.numbers()[0] / peak - 1.0).abs() < 1e-4, "{peak}: {}", packed.numbers()[0]);
        }
        assert!(Packed::of(&[0.0; 64]).numbers().iter().all(|number| *number == 0.0));
        for odd in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
            let mut numbers = [0.5f32; 64];
            numbers[9] = odd;
            assert!(Packed::of(&numbers).numbers().iter().any(|number| !number.is_finite()), "{odd}");
        }
        assert_eq!(INFINITE, 0x7f7f_c99e, "the shader's constant");
    }
}
