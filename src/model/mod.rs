//! A model on an engine, and the sequences of tokens that run through it.
//!
//! A [`Model`] has what all its sequences share: weights, cache, and the recordings of steps. A [`Sequence`] has its
//! part of the cache, its plan and its random numbers. A [`Step`] is tokens of several sequences that run together.

mod activations;
mod bits_read;
mod cache;
mod choosing;
mod executor;
mod forward;
mod idle;
mod inputs;
mod kept_logits;
mod limits;
mod lower_few;
mod lower_many;
mod resident;
mod ring;
mod score;
mod sequence;
mod step;
mod together;
mod weights;

use std::sync::Arc;
use std::sync::mpsc::Sender;

use parking_lot::{FairMutex, FairMutexGuard, Mutex};

use crate::arch::ModelSpec;
use crate::cancel::CancelToken;
use crate::engine::{DeviceInfo, Engine, Traits};
use crate::error::{Error, Result};
use crate::format::codes::RangeForm;
use crate::precision::{CacheType, Depth, PrecisionPlan, SLICES};
use crate::routing::Thresholds;
use crate::shape::LlamaShape;

use executor::Executor;
use ring::Ring;

pub use activations::Trial;
pub use bits_read::{BitsRead, TokenDepths};
pub use cache::CacheOptions;
pub use idle::{Presence, WeightsReport};
pub use inputs::{STEP_TOKENS, default_step_tokens};
pub use score::{AnswerScores, Scores};
pub use sequence::Sequence;
pub(crate) use sequence::{AsideTokens, CheckedToken};
pub use step::{NextLogits, PendingLogits, PendingStep, SampledToken, Step};
pub use weights::{ModelIdentity, WeightSource};

/// A model's weights and cache on an engine. Clones share them, on any threads.
#[derive(Clone)]
pub struct Model(Arc<Shared>);

struct Shared {
    device: DeviceInfo,
    traits: Traits,
    shape: LlamaShape,
    spec: ModelSpec,
    group_size: u32,
    options: CacheOptions,
    ring: Option<Ring>,
    has_routers: bool,
    overlaps: bool,
    cancel: CancelToken,
    /// Ends the thread that waits for the model to be idle, where there is one, when this is dropped.
    idle_timer: Mutex<Option<Sender<()>>>,
    identity: Option<ModelIdentity>,
    /// A fair lock, so that a long prompt of one sequence lets the tokens of others pass between its steps.
    executor: FairMutex<Executor>,
}

impl Model {
    /// Loads every slice and the routers, where there are any, and makes an empty cache, of one sequence in f16 where
    /// only a number of tokens is given; `on_bytes(done, total)` follows the loading.
    ///
    /// Fails where the context is 0, more than the model was trained for or more than the device can hold, where its
    /// heads cannot be stored in the bits asked for, where a file is damaged, where the device has no room, where it
    /// was opened for int8 activations and a workgroup's memory does not hold the model's inputs, and where the
    /// engine's token asks for a stop.
    pub fn load(
        source: &dyn WeightSource,
        engine: Box<dyn Engine>,
        cache: impl Into<CacheOptions>,
        on_bytes: &mut dyn FnMut(u64, u64),
    ) -> Result<Model> {
        Ok(Model::of(Executor::load(source, engine, cache.into(), SLICES, on_bytes)?, source))
    }

    fn of(executor: Executor, source: &dyn WeightSource) -> Model {
        Model(Arc::new(Shared {
            device: executor.engine.info().clone(),
            traits: executor.traits(),
            shape: executor.shape.clone(),
            spec: executor.spec.clone(),
            group_size: source.group_size(),
            identity: source.identity(),
            options: executor.cache.options,
            ring: executor.cache.ring,
            has_routers: executor.thresholds.is_some(),
            overlaps: executor.engine.overlaps(),
            cancel: executor.engine.cancel_token().clone(),
            idle_timer: Mutex::new(None),
            executor: FairMutex::new(executor),
        }))
    }

