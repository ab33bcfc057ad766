//! A model on an engine: weights, cache, and the steps that run tokens through them.

mod activations;
mod bits_read;
mod decode;
mod limits;
mod llama;
mod next_token;
mod resident;
mod score;
mod state;
mod weights;

use std::collections::HashMap;

use rand::SeedableRng;
use rand::rngs::ChaCha12Rng;
use rand::seq::SliceRandom;

use crate::cancel::CancelToken;
use crate::engine::{DeviceInfo, Engine, KernelTime, Traits};
use crate::error::{Error, Result};
use crate::kernels::attention::ContextClass;
use crate::precision::{CacheType, Depth, Precision, PrecisionPlan, SLICES};
use crate::recording::{Prepared, Recording, Ticket};
use crate::residency::Residency;
use crate::routing::Thresholds;
use crate::sampling::Choice;
use crate::shape::LlamaShape;

pub use activations::Trial;
pub use bits_read::{BitsRead, TokenDepths};
pub use next_token::{Chosen, Flight};
pub use score::Scores;
pub use state::{CacheOptions, STEP_TOKENS, default_step_tokens};
pub use weights::WeightSource;

/// A model's weights and cache on an engine.
pub struct Model {
    engine: Box<dyn Engine>,
    shape: LlamaShape,
    weights: weights::Weights,
    cache: state::Cache,
    inputs: state::Inputs,
    thresholds: Option<Thresholds>,
    plan: Option<PrecisionPlan>,
    /// The slices that come and go; without it, all are there.
    residency: Option<Residency>,
    /// What may be read now.
    depths: resident::Depths,
    /// Where the depths that routers choose are dealt to other tokens.
    dealer: Option<ChaCha12Rng>,
    prepared: HashMap<Pass, Prepared>,
    /// Tokens of a step at most.
    step_tokens: u32,
    /// Whether the products of a single token are of int8s.
    packs: bool,
    /// By which that was chosen.
    trial: Option<Trial>,
}

/// What [`Model::next_logits`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Logits of what follows the last token, `[V]`.
    pub logits: Vec<f32>,
    /// What was read for each token run.
    pub depths: TokenDepths,
}

/// All that a recording depends on, beside the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Pass {
    kind: Kind,
    tokens: u32,
    routed: bool,
    reach: ContextClass,
}

impl Pass {
    /// Whether it is the other but for the length, both of many tokens.
    fn replaces(self, other: &Pass) -> bool {
        self.tokens > 1 && other.tokens > 1 && self == Pass { tokens: self.tokens, ..*other }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Fill,
    NextLogits,
    NextToken,
    Score,
}

impl Model {
    /// Loads every slice and the routers, where there are any, and makes an empty cache, in f16 where only a number of
    /// tokens is given; `on_bytes(done, total)` follows the loading.
    ///
    /// Fails where the context is 0, more than the model was trained for or more than the device can hold, where its
    /// heads cannot be kept in the bits asked for, where a file is damaged, where the device has no room, where it was
    /// opened for int8 activations and a workgroup's memory does not hold the model's inputs, and where the engine's
    /// token asks for a stop.
    pub fn load(
        source: &dyn WeightSource,
        engine: Box<dyn Engine>,
        cache: impl Into<CacheOptions>,
        on_bytes: &mut dyn FnMut(u64, u64),
    ) -> Result<Model> {
        Model::load_slices(source, engine, cache.into(), SLICES, on_bytes)
    }

    /// Loads as many slices of every weight, and all that is in no slice.
    fn load_slices(
        source: &dyn WeightSource,
        mut engine: Box<dyn Engine>,
        cache: CacheOptions,
        slices: usize,
        on_bytes: &mut dyn FnMut(u64, u64),
    ) -> Result<Model> {
        let shape = source.shape().clone();
        cache.check(&shape, engine.traits())?;
        let packs = activations::untried(engine.traits(), &shape)?;
        limits::check_tensors(&shape, source.group_size(), engine.info(), engine.traits())?;
        let step_tokens = limits::step_tokens(default_step_tokens(engine.traits()), &shape, engine.traits());
        let weights = weights::load(source, engine.as_mut(), slices, on_bytes).map_err(|e| e.within("loading"))?;
        let cache = state::Cache::new(&shape, engine.as_mut(), cache)?;
        let inputs = state::Inputs::new(&shape, engine.as_mut(), cache.options.context)?;
        let depths = resident::Depths::all(shape.layers, Depth::FULL);
        Ok(Model {
            engine,
            shape,
            weights,
            cache,
            inputs,
            thresholds: source.thresholds().cloned(),
            plan: None,
            residency: None,
            depths,
            dealer: None,
            prepared: HashMap::new(),
            step_tokens,
            packs,
            trial: None,
        })
    }

