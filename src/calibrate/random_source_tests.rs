//! Random models of all kinds, for tests.

use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

use burn::tensor::{DType, Int, Tensor, TensorData};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use serde_json::json;

use super::device::cpu;
use super::network::{Network, WeightPlace};
use super::shelf::Keeping;
use super::trained::Trained;
use crate::arch::{
    ActivationFunction, AttentionSpec, HeadNorm, LayerNorms, LayerSpec, LongFrequencies, ModelSpec, QueryGrowth,
    RopeTable,
};
use crate::error::Result;
use crate::format::ModelSource;
use crate::quantize::{ChannelScales, CutBasis, Source, SourceTensor, TextAssets};
use crate::shape::{LlamaShape, Rope, RopeScaling};

/// Tokens of a window.
pub const WINDOW: usize = 12;

/// A model of random weights.
pub struct RandomSource {
    shape: LlamaShape,
    pub spec: ModelSpec,
    about: ModelSource,
}

impl RandomSource {
    /// That of a small shape.
    pub fn new(spec: ModelSpec) -> RandomSource {
        let shape = LlamaShape {
            layers: 3,
            model_dim: 64,
            ffn_dim: 128,
            heads: 8,
            kv_heads: 2,
            head_dim: 24,
            vocab: 90,
            max_context: 64,
            norm_eps: 1e-5,
            tied_head: false,
            rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        };
        spec.check(&shape).unwrap();
        let about = ModelSource {
            name: "random".into(),
            format: "none".into(),
            family: None,
            dtypes: Vec::new(),
            licence: None,
        };
        RandomSource { shape, spec, about }
    }
}

impl Source for RandomSource {
    fn shape(&self) -> &LlamaShape {
        &self.shape
    }

    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn model_source(&self) -> &ModelSource {
        &self.about
    }

    fn warnings(&self) -> &[String] {
        &[]
    }

    /// A tokenizer of the letters a and b, which puts a BOS, id 2, before every text.
    fn text(&self) -> Result<TextAssets> {
        let bos = json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
        let text = |id| json!({"Sequence": {"id": id, "type_id": 0}});
        let tokenizer = json!({
            "version": "1.0",
            "added_tokens": [{"id": 2, "content": "<s>", "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false}],
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [bos, text("A")],
                "pair": [bos, text("A"), text("B")],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [2], "tokens": ["<s>"]}},
            },
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
        });
        Ok(TextAssets {
            tokenizer: tokenizer.to_string(),
            chat_template: None,
            named_templates: Vec::new(),
            generation_config: json!({"bos_token_id": 2}).to_string(),
            warnings: Vec::new(),
        })
    }

    fn rows(&mut self, tensor: SourceTensor, rows: Range<u32>, out: &mut Vec<f32>) -> Result<()> {
        let (_, input) = tensor.dims(&self.shape, &self.spec);
        let seed = format!("{tensor:?}").bytes().fold(7u64, |seed, byte| seed.wrapping_mul(31) + u64::from(byte));
        let (middle, most) = match tensor {
            SourceTensor::Vector(..) | SourceTensor::FinalNorm => (1.0, 0.5),
            SourceTensor::Embed => (0.0, 1.0),
            _ if tensor.is_vector() => (0.0, 0.5),
            _ => (0.0, (3.0 / input as f32).sqrt()),
        };
        out.clear();
        for row in rows {
            let mut random = ChaCha8Rng::seed_from_u64(seed ^ u64::from(row) << 32);
            out.extend((0..input).map(|_| middle + random.random_range(-most..most)));
        }
        Ok(())
    }

    fn locate(&self, tensor: SourceTensor) -> (PathBuf, String) {
        (PathBuf::new(), format!("{tensor:?}"))
    }
}

fn alike(layer: LayerSpec) -> ModelSpec {
    ModelSpec { layers: vec![layer], ..ModelSpec::default() }
}

fn attention(attention: AttentionSpec) -> ModelSpec {
    alike(LayerSpec { attention, ..LayerSpec::default() })
}

/// LLaMA, each field of a spec, and all of them at once.
pub fn specs() -> Vec<ModelSpec> {
    let plain = AttentionSpec::default();
    let frequencies = (0..12).map(|at| 0.4 / (1.0 + at as f32)).collect();
    let long = LongFrequencies { original_context: 20, frequencies: vec![0.1; 12] };
    let table = RopeTable { frequencies, long: Some(long) };
    let growth = Some(QueryGrowth { beta: 0.5, original_context: 3 });
    let four = LayerNorms { after_attention: true, after_feed_forward: true, ..LayerNorms::default() };
    let after = LayerNorms { before_attention: false, before_feed_forward: false, ..four };
    let all = |norms, head_norm, window| LayerSpec {
        norms,
        attention: AttentionSpec {
            qkv_bias: true,
            head_norm,
            rope_table: 1,
            query_growth: growth,
            score_cap: Some(2.0),
            window,
        },
        activation: ActivationFunction::GeluTanh,
    };
    let layers =
        vec![all(four, HeadNorm::EachHead, Some(4)), all(after, HeadNorm::AllHeads, None), LayerSpec::default()];
    vec![
        ModelSpec::default(),
        attention(AttentionSpec { qkv_bias: true, ..plain }),
        attention(AttentionSpec { head_norm: HeadNorm::EachHead, ..plain }),
        attention(AttentionSpec { head_norm: HeadNorm::AllHeads, ..plain }),
        ModelSpec { rope_tables: vec![table.clone()], ..attention(AttentionSpec { rope_table: 1, ..plain }) },
        attention(AttentionSpec { query_growth: growth, ..plain }),
        attention(AttentionSpec { score_cap: Some(0.5), ..plain }),
        attention(AttentionSpec { window: Some(3), ..plain }),
        alike(LayerSpec { norms: four, ..LayerSpec::default() }),
        alike(LayerSpec { norms: after, ..LayerSpec::default() }),
        alike(LayerSpec { activation: ActivationFunction::GeluTanh, ..LayerSpec::default() }),
        ModelSpec { logit_cap: Some(1.0), ..ModelSpec::default() },
        ModelSpec { layers, logit_cap: Some(3.0), rope_tables: vec![table] },
    ]
}

/// The model of a source, kept there.
pub fn load(source: &mut RandomSource, keeping: &Keeping) -> Network {
    let place = WeightPlace { device: &cpu(), product_dtype: DType::F32, keeping };
    let basis = CutBasis::with_scales(ChannelScales::none(source.shape()), None);
    Network::load(source, &basis, place, WINDOW, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

/// The tokens of so many windows.
pub fn ids(windows: usize) -> Tensor<2, Int> {
    let ids: Vec<i32> = (0..(windows * WINDOW) as i32).map(|at| (at * at * 7 + at) % 90).collect();
    Tensor::from_data(TensorData::new(ids, [windows, WINDOW]), &cpu())
}

/// What no step has trained.
pub fn untrained(network: &Network, keeping: &Keeping) -> Trained {
    Trained::new(&network.shape, keeping, &cpu(), &mut ChaCha8Rng::seed_from_u64(3)).unwrap()
}
