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
    /// All buffers that were made when it was loaded.
    made: Vec<Buffer>,
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
    /// Ends all that was made when they were loaded: nothing that names them may be recorded or run any more.
    pub fn destroy(&mut self, engine: &mut dyn Engine) {
        self.made.drain(..).for_each(|buffer| engine.destroy(buffer));
    }

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
/// after each matrix. Where that fails, nothing of it stays on the device.
pub fn load(
    source: &dyn WeightSource,
    engine: &mut dyn Engine,
    slices: usize,
    on_bytes: &mut dyn FnMut(u64, u64),
) -> Result<Weights> {
    let mut loader = Loader { source, engine, made: Vec::new() };
    let loaded = load_all(&mut loader, slices, on_bytes);
    let Loader { engine, made, .. } = loader;
    match loaded {
        Ok(weights) => Ok(Weights { made, ..weights }),
        Err(error) => {
            made.into_iter().for_each(|buffer| engine.destroy(buffer));
            Err(error)
        }
    }
}

/// A source and an engine, and the buffers that were made so far.
struct Loader<'a> {
    source: &'a dyn WeightSource,
    engine: &'a mut dyn Engine,
    made: Vec<Buffer>,
}

impl Loader<'_> {
    /// A tensor of the source, in a new buffer.
    fn tensor(&mut self, slice: usize, spec: &TensorSpec) -> Result<Buffer> {
        let buffer = self.source.load(self.engine, slice, spec)?;
        self.made.push(buffer);
        Ok(buffer)
    }

    /// A new buffer of zeros.
    fn create(&mut self, label: &str, bytes: u64) -> Result<Buffer> {
        let buffer = self.engine.create(label, bytes)?;
        self.made.push(buffer);
        Ok(buffer)
    }
}

fn load_all(loader: &mut Loader<'_>, slices: usize, on_bytes: &mut dyn FnMut(u64, u64)) -> Result<Weights> {
    let source = loader.source;
    let shape = source.shape();
    let spec = source.spec();
    let (group, routed) = (source.group_size(), source.thresholds().is_some());
    let files = (0..slices).flat_map(|slice| layout::file_tensors(shape, &spec, group, routed, slice));
    let total = files.map(|tensor| tensor.bytes()).sum();
    let mut done = 0;
    let mut sliced = |loader: &mut Loader<'_>, spec: &SlicedSpec| {
        loader.engine.cancel_token().check("loading")?;
        let weight = load_sliced(loader, spec, slices)?;
        done +=
            (0..slices).flat_map(|slice| spec.tensors(weight.form, slice)).map(|tensor| tensor.bytes()).sum::<u64>();
        on_bytes(done, total);
        Ok::<_, Error>(weight)
    };

    // Vectors and routers first, so that they lie together, and not each between matrices in pages of memory that
    // nothing else was read from since the token before.
    let mut vectors = Vec::with_capacity(shape.layers as usize);
    for layer in 0..shape.layers {
        vectors.push((load_norms(loader, &spec, layer)?, load_head_vectors(loader, &spec, layer)?));
    }
    let looks = |layer: u32| !spec.layer(layer).norms.are_before_all();
    let ones = if routed && (0..shape.layers).any(looks) { Some(make_ones(loader, shape.model_dim)?) } else { None };
    let routers = if routed { Some(load_routers(loader)?) } else { None };
    let embed = sliced(loader, &layout::embed(shape))?;
    let mut layers = Vec::with_capacity(shape.layers as usize);
    for (layer, (norms, head_vectors)) in (0..).zip(vectors) {
        let [qkv, o, gate_up, down] = Site::ALL.map(|site| layout::site(shape, layer, site));
        let sites = [sliced(loader, &qkv)?, sliced(loader, &o)?, sliced(loader, &gate_up)?, sliced(loader, &down)?];
        layers.push(LayerWeights { norms, head_vectors, sites });
    }
    let head = match layout::head(shape) {
        Some(spec) => sliced(loader, &spec)?,
        None => embed,
    };
    let final_norm = loader.tensor(0, &layout::final_norm(shape))?;
    Ok(Weights { made: Vec::new(), embed, head, final_norm, ones, layers, routers })
}

/// Whether it is of queries, keys and values, whose vectors lie in one buffer.
fn is_of_heads(which: &LayerVector) -> bool {
    matches!(which, LayerVector::QkvBias | LayerVector::QueryNorm | LayerVector::KeyNorm)
}

/// The weights of a layer's norms of D numbers.
fn load_norms(
    loader: &mut Loader<'_>,
    spec: &ModelSpec,
    layer: u32,
) -> Result<[Option<Buffer>; LayerVector::ALL.len()]> {
    let mut norms = [None; LayerVector::ALL.len()];
    for which in LayerVector::of(spec.layer(layer)).filter(|which| !is_of_heads(which)) {
        let tensor = layout::layer_vector(loader.source.shape(), spec, layer, which);
        norms[which as usize] = Some(loader.tensor(0, &tensor)?);
    }
    Ok(norms)
}

/// The vectors of a layer's queries, keys and values.
fn load_head_vectors(loader: &mut Loader<'_>, spec: &ModelSpec, layer: u32) -> Result<Option<HeadVectors>> {
    let source = loader.source;
    let tensor = |which: LayerVector| layout::layer_vector(source.shape(), spec, layer, which);
    let vectors: Vec<LayerVector> = LayerVector::of(spec.layer(layer)).filter(is_of_heads).collect();
    if vectors.is_empty() {
        return Ok(None);
    }
    let bytes = vectors.iter().map(|which| tensor(*which).bytes()).sum();
    let buffer = loader.create("vectors of heads", bytes)?;
    let mut first = [0; LayerVector::ALL.len()];
    let mut offset = 0;
    for which in vectors {
        let tensor = tensor(which);
        source.write_vector(loader.engine, &tensor, buffer.span(offset, tensor.bytes()))?;
        first[which as usize] = (offset / 4) as u32;
        offset += tensor.bytes();
    }
    let [query_norm, key_norm] = [LayerVector::QueryNorm, LayerVector::KeyNorm].map(|which| first[which as usize]);
    Ok(Some(HeadVectors { buffer, query_norm, key_norm }))
}

fn make_ones(loader: &mut Loader<'_>, count: u32) -> Result<Buffer> {
    let ones = vec![1f32; count as usize];
    let buffer = loader.create("ones", u64::from(count) * 4)?;
    loader.engine.upload(buffer.all(), bytemuck::cast_slice(&ones))?;
    Ok(buffer)
}

fn load_sliced(loader: &mut Loader<'_>, spec: &SlicedSpec, count: usize) -> Result<SlicedWeight> {
    let form = RangeForm::of_group(loader.source.group_size());
    let (mut slices, mut ranges) = (Vec::with_capacity(SLICES), Vec::with_capacity(SLICES));
    for slice in 0..count {
        slices.push(loader.tensor(slice, &spec.slice(slice))?);
        if let Some(tensor) = spec.ranges(form, slice) {
            ranges.push(loader.tensor(slice, &tensor)?);
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

fn load_routers(loader: &mut Loader<'_>) -> Result<Routers> {
    let shape = loader.source.shape();
    let [w1, rest] = layout::routers(shape);
    Ok(Routers { w1: loader.tensor(0, &w1)?, rest: loader.tensor(0, &rest)?, dim: shape.model_dim })
}
