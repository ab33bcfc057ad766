//! A model whose residual slices come and go: what is there, and so what may be read.

use std::time::Duration;

use super::state::{CacheOptions, Inputs};
use super::weights::Part;
use super::{Kind, Model, Pass};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::{ModelFolder, TensorPlace, layout};
use crate::kernels::attention::Reach;
use crate::precision::{Depth, Precision};
use crate::residency::{self, BOUNDARY_BYTES, Moves, Pace, RING_BYTES, Residency, SliceReport};
use crate::shape::{LlamaShape, Site};

/// The most slices that may be read, everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Depths {
    pub embed: Depth,
    head: Depth,
    /// First to last.
    layers: Vec<Depth>,
    /// Steps of how many tokens find the depths of a uniform plan where they look for them, if any do.
    rows: Option<u32>,
}

impl Depths {
    /// The same everywhere.
    pub fn all(layers: u32, depth: Depth) -> Depths {
        Depths { embed: depth, head: depth, layers: vec![depth; layers as usize], rows: None }
    }
}

/// The parts of a model of this shape, in the order in which they are loaded.
fn parts(shape: &LlamaShape) -> Vec<Part> {
    let head = if shape.tied_head { None } else { Some(Part::Head) };
    let layers = (0..shape.layers as usize).map(Part::Layer);
    [Part::Embed { tied: shape.tied_head }].into_iter().chain(head).chain(layers).collect()
}

/// Where the slices of a part lie in the files of a folder.
fn places(folder: &ModelFolder, part: Part) -> Result<residency::Part> {
    let shape = folder.shape();
    let (name, matrices) = match part {
        Part::Embed { .. } => ("the embedding".to_string(), vec![layout::embed(shape)]),
        Part::Head => ("the head".to_string(), layout::head(shape).into_iter().collect()),
        Part::Layer(layer) => {
            let sites = Site::ALL.map(|site| layout::site(shape, layer as u32, site));
            (format!("layer {layer}"), sites.to_vec())
        }
    };
    let slice = |slice: usize| -> Result<Vec<TensorPlace>> {
        matrices.iter().map(|matrix| folder.place(slice, &matrix.slice(slice).name)).collect()
    };
    Ok(residency::Part { name, slices: [slice(1)?, slice(2)?, slice(3)?] })
}

impl Model {
    /// Loads the base and the routers, where there are any; the slices above come as plans want them and leave again:
    /// see [`Model::advance`].
    ///
    /// With `budget_bytes`, all that the model ever takes on the device stays below: weights, cache, inputs, the
    /// buffers of its largest step, and what is on its way. Slices are then only as deep as they fit.
    ///
    /// Fails as [`Model::load`] does, where no thread can be started, and where the budget does not hold the base.
    pub fn load_base(
        folder: &ModelFolder,
        engine: Box<dyn Engine>,
        cache: impl Into<CacheOptions>,
        budget_bytes: Option<u64>,
        on_bytes: &mut dyn FnMut(u64, u64),
    ) -> Result<Model> {
        let mut model = Model::load_slices(folder, engine, cache.into(), 1, on_bytes)?;
        let parts = parts(&model.shape).into_iter().map(|part| places(folder, part)).collect::<Result<Vec<_>>>()?;
        let budget_bytes = match budget_bytes {
            Some(budget) => Some(model.left_of(budget, &parts).map_err(|e| e.within("loading"))?),
            None => None,
        };
        model.residency = Some(Residency::new(parts, budget_bytes)?);
        Ok(model)
    }

    /// What a budget leaves for slices.
    fn left_of(&mut self, budget: u64, parts: &[residency::Part]) -> Result<u64> {
        let step = self.step_tokens;
        let before = self.engine.allocated_bytes();
        // The kinds of steps of a generation, held together as they are kept together.
        let mut steps = Vec::new();
        let plans: &[bool] = if self.has_routers() { &[false, true] } else { &[false] };
        for (tokens, reach) in [(step, Reach::Any), (1, Reach::Any), (1, Reach::Long)] {
            for &routed in plans {
                for kind in [Kind::Fill, Kind::NextToken] {
                    steps.push(self.engine.prepare(self.record(Pass { kind, tokens, routed, reach }))?);
                }
            }
        }
        let slices = parts.iter().flat_map(|part| &part.slices).flatten().map(|tensor| tensor.bytes);
        let on_their_way = (RING_BYTES + BOUNDARY_BYTES).min(slices.sum());
        let held = self.engine.allocated_bytes();
        // As much again: a step of another length takes buffers that are up to a quarter too long for it, and has them
        // before the device has let go of those that were in their place; and steps under way read back.
        let least = held + (held - before) + on_their_way;
        let mib = |bytes: u64| format!("{} MiB", bytes.div_ceil(1 << 20));
        budget.checked_sub(least).ok_or_else(|| {
            let context = self.cache.options.context;
            let expected = format!("at least {} for the base, a context of {context} and a step", mib(least));
            Error::argument("memory budget", expected, mib(budget))
        })
    }

