//! Rows of weights in the types that other programs read, and how far each is from what it stands for.

use half::{bf16, f16};
use rayon::prelude::*;

use super::rows::CodedRows;
use crate::error::{Error, Result};
use crate::quantize::gguf::{BlockType, dtype_name};

/// Weights of a block of the types that have blocks.
const BLOCK: usize = 32;

/// How far the weights written are from those of the model folder, and how large these are.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Deviation {
    /// Largest distance of a weight.
    pub largest: f32,
    /// Sum of the squares of all distances.
    #[serde(skip)]
    pub squares: f64,
    /// Sum of the squares of all weights.
    #[serde(skip)]
    pub weights: f64,
}

impl Deviation {
    /// The root mean square of the distances, as a part of that of the weights.
    pub fn relative(&self) -> f64 {
        if self.weights == 0.0 { 0.0 } else { (self.squares / self.weights).sqrt() }
    }

    /// Whether every weight is what it was.
    pub fn is_none(&self) -> bool {
        self.largest == 0.0
    }

    fn of(weights: &[f32], written: &[f32]) -> Deviation {
        let one = |(weight, written): (&f32, &f32)| {
            let distance = weight - written;
            Deviation {
                largest: distance.abs(),
                squares: f64::from(distance).powi(2),
                weights: f64::from(*weight).powi(2),
            }
        };
        weights.iter().zip(written).map(one).fold(Deviation::default(), Deviation::and)
    }

    /// That of both.
    pub fn and(self, other: Deviation) -> Deviation {
        Deviation {
            largest: self.largest.max(other.largest),
            squares: self.squares + other.squares,
            weights: self.weights + other.weights,
        }
    }
}

/// Appends `weights` in a type that has a number for each weight, or is made from weights; panics for another. Rows are
/// whole blocks.
pub fn encode(weights: &[f32], dtype: BlockType, out: &mut Vec<u8>) -> Deviation {
    const PIECE: usize = 1 << 12;
    let encode: fn(&[f32], &mut Vec<u8>) = match dtype {
        BlockType::F32 => |weights, out| out.extend(weights.iter().flat_map(|w| w.to_le_bytes())),
        BlockType::F16 => |weights, out| out.extend(weights.iter().flat_map(|w| f16::from_f32(*w).to_le_bytes())),
        BlockType::Bf16 => |weights, out| out.extend(weights.iter().flat_map(|w| bf16::from_f32(*w).to_le_bytes())),
        BlockType::Q8_0 => |weights, out| weights.chunks_exact(BLOCK).for_each(|block| q8_0(block, out)),
        other => panic!("{} is not made from weights", dtype_name(other)),
    };
    let pieces: Vec<(Vec<u8>, Deviation)> = weights
        .par_chunks(PIECE)
        .map(|weights| {
            let mut bytes = Vec::new();
            encode(weights, &mut bytes);
            let deviation = Deviation::of(weights, &dtype.dequantize(&bytes));
            (bytes, deviation)
        })
        .collect();
    append(pieces, out)
}

/// Appends coded rows, scaled, in a type of codes above a minimum; `weights` are what they stand for.
///
/// A code `c` of two or four bits stands for `lo + (c + 1/2) * bin`. Both types take `2c + 1` where it fits, with the
/// minimum `lo` and half a bin for a step, which f16 holds exactly. Codes of four bits fill Q4_1, whose minimum is then
/// the middle of the first bin, rounded to f16.
pub fn encode_codes(coded: &CodedRows, scale: f32, weights: &[f32], dtype: BlockType, out: &mut Vec<u8>) -> Deviation {
    let (codes, ranges, group) = (&coded.codes, &coded.ranges, coded.group);
    let bins = (1u32 << (2 * (coded.depth - 1))) as f32;
    let whole = dtype == BlockType::Q4_1 && coded.depth == 2;
    let groups = codes.par_chunks_exact(group).zip(weights.par_chunks_exact(group)).zip(ranges);
    let pieces: Vec<(Vec<u8>, Deviation)> = groups
        .map(|((codes, weights), range)| {
            let bin = range.step / bins * scale;
            let lo = range.lo * scale;
            let (step, minimum) = if whole { (bin, lo + bin / 2.0) } else { (bin / 2.0, lo) };
            let mut bytes = Vec::with_capacity(group / BLOCK * dtype.bytes());
            for codes in codes.chunks_exact(BLOCK) {
                let codes: Vec<u8> = codes.iter().map(|code| if whole { *code } else { 2 * code + 1 }).collect();
                bytes.extend(f16::from_f32(step).to_le_bytes());
                bytes.extend(f16::from_f32(minimum).to_le_bytes());
                if dtype == BlockType::Q5_1 {
                    let high = codes.iter().rev().fold(0u32, |bits, code| bits << 1 | u32::from(code >> 4));
                    bytes.extend(high.to_le_bytes());
                }
                let (first, second) = codes.split_at(BLOCK / 2);
                bytes.extend(first.iter().zip(second).map(|(low, high)| low & 15 | high << 4));
            }
            let deviation = Deviation::of(weights, &dtype.dequantize(&bytes));
            (bytes, deviation)
        })
        .collect();
    append(pieces, out)
}

