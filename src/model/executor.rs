//! What runs the steps of all sequences of a model: engine, weights, cache, and the recordings made so far.

use std::collections::HashMap;

use super::cache::{Cache, CacheOptions};
use super::idle::IdleState;
use super::inputs::{DepthLimits, Inputs, STEP_TOKENS};
use super::kept_logits::KeptLogits;
use super::{TokenDepths, Trial, WeightSource, activations, forward, limits, weights};
use crate::arch::{ModelSpec, Program};
use crate::cancel::CancelToken;
use crate::engine::{Engine, KernelTime, Traits};
use crate::error::{Error, Result};
use crate::kernels::attention::ContextClass;
use crate::kernels::project::{self, FEW_TOKENS_MAX};
use crate::kernels::sample::token_nll;
use crate::kernels::step_rows::StepRow;
use crate::precision::{BITS, Depth, Precision, PrecisionPlan};
use crate::recording::{Prepared, Recording, Ticket};
use crate::residency::Residency;
use crate::routing::Thresholds;
use crate::sampling::Choice;
use crate::shape::LlamaShape;

/// Runs steps, one at a time. Sequences share it behind a lock.
pub(super) struct Executor {
    pub engine: Box<dyn Engine>,
    pub shape: LlamaShape,
    /// Where the model differs from LLaMA.
    pub spec: ModelSpec,
    /// The operations of a forward pass.
    pub program: Program,
    pub weights: weights::Weights,
    pub cache: Cache,
    pub inputs: Inputs,
    /// Logits between their step and the choice from them; there is none before a sequence asks for it.
    pub kept_logits: Option<KeptLogits>,
    /// The routers' table from average bits to the threshold, where the model has routers.
    pub thresholds: Option<Thresholds>,
    /// The slices that come and go; without it, all are there.
    pub residency: Option<Residency>,
    /// What a memory budget holds beside slices, where there is one.
    pub budget: Option<StepBudget>,
    /// What leaves while nobody asks, and whether it did.
    pub idle: IdleState,
    /// An entry for each sequence that may be open.
    pub slots: Vec<Option<Slot>>,
    pub prepared: HashMap<StepClass, Prepared>,
    /// Tokens of a step at most.
    pub step_tokens: u32,
    /// Slices read of embedding and head whatever the plan, where that was set.
    pub outer: Option<Depth>,
    /// Whether the products of a single token are of int8s.
    pub int8_activations: bool,
    /// Whether a GPU has the memory for those of several tokens at once.
    few_fit: bool,
    /// The measurement by which that was chosen.
    pub trial: Option<Trial>,
}

/// What a memory budget holds beside slices.
pub(super) struct StepBudget {
    /// All of it.
    pub bytes: u64,
    /// The tokens of a step that it was reckoned for.
    pub step_tokens: u32,
    /// What the steps of a generation take that choose a token: as much as those that keep logits, in either way.
    pub choosing_steps_bytes: u64,
    /// Whether steps that keep logits count, those that do not read them back and those that do.
    pub kept_reserved: [bool; 2],
}

/// What is known of an open sequence.
pub(super) struct Slot {
    pub plan: PrecisionPlan,
    pub limits: DepthLimits,
}

/// What a step does beside filling the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum StepKind {
    /// Nothing.
    Fill,
    /// It reads back the last token's logits.
    NextLogits,
    /// It samples the token that follows the last one.
    NextToken,
    /// It samples the token that follows each one. Each is of another sequence, and they are few.
    NextTokens,
    /// It keeps the last token's logits for a choice, and reads them back where that is said.
    KeepLogits { read_back: bool },
    /// It scores the token that follows each one.
    Score,
    /// It reads back the logits after each token.
    AllLogits,
}

/// Tokens of one sequence that run as a step, or one token of each of few sequences.
pub(super) struct TokenRows {
    /// What the kernels read of each of them.
    pub rows: Vec<StepRow>,
    /// Whether the routers choose the depths. Without them, all are as deep as their sequences' limits.
    pub routed: bool,
}

