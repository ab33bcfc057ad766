//! What models compute, and what is said with them, on every engine that there is.

#[path = "../common/buffers.rs"]
mod buffers;
#[path = "../common/mod.rs"]
mod common;
#[path = "../common/default_model.rs"]
mod default_model;
#[path = "../common/derived.rs"]
mod derived;
#[path = "../common/described.rs"]
mod described;
#[path = "../common/gpu.rs"]
mod gpu;
#[path = "../common/logits.rs"]
mod logits;
#[path = "../common/names.rs"]
mod names;
#[path = "../common/processors.rs"]
mod processors;
#[path = "../common/refusing.rs"]
mod refusing;
#[path = "../common/routed.rs"]
mod routed;
#[path = "../common/uncalibrated.rs"]
mod uncalibrated;

mod bench;
mod chat;
#[cfg(feature = "grammar")]
mod choices;
mod contexts;
mod continuity;
mod eval;
mod export;
mod families;
mod family_models;
mod fidelity;
mod golden_model;
mod golden_text;
mod gpu_launches;
#[cfg(feature = "quantize")]
mod importance;
mod lowerings;
mod memory;
mod no_numbers;
mod operations;
mod packed_model;
mod prompt_lookup;
mod residency;
mod routing;
mod sequences;
mod session;
mod session_ahead;
mod stopping;
mod windowed_models;
mod windows;
