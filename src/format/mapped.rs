//! Files in memory without reading them: maps, and the tensors that lie in them.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

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

    /// The tensor's data, little-endian and row-major.
    pub fn bytes(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}

/// Maps a whole file for reading.
#[allow(unsafe_code, reason = "a map is a view of memory that the operating system, not Rust, keeps unchanged")]
pub fn map_file(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io("read", path))?;
    // A pipe or a device has no bytes to map, and reading its length from a map would be of no use.
    let metadata = file.metadata().map_err(Error::io("read", path))?;
    if metadata.is_dir() {
        return Err(Error::io("read", path)(std::io::ErrorKind::IsADirectory.into()));
    }
    if !metadata.is_file() {
        return Err(Error::damaged(path, "content", "a regular file", "another kind of file"));
    }
    // SAFETY: the bytes must not change while they are borrowed. Model folders and packs are written aside and renamed
    // into place, never changed where they are, so this crate does not touch a file that it mapped. Another program
    // that writes to the file can make us read other numbers, which is harmless as no byte is trusted beyond the range
    // checks made on lengths kept outside the map; one that truncates it ends the process with SIGBUS, as with any map.
    unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))
}
