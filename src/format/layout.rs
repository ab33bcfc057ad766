//! Which tensor lies in which file, under which name, dtype and shape: the one list that writer and reader share.

use safetensors::Dtype;

use super::codes::{GivenRanges, RangeForm, WORD_GROUP};
use crate::arch::{LayerVector, ModelSpec};
use crate::precision::SLICES;
use crate::routing::{HIDDEN, REST};
use crate::shape::{LlamaShape, Site};

/// File of slice `slice`; the base's also holds vectors and routers.
pub fn slice_file(slice: usize) -> String {
    if slice == 0 { "base.safetensors".to_string() } else { format!("slice-{slice}.safetensors") }
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Slowest dimension first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Bytes of the tensor's data.
    pub fn bytes(&self) -> u64 {
        self.shape.iter().product::<usize>() as u64 * self.dtype.bitsize() as u64 / 8
    }
}

/// One weight matrix that is stored in slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlicedSpec {
    /// Stem of its tensors' names.
    pub name: String,
    /// Output dimension.
    pub rows: u32,
    /// Input dimension.
    pub input: u32,
}

impl SlicedSpec {
    /// The tensor of slice `slice`.
    pub fn slice(&self, slice: usize) -> TensorSpec {
        let words = self.input as usize / super::codes::WEIGHTS_PER_WORD;
        TensorSpec {
            name: format!("{}.slice{slice}", self.name),
            dtype: Dtype::U32,
            shape: vec![self.rows as usize, words],
        }
    }

    /// The tensor of the ranges that lie with a slice; pairs lie with the base.
    pub fn ranges(&self, form: RangeForm, slice: usize) -> Option<TensorSpec> {
        let (rows, groups) = (self.rows as usize, (self.input / form.group()) as usize);
        match form {
            RangeForm::Pairs { .. } => (slice == 0).then(|| TensorSpec {
                name: format!("{}.scales", self.name),
                dtype: Dtype::F16,
                shape: vec![rows, groups, 2],
            }),
            RangeForm::Words => Some(TensorSpec {
                name: format!("{}.ranges{slice}", self.name),
                dtype: Dtype::U16,
                shape: vec![rows, groups],
            }),
        }
    }

    /// The scales of its columns in a calibration pack, `[input]`.
    pub fn columns(&self) -> TensorSpec {
        TensorSpec { name: format!("{}.columns", self.name), dtype: Dtype::F32, shape: vec![self.input as usize] }
    }

    /// The tensors that lie in the file of a slice.
    pub fn tensors(&self, form: RangeForm, slice: usize) -> impl Iterator<Item = TensorSpec> {
        [self.slice(slice)].into_iter().chain(self.ranges(form, slice))
    }
}

/// The embedding, [V, D].
pub fn embed(shape: &LlamaShape) -> SlicedSpec {
    SlicedSpec { name: "embed".into(), rows: shape.vocab, input: shape.model_dim }
}

/// The head, [V, D], of a model whose head is not its embedding.
pub fn head(shape: &LlamaShape) -> Option<SlicedSpec> {
    (!shape.tied_head).then(|| SlicedSpec { name: "head".into(), ..embed(shape) })
}

/// The stacked weight of a site.
pub fn site(shape: &LlamaShape, layer: u32, site: Site) -> SlicedSpec {
    let (rows, input) = site.dims(shape);
    SlicedSpec { name: format!("layers.{layer}.{}", site.name()), rows, input }
}

/// Every sliced matrix, in the order of the files.
pub fn sliced(shape: &LlamaShape) -> Vec<SlicedSpec> {
    let layers = sites(shape).map(|(layer, s)| site(shape, layer, s));
    [embed(shape)].into_iter().chain(layers).chain(head(shape)).collect()
}

/// Name of the RMSNorm weight before the head.
pub const FINAL_NORM: &str = "final_norm";

/// The RMSNorm weight before the head, `[D]` f32.
pub fn final_norm(shape: &LlamaShape) -> TensorSpec {
    vector(FINAL_NORM.into(), shape.model_dim)
}

/// A vector of a layer, f32.
pub fn layer_vector(shape: &LlamaShape, spec: &ModelSpec, layer: u32, which: LayerVector) -> TensorSpec {
    vector(format!("layers.{layer}.{}", which.name()), which.length(shape, spec.layer(layer)))
}

