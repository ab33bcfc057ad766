//! Tiny random models, written as Hugging Face folders and as GGUF files.

#![allow(dead_code, reason = "each test program uses a part of this")]

pub mod families;
pub mod gguf;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use edge_run::internals::quantize::{QuantizeOptions, QuantizeReport, open, quantize};
use edge_run::internals::shape::{LlamaShape, Rope, RopeScaling};
use gguf::{GgufTensor, GgufType, GgufValue};
use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

/// Special tokens; their ids are their places here.
pub const SPECIAL_TOKENS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
/// Id of the token that ends a turn.
pub const END_OF_TURN: u32 = 2;
/// Pairs that the tokenizer merges, best first; `Ġ` is a space.
pub const MERGES: [(&str, &str); 4] = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n")];
/// V of tiny models: special tokens, one token for each byte, and the merged ones.
pub const VOCAB: u32 = SPECIAL_TOKENS.len() as u32 + 256 + MERGES.len() as u32;
/// ChatML without a system prompt of its own.
pub const CHAT_TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + \
    message['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% \
    endif %}";

/// The shape of tiny models: D=64, F=128, 2 layers, H=4, K=2, A=16.
pub fn tiny_shape(tied: bool) -> LlamaShape {
    LlamaShape {
        layers: 2,
        model_dim: 64,
        ffn_dim: 128,
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        vocab: VOCAB,
        max_context: 256,
        norm_eps: 1e-5,
        tied_head: tied,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
    }
}

/// Writes a tiny model with weights in F32 to the folder `dir`.
pub fn tiny_hf_folder(dir: &Path, seed: u64, tied: bool) -> LlamaShape {
    let model = TinyModel::new(tiny_shape(tied), seed);
    model.write_hf(dir, Dtype::F32, 1);
    model.shape
}

/// Quantizes the model at `source` to `out` in groups of 64.
pub fn quantize_tiny(source: &Path, out: &Path) -> edge_run::Result<QuantizeReport> {
    quantize_tiny_with(source, &tiny_options(out, false))
}

/// To `out`, in groups of 64, over what is there or not.
pub fn tiny_options(out: &Path, replace: bool) -> QuantizeOptions {
    QuantizeOptions { out: out.to_path_buf(), group_size: Some(64), calibration: None, replace }
}

/// Quantizes the model at `source` as told.
pub fn quantize_tiny_with(source: &Path, options: &QuantizeOptions) -> edge_run::Result<QuantizeReport> {
    quantize(&mut *open(source)?, options, &mut |_| ControlFlow::Continue(()))
}

/// A random model whose weights F32, F16 and BF16 all hold exactly.
pub struct TinyModel {
    /// Dimensions.
    pub shape: LlamaShape,
    /// Dimensions and weights by their names in Hugging Face checkpoints.
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl TinyModel {
    /// A model of the shape; the same seed makes the same model.
    pub fn new(shape: LlamaShape, seed: u64) -> TinyModel {
        println!("tiny model of seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let (d, f, v) = (shape.model_dim as usize, shape.ffn_dim as usize, shape.vocab as usize);
        let (q, kv) = (shape.q_dim() as usize, shape.kv_dim() as usize);
        let mut tensors = BTreeMap::new();
        // Integers below 128 over a power of two: eight bits, which every float type has.
        let mut add = |name: String, dims: &[usize], least: i32, unit: f32| {
            let count = dims.iter().product();
            let weights = (0..count).map(|_| random.random_range(least..128) as f32 * unit).collect();
            tensors.insert(name, (dims.to_vec(), weights));
        };
        add("model.embed_tokens.weight".into(), &[v, d], -127, 1.0 / 128.0);
        for layer in 0..shape.layers {
            let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
            add(name("self_attn.q_proj"), &[q, d], -127, 1.0 / 512.0);
            add(name("self_attn.k_proj"), &[kv, d], -127, 1.0 / 512.0);
            add(name("self_attn.v_proj"), &[kv, d], -127, 1.0 / 512.0);
            add(name("self_attn.o_proj"), &[d, q], -127, 1.0 / 512.0);
            add(name("mlp.gate_proj"), &[f, d], -127, 1.0 / 512.0);
            add(name("mlp.up_proj"), &[f, d], -127, 1.0 / 512.0);
            add(name("mlp.down_proj"), &[d, f], -127, 1.0 / 512.0);
            add(name("input_layernorm"), &[d], 64, 1.0 / 64.0);
            add(name("post_attention_layernorm"), &[d], 64, 1.0 / 64.0);
        }
        add("model.norm.weight".into(), &[d], 64, 1.0 / 64.0);
        if !shape.tied_head {
            add("lm_head.weight".into(), &[v, d], -127, 1.0 / 256.0);
        }
        TinyModel { shape, tensors }
    }

    /// Writes the model as a Hugging Face folder, in `shards` safetensors files.
    pub fn write_hf(&self, dir: &Path, dtype: Dtype, shards: usize) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("config.json"), self.config().to_string()).unwrap();
        write_hf_text(dir);
        let names: Vec<&String> = self.tensors.keys().collect();
        let mut weight_map = BTreeMap::new();
        for (at, names) in names.chunks(names.len().div_ceil(shards)).enumerate() {
            let file = match shards {
                1 => "model.safetensors".to_string(),
                _ => format!("model-{:05}-of-{shards:05}.safetensors", at + 1),
            };
            weight_map.extend(names.iter().map(|name| (*name, file.clone())));
            let bytes: Vec<(&String, Vec<u8>)> =
                names.iter().map(|name| (*name, to_bytes(&self.tensors[*name].1, dtype))).collect();
            let views = bytes
                .iter()
                .map(|(name, bytes)| (*name, TensorView::new(dtype, self.tensors[*name].0.clone(), bytes).unwrap()));
            safetensors::serialize_to_file(views, None, &dir.join(file)).unwrap();
        }
        if shards > 1 {
            let index = json!({"metadata": {}, "weight_map": weight_map});
            fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
        }
    }

    /// Writes the model as a GGUF file, norms in F32 and everything else in `dtype`.
    pub fn write_gguf(&self, path: &Path, dtype: GgufType) {
        self.write_gguf_with(path, dtype, &[]);
    }

    /// Writes the model as a GGUF file with metadata that go before or replace the usual.
    pub fn write_gguf_with(&self, path: &Path, dtype: GgufType, changes: &[(&str, GgufValue)]) {
        self.write_gguf_as(path, changes, &|dims, weights| dtype.tensor(dims, weights));
    }

    /// Writes the model as a GGUF file with the matrices as `encode` makes them of dimensions and weights.
    pub fn write_gguf_as(
        &self,
        path: &Path,
        changes: &[(&str, GgufValue)],
        encode: &dyn Fn(&[usize], &[f32]) -> GgufTensor,
    ) {
        let mut metadata = self.gguf_metadata();
        metadata.extend(changes.iter().map(|(key, value)| (key.to_string(), value.clone())));
        gguf::write(path, &metadata, &self.gguf_tensors(encode));
    }

    /// Writes the model as `count` GGUF files in the folder `dir`, as `llama-gguf-split` does it, and gives their paths.
    pub fn write_split_gguf(&self, dir: &Path, count: usize) -> Vec<PathBuf> {
        let mut tensors = self.gguf_tensors(&|dims, weights| GgufType::F32.tensor(dims, weights));
        let all = tensors.len();
        let write = |at: usize| {
            let path = dir.join(format!("tiny-{:05}-of-{count:05}.gguf", at + 1));
            let mut metadata = if at == 0 { self.gguf_metadata() } else { BTreeMap::new() };
            metadata.insert("split.no".into(), GgufValue::U16(at as u16));
            metadata.insert("split.count".into(), GgufValue::U16(count as u16));
            metadata.insert("split.tensors.count".into(), GgufValue::I32(all as i32));
            let part: Vec<_> = tensors.drain(..all.div_ceil(count).min(tensors.len())).collect();
            gguf::write(&path, &metadata, &part);
            path
        };
        (0..count).map(write).collect()
    }

    fn gguf_tensors(&self, encode: &dyn Fn(&[usize], &[f32]) -> GgufTensor) -> Vec<(String, GgufTensor)> {
        let tensors = self.tensors.iter().map(|(name, (dims, weights))| {
            let tensor = match dims.len() {
                1 => GgufType::F32.tensor(dims, weights),
                _ => encode(dims, &self.permuted(name, dims, weights)),
            };
            (gguf_name(name), tensor)
        });
        tensors.collect()
    }

    /// The matrix as llama.cpp's converter writes it: rows of queries and keys permuted within each head, from two
    /// halves one after the other to pairs of one row of each.
    fn permuted(&self, name: &str, dims: &[usize], weights: &[f32]) -> Vec<f32> {
        if !name.contains("q_proj") && !name.contains("k_proj") {
            return weights.to_vec();
        }
        let (head_dim, input) = (self.shape.head_dim as usize, dims[1]);
        let heads = weights.chunks_exact(head_dim * input);
        let pairs = heads.flat_map(|head| {
            let (first, second) = head.split_at(head.len() / 2);
            first.chunks_exact(input).zip(second.chunks_exact(input))
        });
        pairs.flat_map(|(first, second)| [first, second].concat()).collect()
    }

    fn config(&self) -> Value {
        let shape = &self.shape;
        json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": shape.model_dim, "intermediate_size": shape.ffn_dim,
            "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim, "vocab_size": shape.vocab,
            "max_position_embeddings": shape.max_context, "rms_norm_eps": shape.norm_eps,
            "rope_theta": shape.rope.theta, "tie_word_embeddings": shape.tied_head, "hidden_act": "silu",
        })
    }

    fn gguf_metadata(&self) -> BTreeMap<String, GgufValue> {
        let shape = &self.shape;
        let number = GgufValue::U32;
        let pairs = [
            ("general.architecture", GgufValue::String("llama".into())),
            ("general.name", GgufValue::String("Tiny".into())),
            ("llama.block_count", number(shape.layers)),
            ("llama.context_length", number(shape.max_context)),
            ("llama.embedding_length", number(shape.model_dim)),
            ("llama.feed_forward_length", number(shape.ffn_dim)),
            ("llama.attention.head_count", number(shape.heads)),
            ("llama.attention.head_count_kv", number(shape.kv_heads)),
            ("llama.attention.layer_norm_rms_epsilon", GgufValue::F32(shape.norm_eps)),
            ("llama.rope.freq_base", GgufValue::F32(shape.rope.theta)),
            ("llama.rope.dimension_count", number(shape.head_dim)),
        ];
        let pairs = pairs.into_iter().map(|(key, value)| (key.to_string(), value));
        tokenizer_metadata().into_iter().chain(pairs).collect()
    }
}

