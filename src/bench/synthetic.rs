//! Random models of any shape, made on the engine: speed without a download.

use half::f16;
use rand::rngs::ChaCha12Rng;
use rand::{Rng, RngExt, SeedableRng};
use safetensors::Dtype;

use crate::arch::{
    ActivationFunction, AttentionSpec, HeadNorm, LayerNorms, LayerSpec, LayerVector, ModelSpec, RopeTable,
};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::codes::Range;
use crate::format::layout::{self, TensorSpec};
use crate::model::WeightSource;
use crate::precision::BITS;
use crate::recording::{Buffer, Span};
use crate::routing::{Threshold, Thresholds};
use crate::shape::{LlamaShape, Rope, RopeScaling};

/// A shape with a name.
struct NamedShape {
    name: &'static str,
    /// D, F, L, H, K, A, V
    dims: [u32; 7],
    tied_head: bool,
    /// Where it differs from LLaMA.
    spec: fn() -> ModelSpec,
}

impl NamedShape {
    const fn new(name: &'static str, dims: [u32; 7], tied_head: bool, spec: fn() -> ModelSpec) -> NamedShape {
        NamedShape { name, dims, tied_head, spec }
    }
}

/// Those that there are.
const NAMED: [NamedShape; 7] = [
    NamedShape::new("llama2-7b", [4096, 11008, 32, 32, 32, 128, 32000], false, ModelSpec::default),
    NamedShape::new("llama3-8b", [4096, 14336, 32, 32, 8, 128, 128_256], false, ModelSpec::default),
    NamedShape::new("llama3.2-1b", [2048, 8192, 16, 32, 8, 64, 128_256], true, ModelSpec::default),
    NamedShape::new("smollm2-135m", [576, 1536, 30, 9, 3, 64, 49152], true, ModelSpec::default),
    NamedShape::new("qwen2.5-1.5b", [1536, 8960, 28, 12, 2, 128, 151_936], true, qwen2),
    NamedShape::new("qwen3-4b", [2560, 9728, 36, 32, 8, 128, 151_936], true, qwen3),
    NamedShape::new("gemma3-4b", [2560, 10240, 34, 8, 4, 256, 262_208], true, gemma3),
];
/// Longest context of a synthetic model; only what is asked for is allocated.
const MAX_CONTEXT: u32 = 1 << 17;
/// Random words that all slices are cut from.
const BLOCK_WORDS: usize = 2 << 20;
/// Words written at once, from a random place in the block.
const PIECE_WORDS: usize = 1 << 20;

/// A model of random weights, and of random routers whose thresholds are still to be found.
pub struct Synthetic {
    shape: LlamaShape,
    spec: ModelSpec,
    group: u32,
    thresholds: Thresholds,
    seed: u64,
    block: Vec<u32>,
}

impl Synthetic {
    /// The model of `shape`: a name such as `llama2-7b`, or dimensions as in `DxFxLxHxKxV`, whose head is the
    /// embedding. The same seed makes the same weights.
    pub fn parse(shape: &str, seed: u64) -> Result<Synthetic> {
        let (shape, spec) = parse_shape(shape)?;
        Synthetic::new(shape, spec, seed)
    }

    /// The model of this shape and spec, which are without fault.
    pub fn new(shape: LlamaShape, spec: ModelSpec, seed: u64) -> Result<Synthetic> {
        let row = |bits: f32, threshold| Threshold { bits, threshold };
        let table = Thresholds::new(vec![row(*BITS.start(), 1.0), row(*BITS.end(), -1.0)]);
        let mut random = ChaCha12Rng::seed_from_u64(seed);
        let mut block = Vec::new();
        let room = block.try_reserve_exact(BLOCK_WORDS);
        room.map_err(|_| Error::io("take", "memory for random weights")(std::io::ErrorKind::OutOfMemory.into()))?;
        block.extend((0..BLOCK_WORDS).map(|_| random.next_u32()));
        let group = layout::DEFAULT_GROUP;
        Ok(Synthetic { shape, spec, group, thresholds: table.expect("the table is sound"), seed, block })
    }

