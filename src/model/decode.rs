//! The layers for a single token with int8 activations: fewer and faster kernels than `llama.rs` has for many.
//!
//! A layer is ten dispatches. Before each product `site_input` makes its input ready, be it normalised, gated or as it
//! is, and computes the router's hidden units; the product itself chooses the depth.

use super::llama::Llama;
use super::weights::LayerWeights;
use crate::kernels::matvec_packed::{self, DepthFrom, PackedProduct};
use crate::kernels::product::Output;
use crate::kernels::site_input::{self, Routing, Source};
use crate::kernels::{attention, rope_cache};
use crate::recording::{Buffer, Recording, Span};
use crate::shape::{LlamaShape, Site};

/// Activations of a step, beside the residual stream.
pub(super) struct Decode {
    /// Made ready for one product after the other.
    ready: Buffer,
    /// [(H + 2K) * A]
    qkv: Buffer,
    /// [H, A]
    q: Buffer,
    /// [H, A]
    attended: Buffer,
    /// [2F]
    gate_up: Buffer,
}

impl Decode {
    fn new(shape: &LlamaShape, r: &mut Recording) -> Decode {
        let widest = Site::ALL.map(|site| site.dims(shape).1).into_iter().max().unwrap_or(0);
        let ready = r.transient(site_input::bytes(widest));
        let mut row = |width: u32| r.transient(u64::from(width) * 4);
        Decode {
            ready,
            qkv: row(shape.q_dim() + 2 * shape.kv_dim()),
            q: row(shape.q_dim()),
            attended: row(shape.q_dim()),
            gate_up: row(2 * shape.ffn_dim),
        }
    }
}

impl Llama<'_> {
    /// All layers, for the one token whose embedding is in `x`, [D].
    pub(super) fn decode_layers(&self, r: &mut Recording, x: Buffer) {
        let d = Decode::new(self.shape, r);
        let (shape, context, positions) = (self.shape, self.cache.context, self.inputs.positions(1));
        for (layer, (weights, cache)) in (0..).zip(self.weights.layers.iter().zip(&self.cache.layers)) {
            let norm = |weight: Buffer| Source::Norm { weight, eps: shape.norm_eps };
            let site = |r: &mut Recording, site, from, to, output| {
                self.site(r, d.ready, (layer, site), weights, from, (to, output));
            };
            site(r, Site::Qkv, (x, norm(weights.input_norm)), d.qkv, Output::Overwrite);
            let rotated = rope_cache::Buffers {
                qkv: d.qkv.all(),
                positions,
                turns: self.cache.turns.all(),
                q: d.q.all(),
                keys: cache.keys.all(),
                values: cache.values.all(),
            };
            rope_cache::record(r, shape, 1, context, rotated);
            let attended = attention::Buffers {
                q: d.q.all(),
                positions,
                keys: cache.keys.all(),
                values: cache.values.all(),
                y: d.attended.all(),
            };
            attention::record(r, self.traits, shape, (1, self.reach), context, attended);
            site(r, Site::O, (d.attended, Source::Plain), x, Output::Add);
            site(r, Site::GateUp, (x, norm(weights.ffn_norm)), d.gate_up, Output::Overwrite);
            site(r, Site::Down, (d.gate_up, Source::Gate), x, Output::Add);
        }
    }

    /// The product at one site, at the depth that its router chooses or that is there.
    fn site(
        &self,
        r: &mut Recording,
        ready: Buffer,
        (layer, site): (u32, Site),
        weights: &LayerWeights,
        (x, source): (Buffer, Source),
        (y, output): (Buffer, Output),
    ) {
        let at = layer * Site::ALL.len() as u32 + site as u32;
        let weight = weights.site(site);
        let ready = ready.span(0, site_input::bytes(weight.input));
        let routing = self.routed.then(|| Routing {
            router: weights.router(site).expect("a routed plan is refused without routers"),
            control: self.inputs.control(),
            site: at,
        });
        let from = if self.routed { DepthFrom::Router } else { DepthFrom::Buffer };
        site_input::record(r, self.traits, weight.input, (x.all(), source), routing, ready);
        let depth = self.inputs.depths(at, 1);
        let product = PackedProduct { weight, x: ready, y: y.all(), output, depth, from };
        matvec_packed::record(r, self.traits, &product);
    }

    /// Logits of one token by its row of the residual stream, `[V]`.
    pub(super) fn decode_logits(&self, r: &mut Recording, x: Span, logits: Span) {
        let weight = &self.weights.head;
        let ready = r.transient(site_input::bytes(weight.input)).all();
        let norm = Source::Norm { weight: self.weights.final_norm, eps: self.shape.norm_eps };
        site_input::record(r, self.traits, weight.input, (x, norm), None, ready);
        let (depth, from) = (self.inputs.head_depths(1), DepthFrom::Buffer);
        let product = PackedProduct { weight, x: ready, y: logits, output: Output::Overwrite, depth, from };
        matvec_packed::record(r, self.traits, &product);
    }
}
