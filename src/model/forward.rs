//! The steps of a model as recordings: the operations of its [`Program`], lowered to kernels.
//!
//! There are two lowerings. `lower_many.rs` takes any number of tokens and makes a kernel or two of each operation.
//! `lower_few.rs` takes 1 to 8 with int8 activations and makes one kernel of two or three operations. Both read
//! the same list, so that neither has an order of its own. Letters are as in [`crate::shape`]; every activation is f32,
//! but for what `lower_few.rs` has inside of its kernels.

use std::ops::Range;

use super::cache::Cache;
use super::inputs::Inputs;
use super::weights::Weights;
use crate::arch::{HeadNorm, NormAt, Op, Program, QueryGrowth, RoutedSites};
use crate::engine::Traits;
use crate::kernels::attention::{Attention, AttentionBuffers, ContextClass, ScoreRules};
use crate::kernels::cache::finish_qkv::QkvRules;
use crate::kernels::cap_logits;
use crate::kernels::embed_sliced::{self, EmbedBuffers};
use crate::kernels::rms_norm::Norm;
use crate::kernels::router::{self, RouteInputs};
use crate::kernels::sample::peaks::SampleInputs;
use crate::kernels::sample::{token, token_nll};
use crate::recording::{Buffer, Recording, Span};
use crate::shape::LlamaShape;

/// Bytes of logits that a step reads back at most, but for those of one token.
const READ_LOGITS_BYTES: u64 = 1 << 27;

/// Tokens whose logits exist at one time while a text is scored; fewer on software renderers, which cannot be stopped
/// within a dispatch.
fn scored_tokens(traits: Traits) -> u32 {
    if traits.software && traits.subgroup > 1 { 16 } else { 64 }
}

/// Bytes of the logits that exist at one time while a text is scored.
pub(super) fn scored_bytes(shape: &LlamaShape, traits: Traits) -> u64 {
    u64::from(scored_tokens(traits)) * u64::from(shape.vocab) * 4
}

/// Tokens of a step that reads back the logits after each of them, where `most` may be in a step.
pub(super) fn logit_tokens(shape: &LlamaShape, traits: Traits, most: u32) -> u32 {
    let bytes = READ_LOGITS_BYTES.min(traits.buffer_bytes);
    (bytes / (u64::from(shape.vocab) * 4)).clamp(1, u64::from(most)) as u32
}

/// What the operations of a step are lowered with.
pub struct Lowering<'a> {
    /// The operations.
    pub program: &'a Program,
    /// Dimensions and constants.
    pub shape: &'a LlamaShape,
    /// The device's traits.
    pub traits: Traits,
    /// Weights on the engine.
    pub weights: &'a Weights,
    /// Keys and values of earlier steps.
    pub cache: &'a Cache,
    /// Rows and depths of this step.
    pub inputs: &'a Inputs,
    /// Whether the routers choose the depths, which are otherwise there.
    pub routed: bool,
    /// Whether the products of a single token are of int8s.
    pub int8_activations: bool,
    /// Whether those of the step's tokens are, where these are 2 to 8.
    pub few: bool,
    /// How far back the tokens look.
    pub context_class: ContextClass,
}

/// Neighbouring tokens of a step.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenRange {
    /// The first one, counted from the step's first.
    pub first: u32,
    /// How many they are.
    pub count: u32,
}

/// A norm with what it reads and writes.
pub(super) struct NormOp<'a> {
    /// Whose weight is taken.
    pub at: NormAt,
    /// [T, D]
    pub x: Buffer,
    /// [T, D]
    pub normed: Buffer,
    /// The sites whose routers look at it.
    pub routed: &'a RoutedSites,
}