    /// Whether it is the same model, on the same engine.
    fn is(&self, other: &Model) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn executor(&self) -> FairMutexGuard<'_, Executor> {
        self.0.executor.lock()
    }

    /// Opens a sequence without tokens, which reads what `plan` says. Tokens are sampled by
    /// [`SamplerSettings::default`](crate::sampling::SamplerSettings::default), at first.
    ///
    /// Fails where [`Model::sequences`] are open, and where the plan is routed and the model has no routers.
    pub fn sequence(&self, plan: &PrecisionPlan) -> Result<Sequence> {
        Sequence::open(self, plan)
    }

    /// Whether the device computes beside the host, so that it pays to begin a step early.
    pub fn overlaps(&self) -> bool {
        self.0.overlaps
    }

    /// Whether the products of several tokens are made by cooperative matrices, in f16.
    pub fn multiplies_matrices(&self) -> bool {
        self.0.traits.cooperative_matrix
    }

    /// What stops the work of all sequences, and of loading: the token that the engine had when the model was loaded.
    pub fn cancel_token(&self) -> &CancelToken {
        &self.0.cancel
    }

    /// The device.
    pub fn device(&self) -> &DeviceInfo {
        &self.0.device
    }

    /// What kernels are chosen by, of the device.
    pub fn traits(&self) -> Traits {
        self.0.traits
    }

    /// What tells this model from all others: [`WeightSource::identity`].
    pub fn identity(&self) -> Option<&ModelIdentity> {
        self.0.identity.as_ref()
    }

    /// Dimensions and constants.
    pub fn shape(&self) -> &LlamaShape {
        &self.0.shape
    }

    /// Where the model differs from LLaMA.
    pub fn spec(&self) -> &ModelSpec {
        &self.0.spec
    }

    /// G
    pub fn group_size(&self) -> u32 {
        self.0.group_size
    }

    /// Bits that a product reads of the ranges, for each weight.
    pub fn range_bits(&self) -> f32 {
        RangeForm::of_group(self.0.group_size).overhead_bits()
    }

    /// Tokens of one sequence at most.
    pub fn context(&self) -> u32 {
        self.0.options.context
    }

    /// Sequences that may be open at one time.
    pub fn sequences(&self) -> u32 {
        self.0.options.sequences
    }

    /// The ring of the layers whose window is shorter than the context.
    fn ring(&self) -> Option<Ring> {
        self.0.ring
    }

    /// How the cache stores keys and values.
    pub fn cache_type(&self) -> CacheType {
        self.0.options.cache_type
    }

    /// Bytes on the device.
    pub fn allocated_bytes(&self) -> u64 {
        self.executor().engine.allocated_bytes()
    }

    /// Reads so many slices of embedding and head, whatever the plans say; `None` for what each plan says
    /// ([`PrecisionPlan::outer_depth`]), or for all of them where every slice was loaded.
    pub fn set_outer_depth(&self, depth: Option<Depth>) {
        let mut executor = self.executor();
        executor.outer = depth;
        executor.update_wanted_slices();
        executor.update_all_limits();
    }

    /// The most slices that a plan reads of embedding and head.
    pub fn outer_depth(&self, plan: &PrecisionPlan) -> Depth {
        let executor = self.executor();
        let all = if executor.residency.is_some() { plan.outer_depth() } else { Depth::FULL };
        executor.outer.unwrap_or(all)
    }

    /// Whether the model can follow a routed plan.
    pub fn has_routers(&self) -> bool {
        self.0.has_routers
    }

    /// The routers' table from average bits to the threshold, where the model has routers.
    pub fn thresholds(&self) -> Option<Thresholds> {
        self.executor().thresholds.clone()
    }

    /// Puts another table in the place of the routers', for every sequence; panics without routers.
    pub fn set_thresholds(&self, table: Thresholds) {
        assert!(self.has_routers(), "a table is for routers");
        let mut executor = self.executor();
        executor.thresholds = Some(table);
        executor.update_all_limits();
    }

    /// Whether a token comes out the same with others that run together with it, but for the order of sums: not with a
    /// cache in few bits, and not while slices are loaded. Neither on a GPU that multiplies a single token's int8s,
    /// and has not the memory to do so for several.
    pub(crate) fn can_check_guesses(&self) -> bool {
        self.executor().checks_guesses() && self.is_settled()
    }

    /// The error of a step whose logits are no numbers, after so many tokens of the context.
    fn no_numbers(&self, tokens: usize) -> Error {
        Error::NoNumbers { device: self.0.device.name.clone(), tokens }
    }
}
