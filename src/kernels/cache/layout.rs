//! Quantized keys and values: the layout of a row, and the conversion to codes and back. The shaders' side is
//! `shaders/shared/quantized_cache.wgsl`.
//!
//! The numbers of a head are cut into groups of 32. Each group is multiplied by a Hadamard matrix, after which no
//! number stands out from the others as single dimensions of keys do (QuaRot, Ashkboos et al., arXiv 2404.00456), and
//! gets a scale of its own. Products of transformed queries with transformed keys are those of the numbers before;
//! the weighted sum of transformed values is transformed back.

use half::f16;

use crate::kernels::step_rows::Cells;
use crate::precision::CacheType;
use crate::recording::{Arguments, Span};
use crate::shape::LlamaShape;

/// Numbers that share a scale; the shader's constant.
pub const GROUP: usize = 32;

/// How a row is laid out: a word for each group with the scales of key and value, as f16, padded to 16 bytes; the codes
/// of the key; the codes of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// A, a multiple of [`GROUP`].
    pub head_dim: u32,
    /// Bits of a key's code, 4 or 8.
    pub key_bits: u32,
    /// Bits of a value's code, 4 or 8.
    pub value_bits: u32,
}

/// The quantized keys and values of a layer.
#[derive(Debug, Clone, Copy)]
pub struct QuantizedKv {
    /// [K, C, [`Layout::row_words`]] u32
    pub rows: Span,
    /// The layout of a row.
    pub layout: Layout,
}

/// Keys and values as f16 and in few bits, between which a kernel converts.
#[derive(Debug, Clone, Copy)]
pub struct CacheConversion {
    /// K
    pub kv_heads: u32,
    /// The cells of both.
    pub cells: Cells,
    /// Positions that a token looks at, its own included; without it, all up to its own.
    pub window: Option<u32>,
    /// `[T]` of [`StepRow`](crate::kernels::step_rows::StepRow), of one sequence
    pub step_rows: Span,
    /// [K, C, A] f16
    pub keys: Span,
    /// [K, C, A] f16
    pub values: Span,
    /// The same in few bits.
    pub quantized_kv: QuantizedKv,
}

/// Bytes of a token's keys and values in a layer.
pub fn token_bytes(cache_type: CacheType, shape: &LlamaShape) -> u64 {
    let head = match Layout::of(cache_type, shape.head_dim) {
        None => u64::from(shape.head_dim) * 4,
        Some(layout) => layout.row_words() as u64 * 4,
    };
    u64::from(shape.kv_heads) * head
}

/// The words of a row: those of the scales, of the key's codes and of the value's codes.
pub(crate) struct QuantizedRow<'a> {
    /// A word for each group and more behind: the key's as f16, and the value's above it.
    pub scales: &'a [u32],
    /// The key's, and the value's.
    pub codes: [&'a [u32]; 2],
}

impl Layout {
    /// The layout of a cache in few bits; none for f16.
    pub fn of(cache_type: CacheType, head_dim: u32) -> Option<Layout> {
        let [key_bits, value_bits] = cache_type.code_bits()?;
        Some(Layout { head_dim, key_bits, value_bits })
    }

    /// The constants of the shaders.
    pub(crate) fn constants(self) -> [(&'static str, u32); 3] {
        [("HEAD_DIM", self.head_dim), ("KEY_BITS", self.key_bits), ("VALUE_BITS", self.value_bits)]
    }

    /// Groups of a head.
    pub(crate) fn groups(self) -> u32 {
        self.head_dim / GROUP as u32
    }

    /// The layout of the rows that a kernel's dispatch is about.
    pub(crate) fn in_arguments(args: &Arguments<'_>) -> Layout {
        let [head_dim, key_bits, value_bits] = ["HEAD_DIM", "KEY_BITS", "VALUE_BITS"].map(|name| args.constant(name));
        Layout { head_dim, key_bits, value_bits }
    }

    fn scale_words(self) -> usize {
        self.groups().next_multiple_of(4) as usize
    }

    /// Words of the codes of a key, or of a value.
    fn code_words(self, of_value: bool) -> usize {
        (self.head_dim * self.bits(of_value) / 32) as usize
    }

    /// Words of a key and a value.
    pub fn row_words(self) -> usize {
        self.scale_words() + self.code_words(false) + self.code_words(true)
    }

    pub(crate) fn bits(self, of_value: bool) -> u32 {
        if of_value { self.value_bits } else { self.key_bits }
    }

    pub(crate) fn row(self, words: &[u32]) -> QuantizedRow<'_> {
        let (scales, codes) = words[..self.row_words()].split_at(self.scale_words());
        let (key, value) = codes.split_at(self.code_words(false));
        QuantizedRow { scales, codes: [key, value] }
    }

