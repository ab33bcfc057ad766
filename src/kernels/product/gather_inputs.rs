//! A product's inputs as f16, in the order in which it takes the tokens.

use half::f16;

use super::gather_tokens::token_and_depth;
use super::problem::{Product, Tiles};
use crate::kernels::declare::{WORKGROUP, params};
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};

/// How inputs lie in tiles. Of each four neighbours, the middle ones have changed places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputLayout {
    /// [entries, input].
    Rows,
    /// [entries / 16, input / 16, 16, 16]: a block after the other, which is what a cooperative matrix loads.
    Blocks,
}

impl InputLayout {
    /// Where the numbers of an entry lie, one after the other, with `input` to an entry.
    pub(super) fn places(self, entry: usize, input: usize) -> impl Iterator<Item = usize> {
        (0..input).map(move |at| {
            let at = at - at % 4 + [0, 2, 1, 3][at % 4];
            match self {
                InputLayout::Rows => entry * input + at,
                InputLayout::Blocks => ((entry / 16 * (input / 16) + at / 16) * 16 + entry % 16) * 16 + at % 16,
            }
        })
    }
}

params! {
    /// T
    tokens: u32,
    /// vec4s of a token's input.
    row_vec4s: u32,
}

/// `shaders/gather_inputs.wgsl`; bindings: x [T, input], order `[entries]` u32, y [entries, input] f16 in a layout.
pub static KERNEL: Kernel = Kernel {
    name: "gather_inputs",
    wgsl: include_str!("../../../shaders/gather_inputs.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Write],
    reference: gather_inputs,
};

/// Records a product's inputs in its tiles; where they are then. Panics without room for them.
pub(super) fn in_tiles(recording: &mut Recording, product: &Product<'_>, tiles: Tiles, layout: InputLayout) -> Span {
    let x_f16 = tiles.x_f16.expect("products by matrices have room for inputs in f16");
    let input = product.weight.input;
    let x = x_f16.span(0, tiles.order.bytes / 4 * u64::from(input) * 2);
    record(recording, (product.tokens, input), product.x, tiles.order, layout, x);
    x
}

/// Records y = x, [tokens, input], in the order of the [entries](super::gather_tokens::entry) in `order`; padding gets
/// zeros, and numbers that are beyond f16 its last one.
pub fn record(
    recording: &mut Recording,
    (tokens, input): (u32, u32),
    x: Span,
    order: Span,
    layout: InputLayout,
    y: Span,
) {
    let params = Params { tokens, row_vec4s: input / 4 };
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("WORKGROUP", WORKGROUP), ("BLOCKS", u32::from(layout == InputLayout::Blocks))],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![x, order, y],
        workgroups: [params.row_vec4s.div_ceil(WORKGROUP), (order.bytes / 4) as u32, 1],
    });
}

fn gather_inputs(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let layout = if args.constant("BLOCKS") == 1 { InputLayout::Blocks } else { InputLayout::Rows };
    let (x, order): (&[f32], &[u32]) = (args.read(0), args.read(1));
    let y: &mut [f16] = args.write(2);
    let input = p.row_vec4s as usize * 4;
    for (at, entry) in order.iter().enumerate() {
        let (token, _) = token_and_depth(*entry);
        let x = (token < p.tokens).then(|| &x[token as usize * input..][..input]);
        for (at, to) in layout.places(at, input).enumerate() {
            y[to] = x.map_or(f16::ZERO, |x| f16::from_f32(x[at].clamp(f16::MIN.to_f32(), f16::MAX.to_f32())));
        }
    }
}
