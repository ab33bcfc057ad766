//! The inputs of several tokens as pairs of int8s, before the product that multiplies them, and the hidden units of the
//! routers that look at them.
//!
//! A workgroup packs a token's whole input, with as many invocations as pack it in a single token's product, so that
//! the norm comes out the same to the last bit.

use half::f16;

use super::packed::{self, Packed};
use super::projection::{Input, PackedInputs, Projection, weighted};
use super::router_hidden::{HiddenDispatch, HiddenInputs, SiteRouters, hidden_units};
use super::spread::FEW_TOKENS_MAX;
use crate::kernels::attention::partials;
use crate::kernels::declare::{bindings, params};
use crate::kernels::sliced::CHUNK;
use crate::recording::{Arguments, Dispatch, Kernel, Recording};

params! {
    /// Added to the mean square by the norm.
    eps: f32,
    /// The first site whose router's hidden units are computed.
    site: u32,
}

/// `shaders/project_pack.wgsl`; bindings: x [T, input] or partials, norm `[input]`, the routers' rest [4 L, REST], w1
/// [S, HIDDEN, input] f16 of the S routers that look at x, [`PackedInputs`], the routers'
/// [hidden units](SiteRouters).
pub static KERNEL: Kernel = Kernel {
    name: "project_pack",
    wgsl: include_str!("../../../shaders/project_pack.wgsl"),
    params: Params::FIELDS,
    bindings: &bindings::<6>(4),
    reference: project_pack,
};

/// Records the packing of the inputs of `tokens` tokens, 2 to 8, which are those of `projection`, one token's after the
/// other; and the hidden units of the routers that look at them. `projection` is spread as for a single token.
pub fn record(
    recording: &mut Recording,
    projection: &Projection<'_>,
    tokens: u32,
    routers: Option<SiteRouters<'_>>,
) -> PackedInputs {
    assert!((2..=FEW_TOKENS_MAX).contains(&tokens), "{tokens} tokens");
    let Projection { weight, input, spread, .. } = *projection;
    let (x, norm, partials) = match input {
        Input::Plain(x) => (x, None, None),
        Input::Normed(x, norm) | Input::Routed(x, norm) => (x, Some(norm), None),
        Input::Partials(partials) => (partials.span, None, Some(partials)),
        Input::Packed(_) => panic!("inputs are packed once"),
    };
    let HiddenDispatch { mut constants, workgroups, site, read: [_, rest, w1], written } =
        HiddenDispatch::beside(recording, projection, routers, tokens, tokens);
    let params = Params { eps: norm.map_or(0.0, |norm| norm.eps), site };
    let span = recording.transient(u64::from(tokens * Packed::words(weight.chunks())) * 4).all();
    constants.extend([
        ("WORKGROUP", spread.workgroup),
        ("TEAM", packed::team(spread.workgroup, spread.subgroup, weight.chunks())),
        ("CHUNKS", weight.chunks()),
        ("NORMED", u32::from(matches!(input, Input::Normed(..)))),
        ("SUBGROUPS", spread.workgroup / spread.subgroup),
        ("HIDDEN_ROW", routers.map_or(0, |routers| routers.units())),
    ]);
    let numbers = tokens * weight.input;
    constants.extend(partials.map_or(partials::NO_PARTIALS, |partials| partials.constants(numbers)));
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants,
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![x, norm.map_or(x, |norm| norm.weight.all()), rest, w1, span, written],
        workgroups: [1 + workgroups, tokens, 1],
    });
    PackedInputs { span, tokens }
}

/// What packs a token's numbers, or their norm by this weight with this constant, into [`Packed::words`] words: as the
/// shader does, or as the CPU engine's own products take them.
pub(crate) type PackNumbers = fn(&[f32], Option<&[f32]>, f32, &mut [u32]);

fn project_pack(args: &mut Arguments<'_>) {
    compute(args, |x, norm, eps, words| {
        let (numbers, factor) = weighted(x, norm, eps);
        Packed::of(&numbers).write(factor, words);
    });
}

/// What the kernel does, with numbers that `pack` packs.
pub(crate) fn compute(args: &mut Arguments<'_>, pack: PackNumbers) {
    let p: Params = args.params();
    let (tokens, chunks) = (args.workgroups[1] as usize, args.constant("CHUNKS"));
    let input = (chunks * CHUNK) as usize;
    let (packed, hidden): (&mut [u32], &mut [f32]) = (args.write(4), args.write(5));
    let x = partials::numbers(args, 0, tokens * input);
    let norm: &[f32] = args.read(1);
    let weight = (args.constant("NORMED") == 1).then_some(norm);
    for (x, words) in x.chunks_exact(input).zip(packed.chunks_exact_mut(Packed::words(chunks) as usize)) {
        pack(x, weight, p.eps, words);
    }
    if args.workgroups[0] == 1 {
        return;
    }
    let (rest, w1): (&[f32], &[f16]) = (args.read(2), args.read(3));
    let units = args.constant("HIDDEN_ROW") as usize;
    hidden_units(HiddenInputs { x: &x, norm: &norm[..input], eps: p.eps }, w1, rest, p.site as usize, units, hidden);
}
