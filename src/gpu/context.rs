//! Adapters, and the device that is opened on one.

use std::time::Duration;

use wgpu::{Adapter, Backend, Backends, DeviceType, DownlevelFlags, ErrorFilter, Features, InstanceDescriptor};
use wgpu::{CooperativeMatrixProperties, CooperativeScalarType};

use super::faults::Faults;
use super::host::HostDevice;
use super::pace::{SUBMIT, SUBMIT_BESIDE_FRAMES};
use super::subgroups::ReportedSubgroups;
use crate::engine::{Activations, DeviceInfo, DeviceKind, Traits, USUAL_PROCESSORS};
use crate::error::{Error, Result};
use crate::kernels::product::MATRIX_WORKGROUP_BYTES;
use crate::kernels::project::{self, packed};
use crate::kernels::{self, STORAGE_BUFFERS};

/// Features without which an adapter is not used.
const REQUIRED: Features = Features::IMMEDIATES;
/// Features that are used where they are there.
const OPTIONAL: Features = Features::TIMESTAMP_QUERY.union(Features::SUBGROUP).union(Features::PIPELINE_CACHE);
/// What cooperative matrices need.
const MATRICES: Features =
    Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(Features::SHADER_F16).union(Features::SUBGROUP);
/// Invocations of a subgroup that multiplies matrices; the shader's constant.
const MATRIX_SUBGROUP: u32 = 32;
/// Rounds of all its loops after which Mesa's llvmpipe ends an invocation (LP_MAX_TGSI_LOOP_ITERATIONS).
const LLVMPIPE_ROUNDS: u32 = 65535;
/// Features that make a difference and are reported.
const REPORTED: [(&str, Features); 5] = [
    ("immediates", Features::IMMEDIATES),
    ("f16", Features::SHADER_F16),
    ("subgroups", Features::SUBGROUP),
    ("timestamps", Features::TIMESTAMP_QUERY),
    ("coop-matrix", Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
];

/// Choices at the opening of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GpuOptions {
    /// Compile shaders with bounds checks and loop limits, and fill workgroup memory with NaNs before they begin,
    /// slower, for hunting faults.
    pub checks: bool,
    /// Multiply by cooperative matrices in f16 where the adapter has them.
    pub cooperative_matrix: bool,
    /// Launch kernels as on a GPU where the device is a software renderer, slower, for testing them there.
    pub as_hardware: bool,
    /// What goes into the products of a single token.
    pub activations: Activations,
}

impl Default for GpuOptions {
    fn default() -> GpuOptions {
        let activations = Activations::default();
        GpuOptions { checks: false, cooperative_matrix: true, as_hardware: false, activations }
    }
}

/// An open device and its faults.
pub(super) struct Context {
    pub device: wgpu::Device,
    pub queue: wgpu::Queue,
    pub info: DeviceInfo,
    pub traits: Traits,
    pub options: GpuOptions,
    /// What the driver reports of subgroups, where kernels may use them.
    pub subgroups: Option<ReportedSubgroups>,
    /// The time that a submit may take.
    pub most_submit: Duration,
    /// The faults that the driver reports of its own accord; none of a device that the application watches over.
    pub faults: Option<Faults>,
}

/// GPUs and software renderers, in the order of their numbers.
pub fn devices() -> Vec<DeviceInfo> {
    adapters().iter().enumerate().map(|(index, adapter)| describe(index, adapter)).collect()
}

fn adapters() -> Vec<Adapter> {
    let backends = Backends::VULKAN | Backends::METAL | Backends::DX12;
    let descriptor = InstanceDescriptor { backends, ..InstanceDescriptor::new_without_display_handle() };
    pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(backends))
}

fn describe(index: usize, adapter: &Adapter) -> DeviceInfo {
    let info = adapter.get_info();
    let kind = match info.device_type {
        DeviceType::DiscreteGpu => DeviceKind::DiscreteGpu,
        DeviceType::IntegratedGpu => DeviceKind::IntegratedGpu,
        DeviceType::VirtualGpu => DeviceKind::VirtualGpu,
        DeviceType::Cpu => DeviceKind::SoftwareRenderer,
        DeviceType::Other => DeviceKind::Other,
    };
    let backend = match info.backend {
        Backend::Vulkan => "Vulkan",
        Backend::Metal => "Metal",
        Backend::Dx12 => "DX12",
        _ => "other",
    };
    let has = adapter.features();
    let features = REPORTED.iter().map(|(name, feature)| (name.to_string(), has.contains(*feature))).collect();
    DeviceInfo {
        index: Some(index),
        name: info.name,
        kind,
        backend: backend.to_string(),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
        features,
    }
}

