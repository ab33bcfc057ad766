//! Residual slices that come and go: what is there, and so what each sequence may read.

use std::time::{Duration, Instant};

use super::Model;
use super::cache::CacheOptions;
use super::executor::{Executor, Slot, StepBudget, StepClass, StepKind};
use super::idle::IdleState;
use super::inputs::{DepthLimits, STEP_CHOICES};
use super::weights::ModelPart;
use crate::cancel::CancelToken;
use crate::engine::Engine;
use crate::error::{Error, Result, mib};
use crate::format::codes::RangeForm;
use crate::format::{ModelFolder, TensorPlace, layout};
use crate::kernels::attention::ContextClass;
use crate::precision::{Depth, Precision, PrecisionPlan};
use crate::recording::Prepared;
use crate::residency::{BOUNDARY_BYTES, Pace, PartFiles, RING_BYTES, Residency, SliceChanges, SliceReport};
use crate::shape::{LlamaShape, Site};

/// How long loading may keep other sequences waiting at a time.
const TURN: Duration = Duration::from_millis(20);

/// The parts of a model of this shape, in the order in which they are loaded.
fn parts(shape: &LlamaShape) -> Vec<ModelPart> {
    let head = if shape.tied_head { None } else { Some(ModelPart::Head) };
    let layers = (0..shape.layers as usize).map(ModelPart::Layer);
    [ModelPart::Embed { tied: shape.tied_head }].into_iter().chain(head).chain(layers).collect()
}

/// Where the slices of a part lie in the files of a folder.
fn places(folder: &ModelFolder, part: ModelPart) -> Result<PartFiles> {
    let (shape, form) = (folder.shape(), RangeForm::of_group(folder.group_size()));
    let (name, matrices) = match part {
        ModelPart::Embed { .. } => ("the embedding".to_string(), vec![layout::embed(shape)]),
        ModelPart::Head => ("the head".to_string(), layout::head(shape).into_iter().collect()),
        ModelPart::Layer(layer) => {
            let sites = Site::ALL.map(|site| layout::site(shape, layer as u32, site));
            (format!("layer {layer}"), sites.to_vec())
        }
    };
    let slice = |slice: usize| -> Result<Vec<TensorPlace>> {
        let tensors = matrices.iter().flat_map(|matrix| matrix.tensors(form, slice));
        tensors.map(|tensor| folder.place(slice, &tensor.name)).collect()
    };
    Ok(PartFiles { name, slices: [slice(1)?, slice(2)?, slice(3)?] })
}

impl Model {
    /// Loads the base and the routers, where there are any; the slices above come as plans want them and leave again:
    /// see [`Model::advance`].
    ///
    /// With `budget_bytes`, all that the model ever takes on the device stays below: weights, cache, inputs, the
    /// buffers of its largest step, and what is on its way. Slices are then only as deep as they fit, and less deep
    /// from the first step on whose logits are kept for a choice under a bias or a mask, or read back.
    ///
    /// Fails as [`Model::load`] does, where no thread can be started, and where the budget does not hold the base.
    pub fn load_base(
        folder: &ModelFolder,
        engine: Box<dyn Engine>,
        cache: impl Into<CacheOptions>,
        budget_bytes: Option<u64>,
        on_bytes: &mut dyn FnMut(u64, u64),
    ) -> Result<Model> {
        let mut executor = Executor::load(folder, engine, cache.into(), 1, on_bytes)?;
        let parts = parts(&executor.shape).into_iter().map(|part| places(folder, part)).collect::<Result<Vec<_>>>()?;
        let budget_bytes = match budget_bytes {
            Some(budget) => Some(executor.left_of(budget, &parts).map_err(|e| e.within("loading"))?),
            None => None,
        };
        executor.residency = Some(Residency::new(parts, budget_bytes)?);
        executor.idle = IdleState::of(folder)?;
        Ok(Model::of(executor, folder))
    }

    /// A token boundary: slices that plans want come, as `pace` says, and are read from the next step on.
    ///
    /// A slice that cannot be had is told by [`Model::take_faults`] and tried again later; what is there goes on being
    /// read. Fails where the device fails. Without slices that come and go, nothing happens.
    pub fn advance(&self, pace: Pace) -> Result<()> {
        self.advance_unless(self.cancel_token(), pace)
    }

    /// As [`Model::advance`], unless `cancel` asks for a stop: weights that have left come again first, which takes as
    /// long as opening a model does.
    pub fn advance_unless(&self, cancel: &CancelToken, pace: Pace) -> Result<()> {
        let mut executor = self.executor();
        executor.engine.set_cancel(cancel.clone());
        executor.advance(pace)
    }