    /// Writes a row, by a key and a value, [A] each.
    pub(crate) fn write(self, row: &mut [u32], key: &[f16], value: &[f16]) {
        let (scales, codes) = row[..self.row_words()].split_at_mut(self.scale_words());
        let (key_codes, value_codes) = codes.split_at_mut(self.code_words(false));
        let key_scales = self.write_codes(key, false, key_codes);
        let value_scales = self.write_codes(value, true, value_codes);
        for (word, (key, value)) in scales.iter_mut().zip(key_scales.iter().zip(value_scales)) {
            *word = u32::from(key.to_bits()) | u32::from(value.to_bits()) << 16;
        }
    }

    /// Writes the codes of a key or a value; the scales of its groups.
    fn write_codes(self, numbers: &[f16], of_value: bool, words: &mut [u32]) -> Vec<f16> {
        let bits = self.bits(of_value);
        let groups = numbers.chunks_exact(GROUP).zip(words.chunks_exact_mut(bits as usize));
        let scale = |(numbers, words): (&[f16], &mut [u32])| {
            let mut group: [f32; GROUP] = std::array::from_fn(|at| numbers[at].to_f32());
            hadamard(&mut group);
            let largest = group.iter().fold(0f32, |most, number| most.max(number.abs()));
            // The scale is rounded as the row has it first, so that codes are the nearest to what they will mean.
            let scale = f16::from_f32((largest / middle(bits)).min(f16::MAX.to_f32()));
            let by = if scale > f16::ZERO { 1.0 / scale.to_f32() } else { 0.0 };
            let code = |number: f32| (number * by + middle(bits) + 0.5).floor().clamp(0.0, 2.0 * middle(bits)) as u8;
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(words);
            for (at, byte) in bytes.iter_mut().enumerate() {
                *byte = match bits {
                    8 => code(group[at]) ^ sign(of_value),
                    _ => code(group[at]) | code(group[at + GROUP / 2]) << 4,
                };
            }
            scale
        };
        groups.map(scale).collect()
    }
}

impl QuantizedRow<'_> {
    /// The key's numbers, or the value's, under the Hadamard transform, [A].
    pub fn read(&self, layout: Layout, of_value: bool, to: &mut [f32]) {
        let (bits, codes) = (layout.bits(of_value), self.codes[usize::from(of_value)]);
        for ((to, words), scale) in to.chunks_exact_mut(GROUP).zip(codes.chunks_exact(bits as usize)).zip(self.scales) {
            let scale = f16::from_bits((scale >> if of_value { 16 } else { 0 }) as u16).to_f32();
            let number = |code: u8| (f32::from(code) - middle(bits)) * scale;
            let bytes: &[u8] = bytemuck::cast_slice(words);
            if bits == 8 {
                to.iter_mut().zip(bytes).for_each(|(to, byte)| *to = number(byte ^ sign(of_value)));
            } else {
                let (low, high) = to.split_at_mut(GROUP / 2);
                low.iter_mut().zip(bytes).for_each(|(to, byte)| *to = number(byte & 0xf));
                high.iter_mut().zip(bytes).for_each(|(to, byte)| *to = number(byte >> 4));
            }
        }
    }
}

/// Eight-bit codes of keys are stored less this, and so are int8s.
fn sign(of_value: bool) -> u8 {
    if of_value { 0 } else { 0x80 }
}

/// The code that would mean zero.
fn middle(bits: u32) -> f32 {
    ((1 << bits) - 1) as f32 / 2.0
}

/// Multiplies each group of 32 by the Hadamard matrix over sqrt(32), which is its own inverse.
pub(crate) fn hadamard(numbers: &mut [f32]) {
    for group in numbers.chunks_exact_mut(GROUP) {
        for half in [1, 2, 4, 8, 16] {
            for pair in group.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
        }
        group.iter_mut().for_each(|number| *number /= (GROUP as f32).sqrt());
    }
}