/// Whether the adapter has the matrices that kernels multiply, and subgroups of the size that they take for granted.
fn multiplies_matrices(adapter: &Adapter) -> bool {
    let fits = |m: &CooperativeMatrixProperties| {
        [m.m_size, m.n_size, m.k_size] == [16; 3]
            && m.ab_type == CooperativeScalarType::F16
            && m.cr_type == CooperativeScalarType::F32
    };
    let info = adapter.get_info();
    adapter.features().contains(MATRICES)
        && has_room(&adapter.limits())
        && [info.subgroup_min_size, info.subgroup_max_size] == [MATRIX_SUBGROUP; 2]
        && adapter.cooperative_matrix_properties().iter().any(fits)
}

/// Whether a workgroup may have the memory that kernels by matrices need.
fn has_room(limits: &wgpu::Limits) -> bool {
    limits.max_compute_workgroup_storage_size >= MATRIX_WORKGROUP_BYTES
}

/// The token for wgpu's experimental features.
fn experimental(wanted: bool) -> wgpu::ExperimentalFeatures {
    if !wanted {
        return wgpu::ExperimentalFeatures::disabled();
    }
    #[allow(unsafe_code, reason = "cooperative matrices are experimental in wgpu")]
    // SAFETY: what is experimental is that validation is not complete. The shaders that use matrices are this crate's
    // own: whole subgroups load them from and store them to workgroup memory, at places that lie inside its arrays
    // whatever the dispatch, or load them from a binding that has all entries of the order (`gather_inputs::in_tiles`).
    unsafe {
        wgpu::ExperimentalFeatures::enabled()
    }
}

/// What an adapter's device is asked for.
pub(super) fn descriptor(adapter: &Adapter, options: GpuOptions) -> wgpu::DeviceDescriptor<'static> {
    let cooperative_matrix = options.cooperative_matrix && multiplies_matrices(adapter);
    let matrices = if cooperative_matrix { MATRICES } else { Features::empty() };
    wgpu::DeviceDescriptor {
        label: Some("edge-run"),
        required_features: REQUIRED | (OPTIONAL & adapter.features()) | matrices,
        required_limits: adapter.limits(),
        experimental_features: experimental(cooperative_matrix),
        ..Default::default()
    }
}

/// What an adapter lacks, in words.
pub(super) fn check_adapter(adapter: &Adapter) -> std::result::Result<(), String> {
    // Packed f16 in f32 shaders: the ranges and the cache.
    if !adapter.get_downlevel_capabilities().flags.contains(DownlevelFlags::SHADER_F16_IN_F32) {
        return Err("cannot unpack f16 in shaders".to_string());
    }
    check_offer(adapter.features(), &adapter.limits())
}

/// What an open device lacks, in words.
fn check_device(device: &wgpu::Device) -> std::result::Result<(), String> {
    check_offer(device.features(), &device.limits())
}

fn check_offer(features: Features, limits: &wgpu::Limits) -> std::result::Result<(), String> {
    if !features.contains(REQUIRED) {
        return Err(format!("lacks the features {:?}", REQUIRED - features));
    }
    let most = limits.max_storage_buffers_per_shader_stage;
    if most < STORAGE_BUFFERS {
        return Err(format!("binds {most} storage buffers at once; {STORAGE_BUFFERS} are needed"));
    }
    let parameters = kernels::ALL.iter().flat_map(|kernel| kernel.params).map(|field| field.offset + field.bytes);
    let needed = parameters.max().unwrap_or_default();
    let most = limits.max_immediate_size;
    if (most as usize) < needed {
        return Err(format!("takes {most} bytes of immediates; {needed} are needed"));
    }
    Ok(())
}

impl Context {
    /// Opens the adapter with all its limits.
    pub fn open(index: usize, options: GpuOptions) -> Result<Context> {
        let adapters = adapters();
        let adapter = adapters.get(index).ok_or_else(|| Error::NoSuchDevice {
            asked: index.to_string(),
            available: format!("there are {} GPUs", adapters.len()),
        })?;
        let info = describe(index, adapter);
        let refused = |message: String| Error::Device { device: info.name.clone(), message };
        check_adapter(adapter).map_err(refused)?;
        let opened = pollster::block_on(adapter.request_device(&descriptor(adapter, options)));
        let (device, queue) = opened.map_err(|e| refused(e.to_string()))?;
        let faults = Faults::of(&device);
        Ok(Context { faults: Some(faults), ..Context::of(adapter, device, queue, info, options) })
    }

