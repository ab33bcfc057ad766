//! A device that an application opened for itself, and that a model shares with it.

use super::context::{self, GpuOptions};

/// An application's own device. All three are handles; the application keeps clones.
///
/// wgpu has one queue for a device, so what a model submits stands before the application's next frame. On a shared
/// device a submit is therefore cut to what the device computes in about 8 ms. The application's own handlers of errors
/// and of a lost device stay in place.
#[derive(Debug, Clone)]
pub struct HostDevice {
    /// The adapter that the device was opened on.
    pub adapter: wgpu::Adapter,
    /// The device, opened with what [`device_descriptor`] asks for, or more.
    pub device: wgpu::Device,
    /// Its queue.
    pub queue: wgpu::Queue,
}

/// What a device is to be asked for so that models run on it: to be merged with what the application needs itself. The
/// features are those that models need and those that make them faster, as far as the adapter has them; the limits are
/// all of the adapter's.
///
/// Fails where models cannot run on the adapter: what it lacks, in words.
pub fn device_descriptor(adapter: &wgpu::Adapter) -> Result<wgpu::DeviceDescriptor<'static>, String> {
    context::check_adapter(adapter)?;
    Ok(context::descriptor(adapter, GpuOptions::default()))
}
