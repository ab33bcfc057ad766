//! The operations as kernels for any number of tokens: one or two kernels each, through buffers in memory.

use super::forward::{Lowering, NormOp};
use crate::arch::{Op, Register};
use crate::engine::Traits;
use crate::kernels::attention::{self, ScoreRules, combine};
use crate::kernels::cache::finish_qkv::{self, QkvRules};
use crate::kernels::cache::rope::{self, RopeBuffers};
use crate::kernels::product::{
    self, Output, Product, ProductDepths, Tiles, gather_tokens, in_tiles, largest_tile, tile_tokens,
};
use crate::kernels::rms_norm::{self, Norm};
use crate::kernels::{add_norm, gate};
use crate::recording::{Buffer, Recording, Span};
use crate::shape::{LlamaShape, SiteAt};

/// The registers of a step and what its products need beside them.
struct ManyTokens {
    /// T
    tokens: u32,
    /// The residual stream, [T, D].
    x: Buffer,
    /// Normalised x, and after the product that reads it what is added to x by a norm, [T, D].
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

/// The product at a site with what it reads and writes.
struct SiteProduct {
    /// Whose weight is taken.
    at: SiteAt,
    /// [T, input]
    x: Buffer,
    /// [T, rows]
    y: Buffer,
    /// What becomes of y's contents.
    output: Output,
}

impl Lowering<'_> {
    /// All layers, for `tokens` tokens whose embeddings are in `x`, [T, D].
    pub(super) fn layers_of_many(&self, r: &mut Recording, tokens: u32, x: Buffer) {
        let b = ManyTokens::new(self.shape, self.traits, r, tokens, self.routed, x);
        for layer in &self.program.layers {
            let mut ops = &layer[..];
            while !ops.is_empty() {
                ops = self.lower_many(r, &b, ops);
            }
        }
    }

