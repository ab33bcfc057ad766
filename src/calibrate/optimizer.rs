//! AdamW over the trained tensors: one learning rate for ranges, one for routers.

use burn::optim::{AdamW, AdamWConfig, AdamWState, Optimizer as _};
use burn::tensor::Tensor;

use super::reduce::sum_all;
use super::step::Params;
use super::student::{FIRST_OF_ROUTER, NAMES, SiteParams};

/// Steps in which the learning rates rise.
const WARM_UP: f64 = 20.0;
/// The norm that the gradients of all ranges together are cut to.
const RANGE_NORM: f32 = 1.0;

/// Learning rates at their highest.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Rates {
    /// Of the ranges, in bins of theirs.
    pub ranges: f64,
    /// Of the routers.
    pub routers: f64,
}

/// The moments of one tensor.
pub type OptimizerState = AdamWState<2>;

/// The optimizer's memory.
pub struct Optimizer {
    adam: AdamW,
    rates: Rates,
    steps: usize,
    /// [L][sites][NAMES]; none before the first step.
    pub states: Vec<[[Option<OptimizerState>; NAMES.len()]; 4]>,
}

impl Optimizer {
    /// An optimizer that has seen nothing of a run of `steps` steps over `layers` layers.
    pub fn new(layers: usize, steps: usize, rates: Rates) -> Optimizer {
        let adam = AdamWConfig::new().with_beta_2(0.95).with_epsilon(1e-8).with_weight_decay(0.0).build();
        let states = (0..layers).map(|_| [const { [const { None }; NAMES.len()] }; 4]).collect();
        Optimizer { adam, rates, steps, states }
    }

    /// Moves the parameters by the gradients of step `at`, counted from 0.
    pub fn step(&mut self, at: usize, params: &mut Params, gradients: Params) {
        let shrink = range_shrink(&gradients);
        let pace = ((at + 1) as f64 / WARM_UP).min(1.0)
            * 0.5
            * (1.0 + (std::f64::consts::PI * at as f64 / self.steps as f64).cos());
        for ((params, gradients), states) in params.iter_mut().zip(gradients).zip(&mut self.states) {
            for ((params, gradients), states) in params.iter_mut().zip(gradients).zip(states) {
                let mut moved = params.tensors().map(Clone::clone);
                for (name, gradient) in gradients.tensors().into_iter().enumerate() {
                    let of_range = name < FIRST_OF_ROUTER;
                    let rate = if of_range { self.rates.ranges } else { self.rates.routers };
                    let gradient = gradient.clone();
                    let gradient = if of_range { gradient * shrink.clone().unsqueeze::<2>() } else { gradient };
                    let (tensor, state) =
                        self.adam.step(pace * rate, moved[name].clone(), gradient, states[name].take());
                    moved[name] = tensor;
                    states[name] = state;
                }
                *params = SiteParams::from_tensors(moved).in_range();
            }
        }
    }
}

/// What the gradients of the ranges are multiplied with so that their norm is at most [`RANGE_NORM`], `[1]`.
fn range_shrink(gradients: &Params) -> Tensor<1> {
    let sites = gradients.iter().flatten();
    let ranges = sites.flat_map(|site| site.tensors().into_iter().take(FIRST_OF_ROUTER));
    let squares = ranges.map(|gradient| sum_all(gradient.clone().square()));
    let norm = Tensor::cat(squares.collect(), 0).sum().sqrt();
    norm.add_scalar(1e-6).recip().mul_scalar(RANGE_NORM).clamp_max(1.0)
}
