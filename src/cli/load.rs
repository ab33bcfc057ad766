//! A model folder onto the device that was asked for.

use super::args::ModelArgs;
use super::devices;
use super::progress::{self, Unit};
use crate::engine::Engine;
use crate::error::Result;
use crate::format::ModelFolder;
use crate::model::{Model, WeightSource};

/// Opens the device and loads the model onto it, with a bar and a cache of `context` tokens.
pub fn load(args: &ModelArgs, folder: &ModelFolder, context: u32) -> Result<Model> {
    load_onto(args, devices::open(args)?, folder, context)
}

/// Loads a model from wherever it comes, with a bar and a cache of `context` tokens.
pub fn load_onto(args: &ModelArgs, engine: Box<dyn Engine>, source: &dyn WeightSource, context: u32) -> Result<Model> {
    let bar = progress::bar("load", 0, Unit::Bytes);
    let model = Model::load(source, engine, context, &mut |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let mut model = model?;
    if let Some(tokens) = args.ubatch_size {
        model.set_step_tokens(tokens)?;
    }
    Ok(model)
}
