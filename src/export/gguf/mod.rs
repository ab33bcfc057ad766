//! A model folder as a GGUF file, for llama.cpp and what is built on it.

mod architecture;
mod file;
mod pretokenizer;
mod tokenizer;

use self::architecture::Architecture;
use self::file::{GgufWriter, ListedTensor, MetadataWriter};
use super::family::{ExportFamily, FamilyKind};
use super::tensors::{PlannedTensor, TensorWriter};
use super::text::TextSide;
use super::{ExportOptions, StoredType, StoredTypes};
use crate::arch::{HeadNorm, LayerVector};
use crate::error::Result;
use crate::format::{ModelFolder, check_space, follow_links};
use crate::quantize::SourceTensor;
use crate::quantize::gguf::{BlockType, dtype_number, tensor_name};
use crate::shape::LlamaShape;

/// What is written.
#[derive(Debug)]
pub struct GgufPlan {
    /// llama.cpp's name of the family.
    pub architecture: &'static str,
    /// The model's tensors, in file order.
    pub tensors: Vec<PlannedTensor>,
    metadata: MetadataWriter,
    extra: Vec<(&'static str, Vec<f32>)>,
}

/// The plan for a folder. Fails where llama.cpp has no architecture that computes what the spec says.
pub fn plan(
    folder: &ModelFolder,
    options: &ExportOptions,
    stored: StoredTypes,
    warnings: &mut Vec<String>,
) -> Result<GgufPlan> {
    let (shape, spec) = (folder.shape(), &folder.manifest().spec);
    let family = ExportFamily::of(shape, spec)?;
    let mut keys = MetadataWriter::default();
    let made = architecture::choose((shape, spec), &family, &mut keys)?;
    let context = context(shape, &family, made.name, warnings)?;
    let mut metadata = MetadataWriter::default();
    general(folder, stored.at(options.depths.deepest()), made.name, &mut metadata);
    dimensions(shape, context, made.name, &mut metadata);
    metadata.append(keys);
    let text = TextSide::read(folder)?;
    tokenizer::write((shape.vocab, folder.dir()), &text, options.pre_tokenizer.as_deref(), &mut metadata, warnings)?;
    let tensors = tensors(folder, &family, &made, &|tensor| stored.of(tensor, &options.depths).block());
    Ok(GgufPlan { architecture: made.name, tensors, metadata, extra: made.extra })
}

impl GgufPlan {
    /// Writes the file; its length.
    pub fn write(&self, options: &ExportOptions, writer: &mut TensorWriter<'_>) -> Result<u64> {
        let extra: Vec<_> = self.extra.iter().map(|(name, numbers)| (name, [numbers.len()], numbers)).collect();
        let listed = extra.iter().map(|(name, dims, numbers)| ListedTensor {
            name,
            dims,
            dtype: dtype_number(BlockType::F32),
            bytes: numbers.len() as u64 * 4,
        });
        let own = self.tensors.iter().map(|tensor| ListedTensor {
            name: &tensor.name,
            dims: &tensor.dims,
            dtype: dtype_number(tensor.dtype),
            bytes: tensor.bytes(),
        });
        let listed: Vec<ListedTensor<'_>> = listed.chain(own).collect();
        let bytes = listed.iter().map(|tensor| tensor.bytes).sum();
        check_space(&follow_links(&options.out)?, bytes, "the model takes")?;
        let mut file = GgufWriter::create(&options.out, options.replace, &self.metadata, &listed)?;
        for (_, _, numbers) in &extra {
            file.write(bytemuck::cast_slice(numbers))?;
            file.pad()?;
        }
        for tensor in &self.tensors {
            writer.write(tensor, &mut |bytes| file.write(bytes))?;
            file.pad()?;
        }
        file.finish()
    }
}

/// The context that the file states: where llama.cpp's architecture has no window, only as far as that changes nothing.
fn context(shape: &LlamaShape, family: &ExportFamily, name: &str, warnings: &mut Vec<String>) -> Result<u32> {
    let has_windows = matches!(family.kind, FamilyKind::Gemma2 | FamilyKind::Gemma3 | FamilyKind::Olmo2);
    let shortest = family.windows.iter().flatten().min().filter(|_| !has_windows);
    let Some(window) = shortest else { return Ok(shape.max_context) };
    warnings.push(format!(
        "llama.cpp's {name} has no attention window: the file states a context of {window} tokens, the model's window, \
         within which nothing differs, in place of {}",
        shape.max_context
    ));
    Ok(*window)
}

/// `layers` is the widest type of the layers.
fn general(folder: &ModelFolder, layers: StoredType, name: &str, metadata: &mut MetadataWriter) {
    let source = &folder.manifest().source;
    metadata.text("general.architecture", name);
    metadata.text("general.type", "model");
    metadata.text("general.name", source.name.trim());
    if let Some(licence) = &source.licence {
        metadata.text("general.license", licence);
    }
    metadata.u32("general.quantization_version", 2);
    // The numbers of llama.cpp's `llama_ftype`.
    let file_type = match layers {
        StoredType::F32 => 0,
        StoredType::F16 => 1,
        StoredType::Q4_1 => 3,
        StoredType::Q8_0 => 7,
        StoredType::Q5_1 => 9,
        StoredType::Bf16 => 32,
    };
    metadata.u32("general.file_type", file_type);
}

fn dimensions(shape: &LlamaShape, context: u32, name: &str, metadata: &mut MetadataWriter) {
    let numbers = [
        ("block_count", shape.layers),
        ("context_length", context),
        ("embedding_length", shape.model_dim),
        ("feed_forward_length", shape.ffn_dim),
        ("vocab_size", shape.vocab),
        ("attention.head_count", shape.heads),
        ("attention.head_count_kv", shape.kv_heads),
        ("attention.key_length", shape.head_dim),
        ("attention.value_length", shape.head_dim),
        ("rope.dimension_count", shape.head_dim),
    ];
    for (key, number) in numbers {
        metadata.u32(&format!("{name}.{key}"), number);
    }
    metadata.f32(&format!("{name}.attention.layer_norm_rms_epsilon"), shape.norm_eps);
}

/// The model's tensors, as the architecture wants them.
fn tensors(
    folder: &ModelFolder,
    family: &ExportFamily,
    made: &Architecture,
    stored: &dyn Fn(SourceTensor) -> BlockType,
) -> Vec<PlannedTensor> {
    let (shape, spec) = (folder.shape(), &folder.manifest().spec);
    let planned = |tensor: SourceTensor| {
        use SourceTensor::*;
        let normed = family.layer.attention.head_norm != HeadNorm::None;
        let scale = match tensor {
            Embed => made.embed_scale,
            // The head, which is the embedding, must not have its scale.
            FinalNorm if shape.tied_head => 1.0 / made.embed_scale,
            Query(_) if !normed => made.query_scale,
            Vector(_, LayerVector::QueryNorm) => made.query_scale,
            _ => 1.0,
        };
        let dtype = if tensor.is_vector() { BlockType::F32 } else { stored(tensor) };
        PlannedTensor {
            name: tensor_name(tensor),
            tensor,
            dtype,
            dims: tensor.stated_dims(shape, spec),
            pairs: made.pairs && matches!(tensor, Query(_) | Key(_) | QueryBias(_) | KeyBias(_)),
            scale,
            add: 0.0,
        }
    };
    let mut tensors: Vec<PlannedTensor> = SourceTensor::all(shape, spec).into_iter().map(planned).collect();
    if made.needs_head && shape.tied_head {
        let name = tensor_name(SourceTensor::Head);
        tensors.push(PlannedTensor { name, ..planned(SourceTensor::Embed) });
    }
    tensors
}
