//! The model folder: a manifest, the tensors in safetensors files, and the text side's files.
//!
//! Layout on disk is layout on the GPU, so loading is a copy out of the mapped file and nothing else:
//!
//! | tensor | dtype | shape | meaning |
//! |---|---|---|---|
//! | `NAME.slice0` to `.slice3` | U32 | [rows, input / 16] | two bits of each code, [see `codes`](codes) |
//! | `NAME.ranges0` to `.ranges3` | U16 | [rows, input / 32] | the range of each group at the depth of that slice |
//! | `NAME.scales` | F16 | [rows, input / G, 2] | in place of these in folders with larger groups: `lo` and `step` |
//! | `layers.N.input_norm`, `layers.N.ffn_norm`, `final_norm` | F32 | `[D]` | RMSNorm weights |
//! | `layers.N.VECTOR` | F32 | see [`LayerVector`](crate::arch::LayerVector) | what other families have beside these |
//! | `routers.w1` | F16 | [4 L, 32, D] | first layers of the [routers](crate::routing), site by site |
//! | `routers.rest` | F32 | [4 L, 132] | of each router b1 (32), w2 (3 rows of 32), b2 (3), and a zero |
//!
//! with SITE one of `qkv`, `o`, `gate_up`, `down` and NAME one of `embed`, `head` (untied models) and `layers.N.SITE`.
//! Slice 0, its ranges, the scales, the vectors and the routers are in `base.safetensors`; slice e and its ranges in
//! `slice-e.safetensors` and nothing else with them.
//!
//! A model has routers exactly where its manifest has `routing`, the table from average bits to their threshold. Such a
//! folder is of version 3, as is one with calibrated ranges, so that a reader which knows neither refuses it by its
//! version; any other is of version 1, as ever. A model that differs from LLaMA is of version 4, and any folder with
//! ranges in words of version 5. Routers of version 2 looked at their sites' own inputs, and are not read any more.
//!
//! A calibration [`Pack`] is one safetensors file: of every site `ranges0`, `ranges1` and `ranges3` (or the scales, of
//! larger groups) and the routers, under the names above, and its [`PackInfo`] as JSON under the key
//! `edge_run_calibration` of `__metadata__`. From version 4 on it also has `NAME.columns`, F32 `[input]`, of `head` and
//! of every site but `o`: what each column of the weight is multiplied by before it is cut, and its input divided by.

mod advice;
mod aside;
pub mod codes;
mod container;
mod facts;
mod hash;
mod header;
mod holder;
pub mod layout;
mod manifest;
mod mapped;
mod open_file;
mod pack;
mod place;
mod reader;
mod reference;
mod saved_session;
#[cfg(any(feature = "quantize", feature = "hub"))]
mod space;
mod summary;
mod writer;

pub use aside::ContainerAside;
pub use container::{ContainerWriter, TensorPlace};
#[cfg(feature = "hub")]
pub use hash::digest_of_file;
pub use hash::{hexadecimal, sha256};
pub use header::{HEADER_BYTES_MAX, parse_header};
#[cfg(feature = "calibrate")]
pub use holder::Holder;
pub use manifest::{Calibration, FileEntry, Manifest, ModelSource, Quantization};
pub use mapped::{MappedTensor, map_file};
pub use open_file::OpenFile;
pub use pack::{PAIRS_VERSION, Pack, PackInfo, SCALED_VERSION, WORDS_VERSION};
pub use place::{Place, file_place, follow_links, remove_model, sync_dir, write_whole};
pub use reader::{ModelFolder, VerifyReport};
pub use reference::{
    CodedLogits, REFERENCE_VERSION, Reference, ReferenceInfo, ReferenceRow, ReferenceText, ReferenceWriter, UNITS,
    reference_place, tokens_sha256,
};
pub use saved_session::{SESSION_VERSION, SavedCells, SavedDraws, SavedSession, SavedSessionWriter, SessionFacts};
#[cfg(any(feature = "quantize", feature = "hub"))]
pub use space::check_space;
pub use summary::{DepthBits, FolderSummary, RoutingSummary, TokenBytes};
pub use writer::{FolderWriter, write_new};

/// Newest version of the folder's format, of a folder whose ranges are words. A reader takes it, [`FAMILY_VERSION`],
/// [`CALIBRATED_VERSION`] and [`PLAIN_VERSION`].
pub const FORMAT_VERSION: u32 = 5;
/// Version of a folder of a model that differs from LLaMA, with ranges in pairs.
pub const FAMILY_VERSION: u32 = 4;
/// Version of a LLaMA's folder with routers or calibrated ranges.
pub const CALIBRATED_VERSION: u32 = 3;
/// Version of a LLaMA's folder without routers and calibrated ranges.
pub const PLAIN_VERSION: u32 = 1;
/// The manifest's file name.
pub const MANIFEST_FILE: &str = "edge-run.json";
/// The tokenizer's file name.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The chat template's file name; a model without one has no such file.
pub const CHAT_TEMPLATE_FILE: &str = "chat_template.jinja";
/// File name of the chat templates that have names of their own, a JSON object of their texts by name; a model without
/// any has no such file.
pub const CHAT_TEMPLATES_FILE: &str = "chat_templates.json";
/// File name of the default generation settings and the special token ids.
pub const GENERATION_FILE: &str = "generation_config.json";
/// What a sound table of thresholds is, for messages.
const THRESHOLDS_RULE: &str = "rising bits from 2 to 8 with falling thresholds";
/// The only architecture of this version.
pub const ARCHITECTURE: &str = "llama";
