//! A model on an engine: weights, cache, and the steps that run tokens through them.

mod llama;
mod state;
mod weights;

use std::collections::HashMap;

use crate::engine::{DeviceInfo, Engine};
use crate::error::{Error, Result};
use crate::format::ModelFolder;
use crate::precision::PrecisionPlan;
use crate::recording::Prepared;
use crate::shape::LlamaShape;

pub use state::STEP_TOKENS;

/// A model's weights and cache on an engine.
pub struct Model {
    engine: Box<dyn Engine>,
    shape: LlamaShape,
    weights: weights::Weights,
    cache: state::Cache,
    inputs: state::Inputs,
    plan: Option<PrecisionPlan>,
    prepared: HashMap<Step, Prepared>,
}

/// What a step is for, and its number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Step {
    Fill(u32),
    NextLogits(u32),
    Score(u32),
}

impl Model {
    /// Loads every slice, and makes an empty cache of `context` tokens; `on_bytes(done, total)` follows the loading.
    ///
    /// Fails where `context` is 0 or more than the model was trained for, where a file is damaged, and where the device
    /// has no room.
    pub fn load(
        folder: &ModelFolder,
        mut engine: Box<dyn Engine>,
        context: u32,
        on_bytes: &mut dyn FnMut(u64, u64),
    ) -> Result<Model> {
        let shape = folder.shape().clone();
        if context == 0 || context > shape.max_context {
            return Err(Error::argument("--ctx-size", format!("1 to {}", shape.max_context), context));
        }
        let weights = weights::load(folder, engine.as_mut(), on_bytes)?;
        let cache = state::Cache::new(&shape, engine.as_mut(), context)?;
        let inputs = state::Inputs::new(&shape, engine.as_mut())?;
        Ok(Model { engine, shape, weights, cache, inputs, plan: None, prepared: HashMap::new() })
    }

    /// The device.
    pub fn device(&self) -> &DeviceInfo {
        self.engine.info()
    }

    /// Dimensions and constants.
    pub fn shape(&self) -> &LlamaShape {
        &self.shape
    }

    /// Tokens that the cache holds.
    pub fn context(&self) -> u32 {
        self.cache.context
    }

    /// Bytes on the device.
    pub fn allocated_bytes(&self) -> u64 {
        self.engine.allocated_bytes()
    }

    /// What is read of the weights from the next step on.
    pub fn set_plan(&mut self, plan: &PrecisionPlan) {
        if self.plan.as_ref().is_none_or(|old| old.depth != plan.depth) {
            self.inputs.write_depths(self.engine.as_mut(), plan.depth);
        }
        self.plan = Some(plan.clone());
    }

    /// Runs tokens at positions `position` on, filling the cache, and returns the logits of what follows, `[V]`.
    ///
    /// Fails where a token is not in the vocabulary, where the positions leave the context, and where the device fails;
    /// the cache up to `position` is as it was. Panics without tokens or before the first [`Model::set_plan`].
    pub fn next_logits(&mut self, ids: &[u32], position: u32) -> Result<Vec<f32>> {
        self.check(ids, position)?;
        let last = (ids.len() - 1) / STEP_TOKENS as usize;
        for (at, ids) in ids.chunks(STEP_TOKENS as usize).enumerate() {
            self.inputs.write_tokens(self.engine.as_mut(), ids, position + at as u32 * STEP_TOKENS);
            let tokens = ids.len() as u32;
            if at < last {
                self.run(Step::Fill(tokens))?;
            } else {
                let logits = self.run(Step::NextLogits(tokens))?;
                return Ok(bytemuck::pod_collect_to_vec(&logits[0]));
            }
        }
        unreachable!("the last chunk returns")
    }

    /// Runs tokens from position 0 on and returns the negative log-likelihood, in nats, of each token but the first,
    /// given those before it.
    ///
    /// Fails and panics as [`Model::next_logits`] does.
    pub fn token_nll(&mut self, ids: &[u32]) -> Result<Vec<f32>> {
        self.check(ids, 0)?;
        let mut all = Vec::with_capacity(ids.len());
        let (inputs, targets) = (&ids[..ids.len() - 1], &ids[1..]);
        let steps = inputs.chunks(STEP_TOKENS as usize).zip(targets.chunks(STEP_TOKENS as usize));
        for (at, (ids, targets)) in steps.enumerate() {
            self.inputs.write_tokens(self.engine.as_mut(), ids, at as u32 * STEP_TOKENS);
            self.inputs.write_targets(self.engine.as_mut(), targets);
            let scores = self.run(Step::Score(ids.len() as u32))?;
            all.extend(bytemuck::pod_collect_to_vec::<u8, f32>(&scores[0]));
        }
        Ok(all)
    }

    fn check(&self, ids: &[u32], position: u32) -> Result<()> {
        assert!(!ids.is_empty(), "a step has tokens");
        assert!(self.plan.is_some(), "a plan is set before the first step");
        if let Some(id) = ids.iter().find(|id| **id >= self.shape.vocab) {
            return Err(Error::argument("token id", format!("below {}", self.shape.vocab), id));
        }
        let tokens = position as usize + ids.len();
        if tokens > self.cache.context as usize {
            let (context, trained) = (self.cache.context as usize, self.shape.max_context as usize);
            return Err(Error::PromptTooLong { tokens, context, trained });
        }
        Ok(())
    }

    /// Runs a step, keeping what was prepared for it if its like will come again.
    fn run(&mut self, step: Step) -> Result<Vec<Vec<u8>>> {
        let mut prepared = match self.prepared.remove(&step) {
            Some(prepared) => prepared,
            None => self.engine.prepare(self.record(step))?,
        };
        let results = self.engine.run(&mut prepared);
        let (Step::Fill(tokens) | Step::NextLogits(tokens) | Step::Score(tokens)) = step;
        if tokens == 1 || tokens == STEP_TOKENS {
            self.prepared.insert(step, prepared);
        }
        results
    }

    fn record(&self, step: Step) -> crate::recording::Recording {
        let llama = llama::Llama {
            shape: &self.shape,
            traits: self.engine.traits(),
            weights: &self.weights,
            cache: &self.cache,
            inputs: &self.inputs,
        };
        match step {
            Step::Fill(tokens) => llama.fill(tokens),
            Step::NextLogits(tokens) => llama.next_logits(tokens),
            Step::Score(tokens) => llama.score(tokens),
        }
    }
}
