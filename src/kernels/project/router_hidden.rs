//! The hidden units of routers, which a projection computes whose input is the norm that the routers look at: by
//! workgroups beside those of the rows, or for several tokens beside those that [`pack`](super::pack).
//! [`residual`](super::residual) selects depths by them.

use half::f16;
use rayon::prelude::*;

use super::projection::{Params, Projection};
use super::spread::HIDDEN_UNITS_MAX;
use crate::kernels::rms_norm::normalize;
use crate::kernels::router::weights::{RouterNumbers, Routers};
use crate::recording::{Arguments, Recording, Span};
use crate::routing::HIDDEN;

/// Hidden units of a workgroup at least; like the most, a power of two.
const UNITS_MIN: u32 = 2;

/// Hidden units of a workgroup of so many subgroups, one for each at most: as few as leave room among the `processors`
/// for the workgroups of `routers` routers beside those with rows, so that they are done before these.
fn units(subgroups: u32, with_rows: u32, routers: u32, processors: u32) -> u32 {
    let most = subgroups.min(HIDDEN_UNITS_MAX);
    let fits = |units: &u32| with_rows + routers * HIDDEN / units <= processors;
    let sizes = std::iter::successors(Some(UNITS_MIN.min(most)), |units| (*units < most).then_some(units * 2));
    sizes.into_iter().find(fits).unwrap_or(most)
}

/// Bytes of a token's hidden units of `sites` neighbouring sites' routers.
pub const fn hidden_bytes(sites: u32) -> u64 {
    sites as u64 * HIDDEN as u64 * 4
}

/// Routers of neighbouring sites.
#[derive(Debug, Clone, Copy)]
pub struct SiteRouters<'a> {
    /// All routers.
    pub routers: &'a Routers,
    /// The first site, counted through all layers.
    pub first: u32,
    /// Sites.
    pub count: u32,
    /// Their hidden units, [T, S, HIDDEN] f32.
    pub hidden: Span,
}

impl SiteRouters<'_> {
    /// Hidden units of a token.
    pub(super) fn units(&self) -> u32 {
        self.count * HIDDEN
    }
}

/// What a kernel whose input is a norm records for the routers that look at it.
pub(super) struct HiddenDispatch {
    /// Constants.
    pub constants: Vec<(&'static str, u32)>,
    /// Workgroups that compute a token's hidden units.
    pub workgroups: u32,
    /// The first router's site.
    pub site: u32,
    /// The depth, the routers' rest and their w1. Where there are no routers, the last two are not read.
    pub read: [Span; 3],
    /// The routers' hidden units.
    pub written: Span,
}

impl HiddenDispatch {
    pub fn new(
        recording: &mut Recording,
        projection: &Projection<'_>,
        routers: Option<SiteRouters<'_>>,
    ) -> HiddenDispatch {
        let with_rows = projection.spread.workgroups(projection.weight.rows);
        HiddenDispatch::beside(recording, projection, routers, with_rows, 1)
    }

    /// The same for each of `tokens` tokens, beside so many workgroups of all of them.
    pub fn beside(
        recording: &mut Recording,
        projection: &Projection<'_>,
        routers: Option<SiteRouters<'_>>,
        others: u32,
        tokens: u32,
    ) -> HiddenDispatch {
        let Projection { weight, depth, spread, .. } = *projection;
        let count = routers.map_or(0, |routers| routers.count);
        let subgroups = spread.workgroup / spread.subgroup;
        let units = units(subgroups, others, count * tokens, spread.processors);
        let workgroups = count * HIDDEN / units;
        let constants = vec![("UNITS", units)];
        match routers {
            Some(SiteRouters { routers, first, count, hidden }) => {
                let read = [depth, routers.rest.all(), routers.w1(&(first..first + count))];
                HiddenDispatch { constants, workgroups, site: first, read, written: hidden }
            }
            None => {
                let unread = weight.ranges[0].all();
                let written = recording.transient(hidden_bytes(1)).all();
                HiddenDispatch { constants, workgroups, site: 0, read: [depth, unread, unread], written }
            }
        }
    }
}

/// The hidden units of the routers that look at the input, by the bindings of [`HiddenDispatch`], which begin at
/// `first`.
pub(super) fn write_hidden(args: &Arguments<'_>, p: &Params, first: usize, hidden: &mut [f32]) {
    let units = (args.workgroups[0] - args.constant("ROW_WORKGROUPS")) * args.constant("UNITS");
    if units == 0 {
        return;
    }
    let (rest, w1): (&[f32], &[f16]) = (args.read(first + 1), args.read(first + 2));
    let dim = w1.len() / units as usize;
    let inputs = HiddenInputs { x: &args.read(8)[..dim], norm: &args.read(9)[..dim], eps: p.eps };
    hidden_units(inputs, w1, rest, p.site as usize, units as usize, hidden);
}

/// What routers look at: the norm of each token's numbers.
pub(super) struct HiddenInputs<'a> {
    /// [T, D]
    pub x: &'a [f32],
    /// The norm's weight, `[D]`.
    pub norm: &'a [f32],
    /// The norm's constant.
    pub eps: f32,
}

/// The hidden units of neighbouring routers, from that of `site` on, whose w1 are [S, HIDDEN, D]: so many `units` of
/// each token.
pub(super) fn hidden_units(
    inputs: HiddenInputs<'_>,
    w1: &[f16],
    rest: &[f32],
    site: usize,
    units: usize,
    hidden: &mut [f32],
) {
    let HiddenInputs { x, norm, eps } = inputs;
    let (dim, width) = (norm.len(), HIDDEN as usize);
    let mut normed = vec![0f32; x.len()];
    let of_tokens = x.par_chunks_exact(dim).zip(normed.par_chunks_exact_mut(dim));
    of_tokens.for_each(|(x, normed)| normalize(x, norm, eps, normed));
    for at in 0..units / width {
        let router = RouterNumbers::of(w1, at, rest, site + at, dim);
        let of_token = router.hidden();
        normed.par_chunks_exact(dim).zip(hidden.par_chunks_exact_mut(units)).for_each(|(x, hidden)| {
            hidden[at * width..][..width].copy_from_slice(&of_token(x));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::USUAL_PROCESSORS;

    #[test]
    fn units_are_as_few_as_there_is_room_for_and_divide_those_of_a_router() {
        for (subgroups, with_rows, expected) in [(32, 128, 16), (16, 128, 16), (32, 96, 2), (4, 60, 2), (4, 128, 4)] {
            let found = units(subgroups, with_rows, 2, USUAL_PROCESSORS);
            assert_eq!(found, expected, "{subgroups} subgroups beside {with_rows} workgroups");
        }
        for subgroups in (0..=7).map(|power| 1 << power) {
            for with_rows in [1, 100, 116, 124, 1000] {
                let units = units(subgroups, with_rows, 2, USUAL_PROCESSORS);
                assert!(HIDDEN.is_multiple_of(units) && units <= subgroups.min(HIDDEN_UNITS_MAX), "{units}");
            }
        }
    }
}
