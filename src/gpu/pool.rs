//! Buffers of one kind, such as transients, kept for the next who needs one when one is done with them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::context::Context;
use crate::error::Result;

/// Free buffers by size class.
#[derive(Clone)]
pub(super) struct Pool {
    label: &'static str,
    usage: wgpu::BufferUsages,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    free: BTreeMap<u64, Vec<wgpu::Buffer>>,
    /// Bytes of all buffers made here, free or lent.
    bytes: u64,
}

/// A buffer on loan; it goes back when dropped.
pub(super) struct Loan {
    buffer: wgpu::Buffer,
    pool: Pool,
}

impl Pool {
    /// An empty pool of buffers of this usage.
    pub fn new(label: &'static str, usage: wgpu::BufferUsages) -> Pool {
        Pool { label, usage, shared: Arc::default() }
    }

    /// A buffer of at least `bytes` bytes and undefined contents.
    pub fn lend(&self, context: &Context, bytes: u64) -> Result<Loan> {
        let class = size_class(bytes);
        let free = self.shared.lock().expect("no panic while held").free.get_mut(&class).and_then(Vec::pop);
        if let Some(buffer) = free {
            return Ok(Loan { buffer, pool: self.clone() });
        }
        let buffer = context.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(self.label),
            size: class,
            usage: self.usage,
            mapped_at_creation: false,
        });
        context.check()?;
        self.shared.lock().expect("no panic while held").bytes += class;
        Ok(Loan { buffer, pool: self.clone() })
    }

    /// Bytes of all buffers made here.
    pub fn bytes(&self) -> u64 {
        self.shared.lock().expect("no panic while held").bytes
    }
}

/// The length that a buffer for `bytes` bytes is made with: few lengths, so that buffers fit again, and little waste.
fn size_class(bytes: u64) -> u64 {
    const LARGE: u64 = 1 << 20;
    if bytes < LARGE { bytes.next_power_of_two().max(256) } else { bytes.next_multiple_of(LARGE) }
}

impl Loan {
    /// The buffer.
    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let mut shared = self.pool.shared.lock().expect("no panic while held");
        shared.free.entry(self.buffer.size()).or_default().push(self.buffer.clone());
    }
}
