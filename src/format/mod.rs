//! The model folder: a manifest, the tensors in safetensors files, and the text side's files.
//!
//! Layout on disk is layout on the GPU, so loading is a copy out of the mapped file and nothing else:
//!
//! | tensor | dtype | shape | meaning |
//! |---|---|---|---|
//! | `NAME.slice0` to `.slice3` | U32 | [rows, input / 16] | codes of one slice, two bits a weight, [see `codes`](codes) |
//! | `NAME.scales` | F16 | [rows, input / G, 2] | `lo` and `step` of each group |
//! | `layers.N.input_norm`, `layers.N.ffn_norm`, `final_norm` | F32 | `[D]` | RMSNorm weights |
//!
//! with NAME one of `embed`, `head` (untied models) and `layers.N.qkv`, `.o`, `.gate_up`, `.down`. Slice 0, the scales
//! and the norms are in `base.safetensors`; slice e in `slice-e.safetensors` and nothing else with it.

pub mod codes;
mod hash;
pub mod layout;
mod manifest;
mod mapped;
mod place;
mod reader;
mod summary;
mod writer;

pub use manifest::{FileEntry, Manifest, ModelSource, Quantization};
pub use mapped::{MappedTensor, map_file};
pub use reader::{ModelFolder, VerifyReport};
pub use summary::{DepthBits, FolderSummary};
pub use writer::FolderWriter;

/// Version of the folder's format; a reader takes this one only.
pub const FORMAT_VERSION: u32 = 1;
/// The manifest's file name.
pub const MANIFEST_FILE: &str = "edge-run.json";
/// The tokenizer's file name.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The chat template's file name; a model without one has no such file.
pub const CHAT_TEMPLATE_FILE: &str = "chat_template.jinja";
/// File name of the default generation settings and the special token ids.
pub const GENERATION_FILE: &str = "generation_config.json";
/// The only architecture of this version.
pub const ARCHITECTURE: &str = "llama";
