//! The layers for a single token with int8 activations: fewer and faster kernels than `llama.rs` has for many.
//!
//! A layer is five dispatches, six where attention is split: queries, keys and values; attention; its projection; gate
//! and up; down. Each product makes its own input ready, and knows its depth by what the kernel before told its router.

use super::llama::Llama;
use super::weights::LayerWeights;
use crate::kernels::project::{Norm, Projection, Spread, Told};
use crate::kernels::router_sums::{self, RouterAt};
use crate::kernels::{attention, project_gate, project_logits, project_qkv, project_residual, tell_router};
use crate::recording::{Buffer, Recording, Span};
use crate::shape::Site;

/// Activations of a step, beside the residual stream.
struct Decode {
    /// [H, A]
    q: Buffer,
    /// [H, A]
    attended: Buffer,
    /// `[F]`
    hidden: Buffer,
    /// What each router is told, [2 L, 2, HIDDEN] u32: those of sites 0, 2, ... and of sites 1, 3, ..., so that a
    /// kernel reads one of them and writes the other.
    sums: [Buffer; 2],
}

impl Llama<'_> {
    /// All layers, for the one token whose embedding is in `x`, `[D]`.
    pub(super) fn decode_layers(&self, r: &mut Recording, x: Buffer) {
        let d = self.decode_buffers(r);
        let layers = &self.weights.layers;
        if let Some(first) = self.router_at(&d, (0, &layers[0]), Site::Qkv) {
            d.sums.into_iter().for_each(|sums| r.clear(sums.all()));
            tell_router::record(r, first, x.all(), layers[0].input_norm);
        }
        for (at, weights) in (0..).zip(layers) {
            self.decode_attention(r, &d, x, (at, weights));
            self.decode_feed_forward(r, &d, x, (at, weights));
        }
    }

    fn decode_buffers(&self, r: &mut Recording) -> Decode {
        let mut row = |width: u32| r.transient(u64::from(width) * 4);
        let [q, attended, hidden] = [self.shape.q_dim(), self.shape.q_dim(), self.shape.ffn_dim].map(&mut row);
        let sums = [0, 1].map(|_| r.transient(u64::from(2 * self.shape.layers) * router_sums::BYTES));
        Decode { q, attended, hidden, sums }
    }

    /// x += O attention(rope(Q n), rope(K n), V n) with n = norm(x).
    fn decode_attention(&self, r: &mut Recording, d: &Decode, x: Buffer, (at, weights): (u32, &LayerWeights)) {
        let (shape, context, positions) = (self.shape, self.cache.options.context, self.inputs.positions(1));
        let cache = &self.cache.layers[at as usize];
        let (q, keys, values) = (d.q.all(), cache.keys.all(), cache.values.all());
        let norm = Norm { weight: weights.input_norm, eps: shape.norm_eps };
        let qkv = self.projection(d, (at, weights, Site::Qkv), (x, Some(norm)), None);
        let turns = self.cache.turns.all();
        project_qkv::record(r, &qkv, shape, context, project_qkv::Buffers { positions, turns, q, keys, values });
        let attended = attention::Buffers { q, positions, keys, values, y: d.attended.all() };
        let o = self.router_at(d, (at, weights), Site::O);
        attention::record_told(r, self.traits, shape, (self.reach, context), attended, cache.kept, o);
        let next = self.router_at(d, (at, weights), Site::GateUp);
        let projection = self.projection(d, (at, weights, Site::O), (d.attended, None), next);
        project_residual::record(r, &projection, weights.ffn_norm, x.all());
    }

    /// x += Down (silu(Gate n) * Up n) with n = norm(x).
    fn decode_feed_forward(&self, r: &mut Recording, d: &Decode, x: Buffer, (at, weights): (u32, &LayerWeights)) {
        let norm = Norm { weight: weights.ffn_norm, eps: self.shape.norm_eps };
        let next = self.router_at(d, (at, weights), Site::Down);
        let gate = self.projection(d, (at, weights, Site::GateUp), (x, Some(norm)), next);
        project_gate::record(r, &gate, d.hidden.all());
        let after = self.weights.layers.get(at as usize + 1);
        let next = after.and_then(|after| self.router_at(d, (at + 1, after), Site::Qkv));
        let down = self.projection(d, (at, weights, Site::Down), (d.hidden, None), next);
        let norm = after.map_or(self.weights.final_norm, |after| after.input_norm);
        project_residual::record(r, &down, norm, x.all());
    }

    /// The router of a site, where routers choose.
    fn router_at<'a>(&self, d: &Decode, (at, weights): (u32, &'a LayerWeights), site: Site) -> Option<RouterAt<'a>> {
        let site_at = site_at(at, site);
        let place = u64::from(site_at / 2) * router_sums::BYTES;
        self.routed.then(|| RouterAt {
            router: weights.router(site).expect("a routed plan is refused without routers"),
            site: site_at,
            sums: d.sums[site_at as usize % 2].span(place, router_sums::BYTES),
        })
    }

    fn spread(&self, site: Site) -> Spread {
        Spread::of(self.traits, site.dims(self.shape), Told::at(site))
    }

    /// The product at a site, at the depth that its router chooses or that is there.
    fn projection<'a>(
        &self,
        d: &Decode,
        (at, weights, site): (u32, &'a LayerWeights, Site),
        (x, norm): (Buffer, Option<Norm>),
        next: Option<RouterAt<'a>>,
    ) -> Projection<'a> {
        Projection {
            weight: weights.site(site),
            x: x.all(),
            norm,
            depth: self.inputs.depths(site_at(at, site), 1),
            router: self.router_at(d, (at, weights), site),
            next,
            control: self.inputs.control(),
            spread: self.spread(site),
        }
    }

    /// Logits of one token by its row of the residual stream, `[V]`.
    pub(super) fn decode_logits(&self, r: &mut Recording, x: Span, logits: Span) {
        let weight = &self.weights.head;
        let projection = Projection {
            weight,
            x,
            norm: Some(Norm { weight: self.weights.final_norm, eps: self.shape.norm_eps }),
            depth: self.inputs.head_depths(1),
            router: None,
            next: None,
            control: self.inputs.control(),
            spread: Spread::of(self.traits, (weight.rows, weight.input), Told::Nothing),
        };
        project_logits::record(r, self.traits, &projection, logits);
    }
}

/// A site's place among all.
fn site_at(layer: u32, site: Site) -> u32 {
    layer * Site::ALL.len() as u32 + site as u32
}