    /// Whether the products of several tokens are made by cooperative matrices, in f16.
    pub fn multiplies_matrices(&self) -> bool {
        self.engine.traits().cooperative_matrix
    }

    /// What stops this model's work: another thread that holds a clone may ask for a stop at any time. Steps that are
    /// under way or begun while a stop is asked for fail with [`Error::Stopped`]; the cache before their positions is
    /// as it was. To stop a model while it is loaded, set the engine's token before: [`Engine::set_cancel`].
    pub fn cancel_token(&self) -> &CancelToken {
        self.engine.cancel_token()
    }

    /// Sets what stops this model's work.
    pub fn set_cancel(&mut self, cancel: CancelToken) {
        self.engine.set_cancel(cancel);
    }

    /// The device.
    pub fn device(&self) -> &DeviceInfo {
        self.engine.info()
    }

    /// What kernels are chosen by, of the device.
    pub fn traits(&self) -> Traits {
        self.engine.traits()
    }

    /// Dimensions and constants.
    pub fn shape(&self) -> &LlamaShape {
        &self.shape
    }

    /// G
    pub fn group_size(&self) -> u32 {
        self.weights.embed.group
    }

    /// Tokens that the cache holds.
    pub fn context(&self) -> u32 {
        self.cache.options.context
    }

    /// How the cache keeps keys and values.
    pub fn cache_type(&self) -> CacheType {
        self.cache.options.cache_type
    }

    /// Bytes on the device.
    pub fn allocated_bytes(&self) -> u64 {
        self.engine.allocated_bytes()
    }

    /// The routers' table from average bits to the threshold, where the model has routers.
    pub fn thresholds(&self) -> Option<&Thresholds> {
        self.thresholds.as_ref()
    }

    /// Puts another table in the place of the routers', for every later [`Model::set_plan`]; panics without routers.
    pub fn set_thresholds(&mut self, table: Thresholds) {
        assert!(self.has_routers(), "a table is for routers");
        self.thresholds = Some(table);
    }

    /// Whether the model can follow a routed plan.
    pub fn has_routers(&self) -> bool {
        self.thresholds.is_some()
    }

    /// What is read of the weights from the next step on; the cache stays as it is.
    ///
    /// Fails where the plan is routed and the model has no routers; the plan before then stands.
    pub fn set_plan(&mut self, plan: &PrecisionPlan) -> Result<()> {
        if let (Precision::Routed(bits), None) = (plan.precision, &self.thresholds) {
            return Err(Error::argument("bits", "2, 4, 6 or 8 for a model without routers", bits));
        }
        self.plan = Some(plan.clone());
        self.want();
        self.write_plan();
        Ok(())
    }

    /// With a seed, every step deals the depths that its routers choose to its tokens in a random order: one
    /// permutation a step, the same at all sites. Without one, each token keeps its own, as at first.
    ///
    /// What a token then reads says nothing about it, at the same cost: a control for what routing is worth.
    pub fn deal_gates(&mut self, seed: Option<u64>) {
        self.dealer = seed.map(ChaCha12Rng::seed_from_u64);
        self.inputs.write_no_deal(self.engine.as_mut());
    }

    /// Runs tokens at positions `position` on, filling the cache, and returns the logits of what follows.
    ///
    /// Fails where a token is not in the vocabulary, where the positions leave the context, and where the device fails;
    /// the cache up to `position` is as it was. Panics without tokens or before the first [`Model::set_plan`].
    pub fn next_logits(&mut self, ids: &[u32], position: u32) -> Result<Step> {
        self.check(ids, position)?;
        let mut depths = Vec::new();
        let mut logits = Vec::new();
        let step = self.step_tokens as usize;
        let last = (ids.len() - 1) / step;
        for (at, ids) in ids.chunks(step).enumerate() {
            let kind = if at < last { Kind::Fill } else { Kind::NextLogits };
            let position = position + (at * step) as u32;
            self.inputs.write_tokens(self.engine.as_mut(), ids, position);
            let (results, read) = self.run(kind, ids.len() as u32, position)?;
            depths.push(read);
            if let Some(results) = results {
                logits = results;
            }
        }
        Ok(Step { logits, depths: TokenDepths::concat(&depths) })
    }

