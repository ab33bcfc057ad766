//! The gradients of one layer, a stage at a time.
//!
//! A layer's operations are stages: products, and what lies between them. Each of the latter runs once more with a
//! graph of its own, from its inputs as leaves. A product needs no graph over its weights: `Y = X W^T` has `dX = dY W`
//! and `dW = dY^T X`. The second is computed for some rows at a time, and becomes the gradients of their ranges at
//! once. So what is alive is the graph of one stage beside the layer's registers.

use burn::tensor::Tensor;

use super::coded::{CodedSite, TRAINED};
use super::network::{BlockState, beside, joined, sum};
use super::products::{LayerSlices, product_of_slices, widened};
use super::reduce::{sum_all, sum_rows};
use super::scores::open_gates;
use super::student::{
    FIRST_OF_ROUTER, LayerParams, NAMES, RoutedBlock, RouterInput, SiteParams, StudentStream, gates, looked_at,
};
use crate::arch::{Op, Register};
use crate::routing::SCORES;
use crate::shape::Site;

/// A layer to differentiate.
pub struct LayerBackward<'a> {
    /// The layer.
    pub block: RoutedBlock<'a>,
    /// Its weights.
    pub slices: &'a LayerSlices,
    /// Its codes.
    pub codes: &'a [CodedSite; 4],
    /// The gradient of the loss by each bit that the layer's tokens read.
    pub per_bit: f32,
}

/// Sums of the gradients of a layer's trained tensors, in the order of [`SiteParams::tensors`].
#[derive(Default)]
pub struct LayerSums([[Option<Tensor<2>>; NAMES.len()]; 4]);

impl LayerSums {
    /// The sums divided by `scale`; panics where no part of a batch was differentiated.
    pub fn over(self, scale: f32) -> LayerParams {
        let whole = |sum: Option<Tensor<2>>| sum.expect("the output depends on every parameter").div_scalar(scale);
        self.0.map(|sums| SiteParams::from_tensors(sums.map(whole)))
    }
}

/// A stage that the forward pass went through.
struct PassedStage<'a> {
    ops: &'a [Op],
    /// What was in the registers before it.
    state: BlockState,
}

