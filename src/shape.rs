//! The shape of a LLaMA-family model, and the letters used for it everywhere.
//!
//! | letter | meaning | letter | meaning |
//! |---|---|---|---|
//! | T | tokens of one step | D | model dimension |
//! | L | layers | F | feed-forward dimension |
//! | H | query heads | K | key/value heads |
//! | A | dimension of one head | V | vocabulary |
//! | G | weights of one quantization group | C | cells of the cache: the contexts of all sequences, in tokens |
//!
//! Tensors are row-major and their shapes are written slowest dimension first.

use serde::{Deserialize, Serialize};

/// Dimensions and constants of a LLaMA-family model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LlamaShape {
    /// L
    pub layers: u32,
    /// D
    pub model_dim: u32,
    /// F
    pub ffn_dim: u32,
    /// H
    pub heads: u32,
    /// K; divides H
    pub kv_heads: u32,
    /// A; even
    pub head_dim: u32,
    /// V
    pub vocab: u32,
    /// Tokens the model was trained to look back on.
    pub max_context: u32,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f32,
    /// Whether the head is the embedding.
    pub tied_head: bool,
    /// Rotary position embedding.
    pub rope: Rope,
}

/// Rotary position embedding (Su et al., arXiv 2104.09864), halves rotated as in Hugging Face checkpoints:
/// dimension `i` pairs with `i + A/2`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f32,
    /// What stretches them for contexts longer than the first training's.
    #[serde(default)]
    pub scaling: RopeScaling,
}

/// How the rotary frequencies are stretched.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RopeScaling {
    /// Not at all.
    #[default]
    None,
    /// All by one factor (position interpolation, arXiv 2306.15595).
    Linear {
        /// The divisor of every frequency.
        factor: f32,
    },
    /// Low frequencies by `factor`, high ones not at all, a ramp between (Llama 3.1).
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f32,
        /// Wavelengths above `original_context / low_freq_factor` count as low.
        low_freq_factor: f32,
        /// Wavelengths below `original_context / high_freq_factor` count as high.
        high_freq_factor: f32,
        /// Context of the first training, in tokens.
        original_context: f32,
    },
    /// A divisor for each of the A/2 frequencies, as GGUF files carry them.
    Factors {
        /// The divisors, [A/2].
        factors: Vec<f32>,
    },
}

/// A place where linears read one common input, and so the unit of routing and of storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// Query, key and value rows, stacked in this order: [H*A + 2*K*A, D].
    Qkv,
    /// The attention's output: [D, H*A].
    O,
    /// Gate and up rows, stacked: [2*F, D].
    GateUp,
    /// The feed-forward's output: [D, F].
    Down,
}

impl Site {
    /// The sites of a layer, in the order they run.
    pub const ALL: [Site; 4] = [Site::Qkv, Site::O, Site::GateUp, Site::Down];

    /// The site's name in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Site::Qkv => "qkv",
            Site::O => "o",
            Site::GateUp => "gate_up",
            Site::Down => "down",
        }
    }

    /// (rows, input dimension) of the site's stacked weight.
    pub fn dims(self, shape: &LlamaShape) -> (u32, u32) {
        let (d, f) = (shape.model_dim, shape.ffn_dim);
        match self {
            Site::Qkv => (shape.q_dim() + 2 * shape.kv_dim(), d),
            Site::O => (d, shape.q_dim()),
            Site::GateUp => (2 * f, d),
            Site::Down => (d, f),
        }
    }

    /// Weights of the site.
    pub fn weights(self, shape: &LlamaShape) -> u64 {
        let (rows, input) = self.dims(shape);
        u64::from(rows) * u64::from(input)
    }
}

/// A site of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteAt {
    /// The layer, counted from 0.
    pub layer: u32,
    /// The site in it.
    pub site: Site,
}

impl SiteAt {
    /// Its place among the sites of all layers, in the order they run.
    pub fn index(self) -> u32 {
        self.layer * Site::ALL.len() as u32 + self.site as u32
    }
}

impl LlamaShape {
    /// H*A
    pub fn q_dim(&self) -> u32 {
        self.heads * self.head_dim
    }

    /// K*A
    pub fn kv_dim(&self) -> u32 {
        self.kv_heads * self.head_dim
    }

