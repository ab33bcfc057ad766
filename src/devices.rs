//! The devices of this machine, and which of them a model runs on where nobody names one.

use std::path::Path;

use crate::engine::{Activations, DeviceInfo, DeviceKind, Engine};
use crate::error::Result;
use crate::gpu::GpuOptions;
use crate::{cpu, gpu};

/// A device to run a model on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Device {
    /// The best GPU; the processor where there is none but software renderers, which are slower.
    #[default]
    Best,
    /// The processor.
    Cpu,
    /// A GPU, by its [`DeviceInfo::index`] among [`devices`].
    Gpu(usize),
}

/// Backends, the preferred one first, where one GPU is reached through several. On Windows, Vulkan stands before DX12:
/// compiled pipelines are kept for it, and cooperative matrices are reached through it.
const BACKENDS: [&str; 3] = ["Metal", "Vulkan", "DX12"];

/// Names of software renderers, which some drivers pass on as if they were GPUs.
const SOFTWARE: [&str; 4] = ["llvmpipe", "lavapipe", "swiftshader", "basic render driver"];

/// The devices of this machine: its GPUs, and the processor last.
pub fn devices() -> Vec<DeviceInfo> {
    let mut devices = gpu::devices();
    devices.push(cpu::device());
    devices
}

/// The best GPU of a list: by its kind, then by its backend, then the first. None where there are none but software
/// renderers.
pub fn best_gpu(devices: &[DeviceInfo]) -> Option<&DeviceInfo> {
    devices.iter().filter(|device| device.index.is_some() && !is_software(device)).min_by_key(|gpu| preference(gpu))
}

/// What is preferred comes first: the kind of device, then the backend.
pub fn preference(device: &DeviceInfo) -> (bool, DeviceKind, usize) {
    let backend = BACKENDS.iter().position(|backend| *backend == device.backend).unwrap_or(BACKENDS.len());
    (is_software(device), device.kind, backend)
}

/// Whether a GPU computes on the processor, whatever its driver says it is.
pub fn is_software(device: &DeviceInfo) -> bool {
    let name = device.name.to_lowercase();
    device.kind == DeviceKind::SoftwareRenderer || SOFTWARE.iter().any(|software| name.contains(software))
}

impl Device {
    /// Opens the device. Compiled pipelines are stored in `cache`, where there is one, so that the next start is
    /// faster.
    ///
    /// Fails where there is no such device, and where it cannot run the kernels.
    pub fn open(self, cache: Option<&Path>) -> Result<Box<dyn Engine>> {
        let index = match self {
            Device::Cpu => None,
            Device::Gpu(index) => Some(index),
            Device::Best => best_gpu(&gpu::devices()).and_then(|gpu| gpu.index),
        };
        match (index, cache) {
            (None, _) => Ok(cpu::open_with(Activations::Auto)),
            (Some(index), Some(cache)) => gpu::open_cached(index, GpuOptions::default(), cache),
            (Some(index), None) => gpu::open(index, GpuOptions::default()),
        }
    }
}
