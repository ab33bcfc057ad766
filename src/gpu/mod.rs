//! The engine that runs recordings on a GPU through wgpu: Vulkan, Metal or DX12.
//!
//! Nothing outside this folder knows wgpu.

mod context;
mod engine;
mod pipelines;
mod pool;
mod timestamps;

pub use context::{GpuOptions, devices};

use crate::engine::Engine;
use crate::error::Result;

/// Opens device `index` of [`devices`]; fails where the device lacks what the kernels need, naming it.
pub fn open(index: usize, options: GpuOptions) -> Result<Box<dyn Engine>> {
    Ok(Box::new(engine::GpuEngine::new(context::Context::open(index, options)?)))
}
