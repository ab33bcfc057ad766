//! Scales of channels: a column of a matrix is multiplied by one, and the input that it meets is divided by it.
//!
//! The weights of a group share their bins. Where inputs are of different sizes, a column that meets a large one should
//! be cut more finely than its neighbours, and it is if it is made larger before it is cut. The division costs nothing
//! when the model runs, as the weights before the matrix take it:
//!
//! | matrix | what takes the division |
//! |---|---|
//! | queries, keys and values | the norm before attention |
//! | gate and up | the norm before the feed-forward |
//! | down | the rows of `up` |
//! | the head, where it is not the embedding | the final norm |
//!
//! Where there is no such norm, and before the output product of attention, columns stay as they are.

use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

use super::estimate::block_rows;
use super::importance::Importance;
use super::slices::SlicedRows;
use super::source::{Source, SourceTensor, TextAssets};
use super::{QuantizeProgress, Stage};
use crate::arch::{LayerVector, ModelSpec};
use crate::error::{Error, Result};
use crate::format::codes::RangeForm;
use crate::format::{ModelSource, Pack, layout};
use crate::shape::{LlamaShape, Site};

/// A scale is the root mean square of its input to one of these powers. The first one leaves columns as they are.
const EXPONENTS: [f32; 6] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5];
/// The number of slices whose error decides between them: four bits.
const SLICES_COMPARED: usize = 2;
/// Columns stay as they are where any weight would become larger than this: a quarter of the widest range that words
/// have, so that no model is refused for its scales.
const LARGEST: f32 = 31.0;
/// Rows of each tensor by which the error is estimated, in blocks of neighbours.
const SAMPLE_ROWS: u32 = 64;
const SAMPLE_BLOCKS: u32 = 4;

/// The scales of a model's columns.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelScales {
    /// By layer, then by [`Site`], `[input]`; `None` where columns stay as they are.
    sites: Vec<[Option<Vec<f32>>; Site::ALL.len()]>,
    /// Of the head, `[D]`.
    head: Option<Vec<f32>>,
}

/// What rows of a tensor are multiplied and divided by.
#[derive(Default)]
struct TensorScales<'a> {
    /// What each number of a row is multiplied by.
    columns: Option<&'a [f32]>,
    /// What each number of a row is divided by, which is a norm's weight.
    divided_columns: Option<&'a [f32]>,
    /// What each row is divided by.
    divided_rows: Option<&'a [f32]>,
}

impl TensorScales<'_> {
    /// Whether they change anything.
    fn changes(&self) -> bool {
        self.columns.is_some() || self.divided_columns.is_some() || self.divided_rows.is_some()
    }
}

impl ChannelScales {
    /// Those that leave all columns as they are.
    pub fn none(shape: &LlamaShape) -> ChannelScales {
        ChannelScales { sites: vec![[const { None }; Site::ALL.len()]; shape.layers as usize], head: None }
    }

