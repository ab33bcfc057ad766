//! A model folder as Hugging Face keeps models, for transformers and what loads its folders.

mod config;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use self::config::HubClass;
use super::family::{ExportFamily, FamilyKind};
use super::tensors::{PlannedTensor, TensorWriter};
use super::text::TextSide;
use super::{ExportOptions, SiteDepths, StoredType, StoredTypes};
use crate::checkpoint_files::{CONFIG_FILE, INDEX_FILE, TOKENIZER_CONFIG_FILE, WHOLE_FILE};
use crate::error::Result;
use crate::format::layout::TensorSpec;
use crate::format::{
    CHAT_TEMPLATE_FILE, ContainerWriter, GENERATION_FILE, ModelFolder, Place, TOKENIZER_FILE, check_space,
    follow_links, sync_dir, write_new,
};
use crate::precision::Depth;
use crate::quantize::gguf::BlockType;
use crate::quantize::huggingface::TensorNames;
use crate::quantize::{SourceTensor, as_file};

/// The file that tells an export from other folders: what it was made of, and its files.
pub const EXPORT_FILE: &str = "edge-run-export.json";
/// Bytes of a shard at most, if no tensor has more.
const SHARD_BYTES: u64 = 5_000_000_000;

/// What is written.
#[derive(Debug)]
pub struct HubPlan {
    /// The class of transformers.
    pub architecture: &'static str,
    /// The model's tensors, in file order.
    pub tensors: Vec<PlannedTensor>,
    /// Texts by file name.
    texts: BTreeMap<String, String>,
    /// What [`EXPORT_FILE`] says, beside the files.
    origin: Map<String, Value>,
}

/// The plan for a folder. Fails where transformers has no class that computes what the spec says.
pub fn plan(
    folder: &ModelFolder,
    options: &ExportOptions,
    stored: StoredTypes,
    warnings: &mut Vec<String>,
) -> Result<HubPlan> {
    let (shape, spec) = (folder.shape(), &folder.manifest().spec);
    // One type for all.
    let stored = stored.outer;
    let family = ExportFamily::of(shape, spec)?;
    let class = config::class(shape, spec, &family)?;
    let text = TextSide::read(folder)?;
    let is_gemma = matches!(family.kind, FamilyKind::Gemma2 | FamilyKind::Gemma3);
    if is_gemma && stored == StoredType::F16 {
        warnings.push(
            "activations of this family may leave f16's range in programs that compute in the weights' type: \
             bf16 is the type that its makers ship"
                .into(),
        );
    }
    let fields = config::fields((shape, spec), &family, class, &text, stored)?;
    let mut texts = BTreeMap::from([
        (CONFIG_FILE.to_string(), as_file(&fields)),
        (TOKENIZER_FILE.to_string(), text.assets.tokenizer.clone()),
        (TOKENIZER_CONFIG_FILE.to_string(), as_file(&tokenizer_config(&text, shape.max_context))),
        (GENERATION_FILE.to_string(), text.assets.generation_config.clone()),
    ]);
    if let (Some(template), true) = (&text.assets.chat_template, text.assets.named_templates.is_empty()) {
        texts.insert(CHAT_TEMPLATE_FILE.into(), template.clone());
    }
    let tensors = tensors(folder, &family, stored.block());
    let origin = origin(folder, options, stored, class);
    Ok(HubPlan { architecture: class.architecture, tensors, texts, origin })
}

impl HubPlan {
    /// Writes the folder; the bytes of its files.
    pub fn write(&self, options: &ExportOptions, writer: &mut TensorWriter<'_>) -> Result<u64> {
        let bytes = self.tensors.iter().map(PlannedTensor::bytes).sum();
        check_space(&follow_links(&options.out)?, bytes, "the model takes")?;
        let place = Place::claim_for(&options.out, options.replace, EXPORT_FILE)?;
        let dir = place.model();
        let shards = self.shards();
        let mut sizes = BTreeMap::new();
        let mut write_text = |name: &str, text: &str| {
            place.check_name(name)?;
            sizes.insert(name.to_string(), text.len() as u64);
            write_new(&dir.join(name), text.as_bytes())
        };
        for (name, text) in &self.texts {
            write_text(name, text)?;
        }
        if shards.len() > 1 {
            write_text(INDEX_FILE, &as_file(&index(&shards)))?;
        }
        for (name, tensors) in &shards {
            place.check_name(name)?;
            sizes.insert(name.clone(), write_shard(&dir.join(name), tensors, writer)?);
        }
        let mut export = self.origin.clone();
        let files = sizes.iter().map(|(name, bytes)| (name.clone(), json!({"bytes": bytes})));
        export.insert("files".into(), files.collect::<Map<_, _>>().into());
        write_new(&dir.join(EXPORT_FILE), as_file(&export).as_bytes())?;
        sync_dir(&dir);
        place.fill()?;
        Ok(sizes.values().sum())
    }

