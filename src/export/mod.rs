//! The way out: a model folder at fixed depths as a file or folder that other programs run.
//!
//! What leaves is the folded weights, which are plain weights of a family that the other program knows. Embedding and
//! head leave at their full depth, as nothing is saved there that the other program could not save itself.

mod depths;
mod family;
mod gguf;
mod huggingface;
mod rotation;
mod rows;
mod stored;
mod tensors;
mod text;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Instant;

use self::tensors::PlannedTensor;
use crate::error::{Error, Result, one_of};
use crate::format::ModelFolder;
use crate::precision::{Depth, SLICES};
use crate::quantize::SourceTensor;
use crate::quantize::gguf::BlockType;
use crate::shape::{Site, SiteAt};

pub use depths::SiteDepths;
pub use rows::DepthRows;
pub use stored::Deviation;
pub use tensors::Deviations;

/// What is written, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportOptions {
    /// The file to make of a GGUF export, the folder to make of a safetensors export.
    pub out: PathBuf,
    /// Slices read of the layers' weights.
    pub depths: SiteDepths,
    /// The format.
    pub format: ExportFormat,
    /// The type of the matrices; `None` for the choice of [`ExportOptions::stored`].
    pub stored: Option<StoredType>,
    /// llama.cpp's name of the way in which text is split, where the tokenizer's own is not known by a name. It is
    /// written as it stands, as llama.cpp knows more names than edge-run does. A safetensors export has no place for
    /// it.
    pub pre_tokenizer: Option<String>,
    /// Whether an export that is at `out` already gives way to the new one.
    pub replace: bool,
}

/// A format that other programs read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// One file, for llama.cpp and what is built on it.
    Gguf,
    /// A folder as Hugging Face keeps models, for transformers, vLLM and SGLang.
    Safetensors,
}

/// A type that matrices are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredType {
    /// GGUF: codes of 4 bits above a minimum, 5 bits a weight. Exact for 2 bits; for 4 bits the minimum is rounded.
    Q4_1,
    /// GGUF: codes of 5 bits above a minimum, 6 bits a weight. Exact for 2 and 4 bits.
    Q5_1,
    /// GGUF: codes of 8 bits around zero, 8.5 bits a weight.
    Q8_0,
    /// Half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Single precision, always exact.
    F32,
}

/// How far an export has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportProgress<'a> {
    /// The tensor, by its name in the export.
    pub name: &'a str,
    /// Weights written.
    pub done: u64,
    /// Weights in all.
    pub total: u64,
}

/// An export that is done.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ExportReport {
    /// The file or folder.
    pub out: PathBuf,
    /// The family that it was written as, by the other program's name.
    pub architecture: String,
    /// The types of the layers' matrices, by the depths that there are.
    pub layers_type: String,
    /// Mean bits of a weight of the layers.
    pub bits: f64,
    /// The type of embedding and head.
    pub outer_type: String,
    /// Weights written, those of vectors included.
    pub params: u64,
    /// Bytes written.
    pub bytes: u64,
    /// How far the weights are from those that edge-run reads at this depth.
    pub deviations: Deviations,
    /// Time taken, in seconds.
    pub seconds: f64,
}

/// An export that can be done, with what is to be said of it.
#[derive(Debug)]
pub struct ExportPlan<'a> {
    folder: &'a ModelFolder,
    options: ExportOptions,
    stored: StoredTypes,
    made: Made,
    /// What the other program will do otherwise, in sentences for people.
    pub warnings: Vec<String>,
}

/// The types of an export's matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredTypes {
    /// Of the layers' matrices, by depth; [`Depth::ALL`] has the order.
    layers: [StoredType; SLICES],
    /// Of embedding and head.
    pub outer: StoredType,
}

impl StoredTypes {
    /// That of a matrix of the layers which is read at a depth.
    pub fn at(&self, depth: Depth) -> StoredType {
        self.layers[depth.slices() - 1]
    }

    /// That of a matrix, of layers that are read at these depths.
    fn of(&self, matrix: SourceTensor, depths: &SiteDepths) -> StoredType {
        rows::site_of(matrix).map_or(self.outer, |at| self.at(depths.at(at)))
    }
}

/// What is written in either format.
#[derive(Debug)]
enum Made {
    Gguf(gguf::GgufPlan),
    Folder(huggingface::HubPlan),
}

impl Made {
    /// The model's tensors, in file order.
    fn tensors(&self) -> &[PlannedTensor] {
        match self {
            Made::Gguf(plan) => &plan.tensors,
            Made::Folder(plan) => &plan.tensors,
        }
    }

    /// The other program's name of the family.
    fn architecture(&self) -> &'static str {
        match self {
            Made::Gguf(plan) => plan.architecture,
            Made::Folder(plan) => plan.architecture,
        }
    }
}

impl ExportOptions {
    /// The types of the matrices: where none is asked for, in a GGUF file the smallest that holds the codes (Q4_1 for 2
    /// and 4 bits, else Q8_0) with Q8_0 for embedding and head, and in a folder F16. Fails where the format has no such
    /// type, or the type does not hold the codes.
    pub fn stored(&self) -> Result<StoredTypes> {
        use StoredType::*;
        let of = |depth: Depth| match (self.format, self.stored) {
            (_, Some(asked)) => asked,
            (ExportFormat::Gguf, None) if depth.bits() <= 4 => Q4_1,
            (ExportFormat::Gguf, None) => Q8_0,
            (ExportFormat::Safetensors, None) => F16,
        };
        let deepest = self.depths.deepest();
        let widest = of(deepest);
        if self.format == ExportFormat::Safetensors && !matches!(widest, F16 | Bf16 | F32) {
            return Err(Error::argument("type", "f16, bf16 or f32 in safetensors", widest));
        }
        stored::check_bits(widest.block(), deepest.bits())?;
        let outer = if stored::is_coded(widest.block()) { Q8_0 } else { widest };
        Ok(StoredTypes { layers: Depth::ALL.map(of), outer })
    }
}

