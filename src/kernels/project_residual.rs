//! The products that attention and feed-forward add to the residual stream, for one token, and the depths of the sites
//! that come next.

use super::bindings;
use super::project::{self, Own, Params, Projection, SHARED_BINDINGS};
use super::routers::{Control, Numbers};
use super::telling::RoutersAt;
use crate::recording::{Arguments, Kernel, Recording, Span};
use crate::routing::HIDDEN;

/// `shaders/project_residual.wgsl`; bindings: the [shared](super::project) ones, the routers' rest [4 L, REST], control
/// [4 L] of [`Control`], the [hidden units](RoutersAt) of the S routers that choose, depths [1 + S] u32 in rows of
/// `depth_row`, y `[rows]`.
pub static KERNEL: Kernel = Kernel {
    name: "project_residual",
    wgsl: include_str!("../../shaders/project_residual.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<12>(SHARED_BINDINGS + 3),
    reference: project_residual,
};

/// Who chooses the depths of the sites that come next.
#[derive(Debug, Clone, Copy)]
pub struct Choosing<'a> {
    /// Their routers.
    pub routers: RoutersAt<'a>,
    /// A [`Control`] for each site of the model.
    pub control: Span,
    /// Entries from a site's depth to the next one's.
    pub depth_row: u32,
}

/// Records y += W x; behind the depth of the projection come those that are chosen.
pub fn record(recording: &mut Recording, projection: &Projection<'_>, choosing: Option<Choosing<'_>>, y: Span) {
    let Projection { weight, depth, .. } = *projection;
    let scales = weight.scales.all();
    let chosen = choosing.map_or(0, |choosing| choosing.routers.count);
    let mut own = Own {
        constants: vec![("CHOSEN", chosen)],
        // The first three are not looked at.
        bindings: vec![scales, scales, scales, depth, y],
        workgroups: chosen.min(1),
        ..Own::default()
    };
    if let Some(Choosing { routers: RoutersAt { routers, first, hidden, .. }, control, depth_row }) = choosing {
        (own.site, own.depth_row) = (first, depth_row);
        own.bindings[..3].copy_from_slice(&[routers.rest.all(), control, hidden]);
    }
    project::record(recording, &KERNEL, projection, 0..weight.rows, own);
}

fn project_residual(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let (depth, y): (&mut [u32], &mut [f32]) = (args.write(10), args.write(11));
    let products = project::multiply(args, &p, depth[0]);
    y.iter_mut().zip(&products).for_each(|(y, product)| *y += product);
    for at in 0..args.constant("CHOSEN") as usize {
        let (rest, control, told): (&[f32], &[Control], &[f32]) = (args.read(7), args.read(8), args.read(9));
        let site = p.site as usize + at;
        let hidden = &told[at * HIDDEN as usize..][..HIDDEN as usize];
        depth[(1 + at) * p.depth_row as usize] = Numbers::but_w1(rest, site).depth(hidden, control[site]);
    }
}