    /// The same in groups of so many weights. Fails where they do not fit the shape.
    pub fn in_groups(self, group: u32) -> Result<Synthetic> {
        match layout::group_fault(&self.shape, group) {
            Some((expected, got)) => Err(Error::argument("group size", expected, got)),
            None => Ok(Synthetic { group, ..self }),
        }
    }

    /// Of how many terms of order one the products with a weight are made, so that its own size follows.
    ///
    /// Rows of the embedding are the residual stream itself, and what all layers together add to it is of order one, as
    /// GPT-2 begins its training: so tokens stay different from each other, and their depths with them.
    fn terms(&self, ranges: &TensorSpec) -> u32 {
        let input = ranges.shape[1] as u32 * self.group;
        match ranges.name.split('.').rev().nth(1) {
            Some("embed") => 1,
            Some("o" | "down") => input * 2 * self.shape.layers,
            _ => input,
        }
    }

    /// The weight of a norm of D numbers. What all blocks add to the residual stream is of order one. A head that is
    /// the embedding has weights of order one, each of D.
    fn norm_weight(&self, spec: &TensorSpec) -> f32 {
        let is = |vector: LayerVector| spec.name.ends_with(&format!(".{}", vector.name()));
        if is(LayerVector::AfterAttentionNorm) || is(LayerVector::AfterFfnNorm) {
            return 1.0 / (2.0 * self.shape.layers as f32).sqrt();
        }
        let tied_head = spec.name == layout::FINAL_NORM && self.shape.tied_head;
        if tied_head { 1.0 / (self.shape.model_dim as f32).sqrt() } else { 1.0 }
    }

    /// The random numbers of a tensor, seeded by its name (FNV-1a), so that they do not depend on those before it.
    fn random(&self, spec: &TensorSpec) -> ChaCha12Rng {
        let seed = spec.name.bytes().fold(self.seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        ChaCha12Rng::seed_from_u64(seed)
    }

    /// Writes random words all over the buffer.
    fn write_words(&self, engine: &mut dyn Engine, buffer: Buffer, random: &mut ChaCha12Rng) -> Result<()> {
        let piece_bytes = PIECE_WORDS as u64 * 4;
        for offset in (0..buffer.bytes()).step_by(PIECE_WORDS * 4) {
            let bytes = piece_bytes.min(buffer.bytes() - offset);
            let from = random.random_range(0..=BLOCK_WORDS - PIECE_WORDS);
            let words = &self.block[from..][..bytes as usize / 4];
            engine.upload(buffer.span(offset, bytes), bytemuck::cast_slice(words))?;
        }
        Ok(())
    }
}

impl WeightSource for Synthetic {
    fn shape(&self) -> &LlamaShape {
        &self.shape
    }

    fn spec(&self) -> ModelSpec {
        self.spec.clone()
    }

    fn group_size(&self) -> u32 {
        self.group
    }

    fn thresholds(&self) -> Option<&Thresholds> {
        Some(&self.thresholds)
    }

    fn load(&self, engine: &mut dyn Engine, _slice: usize, spec: &TensorSpec) -> Result<Buffer> {
        let buffer = engine.create(&spec.name, spec.bytes())?;
        let random = &mut self.random(spec);
        let count: usize = spec.shape.iter().product();
        match (spec.dtype, &spec.shape[..]) {
            (Dtype::U32, _) => self.write_words(engine, buffer, random)?,
            (Dtype::F16, [_, _, dim]) if spec.name == layout::routers(&self.shape)[0].name => {
                let w1: Vec<f16> = uniform(count, *dim, random).map(f16::from_f32).collect();
                engine.upload(buffer.all(), bytemuck::cast_slice(&w1))?;
            }
            (Dtype::F16, [_, _, _]) => {
                let pairs: Vec<[f16; 2]> =
                    steps(self.terms(spec), random).map(|s| [-2.0 * s, s].map(f16::from_f32)).take(count / 2).collect();
                engine.upload(buffer.all(), bytemuck::cast_slice(&pairs))?;
            }
            (Dtype::U16, _) => {
                let words: Vec<u16> = steps(self.terms(spec), random).map(centred).take(count).collect();
                engine.upload(buffer.all(), bytemuck::cast_slice(&words))?;
            }
            _ if spec.name.ends_with("norm") => self.write_vector(engine, spec, buffer.all())?,
            // What routers have beside w1, about as large as makes scores of order one.
            _ => {
                let numbers: Vec<f32> = uniform(count, 12, random).collect();
                engine.upload(buffer.all(), bytemuck::cast_slice(&numbers))?;
            }
        }
        Ok(buffer)
    }

