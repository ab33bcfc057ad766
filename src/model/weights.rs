//! A model's weights on an engine.

use crate::arch::{LayerVector, ModelSpec};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::ModelFolder;
use crate::format::codes::RangeForm;
use crate::format::layout::{self, SlicedSpec, TensorSpec};
use crate::kernels::cache::finish_qkv::HeadVectors;
use crate::kernels::router::Routers;
use crate::kernels::sliced::SlicedWeight;
use crate::precision::SLICES;
use crate::recording::{Buffer, Span};
use crate::routing::Thresholds;
use crate::shape::{LlamaShape, Site};

/// What tells a model from all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelIdentity {
    /// Its name, for people.
    pub name: String,
    /// SHA-256 of its folder's manifest, which has the hashes of all other files, in hexadecimal.
    pub sha256: String,
}

/// Where a model's weights come from: a folder, or whatever else has tensors of its layout.
pub trait WeightSource {
    /// Dimensions and constants.
    fn shape(&self) -> &LlamaShape;

    /// Where the model differs from LLaMA.
    fn spec(&self) -> ModelSpec {
        ModelSpec::default()
    }

    /// G
    fn group_size(&self) -> u32;

    /// The routers' table, where there are routers.
    fn thresholds(&self) -> Option<&Thresholds>;

    /// What tells these weights, and the text side with them, from all others. None where nobody needs to know them
    /// again.
    fn identity(&self) -> Option<ModelIdentity> {
        None
    }

    /// The tensor that `spec` tells of, from the file of `slice`, in a new buffer of the engine.
    fn load(&self, engine: &mut dyn Engine, slice: usize, spec: &TensorSpec) -> Result<Buffer>;

    /// Writes the vector that `spec` tells of to a range of the engine.
    fn write_vector(&self, engine: &mut dyn Engine, spec: &TensorSpec, to: Span) -> Result<()>;
}

impl WeightSource for ModelFolder {
    fn shape(&self) -> &LlamaShape {
        self.shape()
    }

    fn spec(&self) -> ModelSpec {
        self.manifest().spec.clone()
    }

    fn group_size(&self) -> u32 {
        self.group_size()
    }

    fn thresholds(&self) -> Option<&Thresholds> {
        self.thresholds()
    }

    fn identity(&self) -> Option<ModelIdentity> {
        let (name, sha256) = (self.manifest().source.name.clone(), self.manifest_sha256().to_string());
        Some(ModelIdentity { name, sha256 })
    }

    fn load(&self, engine: &mut dyn Engine, slice: usize, spec: &TensorSpec) -> Result<Buffer> {
        engine.load(&spec.name, &self.tensor(slice, &spec.name)?)
    }

    fn write_vector(&self, engine: &mut dyn Engine, spec: &TensorSpec, to: Span) -> Result<()> {
        engine.upload(to, self.tensor(0, &spec.name)?.bytes())
    }
}

/// Every weight of a model.
pub struct Weights {
    /// [V, D]
    pub embed: SlicedWeight,
    /// [V, D]; the embedding where the head is tied.
    pub head: SlicedWeight,
    /// `[D]`
    pub final_norm: Buffer,
    /// The weight of [`NormAt::Routers`](crate::arch::NormAt::Routers), `[D]` of ones, where there are such norms and
    /// routers.
    pub ones: Option<Buffer>,
    /// First to last.
    pub layers: Vec<LayerWeights>,
    /// Of a model that has them.
    pub routers: Option<Routers>,
}

/// The weights of one layer.
pub struct LayerWeights {
    /// By [`LayerVector`], the weights of norms of the residual stream and of what is added to it, where the layer has
    /// them.
    norms: [Option<Buffer>; LayerVector::ALL.len()],
    /// The other vectors, where the layer has any.
    pub head_vectors: Option<HeadVectors>,
    sites: [SlicedWeight; 4],
}

impl LayerWeights {
    /// The stacked weight of a site.
    pub fn site(&self, site: Site) -> &SlicedWeight {
        &self.sites[site as usize]
    }

