//! What every engine does: own buffers, and execute recordings over them.

use std::time::Duration;

use crate::cancel::CancelToken;
use crate::error::{Error, Result, one_of};
use crate::format::MappedTensor;
use crate::recording::{Buffer, Prepared, Recording, Span, Ticket};

/// A device as people see it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DeviceInfo {
    /// Its number among the machine's adapters; the CPU engine has none.
    pub index: Option<usize>,
    /// The adapter's or processor's name.
    pub name: String,
    /// What sort of device it is.
    pub kind: DeviceKind,
    /// "Vulkan", "Metal", "DX12" or "CPU".
    pub backend: String,
    /// Driver and version, where known.
    pub driver: String,
    /// Features that matter here, by name, each with whether the device has it.
    #[serde(serialize_with = "as_map")]
    pub features: Vec<(String, bool)>,
}

fn as_map<S: serde::Serializer>(features: &[(String, bool)], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_map(features.iter().map(|(name, has)| (name, has)))
}

/// Sorts of devices, the fastest as a rule first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceKind {
    /// A GPU with memory of its own.
    DiscreteGpu,
    /// A GPU that shares the processor's memory.
    IntegratedGpu,
    /// A GPU, or a part of one, lent to a virtual machine.
    VirtualGpu,
    /// What the driver does not tell.
    Other,
    /// A driver that computes on the processor.
    SoftwareRenderer,
    /// The processor, with no driver between.
    Processor,
}

impl std::fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            DeviceKind::DiscreteGpu => "discrete GPU",
            DeviceKind::IntegratedGpu => "integrated GPU",
            DeviceKind::VirtualGpu => "virtual GPU",
            DeviceKind::Other => "other",
            DeviceKind::SoftwareRenderer => "software renderer",
            DeviceKind::Processor => "processor",
        })
    }
}

/// What the numbers that go into the products of a single token are; those of several tokens are not asked for here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Activations {
    /// What is faster by a trial of both, which is remembered; int8 on the CPU engine, f32 on software renderers and
    /// where int8 cannot be.
    #[default]
    Auto,
    /// As they are computed.
    F32,
    /// Pairs of integers of eight bits, with a scale for 64 of them: as exact as fifteen bits are. A GPU takes one of a
    /// pair for weights that it reads in two bits.
    Int8,
}

impl Activations {
    /// Every choice.
    pub const ALL: [Activations; 3] = [Activations::Auto, Activations::F32, Activations::Int8];

    /// The choice's name.
    pub fn name(self) -> &'static str {
        match self {
            Activations::Auto => "auto",
            Activations::F32 => "f32",
            Activations::Int8 => "int8",
        }
    }
}

impl std::fmt::Display for Activations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for Activations {
    type Err = Error;

    /// The choice with this name. Fails with [`Error::InvalidArgument`] where there is none.
    fn from_str(name: &str) -> Result<Activations> {
        one_of("activations", &Activations::ALL, name)
    }
}

/// What recordings need to know of the device to choose how a kernel is launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traits {
    /// Whether shaders run on processor cores, where invocations side by side are vector lanes of one thread.
    pub software: bool,
    /// Whether kernels may multiply by cooperative matrices of 16 by 16, f16 summed in f32.
    pub cooperative_matrix: bool,
    /// Whether kernels may multiply pairs of int8s.
    pub packed_dot: bool,
    /// What the engine was opened for.
    pub activations: Activations,
    /// Invocations of a subgroup at least, a power of two; 1 where kernels may not use subgroups.
    pub subgroup: u32,
    /// Large workgroups that run side by side, none of which shares a processor with another.
    pub processors: u32,
    /// Invocations that a workgroup may have.
    pub workgroup_invocations: u32,
    /// Bytes of memory that a workgroup may have.
    pub workgroup_bytes: u32,
    /// The longest range that one binding may have, in bytes.
    pub binding_bytes: u64,
    /// The longest buffer that there may be, in bytes.
    pub buffer_bytes: u64,
    /// Rounds of all loops together after which an invocation is ended, silently, as some software renderers do; the
    /// greatest number where there is no such end.
    pub loop_rounds: u32,
}

/// [`Traits::processors`] where they were not counted: those of the GPU that the kernels were first made for, an H100.
pub const USUAL_PROCESSORS: u32 = 132;

impl Traits {
    /// Whether kernels are functions of the processor and no shaders. Such a workgroup is a loop and has no bounds, and
    /// needs no subgroups.
    pub fn runs_functions(self) -> bool {
        self.software && self.workgroup_invocations == u32::MAX
    }