    /// The scales of least error at four bits, where inputs count so much. It is estimated by some rows of each matrix,
    /// which are read and cut as they would be. `on_progress` may break off, which is [`Error::Stopped`].
    pub fn choose(
        source: &mut dyn Source,
        importance: &Importance,
        form: RangeForm,
        on_progress: &mut dyn FnMut(&QuantizeProgress<'_>) -> ControlFlow<()>,
    ) -> Result<ChannelScales> {
        let (shape, spec) = (source.shape().clone(), source.spec().clone());
        let (shape, spec) = (&shape, &spec);
        let mut choice = ScaleChoice { source, shape, spec, importance, form, sliced: SlicedRows::default() };
        let total = u64::from(shape.layers) * Site::ALL.len() as u64 + 1;
        let mut done = 0;
        let mut tell = |name: &str| {
            done += 1;
            let progress = QuantizeProgress { stage: Stage::Channels, name, done, total };
            if on_progress(&progress).is_break() { Err(Error::Stopped("quantize")) } else { Ok(()) }
        };
        let mut scales = ChannelScales::none(shape);
        for layer in 0..shape.layers {
            for site in Site::ALL {
                if takes_scales(spec, layer, site) {
                    let tensors = SourceTensor::of_site(layer, site);
                    let chosen = choice.of(&tensors)?;
                    // The rows that are divided too.
                    let divided = (site == Site::Down && chosen.is_some()).then_some(SourceTensor::Up(layer));
                    scales.sites[layer as usize][site as usize] = chosen;
                    if !choice.fit(&scales, tensors.into_iter().chain(divided))? {
                        scales.sites[layer as usize][site as usize] = None;
                    }
                }
                tell(&layout::site(shape, layer, site).name)?;
            }
        }
        if !shape.tied_head {
            scales.head = choice.of(&[SourceTensor::Head])?;
            if !choice.fit(&scales, [SourceTensor::Head])? {
                scales.head = None;
            }
        }
        tell(layout::FINAL_NORM)?;
        Ok(scales)
    }

    /// Those of a pack, for a model of its shape; none where it has none. Fails where it scales columns before which
    /// nothing takes the inverse.
    pub fn of_pack(pack: &Pack, spec: &ModelSpec) -> Result<ChannelScales> {
        let shape = &pack.info().shape;
        // Columns that stay as they are have scales of 1 there.
        let scales = |columns: Option<&[f32]>| columns.filter(|s| s.iter().any(|x| *x != 1.0)).map(<[f32]>::to_vec);
        let mut all = ChannelScales::none(shape);
        for (layer, site) in layout::sites(shape) {
            let matrix = layout::site(shape, layer, site);
            let found = scales(pack.columns(&matrix));
            if found.is_some() && !takes_scales(spec, layer, site) {
                let name = matrix.columns().name;
                return Err(Error::damaged(pack.path(), name, "1 for all, as no norm is before it", "other scales"));
            }
            all.sites[layer as usize][site as usize] = found;
        }
        all.head = layout::head(shape).and_then(|head| scales(pack.columns(&head)));
        Ok(all)
    }

    /// The scales of this tensor's columns, `[input]`; `None` where they stay as they are.
    pub fn of(&self, tensor: SourceTensor) -> Option<&[f32]> {
        self.of_tensor(tensor).columns
    }

    fn of_tensor(&self, tensor: SourceTensor) -> TensorScales<'_> {
        use SourceTensor::*;
        let of_site = |layer: u32, site: Site| self.sites[layer as usize][site as usize].as_deref();
        let columns = |columns| TensorScales { columns, ..TensorScales::default() };
        let norm = |divided_columns| TensorScales { divided_columns, ..TensorScales::default() };
        match tensor {
            Query(layer) | Key(layer) | Value(layer) => columns(of_site(layer, Site::Qkv)),
            Gate(layer) => columns(of_site(layer, Site::GateUp)),
            Up(layer) => {
                TensorScales { divided_rows: of_site(layer, Site::Down), ..columns(of_site(layer, Site::GateUp)) }
            }
            Down(layer) => columns(of_site(layer, Site::Down)),
            Head => columns(self.head.as_deref()),
            Vector(layer, LayerVector::InputNorm) => norm(of_site(layer, Site::Qkv)),
            Vector(layer, LayerVector::FfnNorm) => norm(of_site(layer, Site::GateUp)),
            FinalNorm => norm(self.head.as_deref()),
            Embed | Output(_) | QueryBias(_) | KeyBias(_) | ValueBias(_) | Vector(..) => TensorScales::default(),
        }
    }
}

/// What the choice of scales reads, and what it keeps from matrix to matrix.
struct ScaleChoice<'a> {
    source: &'a mut dyn Source,
    shape: &'a LlamaShape,
    spec: &'a ModelSpec,
    importance: &'a Importance,
    form: RangeForm,
    sliced: SlicedRows,
}