    /// Waits until all slices are there that the plans of all sequences want, or no more can be had for now, or for as
    /// long as `patience`. Steps of other sequences run meanwhile. Fails as [`Model::advance`] does, and where a stop
    /// is asked for; the slices that came stay.
    pub fn settle(&self, patience: Option<Duration>) -> Result<()> {
        self.settle_unless(self.cancel_token(), patience)
    }

    pub(super) fn settle_unless(&self, cancel: &CancelToken, patience: Option<Duration>) -> Result<()> {
        let begin = Instant::now();
        loop {
            let left = patience.map(|patience| patience.saturating_sub(begin.elapsed()));
            let more = self.executor().settle(cancel, left.unwrap_or(TURN).min(TURN))?;
            cancel.check("loading")?;
            if !more || left.is_some_and(|left| left.is_zero()) {
                return Ok(());
            }
        }
    }

    /// Where the residual slices are, of a model in which they come and go.
    pub fn slices(&self) -> Option<SliceReport> {
        self.executor().residency.as_ref().map(Residency::report)
    }

    /// Whether all slices are there that the plans want.
    pub fn is_settled(&self) -> bool {
        self.executor().residency.as_ref().is_none_or(Residency::is_settled)
    }

    /// How deep the budget lets all parts become, with what the plans of all sequences may read; [`Depth::FULL`] where
    /// it has room for all of that. It does not depend on which slices are there or on their way.
    pub fn fitting_depth(&self) -> Depth {
        let executor = self.executor();
        match (&executor.residency, executor.planned_depths()) {
            (Some(residency), Some(depths)) => residency.fitting(&depths),
            _ => Depth::FULL,
        }
    }

    /// Slices that could not be had since the last call, in words.
    pub fn take_faults(&self) -> Vec<String> {
        self.executor().residency.as_mut().map(Residency::take_faults).unwrap_or_default()
    }
}

impl Executor {
    /// What a budget leaves for slices.
    fn left_of(&mut self, budget: u64, parts: &[PartFiles]) -> Result<u64> {
        // What was dropped while the device was opened and the base loaded counts no more.
        self.engine.wait()?;
        let before = self.engine.allocated_bytes();
        // The kinds of steps of a generation, held together as they are kept together.
        let fill = self.prepare_all(StepKind::Fill)?;
        let between = self.engine.allocated_bytes();
        let next = self.prepare_all(StepKind::NextToken)?;
        let mut held = self.engine.allocated_bytes();
        let choosing_steps_bytes = 2 * (held - between);
        let slices: u64 = parts.iter().flat_map(|part| &part.slices).flatten().map(|tensor| tensor.bytes).sum();
        let least = if self.engine.allocates_exactly() {
            // Guesses, and tokens of several sequences, have logits for each of few tokens.
            let few = self.prepare(StepKind::NextTokens, STEP_CHOICES, ContextClass::Short)?;
            held = self.engine.allocated_bytes();
            drop(few);
            held + RING_BYTES.min(slices)
        } else {
            // As much again: a step of another length takes buffers that are up to a quarter too long for it, and has
            // them before the device has let go of those that were in their place; and steps under way read back.
            held + (held - before) + (RING_BYTES + BOUNDARY_BYTES).min(slices)
        };
        drop((fill, next));
        let left = budget.checked_sub(least).ok_or_else(|| {
            let context = self.cache.options.cells();
            let expected = format!("at least {} for the base, a context of {context} and a step", mib(least));
            Error::argument("memory budget", expected, mib(budget))
        })?;
        let step_tokens = self.step_tokens;
        self.budget = Some(StepBudget { bytes: budget, step_tokens, choosing_steps_bytes, kept_reserved: [false; 2] });
        Ok(left)
    }

    /// The steps of one kind in a generation: of all tokens that a step has at most, and of one.
    fn prepare_all(&mut self, kind: StepKind) -> Result<Vec<Prepared>> {
        // None has more than the context.
        let most = self.step_tokens.min(self.cache.options.context);
        let mut steps = self.prepare(kind, most, ContextClass::Short)?;
        steps.extend(self.prepare(kind, 1, ContextClass::Short)?);
        steps.extend(self.prepare(kind, 1, ContextClass::Long)?);
        Ok(steps)
    }