    /// Weights of the linears of all layers: what "bits" are averaged over.
    pub fn linear_params(&self) -> u64 {
        let per_layer: u64 = Site::ALL.iter().map(|site| site.weights(self)).sum();
        u64::from(self.layers) * per_layer
    }

    /// Weights of the embedding, and of the head where it is not the embedding.
    pub fn embedding_params(&self) -> u64 {
        let one = u64::from(self.vocab) * u64::from(self.model_dim);
        if self.tied_head { one } else { 2 * one }
    }

    /// The first thing about the shape that no model could have or these kernels cannot do:
    /// (field, what it should be, what it is).
    pub fn fault(&self) -> Option<(&'static str, String, String)> {
        let multiple = |value: u32| value > 0 && value.is_multiple_of(64);
        let fault = |field, expected: &str, got: &dyn ToString| Some((field, expected.to_string(), got.to_string()));
        if self.layers == 0 || self.layers > 1024 {
            return fault("layers", "1 to 1024", &self.layers);
        }
        if !multiple(self.model_dim) || self.model_dim > 1 << 16 {
            return fault("model_dim", "a multiple of 64 up to 65536", &self.model_dim);
        }
        if !multiple(self.ffn_dim) || self.ffn_dim > 1 << 18 {
            return fault("ffn_dim", "a multiple of 64 up to 262144", &self.ffn_dim);
        }
        if self.kv_heads == 0 || self.heads == 0 || !self.heads.is_multiple_of(self.kv_heads) || self.heads > 1024 {
            return fault(
                "heads",
                "a multiple of kv_heads up to 1024",
                &format!("{} over {}", self.heads, self.kv_heads),
            );
        }
        if !self.head_dim.is_multiple_of(8) || self.head_dim == 0 || self.head_dim > 256 {
            return fault("head_dim", "a multiple of 8 up to 256", &self.head_dim);
        }
        if !multiple(self.q_dim()) {
            return fault("heads * head_dim", "a multiple of 64", &self.q_dim());
        }
        if self.vocab == 0 || self.vocab > 1 << 24 {
            return fault("vocab", "1 to 16777216", &self.vocab);
        }
        if self.max_context == 0 || self.max_context > 1 << 24 {
            return fault("max_context", "1 to 16777216", &self.max_context);
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0) {
            return fault("norm_eps", "a positive number", &self.norm_eps);
        }
        self.rope.fault(self.head_dim)
    }
}

impl Rope {
    /// Radians that each pair of dimensions turns by from one position to the next, [A/2].
    pub fn frequencies(&self, head_dim: u32) -> Vec<f32> {
        let half = head_dim as usize / 2;
        let plain = (0..half).map(|i| f64::from(self.theta).powf(-(2.0 * i as f64) / f64::from(head_dim)));
        let stretched = plain.enumerate().map(|(i, frequency)| frequency / self.scaling.divisor(i, frequency));
        stretched.map(|f| f as f32).collect()
    }

    fn fault(&self, head_dim: u32) -> Option<(&'static str, String, String)> {
        if !(self.theta.is_finite() && self.theta > 0.0) {
            return Some(("rope.theta", "a positive number".into(), self.theta.to_string()));
        }
        if let RopeScaling::Factors { factors } = &self.scaling
            && factors.len() != head_dim as usize / 2
        {
            return Some(("rope.scaling.factors", format!("{} numbers", head_dim / 2), factors.len().to_string()));
        }
        let sound = self.frequencies(head_dim).iter().all(|f| f.is_finite() && *f >= 0.0);
        (!sound).then(|| {
            ("rope.scaling", "factors that leave every frequency finite".into(), format!("{:?}", self.scaling))
        })
    }
}

impl RopeScaling {
    /// What the `i`th frequency, `frequency` radians a token, is divided by.
    fn divisor(&self, i: usize, frequency: f64) -> f64 {
        match self {
            RopeScaling::None => 1.0,
            RopeScaling::Linear { factor } => f64::from(*factor),
            RopeScaling::Factors { factors } => f64::from(factors[i]),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let (factor, low, high) =
                    (f64::from(*factor), f64::from(*low_freq_factor), f64::from(*high_freq_factor));
                let turns = f64::from(*original_context) * frequency / std::f64::consts::TAU;
                if turns > high {
                    1.0
                } else if turns < low {
                    factor
                } else {
                    let smooth = (turns - low) / (high - low);
                    1.0 / ((1.0 - smooth) / factor + smooth)
                }
            }
        }
    }
}
