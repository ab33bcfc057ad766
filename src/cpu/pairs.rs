//! Inputs of products as whole numbers of sixteen bits, in the order in which the products' instructions take them.
//!
//! The numbers are those of [`Packed`](crate::kernels::project::packed::Packed), chunk by chunk. Plane i of a chunk
//! holds what `(word >> 2i) & 0x03030303` of the four words of a slice is multiplied with: number `16 w + 4 i + b` of
//! the chunk is entry `4 w + b` of plane i.

use multiversion::multiversion;

use crate::kernels::project::packed::ChunkScale;
use crate::kernels::sliced::CHUNK;

/// Planes of a chunk.
const PLANES: usize = 4;
/// Entries of a plane.
const PLANE: usize = CHUNK as usize / PLANES;

/// Words of a chunk, as many as a chunk of [`Packed`](crate::kernels::project::packed::Packed) has.
pub const CHUNK_WORDS: usize = PLANE_WORDS + 4;
/// Words of a chunk's planes.
const PLANE_WORDS: usize = CHUNK as usize / 2;

/// How a chunk's whole numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairForm {
    /// The high int8s of all planes, then the low ones: a number is 256 times its high one and its low one.
    Bytes,
    /// The planes' numbers as int16s.
    Halves,
}

/// A chunk of 64 numbers.
#[repr(C, align(32))]
#[derive(Debug, Clone, Copy)]
pub struct InputChunk {
    planes: [[i16; PLANE]; PLANES],
    /// The sums of the numbers of both halves: [half 0, 0, half 1, 0].
    pub sums: [f32; 4],
    /// What one of the whole numbers counts for.
    pub unit: f32,
}

impl InputChunk {
    /// No numbers.
    const NONE: InputChunk = InputChunk { planes: [[0; PLANE]; PLANES], sums: [0.0; 4], unit: 0.0 };

    /// The chunk in as many words, for [`InputChunk::read`].
    pub fn write(&self, words: &mut [u32; CHUNK_WORDS]) {
        words[..PLANE_WORDS].copy_from_slice(bytemuck::cast_slice(&self.planes));
        let [first, _, second, _] = self.sums;
        words[PLANE_WORDS..].copy_from_slice(&[first, second, self.unit, 0.0].map(f32::to_bits));
    }

    /// The chunk that was written.
    pub fn read(words: &[u32; CHUNK_WORDS]) -> InputChunk {
        let mut chunk = InputChunk::NONE;
        bytemuck::cast_slice_mut(&mut chunk.planes).copy_from_slice(&words[..PLANE_WORDS]);
        let [first, second, unit] = [0, 1, 2].map(|at| f32::from_bits(words[PLANE_WORDS + at]));
        InputChunk { sums: [first, 0.0, second, 0.0], unit, ..chunk }
    }

    /// High int8s of each plane, and low ones, of a chunk in [`PairForm::Bytes`].
    #[inline(always)]
    pub fn bytes(&self) -> &[[[i8; PLANE]; PLANES]; 2] {
        bytemuck::cast_ref(&self.planes)
    }

    /// Each plane's numbers, of a chunk in [`PairForm::Halves`].
    #[inline(always)]
    pub fn halves(&self) -> &[[i16; PLANE]; PLANES] {
        &self.planes
    }
}

/// Writes the numbers, a multiple of 64, in chunks.
#[multiversion(targets = "simd")]
pub fn pack(x: &[f32], form: PairForm, chunks: &mut [InputChunk]) {
    for (x, chunk) in x.chunks_exact(CHUNK as usize).zip(chunks) {
        let ints = whole_numbers(x, chunk);
        match form {
            PairForm::Halves => chunk.planes = in_planes(&ints),
            PairForm::Bytes => {
                let low = ints.map(|int| int as i8);
                let high: [i8; CHUNK as usize] = std::array::from_fn(|at| ((ints[at] - i16::from(low[at])) >> 8) as i8);
                chunk.planes = bytemuck::cast([in_planes(&high), in_planes(&low)]);
            }
        }
    }
}

/// The numbers of a chunk as whole ones. Writes what these count for, and the sums.
#[inline(always)]
fn whole_numbers(x: &[f32], chunk: &mut InputChunk) -> [i16; CHUNK as usize] {
    /// Added to a number, its last bit counts one, so that the sum's low bits are the nearest whole number.
    const ONES: f32 = 12_582_912.0;
    let ChunkScale { to_int, unit } = ChunkScale::of(x);
    // The greatest is below 32768.
    let ints = std::array::from_fn(|at| (x[at] * to_int + ONES).to_bits().wrapping_sub(ONES.to_bits()) as i16);
    let sum = |half: &[i16]| half.iter().map(|int| i32::from(*int)).sum::<i32>() as f32 * unit;
    let (first, second) = ints.split_at(CHUNK as usize / 2);
    chunk.sums = [sum(first), 0.0, sum(second), 0.0];
    chunk.unit = unit;
    ints
}

/// The numbers of a chunk, plane by plane.
#[inline(always)]
fn in_planes<T: Copy + Default>(numbers: &[T; CHUNK as usize]) -> [[T; PLANE]; PLANES] {
    let mut planes = [[T::default(); PLANE]; PLANES];
    for (i, plane) in planes.iter_mut().enumerate() {
        for (at, entry) in plane.iter_mut().enumerate() {
            *entry = numbers[16 * (at / 4) + 4 * i + at % 4];
        }
    }
    planes
}

/// The numbers in chunks.
pub fn packed(x: &[f32], form: PairForm) -> Vec<InputChunk> {
    let mut chunks = vec![InputChunk::NONE; x.len() / CHUNK as usize];
    pack(x, form, &mut chunks);
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::project::packed::Packed;

    #[test]
    fn chunks_hold_the_numbers_of_the_reference_in_planes() {
        let mut x: Vec<f32> = (0..128).map(|at| ((at * 37 % 101) as f32 - 50.0) * 0.0137).collect();
        x[77] = 30.0;
        let expected = Packed::of(&x);
        let (halves, bytes) = (packed(&x, PairForm::Halves), packed(&x, PairForm::Bytes));
        for (at, int) in expected.ints.iter().enumerate() {
            let (chunk, at) = (at / 64, at % 64);
            let (plane, entry) = (at % 16 / 4, at / 16 * 4 + at % 4);
            let [high, low] = bytes[chunk].bytes();
            assert_eq!(i32::from(halves[chunk].halves()[plane][entry]), *int);
            assert_eq!(i32::from(high[plane][entry]) * 256 + i32::from(low[plane][entry]), *int);
        }
        for (at, chunk) in halves.iter().enumerate() {
            let half = |h: usize| expected.ints[at * 64 + h * 32..][..32].iter().sum::<i32>() as f32 * chunk.unit;
            assert_eq!((chunk.sums, chunk.unit), ([half(0), 0.0, half(1), 0.0], expected.units[at]));
        }
        for chunk in halves.iter().chain(&bytes) {
            let mut words = [7; CHUNK_WORDS];
            chunk.write(&mut words);
            let read = InputChunk::read(&words);
            assert_eq!((read.planes, read.sums, read.unit), (chunk.planes, chunk.sums, chunk.unit));
        }
        x[3] = f32::INFINITY;
        assert!(packed(&x, PairForm::Bytes)[0].unit.is_nan());
    }
}
