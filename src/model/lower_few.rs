//! The operations as kernels for one token or few with int8 activations: fewer and faster ones than `lower_many.rs`
//! has.
//!
//! A layer of LLaMA is five dispatches, six where attention is in many parts:
//!
//! | operations | kernel |
//! |---|---|
//! | norm, project qkv, rotate | `project_qkv` |
//! | attend | one of attention's |
//! | project o, add | `project_residual` |
//! | norm, project gate and up, gate | `project_gate` |
//! | project down, add | `project_residual` |
//!
//! Where more becomes of queries, keys and values than their rotation, `project_qkv` leaves that to `finish_qkv`. Where
//! what is added is normalized first, `project_residual` leaves the sum to `add_norm`.
//!
//! For a single token, each product makes its own input ready. For 2 to 8, `project_pack` does it before each, and
//! computes what the products then need not. Each token comes out as it does alone, bit for bit.
//!
//! Beside the first and the fourth, whose input is a norm, the hidden units of the routers that look at it are
//! computed, and beside the third and the fifth the depths of the sites that come next.

use super::forward::{Lowering, NormOp};
use crate::arch::{NormAt, Op, Register, RoutedSites};
use crate::kernels::add_norm;
use crate::kernels::attention::partials::PROJECTION_SPLITS_MAX;
use crate::kernels::attention::{self, ScoreRules, combine};
use crate::kernels::cache::finish_qkv::{self, QkvRules};
use crate::kernels::cache::rope::RopeBuffers;
use crate::kernels::product::Output;
use crate::kernels::project::qkv::{self, QkvBuffers, QkvFinish};
use crate::kernels::project::residual::{self, DepthSelection};
use crate::kernels::project::router_hidden::{SiteRouters, hidden_bytes};
use crate::kernels::project::{Input, Projection, Spread, gate, logits, pack};
use crate::recording::{Buffer, Recording, Span};
use crate::shape::SiteAt;

/// The registers of a step, and the routers whose hidden units were computed last.
struct FewTokens<'a> {
    /// T
    tokens: u32,
    /// The residual stream, [T, D].
    x: Buffer,
    /// [T, H, A]
    q: Buffer,
    /// [T, H, A]
    attended: Buffer,
    /// [T, F]
    hidden: Buffer,
    /// Queries, keys and values before anything becomes of them, [T, (H + 2K) * A], where they are not rotated at once.
    qkv: Option<Buffer>,
    /// What is added to the residual stream once it is normalized, [T, D], where that is done.
    branch: Option<Buffer>,
    /// The last norm.
    norm: Option<NormAt>,
    /// Hidden units of the two routers that look at a norm, of each token.
    router_hidden: Buffer,
    /// The routers that look at the last norm, if any.
    routers: Option<SiteRouters<'a>>,
}

impl<'a> Lowering<'a> {
    /// All layers, for 1 to 8 tokens whose embeddings are in `x`, [T, D].
    pub(super) fn layers_of_few(&self, r: &mut Recording, tokens: u32, x: Buffer) {
        let mut b = self.few_tokens(r, tokens, x);
        for layer in &self.program.layers {
            let mut ops = &layer[..];
            while !ops.is_empty() {
                ops = self.lower_few(r, &mut b, ops);
            }
        }
    }

