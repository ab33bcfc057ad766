//! Writes a model folder: aside, block by block, and into its place only when all of it is there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use tempfile::TempDir;

use super::container::ContainerWriter;
use super::hash::{sha256, sha256_of_file};
use super::layout;
use super::manifest::{FileEntry, Manifest, ModelSource, Quantization, needed_version};
use super::place::{LEFTOVER_AGE, Place, sync_dir};
use super::{ARCHITECTURE, MANIFEST_FILE};
use crate::error::{Error, Result};
use crate::precision::SLICES;
use crate::routing::Thresholds;
use crate::shape::LlamaShape;

/// A model folder in the making; dropped before [`finish`](FolderWriter::finish), it leaves nothing behind.
#[derive(Debug)]
pub struct FolderWriter {
    place: Place,
    aside: TempDir,
    shape: LlamaShape,
    cut: Quantization,
    routing: Option<Thresholds>,
    slices: Vec<ContainerWriter>,
    texts: BTreeMap<String, FileEntry>,
}

impl FolderWriter {
    /// Begins a folder that will appear at `dir`, which must be absent or an empty folder, or with `replace` a model
    /// folder, and is not touched before [`finish`](FolderWriter::finish). With `routing` it has routers.
    pub fn create(
        dir: &Path,
        shape: &LlamaShape,
        cut: Quantization,
        routing: Option<Thresholds>,
        replace: bool,
    ) -> Result<FolderWriter> {
        let place = Place::new(dir, replace)?;
        place.sweep(LEFTOVER_AGE);
        let aside = place.aside()?;
        let slices = (0..SLICES)
            .map(|slice| {
                let path = aside.path().join(layout::slice_file(slice));
                let specs = layout::file_tensors(shape, cut.group_size, routing.is_some(), slice);
                ContainerWriter::create(path, &specs, None)
            })
            .collect::<Result<_>>()?;
        Ok(FolderWriter { place, aside, shape: shape.clone(), cut, routing, slices, texts: BTreeMap::new() })
    }

    /// Writes `bytes` to the tensor `name` of the file of `slice`, from byte `offset` of the tensor on. Panics where
    /// they leave the tensor or the file has none of that name.
    pub fn write(&mut self, slice: usize, name: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        self.slices[slice].write(name, offset, bytes)
    }

    /// Adds a text file.
    pub fn add_text(&mut self, name: &str, text: &str) -> Result<()> {
        let path = self.aside.path().join(name);
        write_new(&path, text.as_bytes())?;
        let entry = FileEntry { bytes: text.len() as u64, sha256: sha256(text.as_bytes()), header_sha256: None };
        self.texts.insert(name.to_string(), entry);
        Ok(())
    }

    /// Hashes the files, writes the manifest and moves the folder to its place. `on_bytes` is told the bytes hashed and
    /// to hash, and may break off, which is [`Error::Stopped`]. Panics where a tensor was not written wholly.
    pub fn finish(
        self,
        source: ModelSource,
        on_bytes: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Manifest> {
        let FolderWriter { place, aside, shape, cut, routing, slices, texts: mut files } = self;
        let total = slices.iter().map(ContainerWriter::bytes).sum();
        let mut done = 0;
        for (slice, file) in slices.into_iter().enumerate() {
            let entry = finish(&file, &mut |piece| {
                done += piece;
                on_bytes(done, total)
            })?;
            files.insert(layout::slice_file(slice), entry);
        }
        let manifest = Manifest {
            format_version: needed_version(&cut, routing.as_ref()),
            source,
            architecture: ARCHITECTURE.to_string(),
            shape,
            quantization: cut,
            routing,
            files,
        };
        let mut json = serde_json::to_string_pretty(&manifest).expect("a manifest has only text, numbers and maps");
        json.push('\n');
        write_new(&aside.path().join(MANIFEST_FILE), json.as_bytes())?;
        sync_dir(aside.path());
        place.fill(aside)?;
        Ok(manifest)
    }
}

/// Hands a file to the disk and hashes it; `on_piece` is told the length of each piece and may break off.
fn finish(file: &ContainerWriter, on_piece: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<FileEntry> {
    file.sync()?;
    let hash = sha256_of_file(file.path(), on_piece)?.ok_or(Error::Stopped("quantize"))?;
    Ok(FileEntry { bytes: file.bytes(), sha256: hash, header_sha256: Some(sha256(file.header())) })
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create_new(path).map_err(Error::io("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io("write", path))
}
