//! The engine that runs recordings on a GPU through wgpu: Vulkan, Metal or DX12.
//!
//! Nothing outside this folder knows wgpu.

mod cache;
mod context;
mod engine;
mod pace;
mod pipelines;
mod pool;
mod run;
mod timestamps;

pub use context::{GpuOptions, devices};

use std::path::Path;

use crate::engine::Engine;
use crate::error::Result;

/// Opens device `index` of [`devices`]; fails where the device lacks what the kernels need, naming it.
pub fn open(index: usize, options: GpuOptions) -> Result<Box<dyn Engine>> {
    Ok(Box::new(engine::GpuEngine::new(context::Context::open(index, options)?, None)))
}

/// Opens a device as [`open`] does, and keeps the pipelines that are compiled in a file of `folder`, from which the
/// next engine has them; without the file, or where the driver does not hand them out, all are compiled anew.
pub fn open_cached(index: usize, options: GpuOptions, folder: &Path) -> Result<Box<dyn Engine>> {
    Ok(Box::new(engine::GpuEngine::new(context::Context::open(index, options)?, Some(folder))))
}