/// Every vector: those of the layers, and the norm before the head.
pub fn vectors(shape: &LlamaShape, spec: &ModelSpec) -> Vec<TensorSpec> {
    let layers = (0..shape.layers)
        .flat_map(|l| LayerVector::of(spec.layer(l)).map(move |which| layer_vector(shape, spec, l, which)));
    layers.chain([final_norm(shape)]).collect()
}

fn vector(name: String, length: u32) -> TensorSpec {
    TensorSpec { name, dtype: Dtype::F32, shape: vec![length as usize] }
}

/// The routers of all sites, first to last: w1, [4 L, HIDDEN, D], and [the rest](REST), [4 L, REST].
pub fn routers(shape: &LlamaShape) -> [TensorSpec; 2] {
    let sites = sites(shape).count();
    [
        TensorSpec {
            name: "routers.w1".into(),
            dtype: Dtype::F16,
            shape: vec![sites, HIDDEN as usize, shape.model_dim as usize],
        },
        TensorSpec { name: "routers.rest".into(), dtype: Dtype::F32, shape: vec![sites, REST as usize] },
    ]
}

/// The matrices whose columns a calibration pack can have scales for: those behind something that takes the inverse.
pub fn scalable(shape: &LlamaShape) -> impl Iterator<Item = SlicedSpec> {
    let sites = sites(shape).filter(|(_, s)| *s != Site::O).map(|(layer, s)| site(shape, layer, s));
    sites.chain(head(shape))
}

/// The tensors of a calibration pack, in file order: the ranges of every site that are [given](GivenRanges), then the
/// routers, then the scales of columns where it has any.
pub fn pack_tensors(shape: &LlamaShape, group: u32, scaled: bool) -> Vec<TensorSpec> {
    let form = RangeForm::of_group(group);
    let ranges = sites(shape).flat_map(|(layer, s)| {
        let matrix = site(shape, layer, s);
        GivenRanges::SLICES.into_iter().filter_map(move |slice| matrix.ranges(form, slice))
    });
    let columns = scaled.then(|| scalable(shape).map(|matrix| matrix.columns())).into_iter().flatten();
    ranges.chain(routers(shape)).chain(columns).collect()
}

/// Every site of every layer, first to last.
pub fn sites(shape: &LlamaShape) -> impl Iterator<Item = (u32, Site)> {
    (0..shape.layers).flat_map(|layer| Site::ALL.map(|site| (layer, site)))
}

/// The tensors of the file of `slice`, in file order; `routed` models have routers.
pub fn file_tensors(shape: &LlamaShape, spec: &ModelSpec, group: u32, routed: bool, slice: usize) -> Vec<TensorSpec> {
    let form = RangeForm::of_group(group);
    let sliced = sliced(shape);
    let matrices = sliced.iter().flat_map(|matrix| matrix.tensors(form, slice));
    if slice > 0 {
        return matrices.collect();
    }
    let routers = routed.then(|| routers(shape)).into_iter().flatten();
    matrices.chain(vectors(shape, spec)).chain(routers).collect()
}

/// Bytes of tensor data in all files.
pub fn total_bytes(shape: &LlamaShape, spec: &ModelSpec, group: u32, routed: bool) -> u64 {
    (0..SLICES).flat_map(|slice| file_tensors(shape, spec, group, routed, slice)).map(|t| t.bytes()).sum()
}

/// What a group size must be for this shape, if `group` is not that: (expected, got).
pub fn group_fault(shape: &LlamaShape, group: u32) -> Option<(String, String)> {
    if group != WORD_GROUP && (group == 0 || !group.is_multiple_of(CHUNK)) {
        return Some((format!("{WORD_GROUP}, or a multiple of {CHUNK}"), group.to_string()));
    }
    let chunk = group.max(CHUNK);
    let misfit = sliced(shape).into_iter().find(|s| !s.input.is_multiple_of(chunk))?;
    let expected = format!("a divisor of every input dimension, of {} ({}) too", misfit.input, misfit.name);
    Some((expected, chunk.to_string()))
}

/// Weights that products take at once, of which every row has a whole number.
const CHUNK: u32 = 64;
/// The group size where none is asked for: that of ranges in words.
pub const DEFAULT_GROUP: u32 = WORD_GROUP;