impl LayerBackward<'_> {
    /// The gradients of a part's input by those of its output, `upstream`; those of the parameters are added to `sums`.
    /// Nobody looks at what the last layer has seen.
    pub fn part(&self, input: StudentStream, upstream: StudentStream, sums: &mut LayerSums) -> StudentStream {
        let [batch, tokens, dim] = input.x.dims();
        let flat = |x: Tensor<3>| x.reshape([batch * tokens, dim]);
        let (passed, norms) = self.forward(flat(input.x), input.seen.as_ref(), [batch, tokens]);

        let mut gradients = BlockState::default();
        gradients.put(Register::Residual, flat(upstream.x));
        // The gradient by each norm that routers look at, and by the one of the layer before.
        let mut of_norms: Vec<Option<Tensor<2>>> = norms.iter().map(|_| None).collect();
        if let Some(last) = of_norms.last_mut() {
            *last = upstream.seen;
        }
        let mut of_seen = None;
        for PassedStage { ops, mut state } in passed.into_iter().rev() {
            if let [Op::Project { at, from, to }] = ops {
                let (own, looked_at) = looked_at(&norms, input.seen.as_ref(), *at);
                let upstream = gradients.take(*to);
                let (by_input, by_looked_at) =
                    self.product(at.site, state.read(*from), looked_at.clone(), upstream, sums);
                gradients.add(*from, Some(by_input));
                let sum = match own {
                    Some(own) => &mut of_norms[own],
                    None => &mut of_seen,
                };
                add(sum, Some(by_looked_at));
            } else {
                for op in ops.iter().rev() {
                    if let Op::Norm { from: Register::Residual, to, .. } = op {
                        gradients.add(*to, of_norms.pop().expect("as many norms as went through"));
                    }
                }
                gradients = self.stage(ops, state, gradients, [batch, tokens]);
            }
        }
        let x = gradients.take(Register::Residual).reshape([batch, tokens, dim]);
        StudentStream { x, seen: of_seen }
    }

    /// Goes through the layer: its stages, each with what it read, and the norms of the residual stream.
    fn forward(
        &self,
        x: Tensor<2>,
        seen: Option<&Tensor<2>>,
        windows: [usize; 2],
    ) -> (Vec<PassedStage<'_>>, Vec<RouterInput>) {
        let network = self.block.network;
        let (mut state, mut norms, mut passed) = (BlockState::default(), Vec::<RouterInput>::new(), Vec::new());
        state.put(Register::Residual, x);
        let mut stages = network.stages(self.block.at).peekable();
        while let Some(ops) = stages.next() {
            passed.push(PassedStage { ops, state: state.clone() });
            if stages.peek().is_none() {
                // Its output is the layer's, which nobody asks for again.
                break;
            }
            if let [Op::Project { at, from, to }] = ops {
                let (_, looked_at) = looked_at(&norms, seen, *at);
                let input = state.read(*from);
                let open = open_gates(&self.block.scores(at.site, looked_at.clone()), self.block.threshold);
                state.put(*to, product_of_slices(network, input, &open, &self.slices[at.site as usize]));
            } else {
                for op in ops {
                    network.operate(op, windows, &mut state, &mut |routed, normed| {
                        norms.push(RouterInput { sites: routed.all(), x: normed.clone() });
                    });
                }
            }
        }
        (passed, norms)
    }

    /// The gradients of what is in the registers before a stage without products, by those of what is there after it.
    fn stage(&self, ops: &[Op], state: BlockState, mut upstream: BlockState, windows: [usize; 2]) -> BlockState {
        let leaves = state.leaves();
        let mut after = leaves.clone();
        for op in ops {
            self.block.network.operate(op, windows, &mut after, &mut |_, _| ());
        }
        let mut loss: Option<Tensor<1>> = None;
        for register in ops.iter().filter_map(Op::writes) {
            // What is written is another thing than what was there before, so its gradient goes no further.
            if let Some(upstream) = upstream.take_if_full(register) {
                let written = after.take(register);
                let term = sum_all(written.clone() * beside(upstream, &written));
                loss = Some(loss.map_or(term.clone(), |loss| loss + term));
            }
        }
        if let Some(loss) = loss {
            upstream.add_gradients(leaves, &mut loss.backward());
        }
        upstream
    }

    /// The gradients of a routed product by its input, [N, in], and by what its routers look at, [N, D].
    fn product(
        &self,
        site: Site,
        input: Tensor<2>,
        looked_at: Tensor<2>,
        upstream: Tensor<2>,
        sums: &mut LayerSums,
    ) -> (Tensor<2>, Tensor<2>) {
        let [_, width] = input.dims();
        let sums = &mut sums.0[site as usize];
        let leaves = self.block.params[site as usize].leaves();
        let looked_at = looked_at.autodiff().require_grad();
        let open = gates(leaves.scores(looked_at.clone()) - self.block.threshold);
        let gates = open.clone().without_autodiff();

        let by_wide = self.weights(site, widened(&input, &gates), upstream, sums);
        let of_slice = |at: usize| by_wide.clone().narrow(1, at * width, width);
        let gate = |at: usize| gates.clone().narrow(1, at, 1);
        let by_input = (0..SCORES as usize).fold(of_slice(0), |sum, at| sum + of_slice(at + 1) * gate(at));

        let by_gates = (0..SCORES as usize).map(|at| sum_rows(input.clone() * of_slice(at + 1)));
        let by_gates = Tensor::cat(by_gates.collect(), 1) + self.per_bit * self.block.bits_of_gate(site);
        let mut gradients = sum_all(open.clone() * beside(by_gates, &open)).backward();
        for (sum, leaf) in sums.iter_mut().zip(leaves.tensors()).skip(FIRST_OF_ROUTER) {
            add(sum, leaf.grad_remove(&mut gradients));
        }
        (by_input, looked_at.grad_remove(&mut gradients).expect("a router looks at it"))
    }

    /// The gradient of a product by its input, [N, SLICES * in]; those of the ranges are added to `sums`.
    fn weights(
        &self,
        site: Site,
        wide: Tensor<2>,
        upstream: Tensor<2>,
        sums: &mut [Option<Tensor<2>>; NAMES.len()],
    ) -> Tensor<2> {
        let (network, codes) = (self.block.network, &self.codes[site as usize]);
        let [wide, upstream] = [wide, upstream].map(|x| network.as_factor(x));
        let mut by_wide: Option<Tensor<2>> = None;
        let mut by_ranges: [Vec<Tensor<2>>; 2 * TRAINED] = Default::default();
        for (rows, slices) in codes.parts().zip(&self.slices[site as usize]) {
            let upstream = upstream.clone().narrow(1, rows.start, rows.len());
            add(&mut by_wide, Some(network.matmul(upstream.clone(), slices.clone())));
            let by_slices = network.matmul(upstream.transpose(), wide.clone());
            for (parts, part) in by_ranges.iter_mut().zip(codes.gradients(by_slices, rows)) {
                parts.push(part);
            }
        }
        for (sum, parts) in sums.iter_mut().zip(by_ranges) {
            add(sum, Some(joined(parts, 0)));
        }
        by_wide.expect("a site has rows")
    }
}

fn add(to: &mut Option<Tensor<2>>, term: Option<Tensor<2>>) {
    *to = sum(to.take(), term);
}

#[cfg(test)]
#[path = "backward_tests.rs"]
mod tests;
