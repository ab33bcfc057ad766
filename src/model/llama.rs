//! The forward pass of a LLaMA-family model, as a recording.
//!
//! Letters as in [`crate::shape`]; every activation is f32, but for what `decode.rs` has of a single token.

use std::ops::Range;

use super::cache::{Cache, LayerCache};
use super::inputs::Inputs;
use super::weights::{LayerWeights, Weights};
use crate::engine::Traits;
use crate::kernels::attention::{self, Attention, AttentionBuffers, ContextClass, combine};
use crate::kernels::cache::rope::{self, RopeBuffers};
use crate::kernels::embed_sliced::{self, EmbedBuffers};
use crate::kernels::product::{
    self, Output, Product, ProductDepths, Tiles, gather_tokens, in_tiles, largest_tile, tile_tokens,
};
use crate::kernels::rms_norm::{self, Norm};
use crate::kernels::router::{self, RouteInputs};
use crate::kernels::sample::peaks::SampleInputs;
use crate::kernels::sample::{token, token_nll};
use crate::kernels::silu_mul;
use crate::recording::{Buffer, Recording, Span};
use crate::routing::{site_at, sites_by_attention, sites_by_feed_forward};
use crate::shape::{LlamaShape, Site};

/// Tokens whose logits exist at one time while a text is scored; fewer on software renderers, which cannot be stopped
/// within a dispatch.
fn scored_tokens(traits: Traits) -> u32 {
    if traits.software && traits.subgroup > 1 { 16 } else { 64 }
}

/// Bytes of the logits that exist at one time while a text is scored.
pub(super) fn scored_bytes(shape: &LlamaShape, traits: Traits) -> u64 {
    u64::from(scored_tokens(traits)) * u64::from(shape.vocab) * 4
}

/// What a forward pass needs to be recorded.
pub struct Llama<'a> {
    /// Dimensions and constants.
    pub shape: &'a LlamaShape,
    /// The device's traits.
    pub traits: Traits,
    /// Weights on the engine.
    pub weights: &'a Weights,
    /// Keys and values of earlier steps.
    pub cache: &'a Cache,
    /// Ids, positions and depths of this step.
    pub inputs: &'a Inputs,
    /// Whether the routers choose the depths, which are otherwise there.
    pub routed: bool,
    /// Whether the products of a single token are of int8s.
    pub int8_activations: bool,
    /// How far back the tokens look.
    pub context_class: ContextClass,
}

/// Activations of a step.
struct Activations {
    /// The residual stream, [T, D].
    x: Buffer,
    /// Normalised x, [T, D].
    normed: Buffer,
    /// [T, (H + 2K) * A]
    qkv: Buffer,
    /// [T, H, A]
    q: Buffer,
    /// [T, H, A]
    attended: Buffer,
    /// [T, 2F]
    gate_up: Buffer,
    /// [T, F]
    hidden: Buffer,
    /// The tokens in tiles of one depth, where routed ones are multiplied in tiles.
    order: Option<Buffer>,
    /// A site's inputs in tiles, where they are multiplied as f16.
    x_f16: Option<Buffer>,
}