impl ScaleChoice<'_> {
    /// The scales of the columns of these tensors, which have the same input.
    fn of(&mut self, tensors: &[SourceTensor]) -> Result<Option<Vec<f32>>> {
        let Some(counts) = self.importance.of(tensors[0]) else { return Ok(None) };
        let input = counts.len();
        let mut weights = Vec::new();
        for tensor in tensors {
            let mut block = Vec::new();
            for rows in sampled(tensor.dims(self.shape, self.spec).0) {
                self.source.rows(*tensor, rows, &mut block)?;
                weights.extend_from_slice(&block);
            }
        }
        let mut best: Option<(f64, Vec<f32>)> = None;
        for exponent in EXPONENTS {
            let scales = powers(counts, exponent);
            let error = self.error(&weights, input, counts, &scales);
            if best.as_ref().is_none_or(|(least, _)| error < *least) {
                best = Some((error, scales));
            }
        }
        Ok(best.map(|(_, scales)| scales).filter(|scales| scales.iter().any(|scale| *scale != 1.0)))
    }

    /// Whether no weight of these tensors becomes too large by the scales. What is no number counts as nothing, and is
    /// refused where it is cut.
    fn fit(&mut self, scales: &ChannelScales, tensors: impl IntoIterator<Item = SourceTensor>) -> Result<bool> {
        let mut source = ScaledSource::new(self.source, scales);
        let mut block = Vec::new();
        for tensor in tensors.into_iter().filter(|tensor| scales.of_tensor(*tensor).changes()) {
            let (rows, input) = tensor.dims(self.shape, self.spec);
            for first in (0..rows).step_by(block_rows(input) as usize) {
                source.rows(tensor, first..rows.min(first + block_rows(input)), &mut block)?;
                if block.iter().any(|weight| weight.abs() > LARGEST) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// The squared error of products with these rows, [rows, input], where their columns have such scales; infinite
    /// where they cannot be cut so.
    fn error(&mut self, weights: &[f32], input: usize, counts: &[f32], scales: &[f32]) -> f64 {
        let scaled: Vec<f32> =
            weights.iter().zip(scales.iter().cycle()).map(|(weight, scale)| weight * scale).collect();
        let counts: Vec<f32> = counts.iter().zip(scales).map(|(count, scale)| count / (scale * scale)).collect();
        match self.sliced.cut(&scaled, input, self.form, Some(&counts)) {
            Ok(()) => self.sliced.squared_error(&scaled, input, self.form, &counts, SLICES_COMPARED),
            Err(_) => f64::INFINITY,
        }
    }
}

/// Whether there is something before a site's product that takes the inverse of scales.
fn takes_scales(spec: &ModelSpec, layer: u32, site: Site) -> bool {
    let norms = spec.layer(layer).norms;
    match site {
        Site::Qkv => norms.before_attention,
        Site::O => false,
        Site::GateUp => norms.before_feed_forward,
        Site::Down => true,
    }
}

/// Blocks of rows, of so many.
fn sampled(rows: u32) -> Vec<Range<u32>> {
    if rows <= SAMPLE_ROWS {
        return std::iter::once(0..rows).collect();
    }
    let starts = (0..SAMPLE_BLOCKS).map(|block| (u64::from(rows) * u64::from(block) / u64::from(SAMPLE_BLOCKS)) as u32);
    starts.map(|start| start..start + SAMPLE_ROWS / SAMPLE_BLOCKS).collect()
}

/// The root mean squares to a power, with a geometric mean of 1.
fn powers(counts: &[f32], exponent: f32) -> Vec<f32> {
    let mean = counts.iter().map(|count| f64::from(*count).ln()).sum::<f64>() / counts.len() as f64;
    let power = |count: &f32| (f64::from(exponent) / 2.0 * (f64::from(*count).ln() - mean)).exp() as f32;
    counts.iter().map(power).collect()
}

/// A source whose columns have scales, and whose inputs are divided by them: it computes the same.
pub struct ScaledSource<'a> {
    source: &'a mut dyn Source,
    scales: &'a ChannelScales,
}

impl<'a> ScaledSource<'a> {
    /// The source with these scales, which were chosen for a model of its shape.
    pub fn new(source: &'a mut dyn Source, scales: &'a ChannelScales) -> ScaledSource<'a> {
        ScaledSource { source, scales }
    }
}

impl Source for ScaledSource<'_> {
    fn shape(&self) -> &LlamaShape {
        self.source.shape()
    }

    fn spec(&self) -> &ModelSpec {
        self.source.spec()
    }

    fn model_source(&self) -> &ModelSource {
        self.source.model_source()
    }

    fn warnings(&self) -> &[String] {
        self.source.warnings()
    }

    fn text(&self) -> Result<TextAssets> {
        self.source.text()
    }

    fn rows(&mut self, tensor: SourceTensor, rows: Range<u32>, out: &mut Vec<f32>) -> Result<()> {
        let first = rows.start as usize;
        self.source.rows(tensor, rows, out)?;
        let TensorScales { columns, divided_columns, divided_rows } = self.scales.of_tensor(tensor);
        if let Some(scales) = columns {
            out.iter_mut().zip(scales.iter().cycle()).for_each(|(weight, scale)| *weight *= scale);
        }
        if let Some(scales) = divided_columns {
            out.iter_mut().zip(scales).for_each(|(weight, scale)| *weight /= scale);
        }
        if let Some(scales) = divided_rows {
            let (_, input) = tensor.dims(self.source.shape(), self.source.spec());
            let rows = out.chunks_exact_mut(input as usize).zip(&scales[first..]);
            rows.for_each(|(row, scale)| row.iter_mut().for_each(|weight| *weight /= scale));
        }
        Ok(())
    }

    fn locate(&self, tensor: SourceTensor) -> (PathBuf, String) {
        self.source.locate(tensor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_of_all_parts_and_within_the_rows() {
        assert_eq!((sampled(64), sampled(3)), (vec![Range { start: 0, end: 64 }], vec![Range { start: 0, end: 3 }]));
        assert_eq!(sampled(100), [0..16, 25..41, 50..66, 75..91]);
        assert!(sampled(u32::MAX).iter().all(|rows| rows.len() == 16));
    }

    #[test]
    fn powers_have_a_geometric_mean_of_one_and_the_first_changes_nothing() {
        let counts = [4.0, 1.0, 0.25, 0.01];
        assert_eq!(powers(&counts, EXPONENTS[0]), [1.0; 4]);
        let powers = powers(&counts, 0.5);
        assert!((powers.iter().product::<f32>() - 1.0).abs() < 1e-5, "{powers:?}");
        assert!((powers[0] / powers[2] - 2.0).abs() < 1e-5, "{powers:?}");
    }
}
