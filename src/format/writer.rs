//! Writes a model folder: aside, block by block, and into its place only when all of it is there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;

use super::container::ContainerWriter;
use super::hash::{sha256, sha256_of_file};
use super::layout;
use super::manifest::{FileEntry, Manifest, ModelSource, Quantization, needed_version};
use super::place::{Place, sync_dir};
use super::{ARCHITECTURE, MANIFEST_FILE};
use crate::arch::ModelSpec;
use crate::error::{Error, Result};
use crate::precision::SLICES;
use crate::routing::Thresholds;
use crate::shape::LlamaShape;

/// A model folder in the making; dropped before [`finish`](FolderWriter::finish), it leaves nothing behind.
#[derive(Debug)]
pub struct FolderWriter {
    place: Place,
    shape: LlamaShape,
    spec: ModelSpec,
    cut: Quantization,
    routing: Option<Thresholds>,
    slices: Vec<ContainerWriter>,
    texts: BTreeMap<String, FileEntry>,
}

impl FolderWriter {
    /// Begins a folder that will appear at `dir`, or where that leads to as a link. It must be absent or an empty
    /// folder, or with `replace` a model folder; the files there are not touched before
    /// [`finish`](FolderWriter::finish), and those that are not the model's stay. Fails where `dir` could not be
    /// written and where another run is writing to it. With `routing` the model has routers.
    pub fn create(
        dir: &Path,
        shape: &LlamaShape,
        spec: &ModelSpec,
        cut: Quantization,
        routing: Option<Thresholds>,
        replace: bool,
    ) -> Result<FolderWriter> {
        let place = Place::claim(dir, replace)?;
        let slices = (0..SLICES)
            .map(|slice| {
                let name = layout::slice_file(slice);
                place.check_name(&name)?;
                let path = place.model().join(name);
                let specs = layout::file_tensors(shape, spec, cut.group_size, routing.is_some(), slice);
                ContainerWriter::create(path, &specs, None)
            })
            .collect::<Result<_>>()?;
        let (shape, spec) = (shape.clone(), spec.clone());
        Ok(FolderWriter { place, shape, spec, cut, routing, slices, texts: BTreeMap::new() })
    }

    /// Writes `bytes` to the tensor `name` of the file of `slice`, from byte `offset` of the tensor on. Panics where
    /// they leave the tensor or the file has none of that name.
    pub fn write(&mut self, slice: usize, name: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        self.slices[slice].write(name, offset, bytes)
    }

    /// Adds a text file. Fails where the place has one of that name that is not the replaced model's.
    pub fn add_text(&mut self, name: &str, text: &str) -> Result<()> {
        self.place.check_name(name)?;
        let path = self.place.model().join(name);
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
        let FolderWriter { place, shape, spec, cut, routing, slices, texts: mut files } = self;
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
            format_version: needed_version(&spec, &cut, routing.as_ref()),
            source,
            architecture: ARCHITECTURE.to_string(),
            shape,
            spec,
            quantization: cut,
            routing,
            files,
        };
        let mut json = serde_json::to_string_pretty(&manifest).expect("a manifest has only text, numbers and maps");
        json.push('\n');
        write_new(&place.model().join(MANIFEST_FILE), json.as_bytes())?;
        sync_dir(&place.model());
        place.fill()?;
        Ok(manifest)
    }
}

/// Hands a file to the disk and hashes it; `on_piece` is told the length of each piece and may break off.
fn finish(file: &ContainerWriter, on_piece: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<FileEntry> {
    file.sync()?;
    let hash = sha256_of_file(file.path(), on_piece)?.ok_or(Error::Stopped("quantize"))?;
    Ok(FileEntry { bytes: file.bytes(), sha256: hash, header_sha256: Some(sha256(file.header())) })
}

/// Writes a file that is not there yet, and hands it to the disk.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create_new(path).map_err(Error::io("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io("write", path))
}
