//! The product of a block of a matrix with the activations of many tokens, in tiles that stay in registers.

use multiversion::multiversion;
use rayon::prelude::*;

use crate::quantize::tile_products;

/// Rows whose sums with a token are in registers at a time.
const TILE_ROWS: usize = 4;
/// Tokens of a thread's part at most: their activations stay in its cache while all rows pass by.
const PART_TOKENS: usize = 48;

/// Writes, for each token of `x`, [T, input], the product with each row of `weights`, [rows, input], to the token's row
/// of `out`, [T, width], from number `before` on.
pub fn multiply(x: &[f32], weights: &[f32], input: usize, (out, width, before): (&mut [f32], usize, usize)) {
    let tokens = x.len() / input;
    let part = tokens.div_ceil(2 * rayon::current_num_threads()).min(PART_TOKENS);
    let parts = out.par_chunks_mut(part * width).zip(x.par_chunks(part * input));
    parts.for_each(|(out, x)| multiply_part(x, weights, input, (out, width, before)));
}

/// As [`multiply`], in this thread.
#[multiversion(targets = "simd")]
fn multiply_part(x: &[f32], weights: &[f32], input: usize, (out, width, before): (&mut [f32], usize, usize)) {
    let tiles = weights.chunks_exact(TILE_ROWS * input);
    let rest = tiles.remainder();
    let mut first = before;
    for rows in tiles {
        for (x, out) in x.chunks_exact(input).zip(out.chunks_exact_mut(width)) {
            let sums = tile_sums::<TILE_ROWS>(x, rows);
            #[allow(
                clippy::manual_memcpy,
                reason = "a copy of all sums has them live in memory, and that takes three times as long"
            )]
            for r in 0..TILE_ROWS {
                out[first + r] = sums[r];
            }
        }
        first += TILE_ROWS;
    }
    for row in rest.chunks_exact(input) {
        for (x, out) in x.chunks_exact(input).zip(out.chunks_exact_mut(width)) {
            out[first] = tile_sums::<1>(x, row)[0];
        }
        first += 1;
    }
}

/// The sums of products of a token and each of R rows.
#[inline(always)]
fn tile_sums<const R: usize>(token: &[f32], rows: &[f32]) -> [f32; R] {
    tile_products(token, std::array::from_fn(|r| &rows[r * token.len()..][..token.len()]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unquantized::operations::dot;

    #[test]
    fn every_product_stands_at_its_place_and_nothing_else_is_touched() {
        for (tokens, rows, input) in [(1, 1, 8), (2, 5, 8), (3, 4, 24), (7, 9, 64), (100, 6, 40)] {
            let x: Vec<f32> = (0..tokens * input).map(|i| (i % 13) as f32 - 6.0).collect();
            let weights: Vec<f32> = (0..rows * input).map(|i| (i % 7) as f32 - 3.0).collect();
            let (width, before) = (rows + 3, 2);
            let mut out = vec![f32::NAN; tokens * width];
            multiply(&x, &weights, input, (&mut out, width, before));
            for (out, x) in out.chunks_exact(width).zip(x.chunks_exact(input)) {
                let expected: Vec<f32> = weights.chunks_exact(input).map(|row| dot(row, x)).collect();
                assert_eq!(out[before..before + rows], expected, "{tokens} tokens, {rows} rows of {input}");
                assert!(out[..before].iter().chain(&out[before + rows..]).all(|x| x.is_nan()));
            }
        }
    }
}