    /// A token boundary: slices that the plan wants come, as `pace` says, and are read from the next step on.
    ///
    /// A slice that cannot be had is told by [`Model::take_faults`] and tried again later; what is there goes on being
    /// read. Fails where the device fails. Without slices that come and go, nothing happens.
    pub fn advance(&mut self, pace: Pace) -> Result<()> {
        let Some(residency) = &mut self.residency else { return Ok(()) };
        let moves = residency.advance(self.engine.as_mut(), pace)?;
        self.take(moves);
        Ok(())
    }

    /// Waits until all slices are there that the plan wants, or no more can be had for now, or for as long as
    /// `patience`. Fails as [`Model::advance`] does, and where a stop is asked for; the slices that came stay.
    pub fn settle(&mut self, patience: Option<Duration>) -> Result<()> {
        let Some(residency) = &mut self.residency else { return Ok(()) };
        let moves = residency.settle(self.engine.as_mut(), patience)?;
        self.take(moves);
        self.cancel_token().check("loading")
    }

    /// Where the residual slices are, of a model in which they come and go.
    pub fn slices(&self) -> Option<SliceReport> {
        self.residency.as_ref().map(Residency::report)
    }

    /// Whether all slices are there that the plan wants.
    pub fn is_settled(&self) -> bool {
        self.residency.as_ref().is_none_or(Residency::is_settled)
    }

    /// Slices that could not be had since the last call, in words.
    pub fn take_faults(&mut self) -> Vec<String> {
        self.residency.as_mut().map(Residency::take_faults).unwrap_or_default()
    }

    /// Wants what the plan may read, and lets go of the rest at once.
    pub(super) fn want(&mut self) {
        let (Some(plan), Some(residency)) = (&self.plan, &mut self.residency) else { return };
        let depth = |part: Part| if matches!(part, Part::Layer(_)) { plan.deepest() } else { plan.outer_depth() };
        let depths: Vec<Depth> = parts(&self.shape).into_iter().map(depth).collect();
        let moves = residency.want(&depths);
        self.take(moves);
    }

    /// Binds what landed and unbinds what is freed.
    fn take(&mut self, moves: Moves) {
        let Moves { landed, freed } = moves;
        if landed.is_empty() && freed.is_empty() {
            return;
        }
        let parts = parts(&self.shape);
        for (unit, buffers) in landed {
            self.weights.exchange(parts[unit.part], unit.slice, Some(&buffers));
        }
        // What was prepared holds the buffers.
        self.prepared.clear();
        for unit in freed {
            let old = self.weights.exchange(parts[unit.part], unit.slice, None);
            old.into_iter().for_each(|buffer| self.engine.destroy(buffer));
        }
        self.write_plan();
    }

    /// Writes what the plan reads of what is there.
    pub(super) fn write_plan(&mut self) {
        let Some(plan) = &self.plan else { return };
        let mut depths = Depths::all(self.shape.layers, plan.deepest());
        (depths.embed, depths.head) = (Depth::FULL, Depth::FULL);
        if let Some(residency) = &self.residency {
            for (at, part) in parts(&self.shape).into_iter().enumerate() {
                let clamp = residency.clamp(at);
                match part {
                    Part::Embed { tied } => {
                        depths.embed = clamp;
                        depths.head = if tied { clamp } else { depths.head };
                    }
                    Part::Head => depths.head = clamp,
                    Part::Layer(layer) => depths.layers[layer] = clamp.min(plan.deepest()),
                }
            }
        }
        if depths.embed != self.depths.embed {
            // Recordings have it.
            self.prepared.clear();
        }
        let engine = self.engine.as_mut();
        match (plan.precision, &self.thresholds) {
            (Precision::Routed(bits), Some(table)) => {
                self.inputs.write_control(engine, table.threshold(bits), &depths.layers);
            }
            _ => self.inputs.write_orders(engine, &depths.layers),
        }
        if depths.head != self.depths.head {
            self.inputs.write_head_depth(engine, depths.head);
        }
        self.depths = depths;
    }

    pub(super) fn is_routed(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| matches!(plan.precision, Precision::Routed(_)))
    }

    /// Makes sure that steps of so many tokens find the depths of a uniform plan. Routers write their own.
    pub(super) fn write_rows(&mut self, tokens: u32) {
        let there = self.depths.rows.is_some_and(|rows| Inputs::same_rows(rows, tokens));
        if self.is_routed() || there {
            return;
        }
        self.inputs.write_depths(self.engine.as_mut(), &self.depths.layers, tokens);
        self.depths.rows = Some(tokens);
    }
}