    /// Runs a step as [`Model::next_logits`] does, or with a choice as [`Model::begin_tokens`], and tells when each
    /// kernel ran.
    ///
    /// Fails as it does, and where the device cannot tell; panics as it does, and where it would take several steps.
    pub fn profile(&mut self, ids: &[u32], position: u32, choice: Option<&Choice>) -> Result<Vec<KernelTime>> {
        self.check(ids, position)?;
        assert!(ids.len() <= STEP_TOKENS as usize, "one step is profiled");
        self.inputs.write_tokens(self.engine.as_mut(), ids, position);
        if let Some(choice) = choice {
            self.inputs.write_choice(self.engine.as_mut(), choice);
        }
        let kind = if choice.is_some() { Kind::NextToken } else { Kind::NextLogits };
        let pass = self.deal(kind, ids.len() as u32, position);
        let mut prepared = self.engine.prepare(self.record(pass))?;
        self.engine.profile(&mut prepared)
    }

    fn check(&self, ids: &[u32], position: u32) -> Result<()> {
        assert!(!ids.is_empty(), "a step has tokens");
        assert!(self.plan.is_some(), "a plan is set before the first step");
        if let Some(id) = ids.iter().find(|id| **id >= self.shape.vocab) {
            return Err(Error::argument("token id", format!("below {}", self.shape.vocab), id));
        }
        let tokens = position as usize + ids.len();
        if tokens > self.cache.options.context as usize {
            let (context, trained) = (self.cache.options.context as usize, self.shape.max_context as usize);
            return Err(Error::PromptTooLong { tokens, context, trained });
        }
        Ok(())
    }

    /// Runs a step at `position`: its numbers, where it reads any back, and its depths.
    fn run(&mut self, kind: Kind, tokens: u32, position: u32) -> Result<(Option<Vec<f32>>, TokenDepths)> {
        let ticket = self.submit(kind, tokens, position)?;
        let (numbers, depths) = self.results(tokens, ticket)?;
        Ok((numbers.map(|bytes| bytemuck::pod_collect_to_vec(&bytes)), depths))
    }

    /// What a step at `position` is recorded by, after its tokens' depths are dealt out, where they are.
    fn deal(&mut self, kind: Kind, tokens: u32, position: u32) -> Pass {
        let routed = self.is_routed();
        self.write_rows(tokens);
        if let (true, Some(dealer)) = (routed, &mut self.dealer) {
            let mut deal: Vec<u32> = (0..tokens).collect();
            deal.shuffle(dealer);
            self.inputs.write_deal(self.engine.as_mut(), &deal);
        }
        // Processor cores have one kernel, however far back the tokens look.
        let reach =
            if self.engine.traits().software { ContextClass::Short } else { ContextClass::of(tokens, position) };
        Pass { kind, tokens, routed, reach }
    }

    /// Begins a step at `position`, keeping what was prepared for it if its like will come again; on GPUs, whose work
    /// space stays with a pool anyway, for the last length of a kind too.
    fn submit(&mut self, kind: Kind, tokens: u32, position: u32) -> Result<Ticket> {
        let pass = self.deal(kind, tokens, position);
        let mut prepared = match self.prepared.remove(&pass) {
            Some(prepared) => prepared,
            None => {
                // First, as work space is reckoned for one length.
                self.prepared.retain(|other, _| !pass.replaces(other));
                self.engine.prepare(self.record(pass))?
            }
        };
        let ticket = self.engine.submit(&mut prepared);
        if tokens == 1 || tokens == self.step_tokens || !self.engine.traits().software {
            self.prepared.insert(pass, prepared);
        }
        ticket
    }

    /// Waits for a step: what it reads back, if anything, and its depths.
    fn results(&mut self, tokens: u32, ticket: Ticket) -> Result<(Option<Vec<u8>>, TokenDepths)> {
        let mut results = self.engine.finish(ticket)?;
        let depths = results.pop().expect("every step reads back its depths, last");
        Ok((results.pop(), self.inputs.token_depths(tokens, &depths)))
    }

    fn record(&self, pass: Pass) -> Recording {
        let llama = llama::Llama {
            shape: &self.shape,
            traits: self.engine.traits(),
            weights: &self.weights,
            cache: &self.cache,
            inputs: &self.inputs,
            embed_depth: self.depths.embed,
            routed: pass.routed,
            packs: self.packs,
            reach: pass.reach,
        };
        match pass.kind {
            Kind::Fill => llama.fill(pass.tokens),
            Kind::NextLogits => llama.next_logits(pass.tokens),
            Kind::NextToken => llama.next_token(pass.tokens),
            Kind::Score => llama.score(pass.tokens),
        }
    }
}
