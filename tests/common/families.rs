//! The tiny models of `tests/golden/families`, whose weights follow from their tensors' names.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Deserialize;
use serde_json::Value;

use super::gguf::{self, GgufTensor, GgufType, GgufValue};

/// What stands in a name for the number of a layer.
const LAYER: &str = "{}";

/// A family's record, as `make.py` writes it.
#[derive(Debug, Deserialize)]
pub struct FamilyModel {
    pub family: String,
    /// config.json, in the styles of the years.
    pub configs: BTreeMap<String, Value>,
    tensors: Vec<CheckpointTensor>,
    gguf: GgufRecord,
    pub prompts: Vec<FamilyPrompt>,
}

/// A prompt with what transformers computes.
#[derive(Debug, Deserialize)]
pub struct FamilyPrompt {
    pub ids: Vec<u32>,
    /// The context that it is run in.
    pub context: u32,
    /// By place in the prompt, [V].
    pub logits: BTreeMap<usize, Vec<f32>>,
}

/// A tensor of the checkpoint, or one in each of some layers.
#[derive(Debug, Deserialize)]
struct CheckpointTensor {
    name: String,
    layers: Option<Vec<u32>>,
    dims: Vec<usize>,
    offset: f64,
    scale: f64,
}

/// What llama.cpp's converter makes of the checkpoint.
#[derive(Debug, Deserialize)]
struct GgufRecord {
    /// Longer prompts come out otherwise, as files do not say all of the model; and why.
    longest: Option<(usize, String)>,
    /// Key, type, value.
    metadata: Vec<(String, Value, Value)>,
    tensors: Vec<FollowingTensor>,
}

/// A tensor of the GGUF file, or one in each of some layers: how it follows from one of the checkpoint.
#[derive(Debug, Deserialize)]
struct FollowingTensor {
    name: String,
    layers: Option<Vec<u32>>,
    from: Option<String>,
    /// The rows that are taken, where not all are.
    rows: Option<(usize, usize)>,
    /// Heads whose rows are taken by turns from the first and the second half of the head.
    interleaved: Option<usize>,
    /// What is added.
    plus: Option<f32>,
    /// The values themselves.
    values: Option<Vec<f32>>,
}

/// Where the records are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families")
}

impl FamilyModel {
    /// The record of a family.
    pub fn read(family: &str) -> FamilyModel {
        let text = fs::read_to_string(folder().join(format!("{family}.json"))).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Tokens of the longest prompt that a GGUF file comes to the same logits with.
    pub fn longest_in_gguf(&self) -> usize {
        self.gguf.longest.as_ref().map_or(usize::MAX, |(longest, _)| *longest)
    }

    /// The model of the first `count` layers, with `changes` made to the fields of its configurations.
    pub fn cut(mut self, count: u32, changes: &Value) -> FamilyModel {
        for config in self.configs.values_mut() {
            let config = if config["text_config"].is_object() { &mut config["text_config"] } else { config };
            config["num_hidden_layers"] = count.into();
            for (field, value) in changes.as_object().unwrap() {
                config[field] = value.clone();
            }
        }
        for layers in self.tensors.iter_mut().filter_map(|tensor| tensor.layers.as_mut()) {
            layers.retain(|layer| *layer < count);
        }
        self
    }

    /// Dimensions and weights of the checkpoint's tensors, by name.
    pub fn tensors(&self) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
        let entries = self.tensors.iter().flat_map(|tensor| {
            let names = in_layers(&tensor.name, tensor.layers.as_deref());
            names.into_iter().map(move |name| {
                let count = tensor.dims.iter().product();
                let (offset, scale) = (tensor.offset as f32, tensor.scale as f32);
                let weights = uniform(&name, count).map(|u| offset + scale * u).collect();
                (name, (tensor.dims.clone(), weights))
            })
        });
        entries.collect()
    }

