//! What stands behind a buffer: memory of this process, which is counted, or pages of a file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytemuck::allocation::try_zeroed_vec;

use crate::error::{Error, Result};
use crate::format::MappedTensor;

/// What stands behind a buffer.
pub(super) enum CpuMemory {
    Owned(Owned),
    /// A file's pages, read where they lie.
    Mapped(MappedTensor),
}

impl CpuMemory {
    pub fn bytes(&self) -> &[u8] {
        match self {
            CpuMemory::Owned(owned) => bytemuck::cast_slice(&owned.words),
            CpuMemory::Mapped(tensor) => tensor.bytes(),
        }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            CpuMemory::Owned(owned) => bytemuck::cast_slice_mut(&mut owned.words),
            CpuMemory::Mapped(_) => panic!("a loaded tensor is never written"),
        }
    }

    pub fn into_owned(self) -> Option<Owned> {
        if let CpuMemory::Owned(owned) = self { Some(owned) } else { None }
    }
}

/// Memory of this process, in words so that it is aligned for every element type; counted while it lives.
pub(super) struct Owned {
    words: Vec<u32>,
    counter: Arc<AtomicU64>,
}

impl Owned {
    /// Zeros, which take no memory before they are written. Fails where there is no room for them.
    pub fn zeros(what: &str, bytes: u64, counter: &Arc<AtomicU64>) -> Result<Owned> {
        let words = usize::try_from(bytes.div_ceil(4)).ok().and_then(|words| try_zeroed_vec(words).ok());
        let words: Vec<u32> = words.ok_or_else(|| no_room(what, bytes))?;
        counter.fetch_add(words.len() as u64 * 4, Ordering::Relaxed);
        Ok(Owned { words, counter: counter.clone() })
    }

    /// Whether it is as long as one that was made for so many bytes.
    pub fn is_for(&self, bytes: u64) -> bool {
        self.words.len() as u64 == bytes.div_ceil(4)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.counter.fetch_sub(self.words.len() as u64 * 4, Ordering::Relaxed);
    }
}

/// The error where memory is short.
pub(super) fn no_room(what: &str, bytes: u64) -> Error {
    let message = format!("has no memory for {what}, which needs {bytes} bytes");
    Error::Device { device: super::device().name, message }
}
