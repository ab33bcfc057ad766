//! The block layouts of ggml, from bytes to f32.
//!
//! A tensor's row is a whole number of blocks. Each has one or two scales of f16 and the codes of its weights; the K
//! types are blocks of 256 weights, whose parts have scales of their own. The layouts are those of `ggml-common.h` in
//! the ggml repository, the formulas those of `dequantize_row_*` in its `ggml-quants.c`. The products and sums are in
//! the order of those functions, so that every weight is theirs bit for bit.

use half::{bf16, f16};

/// A type of tensor that can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockType {
    /// Plain f32.
    F32,
    /// Plain f16.
    F16,
    /// Plain bf16.
    Bf16,
    /// 4 bits around zero.
    Q4_0,
    /// 4 bits above a minimum.
    Q4_1,
    /// 5 bits around zero.
    Q5_0,
    /// 5 bits above a minimum.
    Q5_1,
    /// 8 bits around zero.
    Q8_0,
    /// 2 bits above a minimum, with a scale and a minimum for 16 weights.
    Q2K,
    /// 3 bits around zero, with a scale for 16 weights.
    Q3K,
    /// 4 bits above a minimum, with a scale and a minimum for 32 weights.
    Q4K,
    /// 5 bits above a minimum, with a scale and a minimum for 32 weights.
    Q5K,
    /// 6 bits around zero, with a scale for 16 weights.
    Q6K,
    /// Sixteen values that lie closer near zero.
    Iq4Nl,
    /// The same values, with a scale for 32 weights.
    Iq4Xs,
    /// Floats of 4 bits, with a power of two for 32 weights.
    Mxfp4,
}

/// Weights of a block of the types that end in `_0` and `_1`.
const SMALL: usize = 32;
/// Weights of a block of the K types.
const LARGE: usize = 256;

impl BlockType {
    /// Every type.
    pub const ALL: [BlockType; 16] = [
        BlockType::F32,
        BlockType::F16,
        BlockType::Q4_0,
        BlockType::Q4_1,
        BlockType::Q5_0,
        BlockType::Q5_1,
        BlockType::Q8_0,
        BlockType::Q2K,
        BlockType::Q3K,
        BlockType::Q4K,
        BlockType::Q5K,
        BlockType::Q6K,
        BlockType::Bf16,
        BlockType::Iq4Nl,
        BlockType::Iq4Xs,
        BlockType::Mxfp4,
    ];

    /// Weights of a block.
    pub fn weights(self) -> usize {
        match self {
            BlockType::F32 | BlockType::F16 | BlockType::Bf16 => 1,
            BlockType::Q4_0 | BlockType::Q4_1 | BlockType::Q5_0 | BlockType::Q5_1 | BlockType::Q8_0 => SMALL,
            BlockType::Iq4Nl | BlockType::Mxfp4 => SMALL,
            BlockType::Q2K | BlockType::Q3K | BlockType::Q4K | BlockType::Q5K | BlockType::Q6K => LARGE,
            BlockType::Iq4Xs => LARGE,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            BlockType::F32 => 4,
            BlockType::F16 | BlockType::Bf16 => 2,
            BlockType::Q4_0 => 2 + 16,
            BlockType::Q4_1 => 4 + 16,
            BlockType::Q5_0 => 2 + 4 + 16,
            BlockType::Q5_1 => 4 + 4 + 16,
            BlockType::Q8_0 => 2 + 32,
            BlockType::Q2K => 16 + 64 + 4,
            BlockType::Q3K => 32 + 64 + 12 + 2,
            BlockType::Q4K => 4 + 12 + 128,
            BlockType::Q5K => 4 + 12 + 32 + 128,
            BlockType::Q6K => 128 + 64 + 16 + 2,
            BlockType::Iq4Nl => 2 + 16,
            BlockType::Iq4Xs => 2 + 2 + 4 + 128,
            BlockType::Mxfp4 => 1 + 16,
        }
    }