    fn write_vector(&self, engine: &mut dyn Engine, spec: &TensorSpec, to: Span) -> Result<()> {
        let count = spec.shape.iter().product();
        let random = &mut self.random(spec);
        let is = |vector: LayerVector| spec.name.ends_with(&format!(".{}", vector.name()));
        let numbers: Vec<f32> = if is(LayerVector::QkvBias) {
            uniform(count, 12, random).collect()
        } else if is(LayerVector::QueryNorm) || is(LayerVector::KeyNorm) {
            (0..count).map(|_| random.random_range(0.5f32..1.5)).collect()
        } else {
            vec![self.norm_weight(spec); count]
        };
        engine.upload(to, bytemuck::cast_slice(&numbers))
    }
}

/// Steps of ranges, 4 step wide about 0, in which uniform codes are weights with mean 0 and variance 1 / terms: of
/// sqrt(3 / terms) / 2, up to a quarter.
fn steps(terms: u32, random: &mut ChaCha12Rng) -> impl Iterator<Item = f32> {
    let step = (3.0 / terms as f32).sqrt() / 2.0;
    std::iter::repeat_with(move || step * random.random_range(0.75f32..1.25))
}

/// The word whose range is 4 step wide about 0.
fn centred(step: f32) -> u16 {
    let step = Range::of_word(Range { lo: 0.0, step }.to_word()).step;
    Range { lo: -2.0 * step, step }.to_word()
}

/// Numbers with mean 0 and variance 1 / `input`.
fn uniform(count: usize, input: usize, random: &mut ChaCha12Rng) -> impl Iterator<Item = f32> {
    let most = (3.0 / input as f32).sqrt();
    (0..count).map(move |_| random.random_range(-most..most))
}

/// Biases of queries, keys and values.
fn qwen2() -> ModelSpec {
    let attention = AttentionSpec { qkv_bias: true, ..AttentionSpec::default() };
    ModelSpec { layers: vec![LayerSpec { attention, ..LayerSpec::default() }], ..ModelSpec::default() }
}

/// Norms of queries and keys.
fn qwen3() -> ModelSpec {
    let attention = AttentionSpec { head_norm: HeadNorm::EachHead, ..AttentionSpec::default() };
    ModelSpec { layers: vec![LayerSpec { attention, ..LayerSpec::default() }], ..ModelSpec::default() }
}

/// Four norms a layer and those of queries and keys, GELU, and after five layers with a window one without.
fn gemma3() -> ModelSpec {
    let layer = |window, rope_table| LayerSpec {
        norms: LayerNorms { after_attention: true, after_feed_forward: true, ..LayerNorms::default() },
        attention: AttentionSpec { head_norm: HeadNorm::EachHead, rope_table, window, ..AttentionSpec::default() },
        activation: ActivationFunction::GeluTanh,
    };
    let local = layer(Some(1024), 1);
    let frequencies = Rope { theta: 10_000.0, scaling: RopeScaling::None }.frequencies(256);
    ModelSpec {
        layers: vec![local, local, local, local, local, layer(None, 0)],
        rope_tables: vec![RopeTable { frequencies, long: None }],
        ..ModelSpec::default()
    }
}

fn parse_shape(text: &str) -> Result<(LlamaShape, ModelSpec)> {
    let named = NAMED.iter().find(|named| named.name == text);
    let numbers = || -> Option<[u32; 6]> {
        let numbers: Option<Vec<u32>> = text.split('x').map(|number| number.parse().ok()).collect();
        numbers?.try_into().ok()
    };
    let names = NAMED.map(|named| named.name).join(", ");
    let unknown = || Error::argument("synthetic model", format!("{names}, or DxFxLxHxKxV in numbers"), text);
    let (dims, tied_head, spec) = match named {
        Some(named) => (named.dims, named.tied_head, (named.spec)()),
        None => (with_head_dim(numbers().ok_or_else(unknown)?)?, true, ModelSpec::default()),
    };
    let [model_dim, ffn_dim, layers, heads, kv_heads, head_dim, vocab] = dims;
    let shape = LlamaShape {
        layers,
        model_dim,
        ffn_dim,
        heads,
        kv_heads,
        head_dim,
        vocab,
        max_context: MAX_CONTEXT,
        norm_eps: 1e-5,
        tied_head,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
    };
    match shape.fault() {
        None => Ok((shape, spec)),
        Some((field, expected, got)) => Err(Error::argument(format!("synthetic model: {field}"), expected, got)),
    }
}

/// D, F, L, H, K, A and V of these without A.
fn with_head_dim([model_dim, ffn_dim, layers, heads, kv_heads, vocab]: [u32; 6]) -> Result<[u32; 7]> {
    if heads == 0 || !model_dim.is_multiple_of(heads) {
        let expected = format!("a number of heads H that divides D ({model_dim})");
        return Err(Error::argument("synthetic model", expected, heads));
    }
    Ok([model_dim, ffn_dim, layers, heads, kv_heads, model_dim / heads, vocab])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_names_or_numbers() {
        let (shape, spec) = parse_shape("llama2-7b").unwrap();
        assert_eq!(shape.linear_params() + shape.embedding_params(), 6_738_149_376);
        assert!(!shape.tied_head && shape.head_dim == 128 && spec.is_llama());
        let (shape, _) = parse_shape("smollm2-135m").unwrap();
        assert_eq!(shape.linear_params() + shape.embedding_params(), 134_479_872);
        let (shape, _) = parse_shape("64x128x2x4x2x300").unwrap();
        assert_eq!((shape.layers, shape.head_dim, shape.kv_dim(), shape.vocab), (2, 16, 32, 300));
        for NamedShape { name, .. } in NAMED {
            let (shape, spec) = parse_shape(name).unwrap();
            spec.check(&shape).unwrap();
        }
        let (shape, spec) = parse_shape("gemma3-4b").unwrap();
        assert_eq!(
            (shape.q_dim(), spec.layer(5).attention.window, spec.layer(6).attention.window),
            (2048, None, Some(1024))
        );
    }

    #[test]
    fn what_is_wrong_with_a_shape_is_told() {
        for (text, words) in [
            ("llama9-9b", "DxFxLxHxKxV in numbers, got llama9-9b"),
            ("64x128x2x4x2", "DxFxLxHxKxV in numbers"),
            ("64x128x2x4x2x-1", "DxFxLxHxKxV in numbers"),
            ("64x128x2x5x1x300", "a number of heads H that divides D (64), got 5"),
            ("64x128x2x0x1x300", "H that divides D"),
            ("64x128x2x4x3x300", "heads: expected a multiple of kv_heads"),
            ("65x128x2x5x1x300", "model_dim: expected a multiple of 64"),
            ("64x128x0x4x2x300", "layers: expected 1 to 1024"),
        ] {
            let message = parse_shape(text).unwrap_err().to_string();
            assert!(message.starts_with("synthetic model: ") && message.contains(words), "{message}");
        }
    }

    #[test]
    fn weights_are_of_the_size_that_keeps_products_of_order_one() {
        let random = &mut ChaCha12Rng::seed_from_u64(5);
        let input = 4096;
        for step in steps(input, random).take(100) {
            let Range { lo, step } = Range::of_word(centred(step));
            assert_eq!(lo, -2.0 * step);
            let deviation = 4.0 * step / 12f32.sqrt() * (input as f32).sqrt();
            assert!((0.74..1.26).contains(&deviation), "{deviation}");
        }
    }
}
