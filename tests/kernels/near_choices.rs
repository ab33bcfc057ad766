//! Which choices of a kernel, whose sums are in f32, are those of the sampler within rounding.

use edge_run::internals::sampling::{Choice, choose, largest};

/// How far the kernel's cuts and draws may lie from the reference's, as a part of the whole: exp is a few units off in
/// the last place of an f32, and equal weights are rounded alike to multiples of 2^-31 of their sum, all by at most
/// half.
fn near(tokens: usize) -> f32 {
    2e-5 + tokens as f32 / (1u64 << 32) as f32
}

/// Whether the reference, with cut and draw moved by no more than a rounding error, may choose `id` too: it comes
/// between the tokens that are chosen with both moved as far as that either way, in the order that tokens are drawn in.
pub fn explained(choice: &Choice, logits: &[f32], id: u32) -> bool {
    let (draw, near) = (u64::from(choice.draw_high) << 21 | u64::from(choice.draw_low), near(logits.len()));
    let moved = |by: f32| {
        let whole = (1u64 << 53) as f64;
        let draw = (draw as f64 + f64::from(by) * whole).clamp(0.0, whole - 1.0) as u64;
        // A top-p of 1 would be another way to draw.
        let top_p = if choice.top_p < 1.0 { (choice.top_p + by).min(1.0 - f32::EPSILON) } else { choice.top_p };
        Choice { top_p, draw_high: (draw >> 21) as u32, draw_low: (draw & ((1 << 21) - 1)) as u32, ..*choice }
    };
    let [first, last] = [-near, near].map(|by| choose(&moved(by), logits));
    let by_likelihood = (1..logits.len()).contains(&(choice.top_k as usize)) || choice.top_p < 1.0;
    let before = |a: u32, b: u32| {
        let [of_a, of_b] = [a, b].map(|id| logits[id as usize]);
        if by_likelihood { of_b.total_cmp(&of_a).then(a.cmp(&b)).is_lt() } else { a < b }
    };
    let (best, own) = (largest(logits), logits[id as usize]);
    let may_be_drawn = id == first || ((own - best) / choice.temperature).exp() > 0.0;
    !before(id, first) && !before(last, id) && own >= best + choice.min_p_ln && may_be_drawn
}
