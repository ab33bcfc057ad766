//! The engine that runs recordings on a GPU through wgpu: Vulkan, Metal or DX12.
//!
//! Nothing outside this folder knows wgpu.

mod cache;
mod context;
mod engine;
mod faults;
mod host;
mod pace;
mod pipelines;
mod poison;
mod pool;
mod processors;
mod run;
mod subgroups;
mod timestamps;

pub use context::{GpuOptions, devices};
pub use host::{HostDevice, device_descriptor};

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

/// Makes an engine of a device that the application opened. Compiled pipelines are kept in `folder`, where there is
/// one, and how many processors the GPU has. Fails where the device lacks what the kernels need, naming it.
pub fn open_on(host: HostDevice, folder: Option<&Path>) -> Result<Box<dyn Engine>> {
    let mut engine = engine_of(Context::of_host(host)?, folder)?;
    if let Some(folder) = folder {
        let processors = processors::count(&mut engine, folder);
        engine.context_mut().traits.processors = processors;
    }
    Ok(Box::new(engine))
}

fn open_with(index: usize, options: GpuOptions, folder: Option<&Path>) -> Result<GpuEngine> {
    engine_of(Context::open(index, options)?, folder)
}

/// The engine, which knows the size of its subgroups.
fn engine_of(context: Context, folder: Option<&Path>) -> Result<GpuEngine> {
    let mut engine = GpuEngine::new(context, folder);
    let reported = engine.context_mut().subgroups;
    let subgroup = reported.map_or(1, |reported| subgroups::size(&mut engine, reported));
    engine.context_mut().set_subgroup(subgroup)?;
    Ok(engine)
}
