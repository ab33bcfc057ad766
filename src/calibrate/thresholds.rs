//! The table from average bits to the threshold, measured on text that the training did not see.

use std::ops::ControlFlow;

use super::network::Network;
use super::step::{Batch, Params, forward};
use crate::error::{Error, Result};
use crate::routing::{Threshold, Thresholds};

/// The widest gap between two rows, in bits.
const GAP: f32 = 0.15;
/// What counts as every or no gate open, in bits from the end.
const END: f32 = 0.01;
/// Measurements at most.
const MEASUREMENTS: usize = 96;

/// Measures the table on `batch`; `on_row(measurements)` may break off.
pub fn measure(
    network: &Network,
    params: &Params,
    batch: &Batch,
    on_row: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Thresholds> {
    let mut measured = 0;
    let mut at = |threshold: f32| {
        measured += 1;
        if on_row(measured).is_break() {
            return Err(Error::Stopped("calibrate"));
        }
        let bits = forward(network, params, batch, threshold, false)?.bits;
        Ok(Threshold { bits, threshold })
    };
    let rows = table(&mut at)?;
    Thresholds::new(rows).map_err(|fault| Error::Device {
        device: format!("{:?}", batch.ids.device()),
        message: format!("the routers' scores give no table: {fault}"),
    })
}

/// Rows from 2 to 8 bits that lie at most [`GAP`] apart, by the bits that `at` measures at a threshold.
fn table(at: &mut dyn FnMut(f32) -> Result<Threshold>) -> Result<Vec<Threshold>> {
    let mut rows = vec![at(0.0)?];
    for stride in std::iter::successors(Some(2.0f32), |stride| Some(stride * 1.5)).take(16) {
        if rows[0].bits > 2.0 + END {
            rows.insert(0, at(rows[0].threshold + stride)?);
        }
        if rows[rows.len() - 1].bits < 8.0 - END {
            rows.push(at(rows[rows.len() - 1].threshold - stride)?);
        }
    }
    let widest = |rows: &[Threshold]| {
        let gaps = rows.windows(2).map(|w| w[1].bits - w[0].bits).enumerate();
        gaps.max_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, gap)| *gap > GAP)
    };
    while rows.len() < MEASUREMENTS {
        let Some((below, _)) = widest(&rows) else { break };
        let middle = 0.5 * (rows[below].threshold + rows[below + 1].threshold);
        if middle == rows[below].threshold || middle == rows[below + 1].threshold {
            break;
        }
        rows.insert(below + 1, at(middle)?);
    }
    // The ends stand for 2 and 8 bits; between them every row must read more than the one before.
    let last = rows.len() - 1;
    (rows[0].bits, rows[last].bits) = (2.0, 8.0);
    let mut rising = vec![rows[0]];
    rising.extend(rows[1..last].iter().filter(|row| row.bits < 8.0).fold(
        Vec::new(),
        |mut kept: Vec<Threshold>, row| {
            if row.bits > kept.last().map_or(2.0, |kept| kept.bits) {
                kept.push(*row);
            }
            kept
        },
    ));
    rising.push(rows[last]);
    Ok(rising)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_a_smooth_curve_lies_on_it() {
        let curve = |threshold: f32| 2.0 + 6.0 / (1.0 + (threshold * 0.9).exp());
        let mut at = |threshold: f32| Ok(Threshold { bits: curve(threshold), threshold });
        let rows = table(&mut at).unwrap();
        let table = Thresholds::new(rows.clone()).unwrap();
        for tenth in 21..80 {
            let bits = tenth as f32 / 10.0;
            assert!((curve(table.threshold(bits)) - bits).abs() < 0.02, "{bits}: {}", curve(table.threshold(bits)));
        }
        assert!(rows.len() < MEASUREMENTS);
    }

    #[test]
    fn scores_that_are_all_equal_still_give_a_table() {
        let mut at = |threshold: f32| Ok(Threshold { bits: if threshold < 0.3 { 8.0 } else { 2.0 }, threshold });
        let table = Thresholds::new(table(&mut at).unwrap()).unwrap();
        assert!(table.rows().len() == 2);
    }
}
