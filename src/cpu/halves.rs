//! f16 to f32 without a branch or a call, so that loops over it become vectors, whatever the processor has.

use half::f16;
use multiversion::multiversion;

/// Makes f32 of as many numbers as there are.
#[multiversion(targets = "simd")]
pub fn widen(from: &[f16], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f32_of_half(from.to_bits());
    }
}

/// The number with these bits as f16.
#[inline(always)]
pub fn f32_of_half(bits: u16) -> f32 {
    /// 2^112: exponents of f32 begin so much lower.
    const HIGHER: f32 = f32::from_bits((112 + 127) << 23);
    let size = u32::from(bits & 0x7fff) << 13;
    // What is infinite or no number has the highest exponent.
    let exponent = if size >= 0x7c00 << 13 { 0xff << 23 } else { 0 };
    let sign = u32::from(bits & 0x8000) << 16;
    f32::from_bits((f32::from_bits(size) * HIGHER).to_bits() | exponent | sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_is_what_it_is() {
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let mut found = vec![0f32; all.len()];
        widen(&all, &mut found);
        for (half, found) in all.iter().zip(found) {
            let same = found.to_bits() == half.to_f32().to_bits() || (found.is_nan() && half.is_nan());
            assert!(same, "{half:?} {found}");
        }
    }
}
