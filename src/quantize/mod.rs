//! From a checkpoint to a model folder: reads weights a few rows at a time, cuts them into slices, writes them.

mod basis;
mod channels;
mod compensate;
mod cut;
mod estimate;
pub(crate) mod family;
mod folder;
pub(crate) mod gguf;
mod given;
pub(crate) mod huggingface;
mod importance;
mod moments;
pub(crate) mod ranges;
mod refit;
mod slices;
mod source;
mod text;
mod tile;
mod weights_hash;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use self::compensate::ErrorMetric;
use self::cut::Cut;
use crate::arch::{LayerVector, ModelSpec};
use crate::error::{Error, Result};
use crate::format::codes::{GivenRanges, Range, RangeForm};
use crate::format::layout::{self, SlicedSpec, TensorSpec};
use crate::format::{
    CHAT_TEMPLATE_FILE, CHAT_TEMPLATES_FILE, FolderWriter, GENERATION_FILE, Manifest, TOKENIZER_FILE, check_space,
    follow_links,
};
use crate::precision::SLICES;
use crate::shape::{LlamaShape, Site};

pub use basis::CutBasis;
pub use channels::{ChannelScales, ScaledSource};
pub(crate) use estimate::block_rows;
use estimate::estimate_of;
pub use estimate::{Estimate, estimate};
pub use huggingface::check_config;
pub use importance::{Importance, SquaredInputs};
pub use slices::RowCodes;
use slices::SlicedRows;
pub use source::{Source, SourceTensor, TextAssets, open};
pub(crate) use text::as_file;
pub use text::{checked_text, source_text};
pub(crate) use tile::tile_products;
pub use weights_hash::weights_sha256;

/// Where the model folder goes and how its weights are cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizeOptions {
    /// The folder to make.
    pub out: PathBuf,
    /// G; `None` takes the calibration pack's, or [`layout::DEFAULT_GROUP`].
    pub group_size: Option<u32>,
    /// A calibration pack of this very model, for the ranges of the layers' weights and the routers.
    pub calibration: Option<PathBuf>,
    /// Whether a model that is at `out` already gives way to the new one.
    pub replace: bool,
}

/// How far a quantization has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantizeProgress<'a> {
    /// What is being done.
    pub stage: Stage,
    /// The tensor, by its name in the source or in the model folder, or at the end "hashes".
    pub name: &'a str,
    /// Weights, or bytes, done in this stage.
    pub done: u64,
    /// Weights, or bytes, of this stage.
    pub total: u64,
}

/// A stage of a quantization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The source's weights are read and hashed, to see whether a calibration pack was made for them.
    SourceHash,
    /// The scales of columns are chosen by some of the weights.
    Channels,
    /// Weights are read, cut and written.
    Weights,
    /// The files' bytes are hashed.
    Hashes,
}

/// A quantization that is done.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct QuantizeReport {
    /// The model folder.
    pub dir: PathBuf,
    /// G
    pub group_size: u32,
    /// Weights cut, embedding and head included.
    pub params: u64,
    /// Bytes of the folder's files, the manifest left out.
    pub bytes: u64,
    /// Time taken, in seconds.
    pub seconds: f64,
}