    /// The weight of a norm of the layer, `[D]`; panics where its spec has none such.
    pub fn norm(&self, which: LayerVector) -> Buffer {
        self.norms[which as usize].expect("the operations follow from the spec, as the vectors do")
    }
}

impl Weights {
    /// Puts buffers in the place of slice `slice` of each matrix of a part, and of its ranges where they are words, and
    /// returns what was there; without buffers those of the base, which stand for a slice that is not there.
    pub fn exchange(&mut self, part: ModelPart, slice: usize, buffers: Option<&[Buffer]>) -> Vec<Buffer> {
        let mut buffers = buffers.map(|buffers| buffers.iter().copied());
        let mut exchange = |weight: &mut SlicedWeight| {
            let mut next = |instead: Buffer| buffers.as_mut().map_or(instead, |b| b.next().expect("each has its own"));
            let codes = next(weight.slices[0]);
            let mut old = vec![std::mem::replace(&mut weight.slices[slice], codes)];
            // Pairs serve all depths, and stay.
            if weight.form == RangeForm::Words {
                let ranges = next(weight.ranges[0]);
                old.push(std::mem::replace(&mut weight.ranges[slice], ranges));
            }
            old
        };
        match part {
            ModelPart::Embed { tied } => {
                let old = exchange(&mut self.embed);
                if tied {
                    self.head = self.embed;
                }
                old
            }
            ModelPart::Head => exchange(&mut self.head),
            ModelPart::Layer(layer) => self.layers[layer].sites.iter_mut().flat_map(exchange).collect(),
        }
    }
}

/// Matrices whose slices come and go together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelPart {
    /// The embedding, which is the head too where that is `tied`.
    Embed {
        /// Whether it is.
        tied: bool,
    },
    /// The head.
    Head,
    /// A layer's sites.
    Layer(usize),
}

/// Loads the first `slices` slices of every weight, and routers where there are any; `on_bytes(done, total)` is told
/// after each matrix.
pub fn load(
    source: &dyn WeightSource,
    engine: &mut dyn Engine,
    slices: usize,
    on_bytes: &mut dyn FnMut(u64, u64),
) -> Result<Weights> {
    let shape = source.shape();
    let spec = source.spec();
    let (group, routed) = (source.group_size(), source.thresholds().is_some());
    let files = (0..slices).flat_map(|slice| layout::file_tensors(shape, &spec, group, routed, slice));
    let total = files.map(|tensor| tensor.bytes()).sum();
    let mut done = 0;
    let mut sliced = |engine: &mut dyn Engine, spec: &SlicedSpec| {
        engine.cancel_token().check("loading")?;
        let weight = load_sliced(source, engine, spec, slices)?;
        done +=
            (0..slices).flat_map(|slice| spec.tensors(weight.form, slice)).map(|tensor| tensor.bytes()).sum::<u64>();
        on_bytes(done, total);
        Ok::<_, Error>(weight)
    };

    // Vectors and routers first, so that they lie together, and not each between matrices in pages of memory that
    // nothing else was read from since the token before.
    let mut vectors = Vec::with_capacity(shape.layers as usize);
    for layer in 0..shape.layers {
        vectors.push((load_norms(source, engine, &spec, layer)?, load_head_vectors(source, engine, &spec, layer)?));
    }
    let looks = |layer: u32| !spec.layer(layer).norms.are_before_all();
    let ones = if routed && (0..shape.layers).any(looks) { Some(make_ones(engine, shape.model_dim)?) } else { None };
    let routers = if routed { Some(load_routers(source, engine)?) } else { None };
    let embed = sliced(engine, &layout::embed(shape))?;
    let mut layers = Vec::with_capacity(shape.layers as usize);
    for (layer, (norms, head_vectors)) in (0..).zip(vectors) {
        let [qkv, o, gate_up, down] = Site::ALL.map(|site| layout::site(shape, layer, site));
        let sites = [sliced(engine, &qkv)?, sliced(engine, &o)?, sliced(engine, &gate_up)?, sliced(engine, &down)?];
        layers.push(LayerWeights { norms, head_vectors, sites });
    }
    let head = match layout::head(shape) {
        Some(spec) => sliced(engine, &spec)?,
        None => embed,
    };
    let final_norm = source.load(engine, 0, &layout::final_norm(shape))?;
    Ok(Weights { embed, head, final_norm, ones, layers, routers })
}

