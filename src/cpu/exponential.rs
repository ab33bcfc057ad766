//! The exponential function without a table or a branch, so that loops over it become vectors.

/// exp(v) to within 2e-7 of its size; infinity above f32's largest number, and 0 below its smallest normal one.
///
/// exp(v) = 2^n * exp(r) with n the nearest whole number to v / ln 2, and the rest r at most ln 2 / 2 from 0. The
/// polynomial is that of Cephes' `expf`.
#[inline(always)]
pub fn exp(v: f32) -> f32 {
    /// Added to a number, its last bit counts one.
    const ONES: f32 = 12_582_912.0;
    /// ln 2 in two parts, of which the first has few bits, so that its multiples are exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    /// Beyond these, the power of two has no exponent.
    const LOWEST: f32 = -87.336_54;
    const HIGHEST: f32 = 88.722_83;
    let bounded = v.clamp(LOWEST, HIGHEST);
    let whole = (bounded * std::f32::consts::LOG2_E + ONES) - ONES;
    let r = bounded - whole * LN_2[0] - whole * LN_2[1];
    let polynomial =
        ((((1.987_569_1e-4 * r + 1.398_199_9e-3) * r + 8.333_452e-3) * r + 4.166_579_6e-2) * r + 1.666_666_5e-1) * r
            + 0.5;
    let power = polynomial * r * r + r + 1.0;
    // In two steps, as 2^128 has no exponent.
    let n = whole as i32;
    let [low, high] = [n / 2, n - n / 2].map(|n| f32::from_bits(((n + 127) as u32) << 23));
    let result = if v > HIGHEST { f32::INFINITY } else { power * low * high };
    if v < LOWEST { 0.0 } else { result }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_exponential_over_the_whole_range_and_beyond() {
        for at in -87_000..88_700 {
            let v = at as f32 * 1e-3;
            let expected = f64::from(v).exp();
            let error = (f64::from(exp(v)) / expected - 1.0).abs();
            assert!(error < 2e-7, "{v}: {} instead of {expected}", exp(v));
        }
        assert_eq!(
            [-200.0, f32::NEG_INFINITY, 0.0, 200.0, f32::INFINITY].map(exp),
            [0.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY]
        );
        assert!(exp(f32::NAN).is_nan());
    }
}