    /// Workgroups that the rows of a single token's products are shared among, at most, where each should have a
    /// processor for itself: one processor in 32 is left for what goes on beside.
    pub fn row_workgroups(self) -> u32 {
        (self.processors - self.processors / 32).max(1)
    }
}

#[cfg(test)]
impl Traits {
    /// A GPU of its own memory, for tests that ask what kernels would do there.
    pub(crate) const LARGE_GPU: Traits = Traits {
        software: false,
        cooperative_matrix: false,
        packed_dot: true,
        activations: Activations::Auto,
        subgroup: 32,
        workgroup_invocations: 1024,
        workgroup_bytes: 48 << 10,
        processors: USUAL_PROCESSORS,
        binding_bytes: 1 << 27,
        buffer_bytes: 1 << 31,
        loop_rounds: u32::MAX,
    };
}

/// When a dispatch of a profiled run began and ended, counted from the begin of the run's first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelTime {
    /// The kernel's name.
    pub kernel: &'static str,
    /// When it began.
    pub start: Duration,
    /// When it ended.
    pub end: Duration,
}

/// A device with memory of its own that executes recordings.
pub trait Engine: Send {
    /// The device.
    fn info(&self) -> &DeviceInfo;

    /// What recordings need to know of the device.
    fn traits(&self) -> Traits;

    /// What asks this engine to stop.
    fn cancel_token(&self) -> &CancelToken;

    /// Sets what asks this engine to stop; at first nobody can.
    ///
    /// While a stop is asked for, nothing is submitted any more, and a run that is under way ends early where that
    /// saves time: [`Engine::submit`] or [`Engine::finish`] then fails with
    /// [`Error::Stopped`]. Of the commands of such a run, the first ones took effect, one may
    /// have taken effect in part, and the others did not.
    fn set_cancel(&mut self, cancel: CancelToken);

    /// A new buffer of zeros. Fails where the device has no room.
    fn create(&mut self, label: &str, bytes: u64) -> Result<Buffer>;

    /// A new buffer that holds the tensor's bytes and is never written. Fails where the device has no room.
    fn load(&mut self, label: &str, tensor: &MappedTensor) -> Result<Buffer>;

    /// Ends a buffer; recordings that name it must not run again, those under way may still read it. Until they are
    /// done and nothing that was prepared names it, its bytes count as allocated.
    fn destroy(&mut self, buffer: Buffer);

    /// Bytes of destroyed buffers whose memory the device has not let go of yet. Never waits.
    fn retiring_bytes(&mut self) -> Result<u64>;

    /// Waits until all that was submitted is done.
    fn wait(&mut self) -> Result<()>;

    /// Writes to a buffer, before any later run and after all earlier ones; panics where the lengths differ.
    fn write(&mut self, to: Span, bytes: &[u8]);

    /// Writes as [`Engine::write`] does, any number of bytes: waits for the device where too many are on their way.
    fn upload(&mut self, to: Span, bytes: &[u8]) -> Result<()>;

    /// Makes a recording ready to run any number of times.
    fn prepare(&mut self, recording: Recording) -> Result<Prepared>;

    /// Whether the device computes beside the host, on processors of its own, so that it pays to submit early.
    fn overlaps(&self) -> bool;

    /// Whether [`Engine::allocated_bytes`] is all that stays taken between runs: uploads make no copies, and the
    /// transients of all recordings share memory that is no longer than they are. What a kernel takes for itself while
    /// it runs is not counted, and is a few copies of what it writes at most. Else what is handed to the device is
    /// there twice for a while, and transients may stay for a while when others take their place.
    fn allocates_exactly(&self) -> bool {
        false
    }

    /// Begins the commands, which take effect in order and after all that was submitted or written before; the same
    /// recording may be under way more than once.
    fn submit(&mut self, prepared: &mut Prepared) -> Result<Ticket>;

    /// Waits for the commands of one submission and returns the bytes of each of its read-backs, in order. Without
    /// read-backs it may return before the device is done.
    fn finish(&mut self, ticket: Ticket) -> Result<Vec<Vec<u8>>>;

    /// Submits and finishes.
    fn run(&mut self, prepared: &mut Prepared) -> Result<Vec<Vec<u8>>> {
        let ticket = self.submit(prepared)?;
        self.finish(ticket)
    }

    /// Runs the dispatches one by one, no two in one pass, and tells in order when each one ran; nothing is read back.
    ///
    /// Fails where the device has no timestamps.
    fn profile(&mut self, prepared: &mut Prepared) -> Result<Vec<KernelTime>>;

    /// Bytes of all buffers that are alive or retiring, transients and read-backs included.
    fn allocated_bytes(&self) -> u64;
}
