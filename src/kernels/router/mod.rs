//! The depth of each token at some neighbouring sites, by the sites' routers, and the norm that these look at.

mod problem;
pub mod route;
pub mod route_vector;
pub mod weights;

pub use problem::RouteInputs;
pub use weights::{Control, Routers};

use super::rms_norm::Norm;
use crate::engine::Traits;
use crate::recording::{Dispatch, Recording};
use crate::routing::HIDDEN;
use problem::Params;

/// Records `normed = norm(x)`, and `depths[s, depth_row[t]] = depth(normed[t])` by the router of each site s.
pub fn record(recording: &mut Recording, traits: Traits, routers: &Routers, inputs: &RouteInputs) {
    let by_vectors = route_vector::suits(traits, routers.dim);
    // On processor cores one invocation a unit: lanes that share x need no sum over lanes. Few tokens have one
    // workgroup each for a site, in which loads are better all under way at once; as many lanes for each, so that all
    // sum up alike.
    let lanes = match (traits.software, inputs.tokens()) {
        (true, _) => 1,
        (false, 1..=8) => (traits.workgroup_invocations / HIDDEN).clamp(8, 32),
        (false, _) => 8,
    };
    let RouteInputs { x, norm: Norm { weight, eps }, normed, sites, control, step_rows, depths, depths_row } = inputs;
    let params = Params { row_eights: routers.dim / 8, first_site: sites.start, depths_row: *depths_row, eps: *eps };
    recording.dispatch(Dispatch {
        kernel: if by_vectors { &route_vector::KERNEL } else { &route::KERNEL },
        constants: if by_vectors { vec![] } else { vec![("WORKGROUP", HIDDEN * lanes)] },
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![*x, weight.all(), routers.w1(sites), routers.rest.all(), *control, *step_rows, *normed, *depths],
        workgroups: [inputs.tokens(), sites.len() as u32, 1],
    });
}
