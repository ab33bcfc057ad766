//! From average bits to the routers' threshold.
//!
//! Each input site has a router. It looks at x, a norm of the token's residual stream from before the product that
//! makes the site's input:
//!
//! ```text
//! xn = x / sqrt(mean(x^2) + 1e-6)
//! h = silu(W1 xn + b1)                    [HIDDEN]
//! o = W2 h + b2                           [3]
//! s1 = o1,  s2 = s1 - softplus(o2),  s3 = s2 - softplus(o3)
//! depth = 1 + number of s above the threshold
//! ```
//!
//! So a depth is known before its product begins, and is found beside another one. Which norm that is follows from the
//! order of the operations, and [`crate::arch::Program`] says it:
//!
//! | norm | sites whose routers look at it |
//! |---|---|
//! | before a layer's attention | `gate_up` and `down` of the layer; of the first layer `qkv` and `o` too |
//! | before a layer's feed-forward | `qkv` and `o` of the next layer |
//!
//! Scores fall, so the gates of deeper slices open only after those of shallower ones. One threshold serves all sites
//! and layers; a table made on calibration text says which one yields which average bits.

use serde::{Deserialize, Serialize};

use crate::precision::BITS;

/// Hidden units of a router.
pub const HIDDEN: u32 = 32;
/// Scores of a router: one for each residual slice.
pub const SCORES: u32 = 3;
/// Numbers of a router beside W1: b1 `[HIDDEN]`, W2 [SCORES, HIDDEN], b2 `[SCORES]`, and what fills four.
pub const REST: u32 = (HIDDEN + SCORES * HIDDEN + SCORES).next_multiple_of(4);
/// Added to the mean square of what a router looks at.
pub const EPS: f32 = 1e-6;

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Threshold {
    /// Average bits, weighted by parameters.
    pub bits: f32,
    /// Scores above this open their gates.
    pub threshold: f32,
}

/// The table from average bits to the threshold: bits rise from 2 to 8, thresholds fall.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Thresholds(Vec<Threshold>);

impl Thresholds {
    /// The table of these rows; what is wrong with them otherwise.
    pub fn new(rows: Vec<Threshold>) -> Result<Thresholds, String> {
        let table = Thresholds(rows);
        table.fault().map_or(Ok(table), Err)
    }

    /// What is wrong with a table that was read, if anything is.
    pub fn fault(&self) -> Option<String> {
        let (Some(first), Some(last)) = (self.0.first(), self.0.last()) else {
            return Some("no rows".into());
        };
        if first.bits != *BITS.start() || last.bits != *BITS.end() {
            return Some(format!("{} to {} bits", first.bits, last.bits));
        }
        if let Some(row) = self.0.iter().find(|row| !row.threshold.is_finite()) {
            return Some(format!("the threshold {} at {} bits", row.threshold, row.bits));
        }
        let unordered = |w: &&[Threshold]| !(w[0].bits < w[1].bits && w[0].threshold >= w[1].threshold);
        self.0.windows(2).find(unordered).map(|w| format!("{} bits after {} bits out of order", w[1].bits, w[0].bits))
    }

    /// The threshold for `bits`, between the rows on a straight line; bits outside the table are moved to its ends.
    pub fn threshold(&self, bits: f32) -> f32 {
        let at = self.0.partition_point(|row| row.bits < bits).clamp(1, self.0.len() - 1);
        let (below, above) = (self.0[at - 1], self.0[at]);
        let share = ((bits - below.bits) / (above.bits - below.bits)).clamp(0.0, 1.0);
        below.threshold + share * (above.threshold - below.threshold)
    }

    /// The rows, fewest bits first.
    pub fn rows(&self) -> &[Threshold] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[(f32, f32)]) -> Result<Thresholds, String> {
        Thresholds::new(rows.iter().map(|(bits, threshold)| Threshold { bits: *bits, threshold: *threshold }).collect())
    }

    #[test]
    fn thresholds_lie_on_lines_between_the_rows() {
        let table = table(&[(2.0, 5.0), (4.0, 1.0), (8.0, -3.0)]).unwrap();
        for (bits, threshold) in [(2.0, 5.0), (3.0, 3.0), (4.0, 1.0), (6.0, -1.0), (8.0, -3.0), (1.0, 5.0), (9.0, -3.0)]
        {
            assert_eq!(table.threshold(bits), threshold, "{bits} bits");
        }
    }

    #[test]
    fn tables_that_do_not_fall_or_do_not_reach_the_ends_are_told() {
        for rows in [&[][..], &[(2.0, 1.0)], &[(2.0, 1.0), (7.9, 0.0)], &[(2.0, 0.0), (8.0, 1.0)]] {
            assert!(table(rows).is_err(), "{rows:?}");
        }
        assert!(table(&[(2.0, 1.0), (5.0, f32::NAN), (8.0, 0.0)]).unwrap_err().contains("NaN at 5 bits"));
        assert!(table(&[(2.0, 3.0), (5.0, 2.0), (4.0, 1.0), (8.0, 0.0)]).is_err());
    }
}