/// All that a recording depends on, beside the model. Whose tokens they are is in the step's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct StepClass {
    pub kind: StepKind,
    pub tokens: u32,
    /// Whether each of several tokens comes out as it does alone.
    pub few: bool,
    pub routed: bool,
    pub context_class: ContextClass,
}

impl StepClass {
    /// Whether a recording of this class takes the place of the other one's: they differ in the number of tokens only,
    /// and both have many.
    fn replaces(self, other: &StepClass) -> bool {
        self.tokens > 1 && other.tokens > 1 && self == StepClass { tokens: self.tokens, ..*other }
    }
}

/// The numbers that a step reads back, if any, and what it read of the weights for each token.
pub(super) type StepResults = (Option<Vec<f32>>, TokenDepths);

impl Executor {
    /// Loads as many slices of every weight, and all that is in no slice, and makes an empty cache.
    pub fn load(
        source: &dyn WeightSource,
        mut engine: Box<dyn Engine>,
        options: CacheOptions,
        slices: usize,
        on_bytes: &mut dyn FnMut(u64, u64),
    ) -> Result<Executor> {
        let (shape, spec) = (source.shape().clone(), source.spec());
        spec.check(&shape)?;
        let traits = engine.traits();
        options.check(&shape, &spec, traits)?;
        let int8_activations = activations::untried(traits, &shape)?;
        limits::check_tensors((&shape, &spec), source.group_size(), engine.info(), traits)?;
        let step_tokens = limits::first_step_tokens(options, &shape, traits)?;
        let weights = weights::load(source, engine.as_mut(), slices, on_bytes).map_err(|e| e.within("loading"))?;
        let ring_tokens = limits::ring_tokens(step_tokens, &shape, traits);
        let cache = Cache::new(&shape, &spec, engine.as_mut(), options, ring_tokens)?;
        let inputs = Inputs::new(&shape, engine.as_mut(), options.sequences)?;
        let few_fit = project::few_fit(engine.traits(), &shape);
        Ok(Executor {
            engine,
            program: Program::new(&spec, shape.layers),
            shape,
            spec,
            weights,
            cache,
            inputs,
            kept_logits: None,
            thresholds: source.thresholds().cloned(),
            residency: None,
            budget: None,
            idle: IdleState::default(),
            slots: (0..options.sequences).map(|_| None).collect(),
            prepared: HashMap::new(),
            step_tokens,
            outer: None,
            int8_activations,
            few_fit,
            trial: None,
        })
    }

    pub fn traits(&self) -> Traits {
        self.engine.traits()
    }

    /// Takes a free slot for a sequence. Fails where all are taken, and as [`Executor::set_plan`].
    pub fn open(&mut self, plan: &PrecisionPlan) -> Result<u32> {
        let Some(slot) = self.slots.iter().position(Option::is_none) else {
            let most = self.slots.len();
            let expected = format!("at most {most} open at one time, for which the model was opened");
            return Err(Error::argument("sessions or sequences", expected, most + 1));
        };
        self.set_plan(slot as u32, plan)?;
        Ok(slot as u32)
    }

    /// Frees a slot. What is resident stays, for the next sequence, unless others want less.
    pub fn close(&mut self, slot: u32) {
        self.slots[slot as usize] = None;
        self.update_wanted_slices();
    }

    /// What a slot's sequence reads of the weights from its next step on.
    ///
    /// Fails where the plan is routed and the model has no routers, or to bits that are not 2 to 8; the plan before
    /// then stands.
    pub fn set_plan(&mut self, slot: u32, plan: &PrecisionPlan) -> Result<()> {
        if let Precision::Routed(bits) = plan.precision {
            if self.thresholds.is_none() {
                return Err(Error::argument("bits", "2, 4, 6 or 8 for a model without routers", bits));
            }
            if !BITS.contains(&bits) {
                return Err(Error::argument("bits", format!("{} to {}", BITS.start(), BITS.end()), bits));
            }
        }
        let limits = DepthLimits { embed: Depth::FULL, head: Depth::FULL, layers: Vec::new() };
        self.slots[slot as usize] = Some(Slot { plan: plan.clone(), limits });
        self.update_wanted_slices();
        self.update_limits(slot);
        Ok(())
    }

