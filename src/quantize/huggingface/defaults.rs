//! The architectures of config.json that can be imported, and what transformers takes where config.json lacks a field.

use super::super::family::Family;

/// What transformers takes where the config.json of an architecture lacks a field.
#[derive(Debug, Clone, Copy)]
pub struct ConfigDefaults {
    pub architecture: &'static str,
    pub model_type: &'static str,
    pub family: Family,
    pub model_dim: u32,
    pub ffn_dim: u32,
    pub layers: u32,
    pub heads: u32,
    /// Key/value heads; `None` for as many as heads.
    pub kv_heads: Option<u32>,
    /// Dimension of a head; `None` for the model dimension over the heads.
    pub head_dim: Option<u32>,
    pub vocab: u32,
    pub max_context: u32,
    pub norm_eps: f32,
    pub tied_head: bool,
    pub rope_theta: f32,
    /// Positions of windows; `None` for no window.
    pub window: Option<u32>,
}

/// Of `LlamaConfig`.
const LLAMA: ConfigDefaults = ConfigDefaults {
    architecture: "LlamaForCausalLM",
    model_type: "llama",
    family: Family::Llama,
    model_dim: 4096,
    ffn_dim: 11_008,
    layers: 32,
    heads: 32,
    kv_heads: None,
    head_dim: None,
    vocab: 32_000,
    max_context: 2048,
    norm_eps: 1e-6,
    tied_head: false,
    rope_theta: 10_000.0,
    window: None,
};

const QWEN2: ConfigDefaults = ConfigDefaults {
    architecture: "Qwen2ForCausalLM",
    model_type: "qwen2",
    family: Family::Qwen2,
    ffn_dim: 22_016,
    kv_heads: Some(32),
    vocab: 151_936,
    max_context: 32_768,
    window: Some(4096),
    ..LLAMA
};

const GRANITE: ConfigDefaults =
    ConfigDefaults { architecture: "GraniteForCausalLM", model_type: "granite", family: Family::Granite, ..LLAMA };

const GEMMA2: ConfigDefaults = ConfigDefaults {
    architecture: "Gemma2ForCausalLM",
    model_type: "gemma2",
    family: Family::Gemma2,
    model_dim: 2304,
    ffn_dim: 9216,
    layers: 26,
    heads: 8,
    kv_heads: Some(4),
    head_dim: Some(256),
    vocab: 256_000,
    max_context: 8192,
    tied_head: true,
    window: Some(4096),
    ..LLAMA
};

const OLMO2: ConfigDefaults = ConfigDefaults {
    architecture: "Olmo2ForCausalLM",
    model_type: "olmo2",
    family: Family::Olmo2,
    vocab: 50_304,
    norm_eps: 1e-5,
    ..LLAMA
};

/// Of the text part of Gemma 3 and of the model without another part.
const GEMMA3: ConfigDefaults = ConfigDefaults {
    architecture: "Gemma3ForCausalLM",
    model_type: "gemma3_text",
    family: Family::Gemma3,
    vocab: 262_208,
    max_context: 131_072,
    rope_theta: 1_000_000.0,
    ..GEMMA2
};

const MISTRAL: ConfigDefaults = ConfigDefaults {
    architecture: "MistralForCausalLM",
    model_type: "mistral",
    family: Family::Mistral,
    ffn_dim: 14_336,
    kv_heads: Some(8),
    max_context: 131_072,
    window: Some(4096),
    ..LLAMA
};

const MINISTRAL3: ConfigDefaults = ConfigDefaults {
    architecture: "Ministral3ForCausalLM",
    model_type: "ministral3",
    family: Family::Ministral3,
    layers: 34,
    head_dim: Some(128),
    vocab: 131_072,
    max_context: 262_144,
    norm_eps: 1e-5,
    rope_theta: 1_000_000.0,
    window: None,
    ..MISTRAL
};

/// The architecture of Granite 4, whose small models have neither experts nor Mamba layers.
pub const GRANITE_HYBRID: &str = "GraniteMoeHybridForCausalLM";

/// Every architecture that can be imported.
pub const ARCHITECTURES: [ConfigDefaults; 13] = [
    LLAMA,
    MISTRAL,
    MINISTRAL3,
    QWEN2,
    ConfigDefaults {
        architecture: "Qwen3ForCausalLM",
        model_type: "qwen3",
        family: Family::Qwen3,
        head_dim: Some(128),
        ..QWEN2
    },
    ConfigDefaults {
        architecture: "SmolLM3ForCausalLM",
        model_type: "smollm3",
        family: Family::SmolLm3,
        model_dim: 2048,
        layers: 36,
        heads: 16,
        kv_heads: Some(4),
        vocab: 128_256,
        max_context: 32_768,
        tied_head: true,
        rope_theta: 2_000_000.0,
        ..LLAMA
    },
    GRANITE,
    ConfigDefaults { architecture: GRANITE_HYBRID, model_type: "granitemoehybrid", ffn_dim: 1024, ..GRANITE },
    ConfigDefaults {
        architecture: "Phi3ForCausalLM",
        model_type: "phi3",
        family: Family::Phi3,
        model_dim: 3072,
        ffn_dim: 8192,
        vocab: 32_064,
        max_context: 4096,
        norm_eps: 1e-5,
        ..LLAMA
    },
    GEMMA2,
    GEMMA3,
    OLMO2,
    ConfigDefaults {
        architecture: "Olmo3ForCausalLM",
        model_type: "olmo3",
        family: Family::Olmo3,
        rope_theta: 500_000.0,
        window: Some(4096),
        ..OLMO2
    },
];

/// How the first conversions of LLaMA spell it.
pub const OLD_LLAMA: &str = "LLaMAForCausalLM";

/// An architecture whose text part, in `text_config`, is one of the others.
#[derive(Debug, Clone, Copy)]
pub struct ConfigWrapper {
    pub architecture: &'static str,
    pub model_type: &'static str,
    /// The model type of the text part where it states none.
    pub text: &'static str,
}

/// Every such architecture.
pub const WRAPPERS: [ConfigWrapper; 2] = [
    ConfigWrapper { architecture: "Gemma3ForConditionalGeneration", model_type: "gemma3", text: "gemma3_text" },
    ConfigWrapper { architecture: "Mistral3ForConditionalGeneration", model_type: "mistral3", text: "mistral" },
];

/// The architecture of this name; where `by_type` is true, of this model type.
pub fn named(name: &str, by_type: bool) -> Option<ConfigDefaults> {
    let name = if name == OLD_LLAMA { LLAMA.architecture } else { name };
    let is = |known: &ConfigDefaults| name == known.architecture || (by_type && name == known.model_type);
    ARCHITECTURES.into_iter().find(is)
}
