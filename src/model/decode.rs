//! The layers for a single token with int8 activations: fewer and faster kernels than `llama.rs` has for many.
//!
//! A layer is five dispatches, six where attention is in many parts: queries, keys and values; attention; its
//! projection; gate and up; down. Each product makes its own input ready. Beside the first and the fourth, whose input
//! is a norm, the hidden units of the routers that look at it are computed, and beside the third and the fifth the
//! depths of the sites that come next.

use std::ops::Range;

use super::llama::Llama;
use super::weights::LayerWeights;
use crate::kernels::attention::partials::PROJECTION_SPLITS_MAX;
use crate::kernels::attention::{self, Attention, AttentionBuffers, combine};
use crate::kernels::project::qkv::{self, QkvBuffers};
use crate::kernels::project::residual::{self, DepthSelection};
use crate::kernels::project::router_hidden::{SiteRouters, hidden_bytes};
use crate::kernels::project::{Input, Projection, Spread, gate, logits};
use crate::kernels::rms_norm::Norm;
use crate::recording::{Buffer, Recording, Span};
use crate::routing::{site_at, sites_by_feed_forward};
use crate::shape::Site;

/// Activations of a step, beside the residual stream.
struct Decode {
    /// [H, A]
    q: Buffer,
    /// [H, A]
    attended: Buffer,
    /// `[F]`
    hidden: Buffer,
    /// Hidden units of the two routers that a norm tells.
    told: Buffer,
}

impl Llama<'_> {
    /// All layers, for the one token whose embedding is in `x`, `[D]`.
    pub(super) fn decode_layers(&self, r: &mut Recording, x: Buffer) {
        let d = self.decode_buffers(r);
        let layers = &self.weights.layers;
        if self.routed {
            // Nothing comes before the first attention.
            let normed = r.transient(x.bytes());
            self.route(r, 1, (x, layers[0].input_norm), normed, 0..site_at(0, Site::GateUp));
        }
        for (at, weights) in (0..).zip(layers) {
            self.decode_attention(r, &d, x, (at, weights));
            self.decode_feed_forward(r, &d, x, (at, weights));
        }
    }

    fn decode_buffers(&self, r: &mut Recording) -> Decode {
        let mut row = |width: u32| r.transient(u64::from(width) * 4);
        let [q, attended, hidden] = [self.shape.q_dim(), self.shape.q_dim(), self.shape.ffn_dim].map(&mut row);
        let told = r.transient(hidden_bytes(2));
        Decode { q, attended, hidden, told }
    }

    /// x += O attention(rope(Q n), rope(K n), V n) with n = norm(x).
    fn decode_attention(&self, r: &mut Recording, d: &Decode, x: Buffer, (at, weights): (u32, &LayerWeights)) {
        let (shape, step_rows) = (self.shape, self.inputs.rows(1));
        let (cells, context) = (self.cache.options.cells(), self.cache.options.context);
        let cache = &self.cache.layers[at as usize];
        let (q, keys, values) = (d.q.all(), cache.keys.all(), cache.values.all());
        let norm = Norm { weight: weights.input_norm, eps: shape.norm_eps };
        let projection = self.projection((at, weights, Site::Qkv), Input::Normed(x.all(), norm));
        let rope_table = self.cache.rope_table.all();
        let routers = self.routers_at(d, site_at(at, Site::GateUp)..site_at(at + 1, Site::Qkv));
        let buffers = QkvBuffers { step_rows, rope_table, q, keys, values };
        qkv::record(r, &projection, routers, shape, cells, buffers);
        let y = d.attended.all();
        let buffers = AttentionBuffers { q, step_rows, keys, values, y };
        let (class, quantized_kv) = (self.context_class, cache.quantized_kv);
        let problem = Attention { shape, tokens: 1, cells, context, class, quantized_kv, buffers };
        let input = match attention::record(r, self.traits, &problem) {
            Some(partials) if partials.splits <= PROJECTION_SPLITS_MAX => Input::Partials(partials),
            Some(partials) => {
                combine::record(r, partials, y);
                Input::Plain(y)
            }
            None => Input::Plain(y),
        };
        let projection = self.projection((at, weights, Site::O), input);
        self.project_residual(r, (projection, site_at(at, Site::O)), routers, x);
    }

    /// x += Down (silu(Gate n) * Up n) with n = norm(x).
    fn decode_feed_forward(&self, r: &mut Recording, d: &Decode, x: Buffer, (at, weights): (u32, &LayerWeights)) {
        let norm = Norm { weight: weights.ffn_norm, eps: self.shape.norm_eps };
        let projection = self.projection((at, weights, Site::GateUp), Input::Normed(x.all(), norm));
        let routers = self.routers_at(d, sites_by_feed_forward(at, self.shape.layers));
        gate::record(r, &projection, routers, d.hidden.all());
        let down = self.projection((at, weights, Site::Down), Input::Plain(d.hidden.all()));
        self.project_residual(r, (down, site_at(at, Site::Down)), routers, x);
    }

    /// x += the product at a site, and the depths of the sites that come next.
    fn project_residual(
        &self,
        r: &mut Recording,
        (projection, site): (Projection<'_>, u32),
        next: Option<SiteRouters<'_>>,
        x: Buffer,
    ) {
        let (depth, depth_row) = self.inputs.depths_of(&(site..site + 1 + next.map_or(0, |next| next.count)), 1);
        let selection = next.map(|routers| DepthSelection {
            routers,
            control: self.inputs.control(),
            step_rows: self.inputs.rows(1),
            depth_row,
        });
        residual::record(r, &Projection { depth, ..projection }, selection, x.all());
    }

    /// The routers of these sites, if there are any to choose.
    fn routers_at(&self, d: &Decode, sites: Range<u32>) -> Option<SiteRouters<'_>> {
        let routers = self.weights.routers.as_ref().filter(|_| self.routed && !sites.is_empty())?;
        let (first, count) = (sites.start, sites.len() as u32);
        Some(SiteRouters { routers, first, count, hidden: d.told.all() })
    }

    fn spread(&self, site: Site) -> Spread {
        Spread::of(self.traits, site.dims(self.shape), Some(site))
    }

    /// The product at a site.
    fn projection<'a>(&self, (layer, weights, site): (u32, &'a LayerWeights, Site), input: Input) -> Projection<'a> {
        let depth = self.inputs.depths(site_at(layer, site), 1);
        Projection { weight: weights.site(site), input, depth, spread: self.spread(site) }
    }

    /// Logits of one token by its row of the residual stream, `[V]`.
    pub(super) fn decode_logits(&self, r: &mut Recording, x: Span, to: Span) {
        let weight = &self.weights.head;
        let projection = Projection {
            weight,
            input: Input::Normed(x, Norm { weight: self.weights.final_norm, eps: self.shape.norm_eps }),
            depth: self.inputs.head_depths(1),
            spread: Spread::of(self.traits, (weight.rows, weight.input), None),
        };
        logits::record(r, self.traits, &projection, to);
    }
}
