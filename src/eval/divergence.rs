//! KL divergence of one distribution over the vocabulary from another, and what many divergences come to.

use std::sync::LazyLock;

use serde::Serialize;

use crate::format::{ReferenceRow, UNITS};

/// exp(-code / [`UNITS`]) of each code.
static LIKELIHOODS: LazyLock<Vec<f64>> =
    LazyLock::new(|| (0..=u16::MAX).map(|code| (-f64::from(code) / f64::from(UNITS)).exp()).collect());

/// How far a model is from the unquantized one after a token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Divergence {
    /// KL(unquantized || model), in nats.
    pub kl: f64,
    /// Whether the likeliest token is the same one.
    pub same_top: bool,
    /// Negative log-likelihood, in nats, of the token that follows, by the model; 0 where none does.
    pub nll: f64,
}

/// What divergences come to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KlFigures {
    /// Positions, each of which has a divergence.
    pub tokens: usize,
    /// Mean KL(unquantized || model), in nats a token.
    pub kl_mean: f64,
    /// Median.
    pub kl_median: f64,
    /// 99th percentile, between neighbours in proportion.
    pub kl_p99: f64,
    /// Share of positions where the likeliest token is the unquantized model's.
    pub same_top: f64,
    /// The model's perplexity.
    pub perplexity: f64,
    /// The unquantized model's perplexity.
    pub reference_perplexity: f64,
}

/// Compares the model's `logits`, `[V]`, with the unquantized model's row, after a token that `target` follows.
///
/// A row that has fewer tokens than V counts all others as one outcome: what it finds is then the divergence or less.
pub fn divergence(row: &ReferenceRow<'_>, logits: &[f32], target: Option<u32>) -> Divergence {
    let (top, largest) = largest(logits);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - largest).exp()).sum();
    let log_sum = f64::from(largest) + sum.ln();
    let log_q = |id: usize| f64::from(logits[id]) - log_sum;
    let likelihoods = &LIKELIHOODS[..];
    let p_sum = row.codes.iter().map(|code| likelihoods[usize::from(*code)]).sum::<f64>() + f64::from(row.rest);
    let log_p_sum = p_sum.ln();
    let (mut kl, mut kept, mut same_top) = (0f64, 0f64, false);
    for (at, code) in row.codes.iter().enumerate() {
        let id = row.ids.map_or(at, |ids| ids[at] as usize);
        let log_q = log_q(id);
        // The last code stands for all that is so unlikely or less, down to never.
        if *code < u16::MAX {
            let log_p = -f64::from(*code) / f64::from(UNITS) - log_p_sum;
            kl += likelihoods[usize::from(*code)] / p_sum * (log_p - log_q);
        }
        same_top |= *code == 0 && id == top;
        if row.ids.is_some() {
            kept += log_q.exp();
        }
    }
    if row.rest > 0.0 {
        let log_p = f64::from(row.rest).ln() - log_p_sum;
        kl += log_p.exp() * (log_p - (1.0 - kept).max(f64::MIN_POSITIVE).ln());
    }
    // Rounding leaves less than nothing of two equal distributions.
    Divergence { kl: kl.max(0.0), same_top, nll: target.map_or(0.0, |target| -log_q(target as usize)) }
}

impl KlFigures {
    /// What the divergences of all positions of `windows` windows come to, with the sum of the unquantized model's
    /// negative log-likelihoods. Panics where a window has fewer than two positions.
    pub fn of(divergences: &[Divergence], windows: usize, reference_nll: f64) -> KlFigures {
        let tokens = divergences.len();
        assert!(windows > 0 && tokens >= 2 * windows, "each window has two tokens or more");
        let mut sorted: Vec<f64> = divergences.iter().map(|divergence| divergence.kl).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let perplexity = |nll: f64| (nll / (tokens - windows) as f64).exp();
        KlFigures {
            tokens,
            kl_mean: sorted.iter().sum::<f64>() / tokens as f64,
            kl_median: percentile(&sorted, 0.5),
            kl_p99: percentile(&sorted, 0.99),
            same_top: divergences.iter().filter(|divergence| divergence.same_top).count() as f64 / tokens as f64,
            perplexity: perplexity(divergences.iter().map(|divergence| divergence.nll).sum()),
            reference_perplexity: perplexity(reference_nll),
        }
    }
}

/// The number below which so large a share of the sorted ones lies; between two, in proportion to the distances.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (below, part) = (at.floor() as usize, at.fract());
    let (low, high) = (sorted[below], sorted[(below + 1).min(sorted.len() - 1)]);
    // Of equal ones, which may be infinite, there is nothing between.
    if low == high { low } else { low + (high - low) * part }
}

