//! A safetensors file that appears at its place whole, or not at all.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::container::ContainerWriter;
use super::layout::TensorSpec;
use super::place::{sync_dir, without_path};
use crate::error::{Error, Result};

/// A file in the making, in a folder beside its place. Dropped before it is finished, it leaves nothing.
#[derive(Debug)]
pub struct ContainerAside {
    place: PathBuf,
    /// What errors call the file: the place as it was asked for.
    shown: PathBuf,
    writer: ContainerWriter,
    /// Made in the place's file system, so that the file can be renamed to its place.
    folder: tempfile::TempDir,
}

impl ContainerAside {
    /// Begins the file of the tensors of `specs` that will be at `place`, where links have been followed, with the text
    /// of one fact under its key. `kind` is what it is called, and errors name it as `shown`.
    pub fn create(
        (place, shown): (PathBuf, &Path),
        kind: &str,
        specs: &[TensorSpec],
        fact: (&str, String),
    ) -> Result<ContainerAside> {
        let parent = folder_of(&place).to_path_buf();
        ContainerAside::create_in(&parent, (place, shown), kind, specs, fact)
    }

    /// The same with the file in the making in `parent`, a folder of the place's file system.
    pub fn create_in(
        parent: &Path,
        (place, shown): (PathBuf, &Path),
        kind: &str,
        specs: &[TensorSpec],
        fact: (&str, String),
    ) -> Result<ContainerAside> {
        let name = place.file_name().ok_or_else(|| Error::argument(kind, "the name of a file", shown.display()))?;
        let folder = tempfile::Builder::new().prefix(&format!(".{kind}.partial-")).tempdir_in(parent);
        let folder = folder.map_err(|fault| Error::io("create", shown)(without_path(fault)))?;
        let facts = HashMap::from([(fact.0.to_string(), fact.1)]);
        let writer = ContainerWriter::create(folder.path().join(name), specs, Some(facts));
        let writer = writer.map_err(|error| error.about(shown))?;
        Ok(ContainerAside { shown: shown.to_path_buf(), place, writer, folder })
    }

    /// The length field and the header.
    pub fn header(&self) -> &[u8] {
        self.writer.header()
    }

    /// As [`ContainerWriter::write`].
    pub fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        self.writer.write(name, offset, bytes).map_err(|error| error.about(&self.shown))
    }

    /// Puts the file at its place, in that of what was there, once `check` takes it; its bytes. Panics where a tensor
    /// was not written wholly.
    pub fn finish(self, check: impl FnOnce(&Path) -> Result<()>) -> Result<u64> {
        let ContainerAside { place, shown, writer, folder: _folder } = self;
        let (file, bytes) = (writer.path().to_path_buf(), writer.bytes());
        let synced = writer.sync();
        // Some systems do not rename a file that is open.
        drop(writer);
        synced.and_then(|()| check(&file)).map_err(|error| error.about(&shown))?;
        std::fs::rename(&file, &place).map_err(Error::io("create", &shown))?;
        sync_dir(folder_of(&place));
        Ok(bytes)
    }
}

/// The folder that a file is in.
pub(super) fn folder_of(place: &Path) -> &Path {
    place.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}