    /// Records the first of these operations, or the first two where one kernel does both; the rest of them.
    fn lower_many<'a>(&self, r: &mut Recording, b: &ManyTokens, ops: &'a [Op]) -> &'a [Op] {
        match ops {
            [Op::Norm { at, routed, .. }, rest @ ..] if !self.is_needed(*at, routed) => rest,
            [Op::Norm { at, from, to, routed }, rest @ ..] => {
                let norm = NormOp { at: *at, x: b.buffer(*from), normed: b.buffer(*to), routed };
                self.normalize(r, b.tokens, &norm);
                rest
            }
            [Op::Project { at, from, to: Register::Branch }, Op::Add { norm: None }, rest @ ..] => {
                self.product(r, b, SiteProduct { at: *at, x: b.buffer(*from), y: b.x, output: Output::Add });
                rest
            }
            [Op::Project { at, from, to }, rest @ ..] => {
                let (x, y) = (b.buffer(*from), b.buffer(*to));
                self.product(r, b, SiteProduct { at: *at, x, y, output: Output::Overwrite });
                rest
            }
            [Op::Rotate { layer, bias, head_norm, rope_table, query_growth }, rest @ ..] => {
                let rules = self.qkv_rules(*layer, *bias, *head_norm, *query_growth);
                self.rotate(r, b, *layer, *rope_table, rules.as_ref());
                rest
            }
            [Op::Attend { layer, cap, window }, rest @ ..] => {
                self.attend(r, b, *layer, ScoreRules { window: *window, cap: *cap });
                rest
            }
            [Op::Gate { activation }, rest @ ..] => {
                gate::record(r, *activation, b.tokens, self.shape.ffn_dim, b.gate_up.all(), b.hidden.all());
                rest
            }
            [Op::Add { norm: Some(norm) }, rest @ ..] => {
                add_norm::record(r, b.tokens, self.norm(*norm), b.buffer(Register::Branch).all(), b.x.all());
                rest
            }
            [Op::Embed | Op::Add { norm: None } | Op::Head { .. }, ..] | [] => self.no_kernel(ops),
        }
    }

    /// The norm, and the depths at the sites whose routers look at it.
    fn normalize(&self, r: &mut Recording, tokens: u32, norm: &NormOp<'_>) {
        let sites = norm.routed.all();
        if self.routed && !sites.is_empty() {
            self.route(r, tokens, norm, sites);
        } else {
            let Norm { weight, eps } = self.norm(norm.at);
            rms_norm::record(r, tokens, eps, norm.x.all(), weight, norm.normed.all());
        }
    }

    /// Queries, and keys and values in the cache.
    fn rotate(&self, r: &mut Recording, b: &ManyTokens, layer: u32, table: u32, rules: Option<&QkvRules>) {
        let cache = &self.cache.layers[layer as usize];
        let buffers = RopeBuffers {
            qkv: b.qkv.all(),
            step_rows: self.inputs.rows(b.tokens),
            rope_table: self.cache.rope_table(table),
            q: b.q.all(),
            keys: cache.keys,
            values: cache.values,
        };
        match rules {
            None => rope::record(r, self.shape, b.tokens, cache.cells, buffers),
            Some(rules) => finish_qkv::record(r, self.shape, b.tokens, cache.cells, rules, buffers),
        }
    }

    /// Attention over the cache.
    fn attend(&self, r: &mut Recording, b: &ManyTokens, layer: u32, scores: ScoreRules) {
        let problem = self.attention(layer, scores, b.tokens, b.q.all(), b.attended.all());
        if let Some(partials) = attention::record(r, self.traits, &problem) {
            combine::record(r, partials, problem.buffers.y);
        }
    }

    /// The product at one site.
    fn product(&self, r: &mut Recording, b: &ManyTokens, product: SiteProduct) {
        let SiteProduct { at, x, y, output } = product;
        let tokens = b.tokens;
        let by_token = self.inputs.depths(at.index(), tokens);
        let weight = self.weights.layers[at.layer as usize].site(at.site);
        let tile = tile_tokens(self.traits, weight.rows, tokens);
        let tiles = |order, partial| ProductDepths::ByTile(Tiles { order, tile, partial, x_f16: b.x_f16 });
        let depths = match b.order {
            _ if !in_tiles(self.traits, tokens) => ProductDepths::ByToken(by_token),
            None => tiles(self.inputs.order(at.layer, tokens, tile), false),
            Some(order) => {
                let order = order.span(0, u64::from(gather_tokens::entries(tile, tokens)) * 4);
                gather_tokens::record(r, tile, tokens, by_token, order);
                tiles(order, true)
            }
        };
        Product { weight, x: x.all(), y: y.all(), tokens, output }.record(r, self.traits, depths);
    }

    /// Logits of `count` tokens, [count, V], by their rows of the residual stream.
    pub(super) fn logits_of_many(&self, r: &mut Recording, count: u32, x: Span, logits: Span) {
        let [Op::Norm { at, .. }, Op::Head { .. }] = self.program.head[..] else { self.no_kernel(&self.program.head) };
        let normed = r.transient(x.bytes).all();
        let Norm { weight, eps } = self.norm(at);
        rms_norm::record(r, count, eps, x, weight, normed);
        let (weight, output) = (&self.weights.head, Output::Overwrite);
        let product = Product { weight, x: normed, y: logits, tokens: count, output };
        let depths = if in_tiles(self.traits, count) {
            let x_f16 = product::x_f16(r, self.traits, count, weight.input);
            let tile = tile_tokens(self.traits, weight.rows, count);
            ProductDepths::ByTile(Tiles { order: self.inputs.head_order(count, tile), tile, partial: false, x_f16 })
        } else {
            ProductDepths::ByToken(self.inputs.head_depths(count))
        };
        product.record(r, self.traits, depths);
    }
}

impl ManyTokens {
    fn new(shape: &LlamaShape, traits: Traits, r: &mut Recording, tokens: u32, routed: bool, x: Buffer) -> ManyTokens {
        let tiled = in_tiles(traits, tokens);
        let entries = u64::from(gather_tokens::entries(largest_tile(traits), tokens));
        let order = (routed && tiled).then(|| r.transient(entries * 4));
        let widest = shape.model_dim.max(shape.q_dim()).max(shape.ffn_dim);
        let x_f16 = tiled.then(|| product::x_f16(r, traits, tokens, widest)).flatten();
        let mut rows = |width: u32| r.transient(u64::from(tokens) * u64::from(width) * 4);
        ManyTokens {
            tokens,
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

    /// The buffer of a register.
    fn buffer(&self, register: Register) -> Buffer {
        match register {
            Register::Residual => self.x,
            Register::Normed => self.normed,
            Register::Qkv => self.qkv,
            Register::Queries => self.q,
            Register::Attended => self.attended,
            Register::GateUp => self.gate_up,
            Register::Hidden => self.hidden,
            // No product reads the norm of the residual stream between a branch and its sum with that.
            Register::Branch => self.normed,
        }
    }
}