/// Whether the type is made from codes.
pub fn is_coded(dtype: BlockType) -> bool {
    matches!(dtype, BlockType::Q4_1 | BlockType::Q5_1)
}

/// Fails where the type does not hold codes of so many bits.
pub fn check_bits(dtype: BlockType, bits: u32) -> Result<()> {
    if !is_coded(dtype) || bits <= 4 {
        return Ok(());
    }
    let expected = format!("one that holds {bits} bits: q8_0, f16, bf16 or f32");
    Err(Error::argument("type", expected, dtype_name(dtype).to_lowercase()))
}

fn append(pieces: Vec<(Vec<u8>, Deviation)>, out: &mut Vec<u8>) -> Deviation {
    pieces.into_iter().fold(Deviation::default(), |all, (bytes, deviation)| {
        out.extend_from_slice(&bytes);
        all.and(deviation)
    })
}

/// A scale in f16, then a signed code of eight bits for each weight.
fn q8_0(block: &[f32], out: &mut Vec<u8>) {
    let most = block.iter().fold(0.0f32, |most, weight| most.max(weight.abs()));
    let scale = f16::from_f32(most / 127.0);
    out.extend(scale.to_le_bytes());
    let scale = scale.to_f32();
    let code = |weight: &f32| if scale == 0.0 { 0 } else { (weight / scale).round().clamp(-127.0, 127.0) as i8 };
    out.extend(block.iter().map(|weight| code(weight).cast_unsigned()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::codes::Range;

    /// Two groups of 64 with all codes of the depth, in ranges that no two numbers of are alike.
    fn coded(depth: usize) -> (CodedRows, Vec<f32>) {
        let codes = (0..128u32).map(|at| (at * 7 % (1 << (2 * depth))) as u8).collect();
        let range = |lo, step| Range { lo: f16::from_f32(lo).to_f32(), step: f16::from_f32(step).to_f32() };
        let coded = CodedRows { codes, ranges: vec![range(-0.1234, 0.0713), range(0.0571, 0.0009)], group: 64, depth };
        let mut weights = Vec::new();
        coded.decode(&mut weights);
        (coded, weights)
    }

    #[test]
    fn codes_come_back_exactly_where_twice_the_code_fits() {
        for (depth, dtype) in [(1, BlockType::Q4_1), (1, BlockType::Q5_1), (2, BlockType::Q5_1)] {
            let (coded, weights) = coded(depth);
            let mut bytes = Vec::new();
            let deviation = encode_codes(&coded, 1.0, &weights, dtype, &mut bytes);
            assert_eq!(dtype.dequantize(&bytes), weights, "{dtype:?} at depth {depth}");
            assert!(deviation.is_none());
        }
    }

    #[test]
    fn four_bits_in_q4_1_are_off_by_the_rounding_of_the_minimum() {
        let (coded, weights) = coded(2);
        let mut bytes = Vec::new();
        let deviation = encode_codes(&coded, 1.0, &weights, BlockType::Q4_1, &mut bytes);
        let off =
            BlockType::Q4_1.dequantize(&bytes).iter().zip(&weights).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert_eq!(deviation.largest, off);
        // Half a unit in the last place of minimums below 1/8.
        assert!(off > 0.0 && off <= 2.0f32.powi(-15), "{off}");
    }

    #[test]
    fn eight_bits_in_q8_0_are_off_by_half_a_step_at_most() {
        let (_, weights) = coded(4);
        let mut bytes = Vec::new();
        let deviation = encode(&weights, BlockType::Q8_0, &mut bytes);
        for (block, written) in weights.chunks(BLOCK).zip(BlockType::Q8_0.dequantize(&bytes).chunks(BLOCK)) {
            let most = block.iter().fold(0.0f32, |most, w| most.max(w.abs()));
            for (weight, written) in block.iter().zip(written) {
                assert!((weight - written).abs() <= most / 253.0, "{weight} {written}");
            }
        }
        assert!(deviation.largest > 0.0 && deviation.relative() < 0.01, "{deviation:?}");
    }

    #[test]
    fn wide_codes_have_no_place_in_narrow_types() {
        let fault = check_bits(BlockType::Q4_1, 6).unwrap_err().to_string();
        assert!(fault.contains("q4_1") && fault.contains("6 bits"), "{fault}");
        assert!(check_bits(BlockType::Q5_1, 4).is_ok() && check_bits(BlockType::Q8_0, 8).is_ok());
    }
}