    /// The steps of a kind with so many tokens: whose depths the host says, and whose depths routers say.
    fn prepare(&mut self, kind: StepKind, tokens: u32, context_class: ContextClass) -> Result<Vec<Prepared>> {
        let plans: &[bool] = if self.thresholds.is_some() { &[false, true] } else { &[false] };
        let few = self.few_tokens(kind, tokens) == Some(tokens);
        let classes = plans.iter().map(|routed| StepClass { kind, tokens, few, routed: *routed, context_class });
        classes.map(|class| self.engine.prepare(self.record(class))).collect()
    }

    fn advance(&mut self, pace: Pace) -> Result<()> {
        self.use_weights()?;
        let Some(residency) = &mut self.residency else { return Ok(()) };
        let changes = residency.advance(self.engine.as_mut(), pace)?;
        self.apply_changes(changes);
        Ok(())
    }

    /// Waits as long as `patience` for slices; whether more are on their way.
    fn settle(&mut self, cancel: &CancelToken, patience: Duration) -> Result<bool> {
        self.engine.set_cancel(cancel.clone());
        self.use_weights()?;
        let Some(residency) = &mut self.residency else { return Ok(false) };
        let changes = residency.settle(self.engine.as_mut(), Some(patience))?;
        let more = residency.is_loading();
        self.apply_changes(changes);
        Ok(more)
    }

    /// Asks for the slices that the plans of all sequences may read, and frees the others at once.
    pub fn update_wanted_slices(&mut self) {
        // Without a sequence, what is there stays for the next one.
        if let (Some(depths), Some(residency)) = (self.planned_depths(), &mut self.residency) {
            let changes = residency.want(&depths);
            self.apply_changes(changes);
        }
    }

    /// The depths that the plans of all sequences may read, of each part in its order; none without a sequence.
    fn planned_depths(&self) -> Option<Vec<Depth>> {
        let plans = || self.slots.iter().flatten().map(|slot| &slot.plan);
        let depth = |part: ModelPart| plans().map(|plan| depth_of_part(plan, self.outer, part)).max();
        parts(&self.shape).into_iter().map(depth).collect()
    }

    /// Binds what was loaded and unbinds what is freed.
    pub fn apply_changes(&mut self, changes: SliceChanges) {
        let SliceChanges { loaded, freed } = changes;
        if loaded.is_empty() && freed.is_empty() {
            return;
        }
        let parts = parts(&self.shape);
        for (unit, buffers) in loaded {
            self.weights.exchange(parts[unit.part], unit.slice, Some(&buffers));
        }
        // What was prepared holds the buffers.
        self.prepared.clear();
        for unit in freed {
            let old = self.weights.exchange(parts[unit.part], unit.slice, None);
            old.into_iter().for_each(|buffer| self.engine.destroy(buffer));
        }
        self.update_all_limits();
    }

    /// Works out anew what every sequence may read.
    pub fn update_all_limits(&mut self) {
        let open: Vec<u32> = (0..).zip(&self.slots).filter_map(|(at, slot)| slot.as_ref().map(|_| at)).collect();
        open.into_iter().for_each(|slot| self.update_limits(slot));
    }

    /// Works out what a slot's plan reads of what is there, and writes the routers' thresholds.
    pub fn update_limits(&mut self, slot: u32) {
        let Some(Slot { plan, .. }) = &self.slots[slot as usize] else { return };
        let outer = self.outer.unwrap_or(Depth::FULL);
        let mut limits =
            DepthLimits { embed: outer, head: outer, layers: vec![plan.deepest(); self.shape.layers as usize] };
        if let Some(residency) = &self.residency {
            for (at, part) in parts(&self.shape).into_iter().enumerate() {
                // Others may want more than this plan does.
                let limit = residency.clamp(at).min(depth_of_part(plan, self.outer, part));
                match part {
                    ModelPart::Embed { tied } => {
                        limits.embed = limit;
                        limits.head = if tied { limit } else { limits.head };
                    }
                    ModelPart::Head => limits.head = limit,
                    ModelPart::Layer(layer) => limits.layers[layer] = limit,
                }
            }
        }
        if let (Precision::Routed(bits), Some(table)) = (plan.precision, &self.thresholds) {
            self.inputs.write_control(self.engine.as_mut(), slot, table.threshold(bits), &limits.layers);
        }
        if let Some(open) = &mut self.slots[slot as usize] {
            open.limits = limits;
        }
    }
}

/// The most slices that a plan reads of a part; `outer` are those of embedding and head where they were set.
fn depth_of_part(plan: &PrecisionPlan, outer: Option<Depth>, part: ModelPart) -> Depth {
    match part {
        ModelPart::Layer(_) => plan.deepest(),
        ModelPart::Embed { .. } | ModelPart::Head => outer.unwrap_or(plan.outer_depth()),
    }
}
