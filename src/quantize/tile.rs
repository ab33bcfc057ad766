//! Sums of products of one row of numbers with several others at a time, the inner loop of products in f32.

/// Numbers that are summed beside each other: a vector of most processors. Every input dimension is a multiple of it.
pub const LANES: usize = 8;

/// The sums of products of `x` with each of R rows, all of whole lanes.
#[inline(always)]
pub fn tile_products<const R: usize>(x: &[f32], rows: [&[f32]; R]) -> [f32; R] {
    let count = x.len() / LANES;
    let x = &x.as_chunks::<LANES>().0[..count];
    let rows = rows.map(|row| &row.as_chunks::<LANES>().0[..count]);
    let mut sums = [[0f32; LANES]; R];
    for at in 0..count {
        let (x, row): ([f32; LANES], [[f32; LANES]; R]) = (x[at], std::array::from_fn(|r| rows[r][at]));
        for r in 0..R {
            for lane in 0..LANES {
                sums[r][lane] += x[lane] * row[r][lane];
            }
        }
    }
    sums.map(|sums| sums.iter().sum())
}
