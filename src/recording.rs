//! What the model wants computed, as plain data: commands over buffers that an engine owns.
//!
//! Model code records; an [engine](crate::engine::Engine) executes. A recording holds no GPU object, so the same one
//! runs on the GPU and, through each kernel's reference, on the CPU.

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::cancel::Watch;

/// Name of a buffer that some engine owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Buffer {
    id: u64,
    bytes: u64,
}

impl Buffer {
    /// A new name for a buffer of `bytes` bytes, different from all others in this process.
    pub fn new(bytes: u64) -> Buffer {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Buffer { id: NEXT.fetch_add(1, Ordering::Relaxed), bytes }
    }

    /// Length in bytes.
    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// The whole buffer, for a binding.
    pub fn all(self) -> Span {
        Span { buffer: self, offset: 0, bytes: self.bytes }
    }

    /// `bytes` bytes from `offset` on; panics where that is not inside the buffer.
    pub fn span(self, offset: u64, bytes: u64) -> Span {
        let end = offset.checked_add(bytes);
        assert!(end.is_some_and(|end| end <= self.bytes), "span {offset}+{bytes} leaves a buffer of {}", self.bytes);
        Span { buffer: self, offset, bytes }
    }
}

/// A range of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// The buffer.
    pub buffer: Buffer,
    /// First byte.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// What a kernel does with a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads only.
    Read,
    /// Writes, and may read.
    Write,
}

/// Where a field of a kernel's `Params` lies; a test holds it against the shader's own struct.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParamField {
    /// The field's name.
    pub name: &'static str,
    /// Bytes from the struct's beginning.
    pub offset: usize,
    /// Length in bytes.
    pub bytes: usize,
}

/// A computation in two forms: a WGSL shader and the plain loops that say what it means.
pub struct Kernel {
    /// The shader's file name without its ending, and the Rust module's.
    pub name: &'static str,
    /// The shader's text.
    pub wgsl: &'static str,
    /// The fields of the shader's `Params`, in order.
    pub params: &'static [ParamField],
    /// Storage buffers of group 0, by binding number.
    pub bindings: &'static [Access],
    /// The same computation on the CPU.
    pub reference: fn(&mut Arguments<'_>),
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// What a reference is called with.
pub struct Arguments<'a> {
    /// The dispatch's parameters, as bytes of the kernel's `Params`.
    pub params: &'a [u8],
    /// The dispatch's constants.
    pub constants: &'a [(&'static str, u32)],
    /// The dispatch's workgroups.
    pub workgroups: [u32; 3],
    /// The bound ranges, in binding order.
    pub bindings: Vec<Bound<'a>>,
    /// Whether the work is still wanted: long loops look at it every few milliseconds.
    pub watch: &'a Watch,
}

/// A bound range as a reference sees it.
pub enum Bound<'a> {
    /// Bound with [`Access::Read`].
    Read(&'a [u8]),
    /// Bound with [`Access::Write`].
    Write(&'a mut [u8]),
}

impl<'a> Arguments<'a> {
    /// The parameters as the kernel's struct.
    pub fn params<P: bytemuck::AnyBitPattern>(&self) -> P {
        bytemuck::pod_read_unaligned(self.params)
    }

    /// A constant of the dispatch; panics where it has none of that name.
    pub fn constant(&self, name: &str) -> u32 {
        let constant = self.constants.iter().find(|(constant, _)| *constant == name);
        constant.unwrap_or_else(|| panic!("no constant {name}")).1
    }

    /// A constant of the dispatch, or the shader's own value where the dispatch has none of that name.
    pub fn constant_or(&self, name: &str, own: u32) -> u32 {
        self.constants.iter().find(|(constant, _)| *constant == name).map_or(own, |(_, value)| *value)
    }

    /// Binding `at` as elements of `T`; panics where the kernel declares it written.
    pub fn read<T: bytemuck::AnyBitPattern>(&self, at: usize) -> &'a [T] {
        match &self.bindings[at] {
            Bound::Read(bytes) => bytemuck::cast_slice(bytes),
            Bound::Write(_) => panic!("binding {at} is written"),
        }
    }

    /// Takes binding `at` as elements of `T` to write; panics where the kernel declares it read, or on a second take.
    pub fn write<T: bytemuck::Pod>(&mut self, at: usize) -> &'a mut [T] {
        match std::mem::replace(&mut self.bindings[at], Bound::Read(&[])) {
            Bound::Write(bytes) => bytemuck::cast_slice_mut(bytes),
            Bound::Read(_) => panic!("binding {at} is only read, or was taken before"),
        }
    }
}

/// One launch of a kernel.
#[derive(Debug, Clone)]
pub struct Dispatch {
    /// What is launched.
    pub kernel: &'static Kernel,
    /// Values of the shader's `override` constants, by name.
    pub constants: Vec<(&'static str, u32)>,
    /// Bytes of the kernel's `Params`.
    pub params: Vec<u8>,
    /// Ranges for the kernel's bindings, in order.
    pub bindings: Vec<Span>,
    /// Workgroups along x, y and z.
    pub workgroups: [u32; 3],
}

/// One step of a recording.
#[derive(Debug, Clone)]
pub enum Command {
    /// Launch a kernel.
    Dispatch(Dispatch),
    /// Fill a range with zeros.
    Clear(Span),
    /// Hand a range back to the caller when all is done.
    ReadBack(Span),
}

/// Commands in the order in which they take effect.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    commands: Vec<Command>,
    transients: Vec<Buffer>,
}

impl Recording {
    /// An empty recording.
    pub fn new() -> Recording {
        Recording::default()
    }

    /// A buffer that lives only while the recording does; the engine finds room for it. Its first contents are
    /// undefined.
    pub fn transient(&mut self, bytes: u64) -> Buffer {
        let buffer = Buffer::new(bytes);
        self.transients.push(buffer);
        buffer
    }

    /// Appends a launch; panics where the bindings are not those that the kernel declares, or where one range is
    /// written under two bindings.
    pub fn dispatch(&mut self, dispatch: Dispatch) {
        let (kernel, bindings) = (dispatch.kernel, &dispatch.bindings);
        assert_eq!(bindings.len(), kernel.bindings.len(), "bindings of {}", kernel.name);
        for (at, span) in bindings.iter().enumerate().filter(|(at, _)| kernel.bindings[*at] == Access::Write) {
            let twice = bindings.iter().enumerate().any(|(other, s)| other != at && s.buffer == span.buffer);
            assert!(!twice, "{}: binding {at} is written and bound twice", kernel.name);
        }
        self.commands.push(Command::Dispatch(dispatch));
    }

    /// Appends the filling of a range with zeros.
    pub fn clear(&mut self, span: Span) {
        self.commands.push(Command::Clear(span));
    }

    /// Appends a read-back; the run returns the ranges in the order of these calls.
    pub fn read_back(&mut self, from: Span) {
        self.commands.push(Command::ReadBack(from));
    }

    /// The commands, in order.
    pub fn commands(&self) -> &[Command] {
        &self.commands
    }

    /// The buffers of [`transient`](Recording::transient).
    pub fn transients(&self) -> &[Buffer] {
        &self.transients
    }
}

/// A recording made ready by an engine, which alone knows what is inside; dropping it returns its transients.
pub struct Prepared(pub Box<dyn Any + Send>);

/// A recording under way, whose results an engine hands out once; it may be dropped where they are not wanted.
pub struct Ticket(pub Box<dyn Any + Send>);
