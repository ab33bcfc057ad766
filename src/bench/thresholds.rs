//! The thresholds at which random routers read the bits asked for, found by measuring.

use rand::SeedableRng;
use rand::rngs::ChaCha12Rng;

use super::measure::{random_ids, step};
use crate::error::Result;
use crate::model::{BitsRead, Model};
use crate::precision::{BITS, PrecisionPlan};
use crate::routing::{Threshold, Thresholds};

/// How far the bits read on the measured tokens may lie from those asked for.
const TOLERANCE: f32 = 0.05;
/// Tokens of a measurement.
const TOKENS: u32 = 64;
/// Scores lie within this distance of 0.
const BOUND: f32 = 64.0;
/// Halvings after which a threshold is taken as it is: a router of few scores has no threshold for some bits.
const HALVINGS: usize = 24;

/// Gives the model a table of thresholds for each of `bits`, by bisection on random tokens; panics without routers.
pub fn find_thresholds(model: &Model, bits: &[f32]) -> Result<()> {
    let tokens = TOKENS.min(model.context());
    let ids = random_ids(model, &mut ChaCha12Rng::seed_from_u64(3), tokens);
    let mut asked: Vec<f32> = bits.iter().copied().filter(|b| *b > *BITS.start() && *b < *BITS.end()).collect();
    asked.sort_by(f32::total_cmp);
    asked.dedup();
    let mut rows = vec![Threshold { bits: *BITS.start(), threshold: BOUND }];
    for bits in asked {
        // More bits need a lower threshold, so the last one found bounds the next.
        let most = rows.last().expect("the table has a first row").threshold;
        let threshold = bisect(bits, -BOUND, most, &mut |threshold| read(model, &ids, threshold))?;
        rows.push(Threshold { bits, threshold });
    }
    rows.push(Threshold { bits: *BITS.end(), threshold: -BOUND });
    model.set_thresholds(Thresholds::new(rows).expect("thresholds fall from row to row"));
    Ok(())
}

/// The threshold between `low` and `high` at which `read`, which falls, comes to `bits`.
fn bisect(bits: f32, low: f32, high: f32, read: &mut dyn FnMut(f32) -> Result<f32>) -> Result<f32> {
    let (mut low, mut high) = (low, high);
    let mut middle = (low + high) / 2.0;
    for _ in 0..HALVINGS {
        let got = read(middle)?;
        if (got - bits).abs() < TOLERANCE {
            break;
        }
        if got > bits {
            low = middle
        } else {
            high = middle
        }
        middle = (low + high) / 2.0;
    }
    Ok(middle)
}

/// Bits read of `ids` at one threshold.
fn read(model: &Model, ids: &[u32], threshold: f32) -> Result<f32> {
    let row = |bits| Threshold { bits, threshold };
    let everywhere = Thresholds::new(vec![row(*BITS.start()), row(*BITS.end())]).expect("a table of one threshold");
    model.set_thresholds(everywhere);
    let mut sequence = model.sequence(&PrecisionPlan::routed(*BITS.start(), "one threshold"))?;
    let mut read = BitsRead::new(model.shape());
    read.add(&step(&mut sequence, ids)?);
    Ok(read.mean())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bisection_ends_at_the_bits_or_between_those_there_are() {
        let mut runs = 0;
        let threshold = bisect(3.4, -BOUND, BOUND, &mut |threshold| {
            runs += 1;
            Ok(2.0 + 6.0 / (1.0 + threshold.exp()))
        });
        let read = 2.0 + 6.0 / (1.0 + threshold.unwrap().exp());
        assert!((read - 3.4).abs() < TOLERANCE && runs < HALVINGS, "{read} bits after {runs} runs");
        let step = bisect(5.0, -BOUND, BOUND, &mut |threshold| Ok(if threshold > 0.5 { 2.0 } else { 8.0 })).unwrap();
        assert!((step - 0.5).abs() < 1e-4, "{step}");
    }
}
