//! Imports a GGUF file of a model of a family that runs.

mod added;
mod blocks;
mod control;
mod file;
mod keys;
mod layers;
mod metadata;
mod optional;
mod places;
mod pretokenizer;
mod rope;
mod sentencepiece;
mod shape;
mod split;
mod templates;
mod tokenizer;
mod types;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use self::file::{GgufFile, GgufTensor};
use self::optional::Optional;
use self::places::NamedTensor;
use self::shape::ReadTensor;
use super::family::Described;
use super::source::{Source, SourceTensor, TextAssets};
use crate::arch::ModelSpec;
use crate::error::{Error, Result};
use crate::format::ModelSource;
use crate::shape::LlamaShape;
pub(crate) use blocks::BlockType;
pub(crate) use control::token_type;
pub(crate) use places::tensor_name;
pub(crate) use pretokenizer::splitting;
pub(crate) use types::{dtype_name, dtype_number};

/// An opened GGUF file, or several that are one model.
#[derive(Debug)]
pub struct Gguf {
    files: Vec<GgufPart>,
    header: GgufFile,
    described: Described,
    source: ModelSource,
    tensors: HashMap<SourceTensor, NamedTensor>,
    warnings: Vec<String>,
}

/// A file of a model.
#[derive(Debug)]
struct GgufPart {
    path: PathBuf,
    file: File,
}

impl Gguf {
    /// Opens the file at `path`, with those beside it that are of the same model, and checks that they hold a whole
    /// model of a family that runs.
    pub fn open(path: &Path) -> Result<Gguf> {
        let (paths, header) = split::read(path)?;
        let open = |path: PathBuf| match File::open(&path) {
            Ok(file) => Ok(GgufPart { path, file }),
            Err(fault) => Err(Error::io("read", &path)(fault)),
        };
        let mut files = paths.into_iter().map(open).collect::<Result<Vec<_>>>()?;
        let mut warnings = Vec::new();
        let mut read = |name: &str, tensor: &GgufTensor| dequantize(&mut files, name, tensor);
        let (described, tensors) =
            describe(&header, &mut read, &mut warnings).map_err(Error::in_file(header.metadata.path()))?;
        let dtypes: BTreeSet<&str> = tensors.values().map(|located| dtype_name(located.tensor.dtype)).collect();
        let stem = || path.file_stem().map_or("unnamed".into(), |stem| stem.to_string_lossy().into_owned());
        let mut optional = Optional::new(&header.metadata);
        let source = ModelSource {
            name: optional
                .text("general.name")
                .map(str::trim)
                .filter(|name| !name.is_empty())
                .map_or_else(stem, str::to_string),
            format: "gguf".into(),
            family: described.family_field(),
            dtypes: dtypes.into_iter().map(str::to_string).collect(),
            licence: optional.text("general.license").map(|licence| licence.trim().to_string()),
        };
        warnings.append(&mut optional.warnings);
        Ok(Gguf { files, header, described, source, tensors, warnings })
    }
}

impl Source for Gguf {
    fn shape(&self) -> &LlamaShape {
        &self.described.shape
    }

    fn spec(&self) -> &ModelSpec {
        &self.described.spec
    }

    fn model_source(&self) -> &ModelSource {
        &self.source
    }

    fn text(&self) -> Result<TextAssets> {
        let metadata = &self.header.metadata;
        tokenizer::read(metadata).map_err(Error::in_file(metadata.path()))
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn rows(&mut self, tensor: SourceTensor, rows: Range<u32>, out: &mut Vec<f32>) -> Result<()> {
        let Gguf { described, files, tensors, .. } = self;
        let (all, input) = tensor.dims(&described.shape, &described.spec);
        assert!(rows.end <= all, "rows {rows:?} of {all}");
        let NamedTensor { name, tensor: located } = &tensors[&tensor];
        described.fold.rows(tensor, rows, input, out, &mut |rows, out| {
            let row_bytes = located.row_bytes(input as usize).expect("checked when the tensor was located");
            let block = GgufTensor {
                dims: vec![rows.len(), input as usize],
                offset: located.offset + u64::from(rows.start) * row_bytes as u64,
                ..*located
            };
            *out = dequantize(files, name, &block)?;
            Ok(())
        })
    }

    fn locate(&self, tensor: SourceTensor) -> (PathBuf, String) {
        let located = &self.tensors[&tensor];
        (self.files[located.tensor.part].path.clone(), located.name.clone())
    }
}

/// What a file describes, and where each tensor of that model lies.
fn describe(
    header: &GgufFile,
    read: &mut ReadTensor<'_>,
    warnings: &mut Vec<String>,
) -> Result<(Described, HashMap<SourceTensor, NamedTensor>)> {
    let described = Described::new(shape::read_facts(header, read, warnings)?)?;
    let tensors = places::locate_all(&described, header)?;
    Ok((described, tensors))
}

/// The numbers of a tensor, read from its place in its file.
fn dequantize(files: &mut [GgufPart], name: &str, tensor: &GgufTensor) -> Result<Vec<f32>> {
    let GgufPart { path, file } = &mut files[tensor.part];
    let mut bytes = vec![0; tensor.byte_count().expect("the header was read with all its tensors in the file")];
    let mut read = || {
        file.seek(SeekFrom::Start(tensor.offset))?;
        file.read_exact(&mut bytes)
    };
    read().map_err(|fault| Error::damaged(path, name, dtype_name(tensor.dtype), fault))?;
    Ok(tensor.dtype.dequantize(&bytes))
}

#[cfg(test)]
mod families_tests;
