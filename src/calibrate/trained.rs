//! What of a run changes from step to step, layer by layer, wherever it is kept.

use burn::tensor::Device;
use rand::rngs::ChaCha8Rng;

use super::optimizer::LayerMoments;
use super::shelf::{Keeping, Shelf};
use super::student::{LayerParams, SiteParams, StudentStream};
use crate::error::Result;
use crate::format::codes::WORD_GROUP;
use crate::precision::Depth;
use crate::shape::{LlamaShape, Site};

/// The trained tensors, what the optimizer remembers of them, and what a step leaves from one pass to the next.
pub struct Trained {
    /// By layers.
    pub params: Shelf<LayerParams>,
    /// By layers; none before the first step.
    pub moments: Shelf<LayerMoments>,
    /// By layers: those of a step, until the optimizer takes them.
    pub gradients: Shelf<LayerParams>,
    /// The inputs of each layer in a step, for each part of its batch: part `p` of layer `l` is at `l * parts + p`.
    pub inputs: Shelf<StudentStream>,
}

impl Trained {
    /// What no step has changed yet: ranges as they were chosen, and routers drawn from `rng`.
    pub fn new(shape: &LlamaShape, keeping: &Keeping, device: &Device, rng: &mut ChaCha8Rng) -> Result<Trained> {
        let mut params = Shelf::new(keeping, device);
        for layer in 0..shape.layers as usize {
            let site = |site: Site| {
                let (rows, input) = site.dims(shape);
                let groups = [rows as usize, (input / WORD_GROUP) as usize];
                SiteParams::new(groups, shape.model_dim as usize, device, rng)
            };
            params.put(layer, Site::ALL.map(site))?;
        }
        let (moments, gradients) = (Shelf::new(keeping, device), Shelf::new(keeping, device));
        Ok(Trained { params, moments, gradients, inputs: Shelf::new(keeping, device) })
    }

    /// Replaces the parameters of each of so many layers.
    pub fn replace(&mut self, layers: usize, change: &dyn Fn(usize, LayerParams) -> Result<LayerParams>) -> Result<()> {
        (0..layers).try_for_each(|at| {
            let params = change(at, self.params.get(at)?)?;
            self.params.put(at, params)
        })
    }
}

/// A change of every site's parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ParamsChange {
    /// As [`SiteParams::with_starting_ranges`].
    StartingRanges(usize),
    /// As [`SiteParams::with_scores_apart`].
    ScoresApart(f32),
    /// As [`SiteParams::always`].
    Always(Depth),
}

impl ParamsChange {
    /// A site's parameters with the change.
    fn of(self, params: &SiteParams) -> SiteParams {
        match self {
            ParamsChange::StartingRanges(slice) => params.with_starting_ranges(slice),
            ParamsChange::ScoresApart(distance) => params.with_scores_apart(distance),
            ParamsChange::Always(depth) => params.always(depth),
        }
    }

    /// A layer's parameters with all of these changes, first to last.
    pub fn all_of(changes: &[ParamsChange], params: LayerParams) -> LayerParams {
        params.map(|site| changes.iter().fold(site, |site, change| change.of(&site)))
    }
}

/// The parameters of all layers with changes, which are made as each layer is read.
#[derive(Clone)]
pub struct Params<'a> {
    shelf: &'a Shelf<LayerParams>,
    changes: Vec<ParamsChange>,
}

impl<'a> Params<'a> {
    /// Those on a shelf.
    pub fn of(shelf: &'a Shelf<LayerParams>) -> Params<'a> {
        Params { shelf, changes: Vec::new() }
    }

    /// The same with one change more, after all others.
    pub fn with(&self, change: ParamsChange) -> Params<'a> {
        let mut changed = self.clone();
        changed.changes.push(change);
        changed
    }

    /// What is changed, first to last.
    pub fn changes(&self) -> &[ParamsChange] {
        &self.changes
    }

    /// The parameters of a layer.
    pub fn layer(&self, at: usize) -> Result<LayerParams> {
        Ok(ParamsChange::all_of(&self.changes, self.shelf.get(at)?))
    }
}
