//! Files in memory without reading them: maps, and the tensors that lie in them.

use std::io::ErrorKind;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::{Mmap, MmapOptions};

use super::open_file::OpenFile;
use crate::error::{Error, Result};

/// A tensor of a mapped file; clones share the map.
#[derive(Debug, Clone)]
pub struct MappedTensor {
    map: Arc<Mmap>,
    range: Range<usize>,
}

impl MappedTensor {
    /// The tensor at `range` of the map; panics where that is not inside it.
    pub(super) fn new(map: Arc<Mmap>, range: Range<usize>) -> MappedTensor {
        assert!(range.start <= range.end && range.end <= map.len(), "{range:?} leaves a map of {}", map.len());
        MappedTensor { map, range }
    }

    /// So many bytes from `offset` on of a file that is open, mapped by themselves.
    pub(super) fn of_file(file: &OpenFile, offset: u64, bytes: u64) -> Result<MappedTensor> {
        let bytes = usize::try_from(bytes).map_err(|_| Error::io("map", file.path())(ErrorKind::OutOfMemory.into()))?;
        let map = map_range(file, MmapOptions::new().offset(offset).len(bytes))?;
        Ok(MappedTensor { map: Arc::new(map), range: 0..bytes })
    }

    /// The tensor's data, little-endian and row-major.
    pub fn bytes(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}

/// Maps a whole file for reading.
pub fn map_file(path: &Path) -> Result<Mmap> {
    map_open_file(&OpenFile::open(path)?)
}

/// Maps a whole file for reading that is open already.
pub(super) fn map_open_file(file: &OpenFile) -> Result<Mmap> {
    map_range(file, &MmapOptions::new())
}

/// Maps what `options` say of a file that is open already.
#[allow(unsafe_code, reason = "a map is a view of memory that the operating system, not Rust, keeps unchanged")]
fn map_range(file: &OpenFile, options: &MmapOptions) -> Result<Mmap> {
    // SAFETY: the bytes must not change while they are borrowed. Model folders and packs are written aside and renamed
    // into place, never changed where they are, so this crate does not touch a file that it mapped. Another program
    // that writes to the file can make us read other numbers, which is harmless as no byte is trusted beyond the range
    // checks made on lengths kept outside the map; one that truncates it ends the process with SIGBUS, as with any map.
    unsafe { options.map(file.file()) }.map_err(Error::io("map", file.path()))
}