/// The token of the largest logit, the first of equal ones, and that logit.
pub(super) fn largest(logits: &[f32]) -> (usize, f32) {
    let better = |best: (usize, f32), (id, logit): (usize, &f32)| if *logit > best.1 { (id, *logit) } else { best };
    logits.iter().enumerate().fold((0, f32::NEG_INFINITY), better)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::CodedLogits;

    /// What is stored of a probability is off by half a unit at most.
    const STORED_DIFFERS: f64 = 0.5 / UNITS as f64;

    fn coded(p: &[f64], top: usize) -> CodedLogits {
        let logits: Vec<f32> = p.iter().map(|p| p.ln() as f32 + 3.0).collect();
        let mut rows = CodedLogits::default();
        rows.push(&logits, top, Some(1));
        rows
    }

    fn row(rows: &CodedLogits) -> ReferenceRow<'_> {
        let ids = (!rows.ids.is_empty()).then_some(&rows.ids[..]);
        ReferenceRow { codes: &rows.codes, ids, rest: rows.rest.first().copied().unwrap_or(0.0) }
    }

    #[test]
    fn divergences_are_those_of_known_distributions() {
        // By hand: 0.5 ln(0.5/0.25) + 0.25 ln(0.25/0.5) + 0.25 ln(0.25/0.25) = 0.25 ln 2.
        let q: Vec<f32> = [0.25f32, 0.5, 0.25].iter().map(|q| q.ln() - 7.0).collect();
        let rows = coded(&[0.5, 0.25, 0.25], 3);
        let found = divergence(&row(&rows), &q, Some(1));
        assert!((found.kl - 0.25 * 2f64.ln()).abs() < STORED_DIFFERS, "{found:?}");
        assert!(!found.same_top && (found.nll - 2f64.ln()).abs() < 1e-6, "{found:?}");
        assert!((f64::from(rows.nll[0]) - 4f64.ln()).abs() < 1e-6, "{rows:?}");
        // Its two likeliest alone: the others are one outcome of 0.25 and of 0.25.
        let rows = coded(&[0.5, 0.25, 0.15, 0.1], 2);
        let q: Vec<f32> = [0.25f32, 0.5, 0.05, 0.2].iter().map(|q| q.ln()).collect();
        let found = divergence(&row(&rows), &q, None);
        assert_eq!((&rows.ids[..], found.nll), (&[0, 1][..], 0.0));
        assert!((found.kl - 0.25 * 2f64.ln()).abs() < STORED_DIFFERS, "{found:?}");
        let all = divergence(&row(&coded(&[0.5, 0.25, 0.15, 0.1], 4)), &q, None);
        let expected = 0.25 * 2f64.ln() + 0.15 * 3f64.ln() + 0.1 * 0.5f64.ln();
        assert!((all.kl - expected).abs() < STORED_DIFFERS && all.kl > found.kl, "{all:?}");
    }

    #[test]
    fn a_distribution_is_next_to_nothing_away_from_itself() {
        let logits: Vec<f32> = (0..1000u32).map(|i| (i * 7919 % 1000) as f32 / 97.0).collect();
        for top in [1000, 100] {
            let mut rows = CodedLogits::default();
            rows.push(&logits, top, None);
            let found = divergence(&row(&rows), &logits, None);
            assert!(found.same_top && found.kl < STORED_DIFFERS * STORED_DIFFERS, "{found:?}");
        }
    }

    #[test]
    fn a_token_that_the_model_excludes_is_infinitely_far() {
        let found = divergence(&row(&coded(&[0.5, 0.5], 2)), &[0.0, f32::NEG_INFINITY], None);
        assert_eq!(found.kl, f64::INFINITY);
        let with = [Divergence { kl: 0.0, same_top: true, nll: 0.0 }, found, found];
        let figures = KlFigures::of(&with, 1, 0.0);
        assert_eq!((figures.kl_median, figures.kl_p99), (f64::INFINITY, f64::INFINITY));
    }

    #[test]
    fn percentiles_lie_between_neighbours() {
        let sorted: Vec<f64> = (0..=200).map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| percentile(&sorted, share)), [0.0, 100.0, 198.0, 200.0]);
        assert_eq!(percentile(&[1.0, 2.0], 0.5), 1.5);
        assert_eq!(percentile(&[1.0, 2.0, 4.0, 8.0], 0.75), 5.0);
        assert_eq!(percentile(&[3.0], 0.99), 3.0);
    }

    #[test]
    fn figures_are_means_over_positions_and_over_what_follows() {
        let at = |kl, same_top, nll| Divergence { kl, same_top, nll };
        let figures =
            KlFigures::of(&[at(0.4, true, 1.0), at(0.1, false, 0.0), at(0.1, true, 3.0), at(0.2, true, 0.0)], 2, 2.0);
        assert!((figures.kl_mean - 0.2).abs() < 1e-12 && (figures.kl_median - 0.15).abs() < 1e-12, "{figures:?}");
        assert!((figures.kl_p99 - (0.2 + 0.2 * 0.97)).abs() < 1e-12, "{figures:?}");
        assert_eq!((figures.same_top, figures.tokens), (0.75, 4));
        assert!((figures.perplexity - 2f64.exp()).abs() < 1e-12, "{figures:?}");
        assert!((figures.reference_perplexity - 1f64.exp()).abs() < 1e-12, "{figures:?}");
    }
}
