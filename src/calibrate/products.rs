//! The products of a layer whose weights are read to the depths that its routers choose: with one weight for each
//! token, or, for gradients, with all slices side by side.

use burn::tensor::Tensor;

use super::coded::CodedSite;
use super::network::{Network, joined};
use super::student::LayerParams;
use crate::precision::SLICES;
use crate::routing::SCORES;

/// The weights of a layer's sites as [`CodedSite::slices`] gives them: in the parts of [`CodedSite::parts`], as
/// products take them.
pub type LayerSlices = [Vec<Tensor<2>>; 4];

/// The same as [`CodedSite::weights`] gives them: of each site at each depth, in the same parts.
pub type DepthWeights = [[Vec<Tensor<2>>; SLICES]; 4];

/// The slices of a layer's weights.
pub fn layer_slices(network: &Network, codes: &[CodedSite; 4], params: &LayerParams) -> LayerSlices {
    std::array::from_fn(|site| {
        let codes = &codes[site];
        codes.parts().map(|rows| network.as_factor(codes.slices(&params[site], rows))).collect()
    })
}

/// A layer's weights at each depth.
pub fn layer_weights(network: &Network, codes: &[CodedSite; 4], params: &LayerParams) -> DepthWeights {
    std::array::from_fn(|site| {
        let mut weights: [Vec<Tensor<2>>; SLICES] = Default::default();
        for rows in codes[site].parts() {
            for (parts, part) in weights.iter_mut().zip(codes[site].weights(&params[site], rows)) {
                parts.push(network.as_factor(part));
            }
        }
        weights
    })
}

/// The product of each token of an input, [N, in], with the weight that the slices of a site make up at the token's own
/// depth: [N, rows]. No more than a part of the weight exists at one time.
pub fn product_of_slices(network: &Network, input: Tensor<2>, open: &[usize], slices: &[Tensor<2>]) -> Tensor<2> {
    let product = |part: &Tensor<2>| product_by_depth(network, input.clone(), open, |open| vec![summed(part, open)]);
    joined(slices.iter().map(product).collect(), 1)
}

/// What slices side by side add up to where so many gates are open.
fn summed(slices: &Tensor<2>, open: usize) -> Tensor<2> {
    let width = slices.dims()[1] / SLICES;
    let slice = |at: usize| slices.clone().narrow(1, at * width, width);
    (1..=open).fold(slice(0), |sum, at| sum + slice(at))
}

/// The product of each token of an input, [N, in], with the weight at its own depth: [N, rows]. `open` says how many
/// gates are open for a token, and `weight` what it is multiplied with then. Tokens of one depth are multiplied
/// together.
pub fn product_by_depth(
    network: &Network,
    input: Tensor<2>,
    open: &[usize],
    weight: impl Fn(usize) -> Vec<Tensor<2>>,
) -> Tensor<2> {
    // The tokens by their depths, and where each of them is in this order.
    let mut order: Vec<i32> = (0..open.len() as i32).collect();
    order.sort_by_key(|token| open[*token as usize]);
    let mut places = vec![0; order.len()];
    for (place, token) in (0..).zip(&order) {
        places[*token as usize] = place;
    }
    let device = input.device();
    let select = |x: Tensor<2>, rows: &[i32]| x.select(0, Tensor::from_data(rows, &device));
    let groups: Vec<&[i32]> = order.chunk_by(|a, b| open[*a as usize] == open[*b as usize]).collect();
    let weight = |tokens: &[i32]| weight(open[tokens[0] as usize]);
    if let [all] = groups[..] {
        return network.product_in_parts(input, &weight(all));
    }
    let products = groups.iter().map(|tokens| {
        let own = select(input.clone(), tokens);
        network.product_in_parts(own, &weight(tokens))
    });
    select(joined(products.collect(), 0), &places)
}

/// The input [N, in], and the same through each gate, side by side: [N, SLICES * in].
pub fn widened(input: &Tensor<2>, gates: &Tensor<2>) -> Tensor<2> {
    let gated = (0..SCORES as usize).map(|at| input.clone() * gates.clone().narrow(1, at, 1));
    Tensor::cat([input.clone()].into_iter().chain(gated).collect(), 1)
}