    /// The files of weights, with their tensors.
    fn shards(&self) -> Vec<(String, Vec<&PlannedTensor>)> {
        let mut shards: Vec<(u64, Vec<&PlannedTensor>)> = Vec::new();
        for tensor in &self.tensors {
            match shards.last_mut().filter(|(bytes, _)| bytes + tensor.bytes() <= SHARD_BYTES) {
                Some((bytes, tensors)) => {
                    *bytes += tensor.bytes();
                    tensors.push(tensor);
                }
                None => shards.push((tensor.bytes(), vec![tensor])),
            }
        }
        let count = shards.len();
        let name = |at: usize| match count {
            1 => WHOLE_FILE.to_string(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", at + 1),
        };
        shards.into_iter().enumerate().map(|(at, (_, tensors))| (name(at), tensors)).collect()
    }
}

fn write_shard(path: &Path, tensors: &[&PlannedTensor], writer: &mut TensorWriter<'_>) -> Result<u64> {
    let spec = |tensor: &&PlannedTensor| TensorSpec {
        name: tensor.name.clone(),
        dtype: dtype(tensor.dtype),
        shape: tensor.dims.clone(),
    };
    let specs: Vec<TensorSpec> = tensors.iter().map(spec).collect();
    let facts = HashMap::from([("format".to_string(), "pt".to_string())]);
    let mut file = ContainerWriter::create(path.to_path_buf(), &specs, Some(facts))?;
    for tensor in tensors {
        let mut at = 0;
        writer.write(tensor, &mut |bytes| {
            file.write(&tensor.name, at, bytes)?;
            at += bytes.len() as u64;
            Ok(())
        })?;
    }
    file.sync()?;
    Ok(file.bytes())
}

fn dtype(block: BlockType) -> Dtype {
    match block {
        BlockType::F16 => Dtype::F16,
        BlockType::Bf16 => Dtype::BF16,
        BlockType::F32 => Dtype::F32,
        other => unreachable!("{other:?} is not for safetensors"),
    }
}

/// Which file has which tensor.
fn index(shards: &[(String, Vec<&PlannedTensor>)]) -> Map<String, Value> {
    let all = shards.iter().flat_map(|(file, tensors)| tensors.iter().map(move |tensor| (file, tensor)));
    let total: u64 = all.clone().map(|(_, tensor)| tensor.bytes()).sum();
    let places: Map<String, Value> = all.map(|(file, tensor)| (tensor.name.clone(), file.clone().into())).collect();
    Map::from_iter([("metadata".to_string(), json!({"total_size": total})), ("weight_map".to_string(), places.into())])
}

fn tensors(folder: &ModelFolder, family: &ExportFamily, stored: BlockType) -> Vec<PlannedTensor> {
    let (shape, spec) = (folder.shape(), &folder.manifest().spec);
    let is_gemma = matches!(family.kind, FamilyKind::Gemma2 | FamilyKind::Gemma3);
    // Gemma's embedding is multiplied by this when it is read, and its norms by one more than they state.
    let embed_scale = if is_gemma { (shape.model_dim as f32).sqrt() } else { 1.0 };
    let planned = |tensor: SourceTensor| {
        use SourceTensor::*;
        let scale = match tensor {
            Embed => 1.0 / embed_scale,
            FinalNorm if shape.tied_head => embed_scale,
            _ => 1.0,
        };
        let is_norm = matches!(tensor, FinalNorm | Vector(..));
        PlannedTensor {
            name: TensorNames::TEXT.alone(tensor, spec),
            tensor,
            dtype: if tensor.is_vector() { BlockType::F32 } else { stored },
            dims: tensor.stated_dims(shape, spec),
            pairs: false,
            scale,
            add: if is_gemma && is_norm { -1.0 } else { 0.0 },
        }
    };
    SourceTensor::all(shape, spec).into_iter().map(planned).collect()
}

fn tokenizer_config(text: &TextSide, context: u32) -> Map<String, Value> {
    let token = |id: Option<u32>| id.and_then(|id| text.token(id));
    let unknown = text.model("unk_token").and_then(Value::as_str);
    let tokens = [
        ("bos_token", token(text.prefix().or(text.generation.bos))),
        ("eos_token", token(text.generation.end.first().copied())),
        ("pad_token", token(text.generation.pad)),
        ("unk_token", unknown.map(String::from)),
    ];
    let mut fields = Map::from_iter([
        ("tokenizer_class".to_string(), json!("PreTrainedTokenizerFast")),
        ("model_max_length".to_string(), json!(context)),
        ("clean_up_tokenization_spaces".to_string(), json!(false)),
    ]);
    fields.extend(tokens.into_iter().filter_map(|(name, token)| Some((name.to_string(), token?.into()))));
    let (default, named) = (&text.assets.chat_template, &text.assets.named_templates);
    let template = if named.is_empty() {
        default.clone().map(Value::from)
    } else {
        let default = default.iter().map(|template| json!({"name": "default", "template": template}));
        let named = named.iter().map(|(name, template)| json!({"name": name, "template": template}));
        Some(default.chain(named).collect::<Vec<_>>().into())
    };
    fields.extend(template.map(|template| ("chat_template".to_string(), template)));
    fields
}

/// What the export was made of.
fn origin(folder: &ModelFolder, options: &ExportOptions, stored: StoredType, class: HubClass) -> Map<String, Value> {
    let manifest = folder.manifest();
    let (bits, site_bits) = match &options.depths {
        SiteDepths::Uniform(depth) => (json!(depth.bits()), None),
        SiteDepths::BySite(layers) => {
            let bits: Vec<_> = layers.iter().map(|sites| sites.map(Depth::bits)).collect();
            (json!(options.depths.bits(folder.shape())), Some(bits))
        }
    };
    let calibration = manifest.quantization.calibration.as_ref().map(|pack| pack.pack_sha256.clone());
    let mut origin = Map::from_iter([
        ("format_version".to_string(), json!(1)),
        ("model".to_string(), json!(manifest.source.name)),
        ("licence".to_string(), json!(manifest.source.licence)),
        ("bits".to_string(), bits),
        ("group_size".to_string(), json!(folder.group_size())),
        ("calibration_pack_sha256".to_string(), json!(calibration)),
        ("architecture".to_string(), json!(class.architecture)),
        ("type".to_string(), json!(stored.to_string())),
    ]);
    origin.extend(site_bits.map(|bits| ("site_bits".to_string(), json!(bits))));
    origin
}
