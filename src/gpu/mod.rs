//! The engine that runs recordings on a GPU through wgpu: Vulkan, Metal or DX12.
//!
//! Nothing outside this folder knows wgpu.

mod cache;
mod context;
mod engine;
mod pace;
mod pipelines;
mod poison;
mod pool;
mod processors;
mod run;
mod subgroups;
mod timestamps;

pub use context::{GpuOptions, devices};

use std::path::Path;

use context::Context;
use engine::GpuEngine;

use crate::engine::Engine;
use crate::error::Result;

/// Opens device `index` of [`devices`]; fails where the device lacks what the kernels need, naming it.
pub fn open(index: usize, options: GpuOptions) -> Result<Box<dyn Engine>> {
    Ok(Box::new(open_with(index, options, None)?))
}

/// Opens a device as [`open`] does, and keeps the pipelines that are compiled in a file of `folder`, from which the
/// next engine has them; without the file, or where the driver does not hand them out, all are compiled anew. Another
/// file there remembers how many processors a GPU has, which is found out at the first opening.
pub fn open_cached(index: usize, options: GpuOptions, folder: &Path) -> Result<Box<dyn Engine>> {
    let mut engine = open_with(index, options, Some(folder))?;
    let processors = processors::count(&mut engine, folder);
    engine.context_mut().traits.processors = processors;
    Ok(Box::new(engine))
}

/// The engine, which knows the size of its subgroups.
fn open_with(index: usize, options: GpuOptions, folder: Option<&Path>) -> Result<GpuEngine> {
    let mut engine = GpuEngine::new(Context::open(index, options)?, folder);
    let reported = engine.context_mut().subgroups;
    let subgroup = reported.map_or(1, |reported| subgroups::size(&mut engine, reported));
    engine.context_mut().set_subgroup(subgroup)?;
    Ok(engine)
}