    /// The weights of whole blocks.
    pub fn dequantize(self, blocks: &[u8]) -> Vec<f32> {
        assert!(blocks.len().is_multiple_of(self.bytes()), "{} bytes are not whole blocks of {self:?}", blocks.len());
        let decode: fn(&[u8], &mut [f32]) = match self {
            BlockType::F32 => |block, out| out[0] = f32::from_le_bytes(block.try_into().expect("four bytes")),
            BlockType::F16 => |block, out| out[0] = half_at(block, 0),
            BlockType::Bf16 => |block, out| out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
            BlockType::Q4_0 => q4_0,
            BlockType::Q4_1 => q4_1,
            BlockType::Q5_0 => q5_0,
            BlockType::Q5_1 => q5_1,
            BlockType::Q8_0 => q8_0,
            BlockType::Q2K => q2_k,
            BlockType::Q3K => q3_k,
            BlockType::Q4K => q4_k,
            BlockType::Q5K => q5_k,
            BlockType::Q6K => q6_k,
            BlockType::Iq4Nl => iq4_nl,
            BlockType::Iq4Xs => iq4_xs,
            BlockType::Mxfp4 => mxfp4,
        };
        let mut weights = vec![0.0; blocks.len() / self.bytes() * self.weights()];
        for (block, out) in blocks.chunks_exact(self.bytes()).zip(weights.chunks_exact_mut(self.weights())) {
            decode(block, out);
        }
        weights
    }
}

/// The f16 at a byte of a block.
fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The low four bits of each byte, then the high four.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(|byte| byte & 15).chain(bytes.iter().map(|byte| byte >> 4))
}

/// Codes of five bits: the fifth bits of all weights are one word of four bytes at the beginning.
fn five_bits(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let (high, low) = bytes.split_at(4);
    nibbles(low).enumerate().map(|(at, code)| code | (high[at / 8] >> (at % 8) & 1) << 4)
}

fn q4_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (out, code) in out.iter_mut().zip(nibbles(&block[2..])) {
        *out = (f32::from(code) - 8.0) * d;
    }
}

fn q4_1(block: &[u8], out: &mut [f32]) {
    let (d, min) = (half_at(block, 0), half_at(block, 2));
    for (out, code) in out.iter_mut().zip(nibbles(&block[4..])) {
        *out = f32::from(code) * d + min;
    }
}

fn q5_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (out, code) in out.iter_mut().zip(five_bits(&block[2..])) {
        *out = (f32::from(code) - 16.0) * d;
    }
}

fn q5_1(block: &[u8], out: &mut [f32]) {
    let (d, min) = (half_at(block, 0), half_at(block, 2));
    for (out, code) in out.iter_mut().zip(five_bits(&block[4..])) {
        *out = f32::from(code) * d + min;
    }
}

fn q8_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (out, code) in out.iter_mut().zip(&block[2..]) {
        *out = f32::from(code.cast_signed()) * d;
    }
}

/// Scales and minimums of four bits: [16], codes of two bits: [64], and f16: the scale of scales and that of minimums.
///
/// Of the codes, 32 bytes have 128 weights: those of the lowest two bits of all 32 bytes first.
fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (d, min) = (half_at(block, 80), half_at(block, 82));
    for (part, (out, scale)) in out.chunks_exact_mut(16).zip(scales).enumerate() {
        let (scale, min) = (d * f32::from(scale & 15), min * f32::from(scale >> 4));
        for (out, code) in out.iter_mut().zip(two_bits(codes, part)) {
            *out = scale * f32::from(code) - min;
        }
    }
}

/// The sixteen codes of two bits of a part of a block of 256.
fn two_bits(codes: &[u8], part: usize) -> impl Iterator<Item = u8> {
    let (half, group, side) = (part / 8, part % 8 / 2, part % 2);
    codes[32 * half + 16 * side..][..16].iter().map(move |byte| byte >> (2 * group) & 3)
}

