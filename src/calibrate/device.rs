//! What burn computes on.

use burn::tensor::wgpu::WgpuBackend;
use burn::tensor::{Device, DeviceKind as BurnKind};

use crate::engine::{DeviceInfo, DeviceKind};
use crate::error::{Error, Result};

/// The processor.
pub fn cpu() -> Device {
    Device::flex()
}

/// The GPU `info`, one of `all` that [`gpu::devices`](crate::gpu::devices) lists. Fails where burn cannot open it.
pub fn gpu(info: &DeviceInfo, all: &[DeviceInfo]) -> Result<Device> {
    let refused = |message: String| Error::Device { device: info.name.clone(), message };
    // burn opens adapters itself, with features that only it may enable, and counts those of a kind.
    let alike = |other: &&DeviceInfo| other.kind == info.kind && other.backend == info.backend;
    let at = all.iter().filter(alike).position(|other| other.index == info.index);
    let at = at.ok_or_else(|| refused("is not in the list of devices".into()))?;
    let kind = match info.kind {
        DeviceKind::DiscreteGpu => BurnKind::DiscreteGpu(at),
        DeviceKind::IntegratedGpu => BurnKind::IntegratedGpu(at),
        DeviceKind::VirtualGpu => BurnKind::VirtualGpu(at),
        DeviceKind::SoftwareRenderer => BurnKind::Cpu,
        DeviceKind::Other | DeviceKind::Processor => BurnKind::DefaultDevice,
    };
    let api = match info.backend.as_str() {
        "Vulkan" => WgpuBackend::Vulkan,
        "Metal" => WgpuBackend::Metal,
        "DX12" => WgpuBackend::Dx12,
        _ => WgpuBackend::Auto,
    };
    let opened = Device::wgpu_options().device_kind(kind).graphics_api(api).init();
    opened.map_err(|fault| refused(fault.to_string()))
}
