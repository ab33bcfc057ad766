//! What a calibration takes of the device's memory, where its layers are kept, and how many windows fit at once.
//!
//! The figures count what is alive at the same time, rather too high than too low. Letters as in [`crate::shape`].

use super::CalibrationOptions;
use super::coded::{SLICES_AT_ONCE, TRAINED};
use super::step::LOGITS;
use super::text::held_out_windows;
use crate::error::{Error, Result, mib};
use crate::format::codes::WORD_GROUP;
use crate::precision::SLICES;
use crate::routing::{HIDDEN, SCORES};
use crate::shape::{LlamaShape, Site};

/// Bytes of a number in f32.
const SINGLE: u64 = 4;
/// Tensors of [`SLICES_AT_ONCE`] elements that are alive while slices are made or differentiated.
const CUT_TENSORS: u64 = 6;
/// Tensors of [`LOGITS`] elements that are alive while two models' logits are compared.
const LOGIT_TENSORS: u64 = 10;
/// Numbers that a product with an input of n numbers has alive for each of them, while it is differentiated: four times
/// n are the input beside what each gate lets through, its gradient, and what both are made of.
const PRODUCT_TENSORS: u64 = 18;
/// Tensors of [heads, T, T] that are alive while attention is differentiated, and of queries, keys and values.
const ATTENTION_TENSORS: u64 = 14;
/// Tensors of [T, F] that are alive while the gated feed-forward is differentiated.
const GATE_TENSORS: u64 = 12;
/// Tensors of [B, T, D] that are alive between two layers: the streams of both models, and their gradients.
const STREAM_TENSORS: u64 = 6;
/// Value, gradient and two moments of a trained number.
const TRAINED_TENSORS: u64 = 4;

/// Memory of a run, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What is on the device all the time.
    pub resident: u64,
    /// One layer and the graph of one stage of it over `micro` windows, and the streams between two layers.
    pub working: u64,
    /// Windows computed at once.
    pub micro: usize,
    /// The scratch file that layers come from and go to; none where all layers are on the device.
    pub scratch: Option<u64>,
}

impl Memory {
    /// All layers on the device where `options.memory` allows it, else one at a time, and as many windows at once as
    /// fit; a number of a matrix that products take has `product_bytes`. Fails where one window does not fit.
    pub fn plan(shape: &LlamaShape, options: &CalibrationOptions, product_bytes: u64) -> Result<Memory> {
        let count = MemoryCount { shape, options, product_bytes };
        let micros = || (1..=options.batch).rev();
        let on_device = micros().map(|micro| count.on_device(micro)).filter(|_| !options.stream);
        let mut plans = on_device.chain(micros().map(|micro| count.streamed(micro)));
        plans.find(|plan| plan.total() <= options.memory).ok_or_else(|| {
            let least = count.on_device(1).total().min(count.streamed(1).total());
            Error::argument("memory", format!("at least {} for one window at a time", mib(least)), mib(options.memory))
        })
    }

    /// Bytes on the device.
    pub fn total(&self) -> u64 {
        self.resident + self.working
    }
}

/// What a run has to hold.
struct MemoryCount<'a> {
    shape: &'a LlamaShape,
    options: &'a CalibrationOptions,
    product_bytes: u64,
}