    fn few_tokens(&self, r: &mut Recording, tokens: u32, x: Buffer) -> FewTokens<'a> {
        let has = |is: fn(&Op) -> bool| self.program.ops().any(is);
        let mut row = |width: u32| r.transient(u64::from(tokens) * u64::from(width) * 4);
        let [q, attended, hidden] = [self.shape.q_dim(), self.shape.q_dim(), self.shape.ffn_dim].map(&mut row);
        let finishes = self.program.ops().any(|op| self.rules_of(op).is_some());
        let qkv = finishes.then(|| row(self.shape.q_dim() + 2 * self.shape.kv_dim()));
        let branch = has(|op| matches!(op, Op::Add { norm: Some(_) })).then(|| row(self.shape.model_dim));
        let router_hidden = r.transient(u64::from(tokens) * hidden_bytes(2));
        FewTokens { tokens, x, q, attended, hidden, qkv, branch, norm: None, router_hidden, routers: None }
    }

    /// Records the first of these operations, as many as one kernel does, or one and what follows it; the rest of them.
    fn lower_few<'o>(&self, r: &mut Recording, b: &mut FewTokens<'a>, ops: &'o [Op]) -> &'o [Op] {
        use Register::{Attended, Branch, GateUp, Hidden, Normed, Qkv, Residual};
        match ops {
            // The product that reads it computes it.
            [Op::Norm { at, from: Residual, to: Normed, routed }, rest @ ..] => {
                self.look_at_norm(r, b, *at, routed);
                rest
            }
            [Op::Project { at, from: from @ (Normed | Residual), to: Qkv }, rotate @ Op::Rotate { .. }, rest @ ..] => {
                self.project_qkv(r, b, self.normed(b, *at, *from), rotate);
                rest
            }
            [
                Op::Attend { layer, cap, window },
                Op::Project { at, from: Attended, to: Branch },
                Op::Add { norm },
                rest @ ..,
            ] => {
                let input = self.attend_few(r, b, *layer, ScoreRules { window: *window, cap: *cap });
                self.project_residual(r, b, *at, input, *norm);
                rest
            }
            [Op::Project { at, from: from @ (Normed | Residual), to: GateUp }, Op::Gate { activation }, rest @ ..] => {
                let (projection, routers) = self.ready(r, b, self.normed(b, *at, *from));
                gate::record(r, &projection, *activation, routers, b.hidden.all());
                rest
            }
            [Op::Project { at, from: Hidden, to: Branch }, Op::Add { norm }, rest @ ..] => {
                self.project_residual(r, b, *at, Input::Plain(b.hidden.all()), *norm);
                rest
            }
            _ => self.no_kernel(ops),
        }
    }

    /// Takes note of the routers whose hidden units the next product computes. Those of sites before the next norm
    /// cannot wait for it: a kernel before the product selects these depths.
    fn look_at_norm(&self, r: &mut Recording, b: &mut FewTokens<'a>, norm: NormAt, routed: &RoutedSites) {
        if self.routed && !routed.own.is_empty() {
            let normed = r.transient(b.x.bytes());
            self.route(r, b.tokens, &NormOp { at: norm, x: b.x, normed, routed }, routed.own.clone());
        }
        let (first, count) = (routed.next.start, routed.next.len() as u32);
        let routers = self.weights.routers.as_ref().filter(|_| self.routed && count > 0);
        b.norm = Some(norm);
        b.routers = routers.map(|routers| SiteRouters { routers, first, count, hidden: b.router_hidden.all() });
    }

    /// What an operation does with queries, keys and values beside their rotation, where it does anything.
    fn rules_of(&self, op: &Op) -> Option<QkvRules> {
        let Op::Rotate { layer, bias, head_norm, query_growth, .. } = op else { return None };
        self.qkv_rules(*layer, *bias, *head_norm, *query_growth)
    }

    /// The queries, and the keys and values in the layer's cache.
    fn project_qkv(&self, r: &mut Recording, b: &FewTokens<'a>, projection: Projection<'a>, rotate: &Op) {
        let Op::Rotate { layer, rope_table, .. } = rotate else { self.no_kernel(rotate) };
        let (projection, routers) = self.ready(r, b, projection);
        let cache = &self.cache.layers[*layer as usize];
        let (step_rows, rope_table) = (self.inputs.rows(b.tokens), self.cache.rope_table(*rope_table));
        let (q, keys, values) = (b.q.all(), cache.keys, cache.values);
        let buffers = QkvBuffers { step_rows, rope_table, q, keys, values };
        let (Some(rules), Some(qkv)) = (self.rules_of(rotate), b.qkv) else {
            return qkv::record(r, &projection, routers, self.shape, cache.cells, buffers, QkvFinish::Rotate);
        };
        let qkv = qkv.all();
        let products = QkvBuffers { q: qkv, ..buffers };
        qkv::record(r, &projection, routers, self.shape, cache.cells, products, QkvFinish::Leave);
        let buffers = RopeBuffers { qkv, step_rows, rope_table, q, keys, values };
        finish_qkv::record(r, self.shape, b.tokens, cache.cells, &rules, buffers);
    }

    /// Attention over the layer's cache; the input of its output product.
    fn attend_few(&self, r: &mut Recording, b: &FewTokens<'a>, layer: u32, scores: ScoreRules) -> Input {
        let problem = self.attention(layer, scores, b.tokens, b.q.all(), b.attended.all());
        let y = problem.buffers.y;
        match attention::record(r, self.traits, &problem) {
            Some(partials) if partials.splits <= PROJECTION_SPLITS_MAX => Input::Partials(partials),
            Some(partials) => {
                combine::record(r, partials, y);
                Input::Plain(y)
            }
            None => Input::Plain(y),
        }
    }

    /// x += the product at a site or its norm, and the depths of the sites that come next.
    fn project_residual(&self, r: &mut Recording, b: &FewTokens<'a>, at: SiteAt, input: Input, norm: Option<NormAt>) {
        let sites = at.index()..at.index() + 1 + b.routers.map_or(0, |routers| routers.count);
        let (depth, depth_row) = self.inputs.depths_of(&sites, b.tokens);
        let selection = b.routers.map(|routers| DepthSelection {
            routers,
            control: self.inputs.control(),
            step_rows: self.inputs.rows(b.tokens),
            depth_row,
        });
        // Routers look at norms, and this input is none.
        let projection = self.packed(r, b.tokens, self.projection(b.tokens, at, input), None);
        let projection = Projection { depth, ..projection };
        let (Some(norm), Some(branch)) = (norm, b.branch) else {
            return residual::record(r, &projection, selection, b.x.all(), Output::Add);
        };
        residual::record(r, &projection, selection, branch.all(), Output::Overwrite);
        add_norm::record(r, b.tokens, self.norm(norm), branch.all(), b.x.all());
    }

    /// The product at a site with the last norm of the residual stream, or with that itself.
    fn normed(&self, b: &FewTokens<'_>, at: SiteAt, from: Register) -> Projection<'a> {
        let x = b.x.all();
        let input = match b.norm {
            Some(norm) if from == Register::Normed => Input::Normed(x, self.norm(norm)),
            Some(norm) if b.routers.is_some() => Input::Routed(x, self.norm(norm)),
            _ => Input::Plain(x),
        };
        self.projection(b.tokens, at, input)
    }

    /// The product at a site whose input is a norm, once that is ready, and the routers whose hidden units it computes.
    fn ready(
        &self,
        r: &mut Recording,
        b: &FewTokens<'a>,
        projection: Projection<'a>,
    ) -> (Projection<'a>, Option<SiteRouters<'a>>) {
        let routers = b.routers.filter(|_| b.tokens == 1);
        (self.packed(r, b.tokens, projection, b.routers), routers)
    }

    /// The same product with the inputs of several tokens packed, and the hidden units of these routers computed; that
    /// of a single token as it is.
    fn packed(
        &self,
        r: &mut Recording,
        tokens: u32,
        projection: Projection<'a>,
        routers: Option<SiteRouters<'a>>,
    ) -> Projection<'a> {
        if tokens == 1 {
            return projection;
        }
        let input = Input::Packed(pack::record(r, &projection, tokens, routers));
        Projection { input, spread: projection.spread.of_few(), ..projection }
    }

    /// The product at a site.
    fn projection(&self, tokens: u32, at: SiteAt, input: Input) -> Projection<'a> {
        let SiteAt { layer, site } = at;
        let spread = Spread::of(self.traits, site.dims(self.shape), Some(site));
        let weight = self.weights.layers[layer as usize].site(site);
        Projection { weight, input, depth: self.inputs.depths(at.index(), tokens), spread }
    }

    /// Logits of 1 to 8 tokens by their rows of the residual stream, [T, V].
    pub(super) fn logits_of_few(&self, r: &mut Recording, tokens: u32, x: Span, to: Span) {
        let [Op::Norm { at, .. }, Op::Head { .. }] = self.program.head[..] else { self.no_kernel(&self.program.head) };
        let weight = &self.weights.head;
        let projection = Projection {
            weight,
            input: Input::Normed(x, self.norm(at)),
            depth: self.inputs.head_depths(tokens),
            spread: Spread::of(self.traits, (weight.rows, weight.input), None),
        };
        let projection = self.packed(r, tokens, projection, None);
        logits::record(r, self.traits, &projection, to);
    }
}