impl Llama<'_> {
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
        let x = self.layers(&mut r, tokens);
        let logits = r.transient(u64::from(self.shape.vocab) * 4);
        self.logits(&mut r, x, tokens - 1, 1, logits.all());
        r.read_back(logits.all());
        r.read_back(self.inputs.all_depths(tokens));
        r
    }

    /// A step that samples the token after the last one, as [`Inputs::choice`] says, for its sequence's next step to run.
    /// It reads back what every sequence's last step sampled.
    pub fn next_token(&self, tokens: u32) -> Recording {
        let mut r = Recording::new();
        let x = self.layers(&mut r, tokens);
        let logits = r.transient(u64::from(self.shape.vocab) * 4).all();
        self.logits(&mut r, x, tokens - 1, 1, logits);
        let (choice, step_rows) = (self.inputs.choice(), self.inputs.rows(tokens));
        let inputs = SampleInputs { choice, step_rows, cell_tokens: self.cache.tokens.all(), logits };
        token::record(&mut r, self.traits, inputs, self.inputs.sampled());
        r.read_back(self.inputs.sampled());
        r.read_back(self.inputs.all_depths(tokens));
        r
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
            let part = most.min(tokens - first);
            let logits = logits.span(0, u64::from(part) * u64::from(vocab) * 4);
            self.logits(&mut r, x, first, part, logits);
            let scores = scores.span(u64::from(first) * row, u64::from(part) * row);
            token_nll::record(&mut r, vocab, logits, self.inputs.targets(first, part), scores);
        }
        r.read_back(scores.span(0, u64::from(tokens) * row));
        r.read_back(self.inputs.all_depths(tokens));
        r
    }

    /// Embedding and all layers; the residual stream, [T, D].
    fn layers(&self, r: &mut Recording, tokens: u32) -> Buffer {
        let x = r.transient(u64::from(tokens) * u64::from(self.shape.model_dim) * 4);
        let buffers = EmbedBuffers {
            step_rows: self.inputs.rows(tokens),
            sampled: self.inputs.sampled(),
            cell_tokens: self.cache.tokens.all(),
            y: x.all(),
        };
        embed_sliced::record(r, self.traits, &self.weights.embed, buffers);
        if self.uses_int8(tokens) {
            self.decode_layers(r, x);
            return x;
        }
        let a = Activations::new(self.shape, self.traits, r, tokens, self.routed, x);
        for (at, (weights, cache)) in self.weights.layers.iter().zip(&self.cache.layers).enumerate() {
            self.attention(r, &a, tokens, at as u32, weights, cache);
            self.feed_forward(r, &a, tokens, at as u32, weights);
        }
        x
    }

    /// Whether the products of so many tokens are of int8s.
    fn uses_int8(&self, tokens: u32) -> bool {
        tokens == 1 && self.int8_activations
    }

    /// x += O attention(rope(Q n), rope(K n), V n) with n = norm(x).
    fn attention(
        &self,
        r: &mut Recording,
        a: &Activations,
        tokens: u32,
        layer: u32,
        weights: &LayerWeights,
        cache: &LayerCache,
    ) {
        let (shape, cells) = (self.shape, self.cache.options.cells());
        let (step_rows, context) = (self.inputs.rows(tokens), self.cache.options.context);
        self.normalize(r, a, tokens, weights.input_norm, sites_by_attention(layer));
        self.product(r, a, tokens, (layer, Site::Qkv), weights, (a.normed, a.qkv), Output::Overwrite);
        let rotated = RopeBuffers {
            qkv: a.qkv.all(),
            step_rows,
            rope_table: self.cache.rope_table.all(),
            q: a.q.all(),
            keys: cache.keys.all(),
            values: cache.values.all(),
        };
        rope::record(r, shape, tokens, cells, rotated);
        let attended = AttentionBuffers {
            q: a.q.all(),
            step_rows,
            keys: cache.keys.all(),
            values: cache.values.all(),
            y: a.attended.all(),
        };
        let (class, quantized_kv) = (self.context_class, cache.quantized_kv);
        let problem = Attention { shape, tokens, cells, context, class, quantized_kv, buffers: attended };
        if let Some(partials) = attention::record(r, self.traits, &problem) {
            combine::record(r, partials, a.attended.all());
        }
        self.product(r, a, tokens, (layer, Site::O), weights, (a.attended, a.x), Output::Add);
    }

    /// x += Down (silu(Gate n) * Up n) with n = norm(x).
    fn feed_forward(&self, r: &mut Recording, a: &Activations, tokens: u32, layer: u32, weights: &LayerWeights) {
        self.normalize(r, a, tokens, weights.ffn_norm, sites_by_feed_forward(layer, self.shape.layers));
        self.product(r, a, tokens, (layer, Site::GateUp), weights, (a.normed, a.gate_up), Output::Overwrite);
        silu_mul::record(r, tokens, self.shape.ffn_dim, a.gate_up.all(), a.hidden.all());
        self.product(r, a, tokens, (layer, Site::Down), weights, (a.hidden, a.x), Output::Add);
    }

    /// The norm of the residual stream, and the depths at the sites whose routers look at it.
    fn normalize(&self, r: &mut Recording, a: &Activations, tokens: u32, weight: Buffer, sites: Range<u32>) {
        if self.routed && !sites.is_empty() {
            self.route(r, tokens, (a.x, weight), a.normed, sites);
        } else {
            rms_norm::record(r, tokens, self.shape.norm_eps, a.x.all(), weight, a.normed.all());
        }
    }

    /// The norm of x, and the depths that the routers of these sites choose by it.
    pub(super) fn route(
        &self,
        r: &mut Recording,
        tokens: u32,
        (x, weight): (Buffer, Buffer),
        normed: Buffer,
        sites: Range<u32>,
    ) {
        let routers = self.weights.routers.as_ref().expect("a routed plan is refused without routers");
        let (depths, depths_row) = self.inputs.depths_of(&sites, tokens);
        let inputs = RouteInputs {
            x: x.all(),
            norm: Norm { weight, eps: self.shape.norm_eps },
            normed: normed.all(),
            control: self.inputs.control(),
            step_rows: self.inputs.rows(tokens),
            depths,
            depths_row,
            sites,
        };
        router::record(r, self.traits, routers, &inputs);
    }

    /// The product at one site, y by x.
    #[allow(clippy::too_many_arguments, reason = "the five parts of a product, and where it is recorded")]
    fn product(
        &self,
        r: &mut Recording,
        a: &Activations,
        tokens: u32,
        (layer, site): (u32, Site),
        weights: &LayerWeights,
        (x, y): (Buffer, Buffer),
        output: Output,
    ) {
        let by_token = self.inputs.depths(site_at(layer, site), tokens);
        let weight = weights.site(site);
        let tile = tile_tokens(self.traits, weight.rows, tokens);
        let tiles = |order, partial| ProductDepths::ByTile(Tiles { order, tile, partial, x_f16: a.x_f16 });
        let depths = match a.order {
            _ if !in_tiles(self.traits, tokens) => ProductDepths::ByToken(by_token),
            None => tiles(self.inputs.order(layer, tokens), false),
            Some(order) => {
                let order = order.span(0, u64::from(gather_tokens::entries(tile, tokens)) * 4);
                gather_tokens::record(r, tile, tokens, by_token, order);
                tiles(order, true)
            }
        };
        let product = Product { weight, x: x.all(), y: y.all(), tokens, output };
        product.record(r, self.traits, depths);
    }

    /// Logits of `count` tokens from `first` on, [count, V], by the residual stream.
    fn logits(&self, r: &mut Recording, x: Buffer, first: u32, count: u32, logits: Span) {
        let row = u64::from(self.shape.model_dim) * 4;
        let x = x.span(u64::from(first) * row, u64::from(count) * row);
        if self.uses_int8(count) {
            return self.decode_logits(r, x, logits);
        }
        let normed = r.transient(x.bytes).all();
        rms_norm::record(r, count, self.shape.norm_eps, x, self.weights.final_norm, normed);
        let (weight, output) = (&self.weights.head, Output::Overwrite);
        let product = Product { weight, x: normed, y: logits, tokens: count, output };
        let depths = if in_tiles(self.traits, count) {
            let x_f16 = product::x_f16(r, self.traits, count, weight.input);
            let tile = tile_tokens(self.traits, weight.rows, count);
            ProductDepths::ByTile(Tiles { order: self.inputs.head_order(count), tile, partial: false, x_f16 })
        } else {
            ProductDepths::ByToken(self.inputs.head_depths(count))
        };
        product.record(r, self.traits, depths);
    }
}

impl Activations {
    fn new(shape: &LlamaShape, traits: Traits, r: &mut Recording, tokens: u32, routed: bool, x: Buffer) -> Activations {
        let tiled = in_tiles(traits, tokens);
        let entries = u64::from(gather_tokens::entries(largest_tile(traits), tokens));
        let order = (routed && tiled).then(|| r.transient(entries * 4));
        let widest = shape.model_dim.max(shape.q_dim()).max(shape.ffn_dim);
        let x_f16 = tiled.then(|| product::x_f16(r, traits, tokens, widest)).flatten();
        let mut rows = |width: u32| r.transient(u64::from(tokens) * u64::from(width) * 4);
        Activations {
            x,
            normed: rows(shape.model_dim),
            qkv: rows(shape.q_dim() + 2 * shape.kv_dim()),
            q: rows(shape.q_dim()),
            attended: rows(shape.q_dim()),
            gate_up: rows(2 * shape.ffn_dim),
            hidden: rows(shape.ffn_dim),
            order,
            x_f16,
        }
    }
}
