//! AdamW over the trained tensors: one learning rate for ranges, one for routers.

use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer as _};
use burn::tensor::{Tensor, TensorData};

use super::shelf::{ShelfReader, ShelfWriter, Shelved};
use super::student::{FIRST_OF_ROUTER, LayerParams, NAMES, SiteParams};
use super::trained::Trained;
use crate::error::Result;

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

/// Those of a layer, by sites and [`NAMES`].
pub type LayerMoments = [[OptimizerState; NAMES.len()]; 4];

/// How parameters are moved.
pub struct Optimizer {
    adam: AdamW,
    rates: Rates,
    steps: usize,
}

impl Optimizer {
    /// That of a run of `steps` steps.
    pub fn new(steps: usize, rates: Rates) -> Optimizer {
        let adam = AdamWConfig::new().with_beta_2(0.95).with_epsilon(1e-8).with_weight_decay(0.0).build();
        Optimizer { adam, rates, steps }
    }

    /// Moves the parameters of so many layers by the gradients of step `at`, counted from 0, which are taken; `squares`
    /// is the sum of the squares of those of ranges, `[1]`. Fails where layers cannot be read or a disk is full.
    pub fn step(&self, at: usize, trained: &mut Trained, layers: usize, squares: Tensor<1>) -> Result<()> {
        // What the gradients of the ranges are multiplied with so that their norm is at most RANGE_NORM.
        let shrink = squares.sqrt().add_scalar(1e-6).recip().mul_scalar(RANGE_NORM).clamp_max(1.0);
        let pace = ((at + 1) as f64 / WARM_UP).min(1.0)
            * 0.5
            * (1.0 + (std::f64::consts::PI * at as f64 / self.steps as f64).cos());
        for layer in 0..layers {
            let (params, gradients) = (trained.params.get(layer)?, trained.gradients.take(layer)?);
            let moments = if trained.moments.has(layer) { Some(trained.moments.take(layer)?) } else { None };
            let (params, moments) = self.moved(pace, &shrink, params, gradients, moments);
            trained.params.put(layer, params)?;
            trained.moments.put(layer, moments)?;
        }
        Ok(())
    }

    /// A layer's parameters after a step, and its moments.
    fn moved(
        &self,
        pace: f64,
        shrink: &Tensor<1>,
        mut params: LayerParams,
        gradients: LayerParams,
        moments: Option<LayerMoments>,
    ) -> (LayerParams, LayerMoments) {
        let mut before = moments.map(|sites| sites.map(|names| names.map(Some))).unwrap_or_default();
        let mut after = Vec::with_capacity(before.len());
        for ((params, gradients), before) in params.iter_mut().zip(gradients).zip(&mut before) {
            let (mut moved, mut states) = (params.tensors().map(Clone::clone), Vec::with_capacity(NAMES.len()));
            for (name, gradient) in gradients.tensors().into_iter().enumerate() {
                let of_range = name < FIRST_OF_ROUTER;
                let rate = if of_range { self.rates.ranges } else { self.rates.routers };
                let gradient = gradient.clone();
                let gradient = if of_range { gradient * shrink.clone().unsqueeze::<2>() } else { gradient };
                let (tensor, state) = self.adam.step(pace * rate, moved[name].clone(), gradient, before[name].take());
                moved[name] = tensor;
                states.push(state.expect("AdamW has moments"));
            }
            *params = SiteParams::from_tensors(moved).in_range();
            after.push(states.try_into().ok().expect("one for each tensor"));
        }
        (params, after.try_into().ok().expect("one for each site"))
    }
}

impl Shelved for OptimizerState {
    fn store(&self, to: &mut ShelfWriter<'_>) -> Result<()> {
        to.data(&TensorData::new(vec![self.momentum.time as i32], [1]))?;
        self.momentum.moment_1.store(to)?;
        self.momentum.moment_2.store(to)
    }

    fn restore(from: &mut ShelfReader<'_>) -> Result<OptimizerState> {
        let steps: Vec<i32> = from.data()?.try_into_vec().expect("a number of steps was stored");
        let (first, second) = (Tensor::restore(from)?, Tensor::restore(from)?);
        Ok(AdamWState::new(AdaptiveMomentumState::new(steps[0] as usize, first, second)))
    }
}
