//! The arithmetic of the operations, for one token or one head, in plain loops.

use crate::arch::{ActivationFunction, QueryGrowth};

/// Sums that run beside each other, so that the compiler can use vectors.
const LANES: usize = 8;

/// The sum of products of two rows as long as each other.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// Replaces each row of `numbers`, as long as the weight, by its RMSNorm.
pub fn rms_norm(numbers: &mut [f32], weight: &[f32], eps: f32) {
    for row in numbers.chunks_exact_mut(weight.len()) {
        let mean = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() / weight.len() as f64;
        let scale = (1.0 / (mean + f64::from(eps)).sqrt()) as f32;
        row.iter_mut().zip(weight).for_each(|(x, w)| *x *= scale * w);
    }
}

/// Turns each head of `heads`, rows of twice as many numbers as there are frequencies, to a position: number `i` pairs
/// with number `i + A/2`.
pub fn rotate(heads: &mut [f32], frequencies: &[f32], position: usize) {
    let half = frequencies.len();
    for head in heads.chunks_exact_mut(2 * half) {
        let (first, second) = head.split_at_mut(half);
        for ((a, b), frequency) in first.iter_mut().zip(second).zip(frequencies) {
            let (sin, cos) = (position as f32 * frequency).sin_cos();
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}

/// What the queries at a position are multiplied by.
pub fn query_factor(growth: QueryGrowth, position: usize) -> f32 {
    1.0 + growth.beta * (1.0 + (position as u32 / growth.original_context) as f32).ln()
}

/// `cap * tanh(x / cap)`, where there is a cap.
pub fn capped(x: f32, cap: Option<f32>) -> f32 {
    cap.map_or(x, |cap| cap * (x / cap).tanh())
}

/// Replaces scores by their softmax.
pub fn softmax(scores: &mut [f32]) {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|score| *score = (*score - most).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// The function that gates.
pub fn activate(function: ActivationFunction, x: f32) -> f32 {
    match function {
        ActivationFunction::Silu => x / (1.0 + (-x).exp()),
        // Hendrycks and Gimpel, arXiv 1606.08415.
        ActivationFunction::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_has_all_products() {
        let a: Vec<f32> = (0..19).map(|i| i as f32).collect();
        assert_eq!(dot(&a, &a), (0..19).map(|i| (i * i) as f32).sum::<f32>());
    }

    #[test]
    fn a_norm_leaves_a_mean_square_of_one() {
        let mut rows = vec![3.0, -4.0, 0.5, 0.5];
        rms_norm(&mut rows, &[1.0, 2.0], 0.0);
        let root = 12.5f32.sqrt();
        let expected = [3.0 / root, -8.0 / root, 1.0, 2.0];
        assert!(rows.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{rows:?}");
    }

    #[test]
    fn a_rotation_turns_pairs_of_halves() {
        let mut head = vec![1.0, 0.0, 0.0, 1.0];
        rotate(&mut head, &[std::f32::consts::FRAC_PI_2, 0.0], 1);
        let expected = [0.0, 0.0, 1.0, 1.0];
        assert!(head.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{head:?}");
    }

    #[test]
    fn queries_grow_by_whole_contexts() {
        let growth = QueryGrowth { beta: 0.5, original_context: 16 };
        assert_eq!([0, 15].map(|position| query_factor(growth, position)), [1.0, 1.0]);
        assert_eq!([16, 31].map(|position| query_factor(growth, position)), [1.0 + 0.5 * 2f32.ln(); 2]);
    }

    #[test]
    fn activations_and_caps_have_their_known_values() {
        let near = |a: f32, b: f32| assert!((a - b).abs() < 1e-6, "{a} for {b}");
        near(activate(ActivationFunction::Silu, 1.0), 0.731_058_6);
        near(activate(ActivationFunction::GeluTanh, 1.0), 0.841_192);
        near(capped(3.0, Some(2.0)), 1.810_296_5);
        near(capped(3.0, None), 3.0);
        let mut scores = [1.0, 1.0, 1.0 + 2f32.ln()];
        softmax(&mut scores);
        near(scores[2], 0.5);
    }
}