impl Lowering<'_> {
    /// A step that fills the cache. Like all steps, it reads back the depths of its tokens last.
    pub fn fill(&self, tokens: u32) -> Recording {
        let mut r = Recording::new();
        self.layers(&mut r, tokens);
        r.read_back(self.inputs.all_depths(tokens));
        r
    }

    /// A step that reads back the last token's logits, `[V]`.
    pub fn next_logits(&self, tokens: u32) -> Recording {
        let mut r = Recording::new();
        let logits = self.last_logits(&mut r, tokens);
        r.read_back(logits);
        r.read_back(self.inputs.all_depths(tokens));
        r
    }

    /// A step that leaves the last token's logits in `logits`, `[V]`, for [`super::kept_logits`] to choose from, and
    /// reads them back where they are wanted.
    pub fn keep_logits(&self, tokens: u32, logits: Span, read_back: bool) -> Recording {
        let mut r = Recording::new();
        let x = self.layers(&mut r, tokens);
        self.logits(&mut r, x, TokenRange { first: tokens - 1, count: 1 }, logits);
        if read_back {
            r.read_back(logits);
        }
        r.read_back(self.inputs.all_depths(tokens));
        r
    }

    /// A step that samples the token after the last one, as [`Inputs::choices`] says, for its sequence's next step to
    /// run. It reads back what every sequence's last step sampled.
    pub fn next_token(&self, tokens: u32) -> Recording {
        let mut r = Recording::new();
        let logits = self.last_logits(&mut r, tokens);
        self.choose(&mut r, tokens, 1, logits);
        r
    }

    /// A step of few tokens, each of another sequence, that samples the token after each of them, as
    /// [`Inputs::choices`] says. It reads back as [`Lowering::next_token`] does.
    pub fn next_tokens(&self, tokens: u32) -> Recording {
        let mut r = Recording::new();
        let x = self.layers(&mut r, tokens);
        let logits = r.transient(u64::from(tokens) * u64::from(self.shape.vocab) * 4).all();
        self.logits(&mut r, x, TokenRange { first: 0, count: tokens }, logits);
        self.choose(&mut r, tokens, tokens, logits);
        r
    }

    /// Chooses the tokens that follow the last `count` ones, and reads back what every step does that samples.
    fn choose(&self, r: &mut Recording, tokens: u32, count: u32, logits: Span) {
        let (choices, step_rows) = (self.inputs.choices(count), self.inputs.rows(tokens));
        let inputs = SampleInputs { choices, step_rows, cell_tokens: self.cache.tokens.all(), logits };
        token::record(r, inputs, self.inputs.sampled());
        r.read_back(self.inputs.sampled());
        r.read_back(self.inputs.all_depths(tokens));
    }

    /// A step that reads back the scores of each target, [T, 2]: see [`token_nll`].
    pub fn score(&self, tokens: u32) -> Recording {
        let mut r = Recording::new();
        let x = self.layers(&mut r, tokens);
        let (vocab, most) = (self.shape.vocab, scored_tokens(self.traits));
        let logits = r.transient(u64::from(most.min(tokens)) * u64::from(vocab) * 4);
        let row = token_nll::WIDTH * 4;
        let scores = r.transient(u64::from(tokens.next_multiple_of(most)) * row);
        for first in (0..tokens).step_by(most as usize) {
            let count = most.min(tokens - first);
            let logits = logits.span(0, u64::from(count) * u64::from(vocab) * 4);
            self.logits(&mut r, x, TokenRange { first, count }, logits);
            let scores = scores.span(u64::from(first) * row, u64::from(count) * row);
            token_nll::record(&mut r, vocab, logits, self.inputs.targets(first, count), scores);
        }
        r.read_back(scores.span(0, u64::from(tokens) * row));
        r.read_back(self.inputs.all_depths(tokens));
        r
    }

    /// A step that reads back the logits after each token, [T, V].
    pub fn all_logits(&self, tokens: u32) -> Recording {
        let mut r = Recording::new();
        let x = self.layers(&mut r, tokens);
        let (row, most) = (u64::from(self.shape.vocab) * 4, scored_tokens(self.traits));
        let logits = r.transient(u64::from(tokens) * row);
        for first in (0..tokens).step_by(most as usize) {
            let count = most.min(tokens - first);
            let span = logits.span(u64::from(first) * row, u64::from(count) * row);
            self.logits(&mut r, x, TokenRange { first, count }, span);
        }
        r.read_back(logits.all());
        r.read_back(self.inputs.all_depths(tokens));
        r
    }

    /// All operations; the last token's logits, `[V]`.
    fn last_logits(&self, r: &mut Recording, tokens: u32) -> Span {
        let x = self.layers(r, tokens);
        let logits = r.transient(u64::from(self.shape.vocab) * 4).all();
        self.logits(r, x, TokenRange { first: tokens - 1, count: 1 }, logits);
        logits
    }

    /// Embedding and all layers; the residual stream, [T, D].
    fn layers(&self, r: &mut Recording, tokens: u32) -> Buffer {
        let x = r.transient(u64::from(tokens) * u64::from(self.shape.model_dim) * 4);
        let Op::Embed = self.program.embed else { self.no_kernel(&self.program.embed) };
        let buffers = EmbedBuffers {
            step_rows: self.inputs.rows(tokens),
            sampled: self.inputs.sampled(),
            cell_tokens: self.cache.tokens.all(),
            y: x.all(),
        };
        embed_sliced::record(r, self.traits, &self.weights.embed, buffers);
        if self.uses_int8(tokens) {
            self.layers_of_few(r, tokens, x);
        } else {
            self.layers_of_many(r, tokens, x);
        }
        x
    }

    /// Logits of some tokens by the residual stream, [count, V].
    fn logits(&self, r: &mut Recording, x: Buffer, tokens: TokenRange, logits: Span) {
        let row = u64::from(self.shape.model_dim) * 4;
        let x = x.span(u64::from(tokens.first) * row, u64::from(tokens.count) * row);
        if self.uses_int8(tokens.count) {
            self.logits_of_few(r, tokens.count, x, logits);
        } else {
            self.logits_of_many(r, tokens.count, x, logits);
        }
        if let [.., Op::Head { cap: Some(cap) }] = self.program.head[..] {
            cap_logits::record(r, cap, logits);
        }
    }

    /// Whether the products of so many tokens are of int8s.
    fn uses_int8(&self, tokens: u32) -> bool {
        if tokens == 1 { self.int8_activations } else { self.few }
    }

    /// Records a norm of the residual stream, and the depths that the routers of `sites`, which look at it, choose.
    pub(super) fn route(&self, r: &mut Recording, tokens: u32, norm: &NormOp<'_>, sites: Range<u32>) {
        let routers = self.weights.routers.as_ref().expect("a routed plan is refused without routers");
        let (depths, depths_row) = self.inputs.depths_of(&sites, tokens);
        let inputs = RouteInputs {
            x: norm.x.all(),
            norm: self.norm(norm.at),
            normed: norm.normed.all(),
            control: self.inputs.control(),
            step_rows: self.inputs.rows(tokens),
            depths,
            depths_row,
            sites,
        };
        router::record(r, self.traits, routers, &inputs);
    }

    /// The attention of `tokens` tokens over a layer's cache.
    pub(super) fn attention(&self, layer: u32, scores: ScoreRules, tokens: u32, q: Span, y: Span) -> Attention<'_> {
        let (cache, context) = (&self.cache.layers[layer as usize], self.cache.options.context);
        Attention {
            shape: self.shape,
            tokens,
            as_alone: self.few,
            cells: cache.cells,
            scores: ScoreRules { window: scores.window.filter(|window| *window < context), ..scores },
            context,
            class: self.context_class,
            quantized_kv: cache.quantized_kv,
            buffers: AttentionBuffers {
                q,
                step_rows: self.inputs.rows(tokens),
                keys: cache.keys,
                values: cache.values,
                y,
            },
        }
    }

    /// Whether a norm is computed: those that are for routers alone are not where these choose nothing by them.
    pub(super) fn is_needed(&self, at: NormAt, routed: &RoutedSites) -> bool {
        at != NormAt::Routers || (self.routed && !routed.all().is_empty())
    }

    /// What becomes of queries, keys and values beside their rotation, where anything does.
    pub(super) fn qkv_rules(
        &self,
        layer: u32,
        bias: bool,
        head_norm: HeadNorm,
        growth: Option<QueryGrowth>,
    ) -> Option<QkvRules> {
        let vectors = self.weights.layers[layer as usize].head_vectors;
        let any = bias || head_norm != HeadNorm::None || growth.is_some();
        any.then_some(QkvRules { bias, head_norm, growth, vectors })
    }

    /// A norm's weight, `[D]`, and its constant.
    pub(super) fn norm(&self, at: NormAt) -> Norm {
        let weight = match at.vector() {
            Some((layer, vector)) => self.weights.layers[layer as usize].norm(vector),
            None if at == NormAt::Routers => {
                self.weights.ones.expect("routers that look at such a norm have its weight")
            }
            None => self.weights.final_norm,
        };
        Norm { weight, eps: self.shape.norm_eps }
    }

    /// Ends at operations that no kernel is for: [`crate::arch::ModelSpec::check`] lets no such model be loaded.
    pub(super) fn no_kernel(&self, ops: impl std::fmt::Debug) -> ! {
        panic!("there are no kernels for {ops:?}, which are refused when a model is loaded")
    }
}