    /// Writes the Hugging Face folder, with config.json in a style.
    pub fn write_hf(&self, dir: &Path, style: &str) {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("config.json"), self.configs[style].to_string()).unwrap();
        super::write_hf_text(dir);
        let tensors = self.tensors();
        let bytes: Vec<(&String, Vec<u8>)> =
            tensors.iter().map(|(name, (_, weights))| (name, super::to_bytes(weights, Dtype::F32))).collect();
        let views = bytes
            .iter()
            .map(|(name, bytes)| (*name, TensorView::new(Dtype::F32, tensors[*name].0.clone(), bytes).unwrap()));
        safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
    }

    /// Writes the GGUF file that llama.cpp's converter makes of the folder, in F32, with the tests' tokenizer.
    pub fn write_gguf(&self, path: &Path) {
        let mut metadata = super::tokenizer_metadata();
        metadata.insert("general.name".into(), GgufValue::String(self.family.clone()));
        metadata.extend(self.gguf.metadata.iter().map(|(key, kind, value)| (key.clone(), gguf_value(kind, value))));
        let checkpoint = self.tensors();
        let tensors = self.gguf.tensors.iter().flat_map(|tensor| {
            let names = in_layers(&tensor.name, tensor.layers.as_deref());
            let sources = in_layers(tensor.from.as_deref().unwrap_or_default(), tensor.layers.as_deref());
            names.into_iter().zip(sources).map(|(name, from)| (name, tensor.of(checkpoint.get(&from))))
        });
        gguf::write(path, &metadata, &tensors.collect::<Vec<_>>());
    }
}

impl FollowingTensor {
    fn of(&self, source: Option<&(Vec<usize>, Vec<f32>)>) -> GgufTensor {
        if let Some(values) = &self.values {
            return GgufType::F32.tensor(&[values.len()], values);
        }
        let (dims, weights) = source.expect("a tensor of the checkpoint");
        let width: usize = dims[1..].iter().product();
        let (first, last) = self.rows.unwrap_or((0, dims[0]));
        let mut weights = weights[first * width..last * width].to_vec();
        if let Some(heads) = self.interleaved {
            let heads = weights.chunks_exact(weights.len() / heads);
            let pairs = heads.flat_map(|head| {
                let (first, second) = head.split_at(head.len() / 2);
                first.chunks_exact(width).zip(second.chunks_exact(width))
            });
            weights = pairs.flat_map(|(first, second)| [first, second].concat()).collect();
        }
        if let Some(plus) = self.plus {
            weights.iter_mut().for_each(|weight| *weight += plus);
        }
        let dims: Vec<usize> = [last - first].into_iter().chain(dims[1..].iter().copied()).collect();
        GgufType::F32.tensor(&dims, &weights)
    }
}

/// The name, or those in the layers.
fn in_layers(name: &str, layers: Option<&[u32]>) -> Vec<String> {
    match layers {
        None => vec![name.to_string()],
        Some(layers) => layers.iter().map(|layer| name.replace(LAYER, &layer.to_string())).collect(),
    }
}

/// A value of the metadata from its JSON; `kind` is a type, or a list of the type of an array's values.
fn gguf_value(kind: &Value, value: &Value) -> GgufValue {
    if let Some([kind]) = kind.as_array().map(Vec::as_slice) {
        let values = value.as_array().expect("a list").iter();
        return GgufValue::Array(values.map(|value| gguf_value(kind, value)).collect());
    }
    match kind.as_str().expect("a type") {
        "string" => GgufValue::String(value.as_str().expect("text").into()),
        "bool" => GgufValue::Bool(value.as_bool().expect("true or false")),
        "uint32" => GgufValue::U32(value.as_u64().expect("a number") as u32),
        "int32" => GgufValue::I32(value.as_i64().expect("a number") as i32),
        "float32" => GgufValue::F32(value.as_f64().expect("a number") as f32),
        other => panic!("no values of type {other}"),
    }
}

/// Numbers from -1 to 1, without it: splitmix64 of the name's FNV-1a hash and the place, as make.py has it.
pub fn uniform(name: &str, count: usize) -> impl Iterator<Item = f32> {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let hash = |seed: u64, byte: u8| (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    (1..=count as u64).map(move |place| {
        let mut x = seed.wrapping_add(place.wrapping_mul(GOLDEN));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        ((x >> 40) as i64 - (1 << 23)) as f32 / (1 << 23) as f32
    })
}