/// Writes the text side of tiny models to a Hugging Face folder.
pub fn write_hf_text(dir: &Path) {
    fs::write(dir.join("tokenizer.json"), tiny_tokenizer().to_string(true).unwrap()).unwrap();
    fs::write(dir.join("chat_template.jinja"), CHAT_TEMPLATE).unwrap();
    let generation = json!({"bos_token_id": 1, "eos_token_id": [END_OF_TURN], "pad_token_id": END_OF_TURN});
    fs::write(dir.join("generation_config.json"), generation.to_string()).unwrap();
}

/// The metadata of the tokenizer of tiny models.
pub fn tokenizer_metadata() -> BTreeMap<String, GgufValue> {
    let text = |text: &str| GgufValue::String(text.into());
    let texts = |texts: Vec<String>| GgufValue::Array(texts.into_iter().map(GgufValue::String).collect());
    let types = (0..VOCAB).map(|id| GgufValue::I32(if id < SPECIAL_TOKENS.len() as u32 { 3 } else { 1 }));
    let number = GgufValue::U32;
    let pairs = [
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.tokens", texts(tiny_vocabulary())),
        ("tokenizer.ggml.token_type", GgufValue::Array(types.collect())),
        ("tokenizer.ggml.merges", texts(MERGES.map(|(a, b)| format!("{a} {b}")).to_vec())),
        ("tokenizer.ggml.bos_token_id", number(1)),
        ("tokenizer.ggml.eos_token_id", number(END_OF_TURN)),
        ("tokenizer.ggml.padding_token_id", number(END_OF_TURN)),
        ("tokenizer.chat_template", text(CHAT_TEMPLATE)),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
}

/// The tokens of tiny models, by id.
fn tiny_vocabulary() -> Vec<String> {
    let mut bytes: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
    bytes.sort();
    let merged = MERGES.map(|(a, b)| format!("{a}{b}"));
    SPECIAL_TOKENS.map(String::from).into_iter().chain(bytes).chain(merged).collect()
}

/// The tokenizer of tiny models: byte-level BPE that takes digits one by one.
fn tiny_tokenizer() -> Tokenizer {
    let vocab: Vocab = tiny_vocabulary().into_iter().zip(0..).collect();
    let merges = MERGES.map(|(a, b)| (a.to_string(), b.to_string())).to_vec();
    let mut tokenizer = Tokenizer::new(BPE::builder().vocab_and_merges(vocab, merges).build().unwrap());
    let steps = vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()];
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    tokenizer.add_special_tokens(SPECIAL_TOKENS.map(|token| AddedToken::from(token, true))).unwrap();
    tokenizer
}

fn gguf_name(name: &str) -> String {
    [
        ("model.embed_tokens", "token_embd"),
        ("lm_head", "output"),
        ("model.norm", "output_norm"),
        ("model.layers", "blk"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ]
    .iter()
    .fold(name.to_string(), |name, (theirs, ours)| name.replace(theirs, ours))
}

fn to_bytes(weights: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F32 => weights.iter().flat_map(|w| w.to_le_bytes()).collect(),
        Dtype::F16 => weights.iter().flat_map(|w| f16::from_f32(*w).to_le_bytes()).collect(),
        Dtype::BF16 => weights.iter().flat_map(|w| bf16::from_f32(*w).to_le_bytes()).collect(),
        other => panic!("no weights in {other}"),
    }
}