/// Makes the model folder of a checkpoint. `on_progress` is called for every few million weights and may break off,
/// which is [`Error::Stopped`]; then, as after any error, nothing is left behind, and a model that was to be replaced
/// is as it was. What is wrong with the place, and a text side that no run would take, are found before the weights are
/// read; a calibration pack that was made for other weights is refused before anything of them is written.
///
/// Ranges that no pack gives are chosen by the weights alone; see [`quantize_by`].
pub fn quantize(
    source: &mut dyn Source,
    options: &QuantizeOptions,
    on_progress: &mut dyn FnMut(&QuantizeProgress<'_>) -> ControlFlow<()>,
) -> Result<QuantizeReport> {
    quantize_by(source, options, None, on_progress)
}

/// Measures how much the inputs of a source's matrices count.
pub type MeasureImportance<'a> = dyn FnMut(&mut dyn Source) -> Result<Importance> + 'a;

/// As [`quantize`], but what no pack gives is chosen also by how much the inputs count, which `measure` finds once all
/// that could be refused without it was not: the ranges of groups of 32, and for any groups the scales of columns, by
/// which the weights before them are divided. A pack gives these scales too, where it has any. Fails as `measure` does,
/// and panics where it finds the importance for a model of another shape.
///
/// Where the importance has moments, codes compensate for each other's errors, with a pack too.
pub fn quantize_by(
    source: &mut dyn Source,
    options: &QuantizeOptions,
    measure: Option<&mut MeasureImportance<'_>>,
    on_progress: &mut dyn FnMut(&QuantizeProgress<'_>) -> ControlFlow<()>,
) -> Result<QuantizeReport> {
    let begin = Instant::now();
    let (shape, spec, model_source) = (source.shape().clone(), source.spec().clone(), source.model_source().clone());
    let cut = Cut::choose(source, options)?;
    let pack_scales = cut.pack.as_ref().map(|pack| ChannelScales::of_pack(pack, &spec)).transpose()?;
    // Before all that takes long, so that nothing about the place can make the work be for nothing.
    check_space(&follow_links(&options.out)?, estimate_of(&shape, &spec, &cut).disk_bytes, "the model takes")?;
    let routing = cut.pack.as_ref().map(|pack| pack.info().thresholds.clone());
    let mut writer = FolderWriter::create(&options.out, &shape, &spec, cut.quantization(), routing, options.replace)?;
    // What a run would refuse is refused before the weights are read.
    let (text, _) = checked_text(source)?;
    write_text(&mut writer, &text)?;
    cut.check_weights(source, on_progress)?;
    let importance = measure.map(|measure| measure(source)).transpose()?;
    let form = RangeForm::of_group(cut.group);
    let basis = match pack_scales {
        Some(scales) => CutBasis::with_scales(scales, importance),
        None => CutBasis::choose(source, importance, form, on_progress)?,
    };
    let mut source = basis.scaled(source);
    let params = shape.linear_params() + shape.embedding_params();
    let importance = basis.importance();
    let mut cutter = Cutter { source: &mut source, writer, cut: &cut, importance, params, done: 0, on_progress };
    cutter.matrices(&shape, &spec)?;
    cutter.vectors(&shape, &spec)?;
    cutter.routers(&shape)?;
    let Cutter { writer, on_progress, .. } = cutter;
    let manifest = writer.finish(model_source, &mut |done, total| {
        on_progress(&QuantizeProgress { stage: Stage::Hashes, name: "hashes", done, total })
    })?;
    Ok(report(options, &manifest, params, begin))
}

fn write_text(writer: &mut FolderWriter, text: &TextAssets) -> Result<()> {
    writer.add_text(TOKENIZER_FILE, &text.tokenizer)?;
    writer.add_text(GENERATION_FILE, &text.generation_config)?;
    if let Some(template) = &text.chat_template {
        writer.add_text(CHAT_TEMPLATE_FILE, template)?;
    }
    match text.named_templates_file() {
        Some(templates) => writer.add_text(CHAT_TEMPLATES_FILE, &templates),
        None => Ok(()),
    }
}

fn report(options: &QuantizeOptions, manifest: &Manifest, params: u64, begin: Instant) -> QuantizeReport {
    QuantizeReport {
        dir: options.out.clone(),
        group_size: manifest.quantization.group_size,
        params,
        bytes: manifest.files.values().map(|file| file.bytes).sum(),
        seconds: begin.elapsed().as_secs_f64(),
    }
}

/// The sliced matrices of a shape, each with the tensors whose rows are stacked in it.
fn stacks(shape: &LlamaShape) -> Vec<(SlicedSpec, Vec<SourceTensor>)> {
    let sites = (0..shape.layers)
        .flat_map(|l| Site::ALL.map(|site| (layout::site(shape, l, site), SourceTensor::of_site(l, site))));
    let head = layout::head(shape).map(|head| (head, vec![SourceTensor::Head]));
    [(layout::embed(shape), vec![SourceTensor::Embed])].into_iter().chain(sites).chain(head).collect()
}

/// A quantization in the middle of its weights.
struct Cutter<'a> {
    source: &'a mut dyn Source,
    writer: FolderWriter,
    cut: &'a Cut,
    /// How much the inputs count, where that is known.
    importance: Option<&'a Importance>,
    /// Weights in all.
    params: u64,
    /// Weights cut.
    done: u64,
    on_progress: &'a mut dyn FnMut(&QuantizeProgress<'_>) -> ControlFlow<()>,
}