    /// Begins a step. What was prepared for it is kept for steps of one token, of few and of the full length, which
    /// come again. On GPUs it is kept for the last length of a kind too, as a pool has the work space anyway.
    pub fn submit(&mut self, kind: StepKind, tokens: TokenRows, cancel: &CancelToken) -> Result<Ticket> {
        self.engine.set_cancel(cancel.clone());
        self.use_weights()?;
        let class = self.write(kind, tokens);
        let mut prepared = match self.prepared.remove(&class) {
            Some(prepared) => prepared,
            None => {
                // Those of other lengths go before: a memory budget counts the work space of one length. Few tokens
                // take next to none.
                let stays = |other: &StepClass| class.few || other.few;
                self.prepared.retain(|other, _| stays(other) || !class.replaces(other));
                self.engine.prepare(self.record(class))?
            }
        };
        let ticket = self.engine.submit(&mut prepared);
        let comes_again = class.tokens == 1 || class.tokens == self.step_tokens || class.few;
        if comes_again || !self.traits().software {
            self.prepared.insert(class, prepared);
        }
        ticket
    }

    /// Writes what a step reads; the class of its recording.
    pub fn write(&mut self, kind: StepKind, TokenRows { mut rows, routed }: TokenRows) -> StepClass {
        let (tokens, first) = (rows.len() as u32, rows[0]);
        debug_assert!(
            kind == StepKind::NextTokens
                || rows.iter().zip(0..).all(|(row, at)| row.slot == first.slot && row.position == first.position + at)
        );
        assert!(self.cache.ring.is_none_or(|ring| tokens <= ring.step_tokens()), "a step fits in the rings");
        // Where few tokens are run as more, the last one runs several times, which changes nothing where each token
        // reads as deep as its own gates say.
        let own_depths = rows.iter().zip(0..).all(|(row, at)| row.depth_row == at);
        let few = self.few_tokens(kind, tokens).filter(|few| *few == tokens || own_depths);
        let last = rows[rows.len() - 1];
        rows.extend((tokens..few.unwrap_or(tokens)).map(|depth_row| StepRow { depth_row, ..last }));
        let slots = &self.slots;
        let limits = |row: &StepRow| {
            &slots[row.slot as usize].as_ref().expect("a sequence is open as long as it is there").limits
        };
        let engine = self.engine.as_mut();
        for row in &mut rows {
            row.embed_depth = limits(row).embed.slices() as u32;
            row.first_control = self.inputs.first_control(row.slot);
        }
        self.inputs.write_rows(engine, &rows);
        if few.is_some() {
            self.inputs.write_each(engine, &rows.iter().map(limits).collect::<Vec<_>>(), routed);
        } else {
            self.inputs.write_limits(engine, limits(&first), tokens, routed);
        }
        let context_class = self.context_class(if few.is_some() { 1 } else { tokens }, first.position);
        StepClass { kind, tokens: rows.len() as u32, few: few.is_some(), routed, context_class }
    }

    /// As how many a step's tokens run, where these are few and each of them is to come out as it does alone: the next
    /// number of them that a GPU has kernels for. The processor has its own way with several tokens of one sequence,
    /// and takes as many of several sequences as there are.
    pub fn few_tokens(&self, kind: StepKind, tokens: u32) -> Option<u32> {
        let traits = self.traits();
        if !self.int8_activations || !(2..=FEW_TOKENS_MAX).contains(&tokens) {
            return None;
        }
        if traits.runs_functions() {
            return (kind == StepKind::NextTokens).then_some(tokens);
        }
        self.few_fit.then(|| tokens.next_power_of_two())
    }

    /// The class of the context of tokens from `position` on.
    pub fn context_class(&self, tokens: u32, position: u32) -> ContextClass {
        // Processor cores have one kernel, however far back the tokens look.
        if self.traits().software { ContextClass::Short } else { ContextClass::of(tokens, position) }
    }