/// The third bits: [32], codes of two bits as in Q2_K: [64], sixteen scales of six bits: [12], and the scale of scales.
///
/// Bit `g` of the third bits' bytes is that of the weights from `32 * g` on. Where it is clear, the code is 4 less.
fn q3_k(block: &[u8], out: &mut [f32]) {
    let (high, codes, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    for (part, out) in out.chunks_exact_mut(16).enumerate() {
        let low = scales[part % 8] >> (4 * (part / 8)) & 15;
        let scale = low | (scales[8 + part % 4] >> (2 * (part / 4)) & 3) << 4;
        let scale = d * (f32::from(scale) - 32.0);
        let high = &high[16 * (part % 2)..];
        for ((out, code), high) in out.iter_mut().zip(two_bits(codes, part)).zip(high) {
            let less = if high >> (part / 2) & 1 == 0 { 4.0 } else { 0.0 };
            *out = scale * (f32::from(code) - less);
        }
    }
}

/// The scale and the minimum, of six bits each, of a part of 32 weights: [12] holds eight of both. The first four of
/// each have a byte, whose upper two bits are the upper ones of the last four.
fn scale_and_min(scales: &[u8], part: usize) -> (f32, f32) {
    let (scale, min) = match part {
        0..4 => (scales[part] & 63, scales[part + 4] & 63),
        _ => (scales[part + 4] & 15 | (scales[part - 4] >> 6) << 4, scales[part + 4] >> 4 | (scales[part] >> 6) << 4),
    };
    (f32::from(scale), f32::from(min))
}

/// f16: the scale of scales and that of minimums, scales and minimums: [12], and codes of four bits: [128], of which 32
/// bytes have 64 weights.
fn q4_k(block: &[u8], out: &mut [f32]) {
    let (scales, codes) = (&block[4..16], &block[16..]);
    k_parts(block, scales, codes, out, |_, _| 0);
}

/// As Q4_K, with the fifth bits before the codes: [32], of which bit `g` is that of the weights from `32 * g` on.
fn q5_k(block: &[u8], out: &mut [f32]) {
    let (scales, high, codes) = (&block[4..16], &block[16..48], &block[48..]);
    k_parts(block, scales, codes, out, |part, at| (high[at] >> part & 1) << 4);
}

/// The weights of Q4_K and Q5_K; `high` is what a code of a part has above its four bits.
fn k_parts(block: &[u8], scales: &[u8], codes: &[u8], out: &mut [f32], high: impl Fn(usize, usize) -> u8) {
    let (d, min_scale) = (half_at(block, 0), half_at(block, 2));
    for (part, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(scales, part);
        let (scale, min) = (d * scale, min_scale * min);
        let codes = &codes[32 * (part / 2)..];
        for (at, (out, byte)) in out.iter_mut().zip(codes).enumerate() {
            let code = byte >> (4 * (part % 2)) & 15 | high(part, at);
            *out = scale * f32::from(code) - min;
        }
    }
}

/// The low four bits: [128], the high two: [64], sixteen scales of i8, and the scale of scales.
///
/// A half of 128 weights has 64 bytes of low bits and 32 of high ones, and is four groups of 32 weights.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (part, (out, scale)) in out.chunks_exact_mut(16).zip(scales).enumerate() {
        let (half, group, side) = (part / 8, part % 8 / 2, part % 2);
        let scale = d * f32::from(scale.cast_signed());
        let low = &low[64 * half + 32 * (group % 2) + 16 * side..];
        let high = &high[32 * half + 16 * side..];
        for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
            let code = low >> (4 * (group / 2)) & 15 | (high >> (2 * group) & 3) << 4;
            *out = scale * (f32::from(code) - 32.0);
        }
    }
}

/// What the codes of IQ4_NL and IQ4_XS stand for.
const NOT_LINEAR: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// What the codes of MXFP4 stand for, twice: floats with two bits of exponent and one of mantissa.
const FLOATS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

fn iq4_nl(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (out, code) in out.iter_mut().zip(nibbles(&block[2..])) {
        *out = d * f32::from(NOT_LINEAR[usize::from(code)]);
    }
}

/// f16: the scale of scales, the high two bits of eight scales: [2], their low four: [4], and codes: [128], of which 16
/// bytes have 32 weights.
fn iq4_xs(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (part, (out, codes)) in out.chunks_exact_mut(32).zip(block[8..].chunks_exact(16)).enumerate() {
        let low = block[4 + part / 2] >> (4 * (part % 2)) & 15;
        let scale = low | ((high >> (2 * part) & 3) as u8) << 4;
        let scale = d * (f32::from(scale) - 32.0);
        for (out, code) in out.iter_mut().zip(nibbles(codes)) {
            *out = scale * f32::from(NOT_LINEAR[usize::from(code)]);
        }
    }
}

/// The exponent of a power of two above 2^-128, and codes: [16].
fn mxfp4(block: &[u8], out: &mut [f32]) {
    // Half of 2^(e - 127), as the values are doubled; the two smallest halves are subnormal.
    let half = match block[0] {
        small @ 0..2 => f32::from_bits(0x0020_0000 << small),
        exponent => f32::from_bits(u32::from(exponent - 1) << 23),
    };
    for (out, code) in out.iter_mut().zip(nibbles(&block[1..])) {
        *out = half * f32::from(FLOATS[usize::from(code)]);
    }
}

#[cfg(test)]
#[path = "blocks_tests.rs"]
mod tests;