impl Cutter<'_> {
    fn matrices(&mut self, shape: &LlamaShape, spec: &ModelSpec) -> Result<()> {
        let mut weights = Vec::new();
        let mut sliced = SlicedRows::default();
        for (matrix, tensors) in stacks(shape) {
            let ranges = self.cut.pack.as_ref().and_then(|pack| pack.ranges(&matrix));
            let moments = self.importance.and_then(|importance| importance.moments(tensors[0]));
            let metric = moments.map(ErrorMetric::new);
            let mut row = 0;
            for tensor in tensors {
                let (rows, _) = tensor.dims(shape, spec);
                for first in (0..rows).step_by(block_rows(matrix.input) as usize) {
                    let last = rows.min(first + block_rows(matrix.input));
                    self.source.rows(tensor, first..last, &mut weights)?;
                    let ranges = ranges.map(|ranges| ranges.rows(matrix.rows, row, last - first));
                    self.cut(tensor, first, &weights, matrix.input, ranges, &mut sliced)?;
                    self.check_given(&matrix, row, &weights, ranges)?;
                    if let Some(metric) = &metric {
                        sliced.compensate(&weights, metric, RangeForm::of_group(self.cut.group), ranges.is_some());
                    }
                    self.write(&matrix, row, &sliced)?;
                    row += last - first;
                    self.done += weights.len() as u64;
                    self.tell(&matrix.name)?;
                }
            }
        }
        Ok(())
    }

    fn vectors(&mut self, shape: &LlamaShape, spec: &ModelSpec) -> Result<()> {
        for layer in 0..shape.layers {
            for vector in LayerVector::of(spec.layer(layer)) {
                let name = layout::layer_vector(shape, spec, layer, vector).name;
                self.vector(&name, &SourceTensor::of_vector(layer, vector))?;
            }
        }
        self.vector(layout::FINAL_NORM, &[SourceTensor::FinalNorm])
    }

    /// Writes the vector `name`, which is these tensors one after the other.
    fn vector(&mut self, name: &str, tensors: &[SourceTensor]) -> Result<()> {
        let (mut all, mut weights) = (Vec::new(), Vec::new());
        for tensor in tensors {
            self.source.rows(*tensor, 0..1, &mut weights)?;
            if let Some(weight) = weights.iter().find(|weight| !weight.is_finite()) {
                return Err(self.unfit(*tensor, "finite weights", weight.to_string()));
            }
            all.extend_from_slice(&weights);
        }
        self.writer.write(0, name, 0, bytemuck::cast_slice(&all))
    }

    fn routers(&mut self, shape: &LlamaShape) -> Result<()> {
        let Some(pack) = &self.cut.pack else { return Ok(()) };
        layout::routers(shape).iter().try_for_each(|spec| self.writer.write(0, &spec.name, 0, pack.tensor(spec)))
    }

    fn cut(
        &self,
        tensor: SourceTensor,
        first_row: u32,
        weights: &[f32],
        input: u32,
        ranges: Option<GivenRanges<'_>>,
        sliced: &mut SlicedRows,
    ) -> Result<()> {
        let form = RangeForm::of_group(self.cut.group);
        let cut = match ranges {
            Some(ranges) => sliced.cut_in(weights, input as usize, ranges),
            None => {
                let counts = self.importance.and_then(|importance| importance.of(tensor));
                sliced.cut(weights, input as usize, form, counts)
            }
        };
        cut.map_err(|fault| {
            let got = format!("{} in row {}", fault.weight, first_row as usize + fault.row);
            let expected = match form {
                RangeForm::Pairs { .. } => "finite weights, groups of them no wider than f16's range",
                RangeForm::Words => ranges::EXPECTED,
            };
            self.unfit(tensor, expected, got)
        })
    }

    /// Fails where the ranges that a pack gives for rows of a matrix, from `row` on, cannot be of these weights.
    fn check_given(
        &self,
        matrix: &SlicedSpec,
        row: u32,
        weights: &[f32],
        ranges: Option<GivenRanges<'_>>,
    ) -> Result<()> {
        let (Some(pack), Some(ranges)) = (&self.cut.pack, ranges) else { return Ok(()) };
        let Some(stray) = given::first_stray(weights, matrix.input as usize, ranges) else { return Ok(()) };
        let name = matrix.ranges(RangeForm::of_group(self.cut.group), stray.slice).map(|tensor| tensor.name);
        let told = |range: Range| format!("steps of {} from {}", range.step, range.lo);
        let (row, group) = (row as usize + stray.row, stray.group);
        let expected = format!("a range near that of the weights, {}", told(stray.own));
        let got = format!("{} in row {row}, group {group}", told(stray.given));
        Err(Error::damaged(pack.path(), name.unwrap_or_default(), expected, got))
    }

    fn write(&mut self, spec: &SlicedSpec, row: u32, sliced: &SlicedRows) -> Result<()> {
        let form = RangeForm::of_group(self.cut.group);
        for slice in 0..SLICES {
            self.write_rows(slice, spec, &spec.slice(slice), row, bytemuck::cast_slice(&sliced.slices[slice]))?;
            let Some(tensor) = spec.ranges(form, slice) else { continue };
            let ranges = match form {
                RangeForm::Pairs { .. } => bytemuck::cast_slice(&sliced.pairs),
                RangeForm::Words => bytemuck::cast_slice(&sliced.words[slice]),
            };
            self.write_rows(slice, spec, &tensor, row, ranges)?;
        }
        Ok(())
    }

    /// Writes rows of a matrix's tensor, from `row` on.
    fn write_rows(
        &mut self,
        slice: usize,
        spec: &SlicedSpec,
        tensor: &TensorSpec,
        row: u32,
        bytes: &[u8],
    ) -> Result<()> {
        let row_bytes = tensor.bytes() / u64::from(spec.rows);
        self.writer.write(slice, &tensor.name, u64::from(row) * row_bytes, bytes)
    }

    fn tell(&mut self, name: &str) -> Result<()> {
        let progress = QuantizeProgress { stage: Stage::Weights, name, done: self.done, total: self.params };
        if (self.on_progress)(&progress).is_break() { Err(Error::Stopped("quantize")) } else { Ok(()) }
    }

    fn unfit(&self, tensor: SourceTensor, expected: &str, got: String) -> Error {
        let (file, name) = self.source.locate(tensor);
        Error::damaged(file, name, expected, got)
    }
}

// The files are little-endian, and slices are written as they lie in memory.
#[cfg(target_endian = "big")]
compile_error!("model folders are little-endian; this target is not");

const _: () = assert!(SLICES == 4, "rows are cut into four slices at once");