    /// Waits for a step: what it reads back, if anything, and its depths.
    pub fn finish(
        &mut self,
        tokens: u32,
        ticket: Ticket,
        cancel: &CancelToken,
    ) -> Result<(Option<Vec<u8>>, TokenDepths)> {
        self.engine.set_cancel(cancel.clone());
        let finished = self.engine.finish(ticket);
        self.idle.used();
        let mut results = finished?;
        let depths = results.pop().expect("every step reads back its depths, last");
        Ok((results.pop(), self.inputs.token_depths(tokens, &depths)))
    }

    /// Submits and finishes a step: its numbers, where it reads any back, and its depths.
    pub fn run(&mut self, kind: StepKind, tokens: TokenRows, cancel: &CancelToken) -> Result<StepResults> {
        let count = tokens.rows.len() as u32;
        let ticket = self.submit(kind, tokens, cancel)?;
        let (numbers, depths) = self.finish(count, ticket, cancel)?;
        let mut numbers: Option<Vec<f32>> = numbers.map(|bytes| bytemuck::pod_collect_to_vec(&bytes));
        let of_each = match kind {
            StepKind::Score => Some(token_nll::WIDTH as u32),
            StepKind::AllLogits => Some(self.shape.vocab),
            _ => None,
        };
        // Without those of a last token that ran several times.
        if let (Some(numbers), Some(of_each)) = (&mut numbers, of_each) {
            numbers.truncate((count * of_each) as usize);
        }
        Ok((numbers, depths))
    }

    /// Begins a step that samples the token after its last row.
    pub fn sample(&mut self, tokens: TokenRows, choice: &Choice, cancel: &CancelToken) -> Result<Ticket> {
        self.inputs.write_choices(self.engine.as_mut(), &[*choice]);
        self.submit(StepKind::NextToken, tokens, cancel)
    }

    /// Runs a step that scores the `targets` that follow its rows.
    pub fn score(&mut self, tokens: TokenRows, targets: &[u32], cancel: &CancelToken) -> Result<StepResults> {
        self.inputs.write_targets(self.engine.as_mut(), targets);
        self.run(StepKind::Score, tokens, cancel)
    }

    /// Runs a step kernel by kernel, and tells when each one ran.
    pub fn profile(
        &mut self,
        kind: StepKind,
        tokens: TokenRows,
        choice: &Choice,
        cancel: &CancelToken,
    ) -> Result<Vec<KernelTime>> {
        assert!(tokens.rows.len() <= STEP_TOKENS as usize, "one step is profiled");
        self.engine.set_cancel(cancel.clone());
        self.use_weights()?;
        self.inputs.write_choices(self.engine.as_mut(), &[*choice]);
        let class = self.write(kind, tokens);
        let mut prepared = self.engine.prepare(self.record(class))?;
        self.engine.profile(&mut prepared)
    }

    /// Copies the first `count` tokens of a slot to another one.
    pub fn copy(&mut self, from: u32, to: u32, count: u32, cancel: &CancelToken) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        self.engine.set_cancel(cancel.clone());
        let mut prepared = self.engine.prepare(self.cache.copy(from, to, count))?;
        self.engine.run(&mut prepared).map(|_| ())
    }

    pub fn record(&self, class: StepClass) -> Recording {
        let lowering = forward::Lowering {
            program: &self.program,
            shape: &self.shape,
            traits: self.traits(),
            weights: &self.weights,
            cache: &self.cache,
            inputs: &self.inputs,
            routed: class.routed,
            int8_activations: self.int8_activations,
            few: class.few,
            context_class: class.context_class,
        };
        match class.kind {
            StepKind::Fill => lowering.fill(class.tokens),
            StepKind::NextLogits => lowering.next_logits(class.tokens),
            StepKind::NextToken => lowering.next_token(class.tokens),
            StepKind::NextTokens => lowering.next_tokens(class.tokens),
            StepKind::KeepLogits { read_back } => {
                let kept = self.kept_logits.as_ref().expect("logits are kept where a place for them was made");
                lowering.keep_logits(class.tokens, kept.latest(), read_back)
            }
            StepKind::Score => lowering.score(class.tokens),
            StepKind::AllLogits => lowering.all_logits(class.tokens),
        }
    }
}
