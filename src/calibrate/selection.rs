//! What is chosen by measuring, after what is trained by gradients: which trained ranges stay, and how far apart a
//! router's gates open.

use super::BITS_JUDGED;
use super::coded::TRAINED;
use super::network::Network;
use super::step::{Batch, TeacherStreams, divergence_at};
use super::thresholds::{Point, Scale};
use super::trained::{Params, ParamsChange};
use crate::error::Result;
use crate::precision::Depth;

/// What may be added to the distance between the scores of a router's gates, of which the best is taken. Far apart, a
/// whole number of slices is read nearly everywhere before any site reads one more. The last of these is for routers
/// whose scores differ so much that some tokens would read two bits where six are asked for.
const DISTANCES: [f32; 3] = [0.0, 2.0, 8.0];
/// The least KL divergence whose logarithm is taken.
const KL_MIN: f32 = 1e-7;

/// The parameters with the ranges of each depth as trained or as training started from them, whichever comes nearer to
/// the teacher when every weight is read at that depth: gradients that are small beside their noise move a range all
/// the same, and one that lay on the grid of its weights only loses by that.
pub fn keep_better_ranges<'a>(
    network: &Network,
    mut params: Params<'a>,
    batch: &Batch,
    teacher: &TeacherStreams,
) -> Result<Params<'a>> {
    for depth in Depth::ALL.into_iter().take(TRAINED) {
        let kl = |params: &Params<'_>| {
            Ok(divergence_at(network, &params.with(ParamsChange::Always(depth)), batch, teacher, 0.0)?.1)
        };
        let unmoved = params.with(ParamsChange::StartingRanges(depth.slices() - 1));
        if kl(&unmoved)? < kl(&params)? {
            params = unmoved;
        }
    }
    Ok(params)
}

/// The parameters with the best of [`DISTANCES`] between the scores, and a sketch of what they read: that of the least
/// divergence over the bits that are judged, in the mean of logarithms.
pub fn widen_gates<'a>(scale: &mut Scale<'_>, params: &Params<'a>) -> Result<(Params<'a>, Vec<Point>)> {
    let mut best: Option<(f32, Params<'a>, Vec<Point>)> = None;
    for distance in DISTANCES {
        let widened = params.with(ParamsChange::ScoresApart(distance));
        let points = scale.sketch(&widened)?;
        let loss = loss_of(&points);
        if best.as_ref().is_none_or(|(least, ..)| loss < *least) {
            best = Some((loss, widened, points));
        }
    }
    let (_, params, points) = best.expect("there are distances");
    Ok((params, points))
}

/// The logarithm of the divergence, summed over the bits that are judged.
pub fn loss_of(points: &[Point]) -> f32 {
    BITS_JUDGED.iter().map(|bits| ln_kl_at(points, *bits)).sum()
}

/// The logarithm of the divergence at some average of bits, on a straight line between the points about it.
fn ln_kl_at(points: &[Point], bits: f32) -> f32 {
    let at = points.partition_point(|point| point.bits < bits).clamp(1, points.len() - 1);
    let (below, above) = (&points[at - 1], &points[at]);
    let [ln_below, ln_above] = [below.kl, above.kl].map(|kl| kl.max(KL_MIN).ln());
    let width = above.bits - below.bits;
    let share = if width > 0.0 { ((bits - below.bits) / width).clamp(0.0, 1.0) } else { 0.5 };
    ln_below + share * (ln_above - ln_below)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::scores::RouterScores;

    #[test]
    fn divergences_lie_between_those_of_the_points_about_them() {
        let mut scores = RouterScores::default();
        scores.add(2.0, vec![0.0; 3]);
        let curve = scores.curve();
        let point = |bits: f32, kl: f32| Point { threshold: -bits, bits, kl, curve: curve.clone() };
        let points = [point(2.0, 1.0), point(4.0, 0.01), point(4.0, 0.02), point(8.0, 0.0)];
        for (bits, kl) in [(1.0, 1.0), (2.0, 1.0), (3.0, 0.1), (4.0, 0.01), (8.0, KL_MIN), (9.0, KL_MIN)] {
            let found = ln_kl_at(&points, bits).exp();
            assert!((found / kl - 1.0).abs() < 1e-4, "{bits}: {found}");
        }
    }
}
