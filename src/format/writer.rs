//! Writes a model folder: aside, block by block, and into its place only when all of it is there.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo};
use tempfile::TempDir;

use super::hash::{sha256, sha256_of_file};
use super::layout::{self, TensorSpec};
use super::manifest::{FileEntry, Manifest, ModelSource, Quantization};
use super::place::{LEFTOVER_AGE, Place, sync_dir};
use super::{ARCHITECTURE, FORMAT_VERSION, MANIFEST_FILE};
use crate::error::{Error, Result};
use crate::precision::SLICES;
use crate::shape::LlamaShape;

/// What a safetensors header is padded to, with spaces.
const HEADER_ALIGNMENT: usize = 8;

/// A model folder in the making; dropped before [`finish`](FolderWriter::finish), it leaves nothing behind.
#[derive(Debug)]
pub struct FolderWriter {
    place: Place,
    aside: TempDir,
    shape: LlamaShape,
    group: u32,
    slices: Vec<SliceFile>,
    texts: BTreeMap<String, FileEntry>,
}

impl FolderWriter {
    /// Begins a folder that will appear at `dir`, which must be absent or an empty folder, or with `replace` a model
    /// folder, and is not touched before [`finish`](FolderWriter::finish).
    pub fn create(dir: &Path, shape: &LlamaShape, group: u32, replace: bool) -> Result<FolderWriter> {
        let place = Place::new(dir, replace)?;
        place.sweep(LEFTOVER_AGE);
        let aside = place.aside()?;
        let slices = (0..SLICES)
            .map(|slice| {
                let path = aside.path().join(layout::slice_file(slice));
                SliceFile::create(path, &layout::file_tensors(shape, group, slice))
            })
            .collect::<Result<_>>()?;
        Ok(FolderWriter { place, aside, shape: shape.clone(), group, slices, texts: BTreeMap::new() })
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
        let FolderWriter { place, aside, shape, group, slices, texts: mut files } = self;
        let total = slices.iter().map(SliceFile::bytes).sum();
        let mut done = 0;
        for (slice, file) in slices.into_iter().enumerate() {
            let entry = file.finish(&mut |piece| {
                done += piece;
                on_bytes(done, total)
            })?;
            files.insert(layout::slice_file(slice), entry);
        }
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            source,
            architecture: ARCHITECTURE.to_string(),
            shape,
            quantization: Quantization::new(group),
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

/// The file of one slice, its header written and its data to come.
#[derive(Debug)]
struct SliceFile {
    path: PathBuf,
    file: File,
    header: Vec<u8>,
    /// Offset in the data and length of each tensor.
    tensors: HashMap<String, (u64, u64)>,
    data_bytes: u64,
    written: u64,
}

impl SliceFile {
    fn create(path: PathBuf, specs: &[TensorSpec]) -> Result<SliceFile> {
        let mut tensors = HashMap::with_capacity(specs.len());
        let mut infos = Vec::with_capacity(specs.len());
        let mut at = 0;
        for spec in specs {
            let bytes = spec.bytes();
            let (start, end) = (at as usize, (at + bytes) as usize);
            let info = TensorInfo { dtype: spec.dtype, shape: spec.shape.clone(), data_offsets: (start, end) };
            infos.push((spec.name.clone(), info));
            tensors.insert(spec.name.clone(), (at, bytes));
            at += bytes;
        }
        let header = header(infos);
        let mut file = File::create_new(&path).map_err(Error::io("create", &path))?;
        file.write_all(&header).map_err(Error::io("write", &path))?;
        Ok(SliceFile { path, file, header, tensors, data_bytes: at, written: 0 })
    }

    fn bytes(&self) -> u64 {
        self.header.len() as u64 + self.data_bytes
    }

    fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        let (start, length) = self.tensors[name];
        let end = offset + bytes.len() as u64;
        assert!(end <= length, "{name}: bytes {offset} to {end} leave a tensor of {length}");
        let at = self.header.len() as u64 + start + offset;
        self.file
            .seek(SeekFrom::Start(at))
            .and_then(|_| self.file.write_all(bytes))
            .map_err(Error::io("write", &self.path))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn finish(self, on_piece: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<FileEntry> {
        assert_eq!(self.written, self.data_bytes, "bytes written to {}", self.path.display());
        self.file.sync_all().map_err(Error::io("write", &self.path))?;
        let hash = sha256_of_file(&self.path, on_piece)?.ok_or(Error::Stopped("quantize"))?;
        Ok(FileEntry { bytes: self.bytes(), sha256: hash, header_sha256: Some(sha256(&self.header)) })
    }
}

/// The length field and the header of a safetensors file.
fn header(infos: Vec<(String, TensorInfo)>) -> Vec<u8> {
    let metadata = Metadata::new(None, infos).expect("tensors follow one another and have the bytes of their shapes");
    let mut json = serde_json::to_vec(&metadata).expect("a header has only text and numbers");
    json.resize(json.len().next_multiple_of(HEADER_ALIGNMENT), b' ');
    [(json.len() as u64).to_le_bytes().as_slice(), &json].concat()
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = File::create_new(path).map_err(Error::io("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io("write", path))
}