impl MemoryCount<'_> {
    fn on_device(&self, micro: usize) -> Memory {
        let of_layer = self.frozen() + TRAINED_TENSORS * SINGLE * self.trained();
        let resident = self.embeddings() + self.layers() * of_layer + self.inputs();
        Memory { resident, working: self.working(micro), micro, scratch: None }
    }

    fn streamed(&self, micro: usize) -> Memory {
        let working = self.frozen() + TRAINED_TENSORS * SINGLE * self.trained() + self.working(micro);
        // Ranges lie there as words, two bytes each.
        let ranges = 2 * SLICES as u64 * self.groups();
        let stored = self.weights() * (self.product_bytes + 1) + ranges + TRAINED_TENSORS * SINGLE * self.trained();
        let scratch = Some(self.layers() * stored + self.inputs());
        Memory { resident: self.embeddings(), working, micro, scratch }
    }

    fn layers(&self) -> u64 {
        u64::from(self.shape.layers)
    }

    fn embeddings(&self) -> u64 {
        self.product_bytes * self.shape.embedding_params()
    }

    /// Weights of a layer.
    fn weights(&self) -> u64 {
        Site::ALL.iter().map(|site| site.weights(self.shape)).sum()
    }

    /// Groups of a layer.
    fn groups(&self) -> u64 {
        self.weights() / u64::from(WORD_GROUP)
    }

    /// A layer's weights, its codes of a byte each, and the ranges of all depths.
    fn frozen(&self) -> u64 {
        (self.product_bytes + 1) * self.weights() + 2 * SLICES as u64 * SINGLE * self.groups()
    }

    /// Trained numbers of a layer.
    fn trained(&self) -> u64 {
        let (dim, hidden, scores) = (u64::from(self.shape.model_dim), u64::from(HIDDEN), u64::from(SCORES));
        let router = hidden * dim + hidden + scores * hidden + scores;
        2 * TRAINED as u64 * self.groups() + Site::ALL.len() as u64 * router
    }

    /// The inputs of all layers: the residual stream, and what routers see.
    fn inputs(&self) -> u64 {
        let tokens = (self.options.batch * self.options.seq) as u64;
        2 * SINGLE * self.layers() * tokens * u64::from(self.shape.model_dim)
    }

    /// What is alive beside the weights: the streams, and a layer, the logits or the optimizer's step.
    fn working(&self, micro: usize) -> u64 {
        let windows = self.options.batch.max(held_out_windows(self.options));
        let tokens = (windows * self.options.seq) as u64;
        let streams = STREAM_TENSORS * SINGLE * tokens * u64::from(self.shape.model_dim);
        let logits = (micro * self.options.seq) as u64 * u64::from(self.shape.vocab);
        let logits = LOGIT_TENSORS * SINGLE * logits.min(LOGITS as u64);
        // New values beside the old ones.
        let optimizer = TRAINED_TENSORS * SINGLE * self.trained();
        streams + self.layer(micro).max(logits).max(optimizer)
    }

    /// A layer's slices, what they are made of, and its pass over some windows.
    fn layer(&self, micro: usize) -> u64 {
        let most = |of_site: &dyn Fn(u64, u64) -> u64| {
            let dims = Site::ALL.iter().map(|site| site.dims(self.shape));
            dims.map(|(rows, input)| of_site(rows.into(), input.into())).max().unwrap_or_default()
        };
        let slices = SLICES as u64 * self.weights() * self.product_bytes;
        let cut = most(&|rows, input| (SLICES as u64 * rows * input).min(SLICES_AT_ONCE as u64));
        let LlamaShape { model_dim, ffn_dim, heads, .. } = *self.shape;
        let (dim, ffn, seq) = (u64::from(model_dim), u64::from(ffn_dim), self.options.seq as u64);
        let (queries, values) = (u64::from(self.shape.q_dim()), u64::from(self.shape.kv_dim()));
        let registers = 6 * dim + 2 * queries + 2 * values + 3 * ffn;
        let product = most(&|rows, input| PRODUCT_TENSORS * input + 2 * rows);
        let attention = ATTENTION_TENSORS * (u64::from(heads) * seq + queries + 2 * values);
        let stage = product.max(attention).max(GATE_TENSORS * ffn);
        slices + SINGLE * (CUT_TENSORS * cut + micro as u64 * seq * (registers + stage))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::{Rope, RopeScaling};

    /// Those of `calibrate` without a flag.
    fn options(gib: u64) -> CalibrationOptions {
        CalibrationOptions {
            texts: vec!["text.txt".into()],
            steps: 300,
            batch: 12,
            seq: 512,
            seed: 0,
            memory: gib << 30,
            stream: false,
            out: "a.pack".into(),
        }
    }

    /// L, D, F, H, K, A, V
    fn shape(dims: [u32; 7], tied_head: bool) -> LlamaShape {
        let [layers, model_dim, ffn_dim, heads, kv_heads, head_dim, vocab] = dims;
        let rope = Rope { theta: 10_000.0, scaling: RopeScaling::None };
        let (max_context, norm_eps) = (2048, 1e-5);
        LlamaShape {
            layers,
            model_dim,
            ffn_dim,
            heads,
            kv_heads,
            head_dim,
            vocab,
            max_context,
            norm_eps,
            tied_head,
            rope,
        }
    }

    #[test]
    fn models_fit_their_budgets_in_f16_and_in_f32() {
        let llama3_8b = shape([32, 4096, 14336, 32, 8, 128, 128_256], false);
        let qwen2_1_5b = shape([28, 1536, 8960, 12, 2, 128, 151_936], true);
        let smollm2_135m = shape([30, 576, 1536, 9, 3, 64, 49152], true);
        for (shape, gib) in [(&llama3_8b, 16), (&qwen2_1_5b, 6), (&smollm2_135m, 2)] {
            for product_bytes in [2, 4] {
                let plan = Memory::plan(shape, &options(gib), product_bytes).unwrap();
                println!("{} layers of {}, {product_bytes} bytes: {plan:?}", shape.layers, shape.model_dim);
                assert!(plan.scratch.is_some() && plan.total() <= gib << 30, "{plan:?}");
            }
        }
        // The default model stays on the device where `calibrate` has its default.
        assert_eq!(Memory::plan(&smollm2_135m, &options(8), 2).unwrap().scratch, None);
    }

    #[test]
    fn what_fits_nothing_tells_the_least_and_the_least_suffices() {
        let shape = shape([30, 576, 1536, 9, 3, 64, 49152], true);
        let message = Memory::plan(&shape, &options(0), 2).unwrap_err().to_string();
        let least = message.split("at least ").nth(1).and_then(|rest| rest.split_once(" MiB for one window")).unwrap();
        let least = least.0.parse::<u64>().unwrap() << 20;
        let plan = Memory::plan(&shape, &CalibrationOptions { memory: least, ..options(0) }, 2).unwrap();
        assert!(plan.total() <= least && plan.micro > 0 && plan.scratch.is_some(), "{plan:?}");
        let too_little = CalibrationOptions { memory: least - (1 << 20), ..options(0) };
        assert!(
            Memory::plan(&shape, &too_little, 2)
                .unwrap_err()
                .to_string()
                .ends_with(&format!("got {} MiB", (least >> 20) - 1))
        );
    }
}
