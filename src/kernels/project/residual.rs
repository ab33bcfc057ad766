//! The products that attention and feed-forward add to the residual stream, for one token or few, and the depths of
//! the sites that come next.

use super::projection::{self, Extras, Multiply, Params, Projection, SHARED_BINDINGS};
use super::router_hidden::SiteRouters;
use crate::kernels::declare::bindings;
use crate::kernels::product::Output;
use crate::kernels::router::weights::{Control, RouterNumbers};
use crate::kernels::step_rows::StepRow;
use crate::recording::{Arguments, Kernel, Recording, Span};
use crate::routing::HIDDEN;

/// `shaders/project_residual.wgsl`; bindings: the `SHARED_BINDINGS`, the routers' rest [4 L, REST], control [4 L] of
/// [`Control`] for each sequence, the [hidden units](SiteRouters) of the S routers that select, step rows
/// `[T]` of [`StepRow`], depths [1 + S, T] u32 in rows of `depth_row`, y [T, rows].
pub static KERNEL: Kernel = Kernel {
    name: "project_residual",
    wgsl: include_str!("../../../shaders/project_residual.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<16>(SHARED_BINDINGS + 4),
    reference: project_residual,
};

/// The routers that select the depths of the sites that come next.
#[derive(Debug, Clone, Copy)]
pub struct DepthSelection<'a> {
    /// Their routers.
    pub routers: SiteRouters<'a>,
    /// A [`Control`] for each site, of each sequence.
    pub control: Span,
    /// `[T]` of [`StepRow`].
    pub step_rows: Span,
    /// Entries from a site's depth to the next one's.
    pub depth_row: u32,
}

/// Records y += W x or y = W x; behind the depth of the projection come those that are selected.
pub fn record(
    recording: &mut Recording,
    projection: &Projection<'_>,
    selection: Option<DepthSelection<'_>>,
    y: Span,
    output: Output,
) {
    let Projection { weight, depth, .. } = *projection;
    let unread = weight.ranges[0].all();
    let selected = selection.map_or(0, |selection| selection.routers.count);
    let mut extras = Extras {
        constants: vec![("SELECTED", selected)],
        // The first four are not looked at.
        bindings: vec![unread, unread, unread, unread, depth, y],
        workgroups: selected.min(1),
        ..Extras::default()
    };
    if output == Output::Overwrite {
        extras.constants.push(("OVERWRITE", 1));
    }
    if let Some(DepthSelection { routers: SiteRouters { routers, first, hidden, .. }, control, step_rows, depth_row }) =
        selection
    {
        (extras.site, extras.depth_row) = (first, depth_row);
        extras.bindings[..4].copy_from_slice(&[routers.rest.all(), control, hidden, step_rows]);
    }
    projection::record(recording, &KERNEL, projection, 0..weight.rows, extras);
}

fn project_residual(args: &mut Arguments<'_>) {
    compute(args, projection::products);
}

/// What the kernel does, with products that `multiply` computes.
pub(crate) fn compute(args: &mut Arguments<'_>, multiply: Multiply) {
    let p: Params = args.params();
    let (depth, y): (&mut [u32], &mut [f32]) = (args.write(14), args.write(15));
    let products = multiply(args, &p, depth);
    if args.constant_or("OVERWRITE", 0) == 1 {
        y[..products.len()].copy_from_slice(&products);
    } else {
        y.iter_mut().zip(&products).for_each(|(y, product)| *y += product);
    }
    for at in 0..args.constant("SELECTED") as usize {
        let (rest, control, all_hidden): (&[f32], &[Control], &[f32]) = (args.read(10), args.read(11), args.read(12));
        let site = p.site as usize + at;
        let (tokens, step_rows) = (projection::tokens_of(args), args.read::<StepRow>(13));
        let of_tokens = all_hidden.chunks_exact((args.constant("SELECTED") * HIDDEN) as usize);
        for (row, hidden) in step_rows.iter().zip(of_tokens).take(tokens) {
            let hidden = &hidden[at * HIDDEN as usize..][..HIDDEN as usize];
            let control = control[row.first_control as usize + site];
            // One token's depths have one place.
            let place = if tokens > 1 { row.depth_row as usize } else { 0 };
            depth[(1 + at) * p.depth_row as usize + place] =
                RouterNumbers::without_w1(rest, site).depth(hidden, control);
        }
    }
}
