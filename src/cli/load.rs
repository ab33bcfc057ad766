//! A model folder onto the device that was asked for.

use super::args::ModelArgs;
use super::paths::activations_file;
use super::progress::{self, BarUnit};
use super::{devices, flags};
use edge_run::internals::engine::Engine;
use edge_run::internals::error::Result;
use edge_run::internals::format::ModelFolder;
use edge_run::internals::model::{CacheOptions, Model, WeightSource};

/// Opens the device and loads the model onto it, with a bar and a cache of `context` tokens.
pub fn load(args: &ModelArgs, folder: &ModelFolder, context: u32) -> Result<Model> {
    load_onto(args, devices::open(args)?, folder, context, 1)
}

/// Opens the device and loads the base onto it, with a bar and a cache of `context` tokens; slices come as they are
/// wanted, within `budget_bytes` for all that the model takes.
pub fn load_base(args: &ModelArgs, folder: &ModelFolder, context: u32, budget_bytes: Option<u64>) -> Result<Model> {
    let engine = devices::open(args)?;
    let model =
        with_bar(args, |on_bytes| Model::load_base(folder, engine, cache(args, context), budget_bytes, on_bytes));
    model.map_err(flags::of_context)
}

/// Loads a model from wherever it comes, with a bar and a cache of `context` tokens for each of so many sequences.
pub fn load_onto(
    args: &ModelArgs,
    engine: Box<dyn Engine>,
    source: &dyn WeightSource,
    context: u32,
    sequences: u32,
) -> Result<Model> {
    let cache = CacheOptions { sequences, ..cache(args, context) };
    with_bar(args, |on_bytes| Model::load(source, engine, cache, on_bytes))
}

fn cache(args: &ModelArgs, context: u32) -> CacheOptions {
    CacheOptions { cache_type: args.cache_type, step_tokens: args.ubatch_size, ..CacheOptions::from(context) }
}

fn with_bar(args: &ModelArgs, load: impl FnOnce(&mut dyn FnMut(u64, u64)) -> Result<Model>) -> Result<Model> {
    let bar = progress::bar("load", 0, BarUnit::Bytes);
    let model = load(&mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let model = model?;
    // Without a home folder the trial is not remembered.
    model.choose_activations(activations_file().ok().as_deref())?;
    if args.head_bits.is_some() {
        model.set_outer_depth(args.head_bits);
    }
    Ok(model)
}
