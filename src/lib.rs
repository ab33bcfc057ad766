//! Runs LLaMA-family language models on portable GPUs, reading as many bits of each weight as the moment calls for.
//!
//! A model is cut once into a 2-bit base and three residual 2-bit slices ([`quantize`]); a [`Session`] reads one to
//! four of them, and may change how many between any two tokens. See ARCHITECTURE.md for the way the parts fit.

pub mod arch;
pub mod bench;
#[cfg(feature = "calibrate")]
pub mod calibrate;
pub mod cancel;
pub mod cpu;
pub mod encoding;
pub mod engine;
pub mod error;
pub mod eval;
pub mod filetype;
pub mod format;
pub mod gpu;
pub mod json;
pub mod kernels;
pub mod model;
pub mod power;
pub mod precision;
#[cfg(feature = "quantize")]
pub mod quantize;
pub mod recording;
pub mod residency;
pub mod routing;
pub mod sampling;
pub mod session;
pub mod shape;
pub mod text;

pub use cancel::CancelToken;
pub use error::{Error, Result};
pub use model::Model;
pub use precision::{CacheType, Depth, Precision, PrecisionPlan};
pub use session::Session;

/// What edge-run's own command line, tests, benches and fuzz targets use. Nothing here is promised to applications: any
/// version may change it or take it away.
pub mod internals {
    #[cfg(feature = "calibrate")]
    pub use crate::calibrate;
    #[cfg(feature = "quantize")]
    pub use crate::quantize;
    pub use crate::{
        arch, bench, cancel, cpu, encoding, engine, error, eval, filetype, format, gpu, json, kernels, model, power,
        precision, recording, residency, routing, sampling, session, shape, text,
    };
}

/// The examples of the documentation, compiled with its tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct Examples;
