//! The table from average bits to the threshold, measured on text that the training did not see.

use super::network::Network;
use super::scores::ScoreCurve;
use super::step::{Batch, TeacherStreams, divergence_at};
use super::trained::Params;
use crate::error::{Error, Result};
use crate::routing::{Threshold, Thresholds};

/// The widest gap between two rows of the table, in bits.
const GAP: f32 = 0.15;
/// The widest gap between two points of a [`Scale::sketch`], in bits.
const GAP_OF_SKETCH: f32 = 0.75;
/// What counts as every or no gate open, in bits from the end.
const END: f32 = 0.01;
/// Points of a sketch, and rows of a table, at most.
const POINTS_MAX: usize = 96;

/// What was measured at a threshold.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Scores above this opened their gates.
    pub threshold: f32,
    /// Average bits read.
    pub bits: f32,
    /// Mean KL divergence from the unquantized model, in nats a token.
    pub kl: f32,
    /// What the scores of this measurement would open at other thresholds.
    pub curve: ScoreCurve,
}

impl Point {
    /// The row of a table that it is.
    fn row(&self) -> Threshold {
        Threshold { bits: self.bits, threshold: self.threshold }
    }
}

/// Measures a student on a batch at thresholds; `on_measurement(so far)` may fail to break off.
pub struct Scale<'a> {
    pub network: &'a Network,
    pub batch: &'a Batch,
    pub teacher: &'a TeacherStreams,
    pub on_measurement: &'a mut dyn FnMut(usize) -> Result<()>,
    /// Measurements so far.
    pub done: usize,
}

impl Scale<'_> {
    /// What the parameters read at a threshold, and how far they are from the teacher.
    pub fn measure(&mut self, params: &Params<'_>, threshold: f32) -> Result<Point> {
        self.done += 1;
        (self.on_measurement)(self.done)?;
        let (scores, kl) = divergence_at(self.network, params, self.batch, self.teacher, threshold)?;
        Ok(Point { threshold, bits: scores.bits(threshold), kl, curve: scores.curve() })
    }

    /// A few points of the parameters from 2 to 8 bits.
    pub fn sketch(&mut self, params: &Params) -> Result<Vec<Point>> {
        refine(Vec::new(), Point::row, GAP_OF_SKETCH, &mut |threshold| self.measure(params, threshold))
    }

    /// The table between the points of a sketch.
    pub fn table(&self, sketch: &[Point]) -> Result<Thresholds> {
        Thresholds::new(rows(&between(sketch)?)).map_err(|fault| Error::Device {
            device: format!("{:?}", self.batch.ids.device()),
            message: format!("the routers' scores give no table: {fault}"),
        })
    }
}

/// Thresholds between those of a sketch, so that no two lie more than [`GAP`] apart, with the bits that the curves of
/// their two neighbours have there: the nearer one counts more, as its tokens met inputs that are more alike.
fn between(sketch: &[Point]) -> Result<Vec<Threshold>> {
    refine(sketch.iter().map(Point::row).collect(), Threshold::clone, GAP, &mut |threshold| {
        let at = sketch.partition_point(|point| point.threshold > threshold).clamp(1, sketch.len() - 1);
        let (above, below) = (&sketch[at - 1], &sketch[at]);
        let share = ((above.threshold - threshold) / (above.threshold - below.threshold)).clamp(0.0, 1.0);
        let [fewer, more] = [above, below].map(|point| point.curve.bits(threshold));
        Ok(Threshold { threshold, bits: fewer + share * (more - fewer) })
    })
}

/// Adds what `at` finds at thresholds, until it all reaches from 2 to 8 bits and lies at most `gap` apart; thresholds
/// fall.
fn refine<P>(
    mut points: Vec<P>,
    row: fn(&P) -> Threshold,
    gap: f32,
    at: &mut dyn FnMut(f32) -> Result<P>,
) -> Result<Vec<P>> {
    if points.is_empty() {
        points.push(at(0.0)?);
    }
    for stride in std::iter::successors(Some(2.0f32), |stride| Some(stride * 1.5)).take(16) {
        let [first, last] = [&points[0], &points[points.len() - 1]].map(row);
        if first.bits > 2.0 + END {
            points.insert(0, at(first.threshold + stride)?);
        }
        if last.bits < 8.0 - END {
            points.push(at(last.threshold - stride)?);
        }
    }
    while points.len() < POINTS_MAX {
        let pairs = points.windows(2).map(|pair| [&pair[0], &pair[1]].map(row)).enumerate();
        let wide = pairs.filter(|(_, [above, below])| below.bits - above.bits > gap);
        let widest = wide.max_by(|(_, a), (_, b)| (a[1].bits - a[0].bits).total_cmp(&(b[1].bits - b[0].bits)));
        let Some((at_pair, [above, below])) = widest else { break };
        let middle = 0.5 * (above.threshold + below.threshold);
        if middle == above.threshold || middle == below.threshold {
            break;
        }
        points.insert(at_pair + 1, at(middle)?);
    }
    Ok(points)
}

/// The rows of the table. The ends stand for 2 and 8 bits; between them every row reads more than the one before.
fn rows(points: &[Threshold]) -> Vec<Threshold> {
    let last = points.len() - 1;
    let mut rising = vec![Threshold { bits: 2.0, ..points[0] }];
    for point in points[1..last].iter().filter(|point| point.bits < 8.0) {
        if point.bits > rising[rising.len() - 1].bits {
            rising.push(*point);
        }
    }
    rising.push(Threshold { bits: 8.0, ..points[last] });
    rising
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::scores::RouterScores;

    /// A table where average bits at a threshold are those of a curve, and the scores are `scores` where it is
    /// measured; how many measurements it took, and its rows.
    fn table(bits: impl Fn(f32) -> f32, scores: impl Fn(f32) -> Vec<f32>) -> (usize, Vec<Threshold>) {
        let mut at = |threshold: f32| {
            let mut all = RouterScores::default();
            all.add(2.0, scores(threshold));
            Ok(Point { bits: bits(threshold), threshold, kl: 0.0, curve: all.curve() })
        };
        let sketch = refine(Vec::new(), Point::row, GAP_OF_SKETCH, &mut at).unwrap();
        (sketch.len(), rows(&between(&sketch).unwrap()))
    }

    #[test]
    fn the_table_of_a_smooth_curve_lies_on_it() {
        let curve = |threshold: f32| 2.0 + 6.0 / (1.0 + (threshold * 0.9).exp());
        // The scores of that curve where it was measured; elsewhere they would be others, by up to half a bit.
        let scores = |measured: f32| {
            let quantiles = (0..3000).map(|at| (at as f32 + 0.5) / 3000.0);
            quantiles.map(move |at| (1.0 / at - 1.0).ln() / 0.9).map(move |s| s + 0.1 * (s - measured)).collect()
        };
        let (measured, rows) = table(curve, scores);
        let table = Thresholds::new(rows.clone()).unwrap();
        for tenth in 21..80 {
            let bits = tenth as f32 / 10.0;
            assert!((curve(table.threshold(bits)) - bits).abs() < 0.03, "{bits}: {}", curve(table.threshold(bits)));
        }
        assert!(rows.len() > 6 * 6 && measured < 16, "{} rows of {measured} measurements", rows.len());
    }

    #[test]
    fn scores_that_are_all_equal_still_give_a_table() {
        let (_, rows) = table(|threshold| if threshold < 0.3 { 8.0 } else { 2.0 }, |_| vec![0.3; 30]);
        assert!(rows.len() == 2);
    }
}