/// Whether it is of queries, keys and values, whose vectors lie in one buffer.
fn is_of_heads(which: &LayerVector) -> bool {
    matches!(which, LayerVector::QkvBias | LayerVector::QueryNorm | LayerVector::KeyNorm)
}

/// The weights of a layer's norms of D numbers.
fn load_norms(
    source: &dyn WeightSource,
    engine: &mut dyn Engine,
    spec: &ModelSpec,
    layer: u32,
) -> Result<[Option<Buffer>; LayerVector::ALL.len()]> {
    let mut norms = [None; LayerVector::ALL.len()];
    for which in LayerVector::of(spec.layer(layer)).filter(|which| !is_of_heads(which)) {
        let tensor = layout::layer_vector(source.shape(), spec, layer, which);
        norms[which as usize] = Some(source.load(engine, 0, &tensor)?);
    }
    Ok(norms)
}

/// The vectors of a layer's queries, keys and values.
fn load_head_vectors(
    source: &dyn WeightSource,
    engine: &mut dyn Engine,
    spec: &ModelSpec,
    layer: u32,
) -> Result<Option<HeadVectors>> {
    let tensor = |which: LayerVector| layout::layer_vector(source.shape(), spec, layer, which);
    let vectors: Vec<LayerVector> = LayerVector::of(spec.layer(layer)).filter(is_of_heads).collect();
    if vectors.is_empty() {
        return Ok(None);
    }
    let bytes = vectors.iter().map(|which| tensor(*which).bytes()).sum();
    let buffer = engine.create("vectors of heads", bytes)?;
    let mut first = [0; LayerVector::ALL.len()];
    let mut offset = 0;
    for which in vectors {
        let tensor = tensor(which);
        source.write_vector(engine, &tensor, buffer.span(offset, tensor.bytes()))?;
        first[which as usize] = (offset / 4) as u32;
        offset += tensor.bytes();
    }
    let [query_norm, key_norm] = [LayerVector::QueryNorm, LayerVector::KeyNorm].map(|which| first[which as usize]);
    Ok(Some(HeadVectors { buffer, query_norm, key_norm }))
}

fn make_ones(engine: &mut dyn Engine, count: u32) -> Result<Buffer> {
    let ones = vec![1f32; count as usize];
    let buffer = engine.create("ones", u64::from(count) * 4)?;
    engine.upload(buffer.all(), bytemuck::cast_slice(&ones))?;
    Ok(buffer)
}

fn load_sliced(
    source: &dyn WeightSource,
    engine: &mut dyn Engine,
    spec: &SlicedSpec,
    count: usize,
) -> Result<SlicedWeight> {
    let form = RangeForm::of_group(source.group_size());
    let (mut slices, mut ranges) = (Vec::with_capacity(SLICES), Vec::with_capacity(SLICES));
    for slice in 0..count {
        slices.push(source.load(engine, slice, &spec.slice(slice))?);
        if let Some(tensor) = spec.ranges(form, slice) {
            ranges.push(source.load(engine, slice, &tensor)?);
        }
    }
    slices.resize(SLICES, slices[0]);
    ranges.resize(SLICES, ranges[0]);
    Ok(SlicedWeight {
        slices: slices.try_into().expect("one buffer for each slice"),
        ranges: ranges.try_into().expect("one buffer for each slice"),
        rows: spec.rows,
        input: spec.input,
        form,
    })
}

fn load_routers(source: &dyn WeightSource, engine: &mut dyn Engine) -> Result<Routers> {
    let [w1, rest] = layout::routers(source.shape());
    let (w1, rest) = (source.load(engine, 0, &w1)?, source.load(engine, 0, &rest)?);
    Ok(Routers { w1, rest, dim: source.shape().model_dim })
}