impl<'a> ExportPlan<'a> {
    /// The plan to write the folder as told. Fails where the other program cannot run such a model, naming the field,
    /// where its tokenizer cannot be told, and where the format has no place for what was asked for.
    pub fn new(folder: &'a ModelFolder, options: ExportOptions) -> Result<ExportPlan<'a>> {
        let stored = options.stored()?;
        if let (ExportFormat::Safetensors, Some(name)) = (options.format, &options.pre_tokenizer) {
            let expected = "none with safetensors, whose tokenizer.json says how text is split";
            return Err(Error::argument("pre-tokenizer", expected, format!("`{name}`")));
        }
        let mut warnings = Vec::new();
        let made = match options.format {
            ExportFormat::Gguf => Made::Gguf(gguf::plan(folder, &options, stored, &mut warnings)?),
            ExportFormat::Safetensors => Made::Folder(huggingface::plan(folder, &options, stored, &mut warnings)?),
        };
        Ok(ExportPlan { folder, options, stored, made, warnings })
    }

    /// Bytes that it will write, but for headers.
    pub fn bytes(&self) -> u64 {
        self.made.tensors().iter().map(PlannedTensor::bytes).sum()
    }

    /// Writes it. `on_progress` is called for every few million weights and may break off, which is [`Error::Stopped`];
    /// then, as after any error, nothing is left behind, and an export that was to be replaced is as it was.
    pub fn write(self, on_progress: &mut dyn FnMut(&ExportProgress<'_>) -> ControlFlow<()>) -> Result<ExportReport> {
        let begin = Instant::now();
        let params = self.made.tensors().iter().map(PlannedTensor::count).sum();
        let rows = DepthRows::new(self.folder, self.options.depths.clone());
        let deviations = Deviations::default();
        let mut writer = tensors::TensorWriter { rows, total: params, on_progress, done: 0, deviations };
        let bytes = match &self.made {
            Made::Gguf(plan) => plan.write(&self.options, &mut writer)?,
            Made::Folder(plan) => plan.write(&self.options, &mut writer)?,
        };
        Ok(ExportReport {
            out: self.options.out.clone(),
            architecture: self.made.architecture().to_string(),
            layers_type: self.layers_types(),
            bits: self.options.depths.bits(self.folder.shape()),
            outer_type: self.stored.outer.to_string(),
            params,
            bytes,
            deviations: writer.deviations,
            seconds: begin.elapsed().as_secs_f64(),
        })
    }

    /// The types of the layers' matrices, in words.
    fn layers_types(&self) -> String {
        let shape = self.folder.shape();
        let sites = (0..shape.layers).flat_map(|layer| Site::ALL.map(|site| SiteAt { layer, site }));
        let types: BTreeSet<&str> = sites.map(|at| self.stored.at(self.options.depths.at(at)).name()).collect();
        Vec::from_iter(types).join(" and ")
    }
}

impl ExportFormat {
    /// Both.
    pub const ALL: [ExportFormat; 2] = [ExportFormat::Gguf, ExportFormat::Safetensors];

    /// The format's name.
    pub fn name(self) -> &'static str {
        match self {
            ExportFormat::Gguf => "gguf",
            ExportFormat::Safetensors => "safetensors",
        }
    }
}

impl fmt::Display for ExportFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for ExportFormat {
    type Err = Error;

    /// The format with this name. Fails with [`Error::InvalidArgument`] where there is none.
    fn from_str(name: &str) -> Result<ExportFormat> {
        one_of("format", &ExportFormat::ALL, name)
    }
}

impl StoredType {
    /// All of them.
    pub const ALL: [StoredType; 6] =
        [StoredType::Q4_1, StoredType::Q5_1, StoredType::Q8_0, StoredType::F16, StoredType::Bf16, StoredType::F32];

    /// The type's name.
    pub fn name(self) -> &'static str {
        match self {
            StoredType::Q4_1 => "q4_1",
            StoredType::Q5_1 => "q5_1",
            StoredType::Q8_0 => "q8_0",
            StoredType::F16 => "f16",
            StoredType::Bf16 => "bf16",
            StoredType::F32 => "f32",
        }
    }

    fn block(self) -> BlockType {
        match self {
            StoredType::Q4_1 => BlockType::Q4_1,
            StoredType::Q5_1 => BlockType::Q5_1,
            StoredType::Q8_0 => BlockType::Q8_0,
            StoredType::F16 => BlockType::F16,
            StoredType::Bf16 => BlockType::Bf16,
            StoredType::F32 => BlockType::F32,
        }
    }
}

impl fmt::Display for StoredType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for StoredType {
    type Err = Error;

    /// The type with this name. Fails with [`Error::InvalidArgument`] where there is none.
    fn from_str(name: &str) -> Result<StoredType> {
        one_of("type", &StoredType::ALL, name)
    }
}