    /// Takes a device of the application's, whose faults stay its own. Fails where it lacks what the kernels need.
    pub fn of_host(host: HostDevice) -> Result<Context> {
        let HostDevice { adapter, device, queue } = host;
        let info = DeviceInfo { index: None, ..describe(0, &adapter) };
        let suits = check_adapter(&adapter).and_then(|()| check_device(&device));
        suits.map_err(|message| Error::Device { device: info.name.clone(), message })?;
        let context = Context::of(&adapter, device, queue, info, GpuOptions::default());
        Ok(Context { most_submit: SUBMIT_BESIDE_FRAMES, ..context })
    }

    fn of(
        adapter: &Adapter,
        device: wgpu::Device,
        queue: wgpu::Queue,
        info: DeviceInfo,
        options: GpuOptions,
    ) -> Context {
        let (features, limits) = (device.features(), device.limits());
        let cooperative_matrix = options.cooperative_matrix
            && features.contains(MATRICES)
            && multiplies_matrices(adapter)
            && has_room(&limits);
        let software = info.kind == DeviceKind::SoftwareRenderer && !options.as_hardware;
        let subgroups = features.contains(Features::SUBGROUP).then(|| ReportedSubgroups::of(&adapter.get_info()));
        let traits = Traits {
            software,
            packed_dot: false,
            activations: options.activations,
            subgroup: 1,
            cooperative_matrix,
            workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            processors: USUAL_PROCESSORS,
            binding_bytes: limits.max_storage_buffer_binding_size,
            buffer_bytes: limits.max_buffer_size,
            loop_rounds: if info.name.contains("llvmpipe") { LLVMPIPE_ROUNDS } else { u32::MAX },
        };
        Context { device, queue, info, traits, options, subgroups, most_submit: SUBMIT, faults: None }
    }

    /// Takes subgroups to be so large, at least, and with that which kernels there are. Fails where int8 activations
    /// were asked for and cannot be.
    pub fn set_subgroup(&mut self, subgroup: u32) -> Result<()> {
        let binds = self.device.limits().max_storage_buffers_per_shader_stage;
        self.traits.subgroup = subgroup;
        self.traits.packed_dot = subgroup >= packed::TEAM && binds >= project::STORAGE_BUFFERS;
        if self.traits.activations == Activations::Int8 && !self.traits.packed_dot {
            let (team, needs) = (packed::TEAM, project::STORAGE_BUFFERS);
            let message = format!("has subgroups of {subgroup} and binds {binds} storage buffers");
            return Err(self.fault(format!("{message}; int8 activations need {team} and {needs}")));
        }
        Ok(())
    }

    /// The first fault that the driver reported since the last call, or the loss of the device, as an error; ok if
    /// there was none.
    pub fn check(&self) -> Result<()> {
        let fault = self.faults.as_ref().and_then(Faults::take);
        fault.map_or(Ok(()), |message| Err(self.fault(message)))
    }

    /// What `make` makes on the device; the first fault that the driver reports of it, as an error. On a device of the
    /// application's the driver reports only what is asked for, so that its own handler sees nothing of it.
    pub fn make<T>(&self, make: impl FnOnce(&wgpu::Device) -> T) -> Result<T> {
        if self.faults.is_some() {
            let made = make(&self.device);
            return self.check().map(|()| made);
        }
        let filters = [ErrorFilter::Validation, ErrorFilter::OutOfMemory, ErrorFilter::Internal];
        let scopes = filters.map(|filter| self.device.push_error_scope(filter));
        let made = make(&self.device);
        // All scopes are left, the last one first.
        let faults: Vec<_> = scopes.into_iter().rev().filter_map(|scope| pollster::block_on(scope.pop())).collect();
        faults.into_iter().next().map_or(Ok(made), |fault| Err(self.fault(fault.to_string())))
    }

    /// An error of this device.
    pub fn fault(&self, message: impl Into<String>) -> Error {
        Error::Device { device: self.info.name.clone(), message: message.into() }
    }

    /// Waits until all submitted work is done.
    pub fn wait(&self) -> Result<()> {
        self.poll(wgpu::PollType::wait_indefinitely())
    }

    /// Waits until one submission is done, and all before it.
    pub fn wait_for(&self, submission: wgpu::SubmissionIndex) -> Result<()> {
        self.poll(wgpu::PollType::Wait { submission_index: Some(submission), timeout: None })
    }

    fn poll(&self, until: wgpu::PollType) -> Result<()> {
        self.device.poll(until).map_err(|e| self.fault(e.to_string()))?;
        self.check()
    }
}
