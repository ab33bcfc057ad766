//! Runs LLaMA-family language models on portable GPUs, reading as many bits of each weight as the moment calls for.
//!
//! A model is cut once into a 2-bit base and three residual 2-bit slices, by `edge-run quantize`. A [`Session`] reads
//! one to four of them, and may change how many between any two tokens: by hand with a [`PrecisionPlan`], or by the
//! device's power state with a [`PowerFollower`].
//!
//! ```no_run
//! use std::io::Write as _;
//!
//! use edge_run::{Event, LanguageModel, Message};
//!
//! # fn main() -> edge_run::Result<()> {
//! let model = LanguageModel::open("path/to/model")?;
//! let mut session = model.session()?;
//! for event in session.chat(&[Message::user("Why is the sky blue?")], Some(200))? {
//!     if let Event::Token(token) = event? {
//!         print!("{}", token.text);
//!         let _ = std::io::stdout().flush();
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | name | what it is |
//! |---|---|
//! | [`LanguageModel`], [`OpenOptions`], [`Device`], [`devices()`] | a model on a device, and how it is opened |
//! | [`Session`] | a conversation; any number of them share a model, on any threads |
//! | [`Message`] | what is said in a conversation |
//! | [`SavedContext`], [`Restored`] | a session in a file |
//! | [`Answer`], [`Event`], [`Token`], [`Summary`] | an answer, event by event |
//! | [`PrecisionPlan`], [`PowerMode`], [`PowerFollower`] | what is read of the weights |
//! | [`SamplerSettings`] | how tokens are chosen |
//! | [`CancelToken`] | a request to stop, from any thread |
//! | [`Error`] | what went wrong, by the name of the file, tensor or setting |
//!
//! Everything else is in [`internals`], and is not promised to stay.

pub mod internals;

use internals::*;

pub use cancel::CancelToken;
pub use constraint::{TokenConstraint, TokenMask};
pub use devices::{Device, devices};
pub use engine::DeviceInfo;
pub use error::{Error, Result};
pub use language_model::{LanguageModel, OpenOptions};
pub use power::{PowerFollower, PowerMode};
pub use precision::{CacheType, Depth, Precision, PrecisionPlan, PromptBits};
pub use residency::SliceReport;
pub use session::{
    Answer, Event, Logprobs, Restored, SavedContext, Session, StopReason, Summary, Token, TokenProbability,
};
pub use text::{AnswerPart, LogitBias, Message, Role, SamplerSettings, Tool, ToolCall, ToolCallFormat, ToolCallParser};
#[cfg(feature = "grammar")]
pub use text::{Grammar, GrammarConstraint};

/// What an application needs that has a power source or a policy of its own.
pub mod power_source {
    pub use crate::power::{
        Decision, Policy, PowerSource, PowerState, PushedPower, Reading, Rule, Rung, Signal, Supply, Thermal,
        system_source,
    };
}

/// What an application needs that runs a model on the wgpu device that it draws with.
///
/// ```no_run
/// use edge_run::host_gpu::{self, HostDevice, wgpu};
/// use edge_run::{LanguageModel, OpenOptions};
///
/// # async fn open(adapter: wgpu::Adapter) -> Result<(), Box<dyn std::error::Error>> {
/// let mut wanted = host_gpu::device_descriptor(&adapter)?;
/// wanted.label = Some("an application");
/// let (device, queue) = adapter.request_device(&wanted).await?;
/// let host = HostDevice { adapter, device: device.clone(), queue: queue.clone() };
/// let model = LanguageModel::open_on(host, "path/to/model", OpenOptions::default(), &mut |_, _| ())?;
/// # Ok(())
/// # }
/// ```
pub mod host_gpu {
    pub use crate::gpu::{HostDevice, device_descriptor};
    pub use wgpu;
}

/// The examples of the documentation, compiled with its tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct EmbeddingExamples;

/// As above.
#[cfg(doctest)]
#[doc = include_str!("../docs/desktop-apps.md")]
struct DesktopExamples;

/// As above.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
