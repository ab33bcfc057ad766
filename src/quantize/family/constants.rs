//! What programs take where a checkpoint does not say it, and what no checkpoint says.

/// Bounds of the scores and the logits of Gemma 2.
pub const GEMMA2_SCORE_CAP: f32 = 50.0;
pub const GEMMA2_LOGIT_CAP: f32 = 30.0;
/// Layers of the Gemmas of 27B, to whose scores llama.cpp gives the scale of D/H in place of A: no key says so.
pub const GEMMA2_27B_LAYERS: u32 = 46;
pub const GEMMA3_27B_LAYERS: u32 = 62;
/// Every so many layers one has no window.
pub const GEMMA2_PERIOD: u32 = 2;
pub const GEMMA3_PERIOD: u32 = 6;
pub const OLMO3_PERIOD: u32 = 4;
/// Every so many layers one of SmolLM3 is not rotated.
pub const NO_ROPE_INTERVAL: u32 = 4;
/// Base of the frequencies of Gemma 3's layers with a window.
pub const GEMMA3_LOCAL_THETA: f32 = 10_000.0;
/// YaRN's bounds.
pub const YARN_BETA_FAST: f64 = 32.0;
pub const YARN_BETA_SLOW: f64 = 1.0;
