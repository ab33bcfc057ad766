//! The scores that routers gave a batch, and what would be read of it at any threshold.

use crate::precision::BITS;
use crate::routing::SCORES;

/// Knots of a curve, about.
const KNOTS: usize = 4096;

/// The scores of all sites that a batch went through.
#[derive(Debug, Default)]
pub struct RouterScores {
    /// Of each site, or each part of a batch there: what an open gate adds to a token's bits, and [N, SCORES] scores.
    sites: Vec<(f32, Vec<f32>)>,
}

/// Average bits by threshold, of tokens whose routers look at the same numbers at each threshold.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreCurve {
    /// (threshold, bits): thresholds fall and bits rise, from 2 to 8.
    knots: Vec<(f32, f32)>,
}

impl RouterScores {
    /// Adds those of a site, [N, SCORES], where an open gate adds `bits_of_gate` to the bits of a token.
    pub fn add(&mut self, bits_of_gate: f32, scores: Vec<f32>) {
        self.sites.push((bits_of_gate, scores));
    }

    /// Whether all of them are numbers.
    fn are_finite(&self) -> bool {
        self.sites.iter().all(|(_, scores)| scores.iter().all(|score| score.is_finite()))
    }

    /// Average bits at a threshold, weighted by parameters; no number where a score is none.
    pub fn bits(&self, threshold: f32) -> f32 {
        if !self.are_finite() {
            return f32::NAN;
        }
        let count = |is: &dyn Fn(f32) -> bool| -> f64 {
            let of_site = |(bits, scores): &(f32, Vec<f32>)| {
                f64::from(*bits) * scores.iter().filter(|score| is(**score)).count() as f64
            };
            self.sites.iter().map(of_site).sum()
        };
        bits_of(count(&|score| score > threshold) / count(&|_| true))
    }

    /// Average bits at every threshold.
    pub fn curve(&self) -> ScoreCurve {
        let pairs = self.sites.iter().flat_map(|(bits, scores)| scores.iter().map(|score| (*score, *bits)));
        let mut all: Vec<(f32, f32)> = pairs.collect();
        all.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let whole: f64 = all.iter().map(|(_, bits)| f64::from(*bits)).sum();
        let (step, last) = (all.len().div_ceil(KNOTS), all.len() - 1);
        let mut open = 0.0;
        let knots = all.iter().enumerate().filter_map(|(at, (score, bits))| {
            // A score opens its gate at thresholds below it.
            let knot = (at % step == 0 || at == last).then(|| (*score, bits_of(open / whole)));
            open += f64::from(*bits);
            knot
        });
        ScoreCurve { knots: knots.collect() }
    }
}

impl ScoreCurve {
    /// Average bits at a threshold.
    pub fn bits(&self, threshold: f32) -> f32 {
        let at = self.knots.partition_point(|(score, _)| *score > threshold);
        if at == 0 {
            return *BITS.start();
        }
        let Some(below) = self.knots.get(at) else { return *BITS.end() };
        let above = self.knots[at - 1];
        let share = (above.0 - threshold) / (above.0 - below.0);
        above.1 + share * (below.1 - above.1)
    }
}

/// Average bits where this share of all gates is open.
fn bits_of(share: f64) -> f32 {
    BITS.start() + (BITS.end() - BITS.start()) * share as f32
}

/// How many of a token's gates are open at a threshold, by its scores, for each of the tokens of [N, SCORES].
pub fn open_gates(scores: &[f32], threshold: f32) -> Vec<usize> {
    let tokens = scores.chunks_exact(SCORES as usize);
    tokens.map(|scores| scores.iter().filter(|score| **score > threshold).count()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_has_the_bits_of_every_threshold() {
        let mut scores = RouterScores::default();
        let numbers = |seed: usize| (0..3000).map(|at| ((at * seed + 7) % 2003) as f32 / 100.0 - 10.0).collect();
        scores.add(0.5, numbers(31));
        scores.add(1.5, numbers(1009));
        let curve = scores.curve();
        for threshold in [-11.0, -9.7, -3.0, 0.0, 0.015, 4.2, 9.99, 12.0] {
            let (found, expected) = (curve.bits(threshold), scores.bits(threshold));
            assert!((found - expected).abs() < 0.01, "{threshold}: {found} and {expected}");
        }
        assert_eq!((scores.bits(-11.0), scores.bits(12.0)), (8.0, 2.0));
        assert!((scores.bits(0.0) - 5.0).abs() < 0.1);
    }

    #[test]
    fn equal_scores_open_all_gates_at_once() {
        let mut scores = RouterScores::default();
        scores.add(2.0, vec![0.5; 300]);
        let curve = scores.curve();
        assert_eq!((curve.bits(0.5), curve.bits(0.6)), (2.0, 2.0));
        assert_eq!((curve.bits(0.49), scores.bits(0.49)), (8.0, 8.0));
    }

    #[test]
    fn gates_open_where_scores_are_above_the_threshold() {
        assert_eq!(open_gates(&[3.0, 2.0, 1.0, 0.0, -1.0, -2.0], 1.0), [2, 0]);
        let mut scores = RouterScores::default();
        for (number, finite) in [(1.0, true), (f32::NAN, false)] {
            scores.add(2.0, vec![number; 3]);
            assert_eq!(scores.are_finite(), finite);
        }
    }
}
