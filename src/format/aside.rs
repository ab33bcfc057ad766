//! A safetensors file that appears at its place whole, or not at all.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::container::ContainerWriter;
use super::layout::TensorSpec;
use super::place::sync_dir;
use crate::error::{Error, Result};

/// A file in the making, in a folder beside its place. Dropped before it is finished, it leaves nothing.
#[derive(Debug)]
pub struct ContainerAside {
    place: PathBuf,
    writer: ContainerWriter,
    /// Made in the place's file system, so that the file can be renamed to its place.
    folder: tempfile::TempDir,
}

impl ContainerAside {
    /// Begins the file of the tensors of `specs` that will be at `place`, where links have been followed, with the text
    /// of one fact under its key. `kind` is what it is called.
    pub fn create(place: PathBuf, kind: &str, specs: &[TensorSpec], fact: (&str, String)) -> Result<ContainerAside> {
        let parent = folder_of(&place).to_path_buf();
        ContainerAside::create_in(&parent, place, kind, specs, fact)
    }

    /// The same with the file in the making in `parent`, a folder of the place's file system.
    pub fn create_in(
        parent: &Path,
        place: PathBuf,
        kind: &str,
        specs: &[TensorSpec],
        fact: (&str, String),
    ) -> Result<ContainerAside> {
        let folder = tempfile::Builder::new().prefix(&format!(".{kind}.partial-")).tempdir_in(parent);
        let folder = folder.map_err(Error::io("create", parent))?;
        // Of the same name, so that a fault names the file.
        let name = place.file_name().ok_or_else(|| Error::argument(kind, "the name of a file", place.display()))?;
        let facts = HashMap::from([(fact.0.to_string(), fact.1)]);
        let writer = ContainerWriter::create(folder.path().join(name), specs, Some(facts))?;
        Ok(ContainerAside { place, writer, folder })
    }

    /// As [`ContainerWriter::write`].
    pub fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        self.writer.write(name, offset, bytes)
    }

    /// Puts the file at its place, in that of what was there, once `check` takes it; its bytes. Panics where a tensor
    /// was not written wholly.
    pub fn finish(self, check: impl FnOnce(&Path) -> Result<()>) -> Result<u64> {
        let ContainerAside { place, writer, folder: _folder } = self;
        writer.sync()?;
        let (file, bytes) = (writer.path().to_path_buf(), writer.bytes());
        // Some systems do not rename a file that is open.
        drop(writer);
        check(&file)?;
        std::fs::rename(&file, &place).map_err(Error::io("create", &place))?;
        sync_dir(folder_of(&place));
        Ok(bytes)
    }
}

/// The folder that a file is in.
pub(super) fn folder_of(place: &Path) -> &Path {
    place.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}
