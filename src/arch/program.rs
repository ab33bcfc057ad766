//! The operations of a forward pass, in order, made from a model's spec.

use std::ops::Range;

use super::spec::{ActivationFunction, AttentionSpec, HeadNorm, LayerSpec, ModelSpec, QueryGrowth};
use super::vectors::LayerVector;
use crate::shape::{Site, SiteAt};

/// The operations of a forward pass.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    /// From token ids to the residual stream.
    pub embed: Op,
    /// The operations of each layer, first to last.
    pub layers: Vec<Vec<Op>>,
    /// From the residual stream to logits.
    pub head: Vec<Op>,
}

/// One operation, on [registers](Register). Letters as in [`crate::shape`].
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// Residual = the embedding's rows.
    Embed,
    /// `to` = RMSNorm of `from`.
    Norm {
        /// Whose weight is taken. Those of [`NormAt::Routers`] are for nothing else than routers.
        at: NormAt,
        /// What is normalized.
        from: Register,
        /// Where that goes.
        to: Register,
        /// The sites whose routers look at `to`.
        routed: RoutedSites,
    },
    /// `to` = the stacked weight of a site times `from`.
    Project {
        /// Whose weight is taken.
        at: SiteAt,
        /// The site's input.
        from: Register,
        /// Where the products go.
        to: Register,
    },
    /// Queries = the queries in Qkv, with their bias, normalized and rotated. The keys in Qkv, treated alike, and the
    /// values, with their bias, go to the layer's cache.
    Rotate {
        /// The layer.
        layer: u32,
        /// Whether queries, keys and values have biases.
        bias: bool,
        /// The norm of queries and keys.
        head_norm: HeadNorm,
        /// The table of their rotation.
        rope_table: u32,
        /// How queries grow with their position.
        query_growth: Option<QueryGrowth>,
    },
    /// Attended = softmax(scores of Queries and the layer's keys) times its values.
    Attend {
        /// The layer.
        layer: u32,
        /// Bounds the scores.
        cap: Option<f32>,
        /// Positions that a token looks at.
        window: Option<u32>,
    },
    /// Hidden = activation(the gates in GateUp) times the ups in it.
    Gate {
        /// What gates.
        activation: ActivationFunction,
    },
    /// Residual += Branch.
    Add {
        /// The norm of the branch before that.
        norm: Option<NormAt>,
    },
    /// The logits: the head times Normed.
    Head {
        /// Bounds them.
        cap: Option<f32>,
    },
}

/// What operations read and write, each with a row for each token of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// The residual stream, [T, D].
    Residual,
    /// The residual stream, normalized, [T, D].
    Normed,
    /// Queries, keys and values, [T, (H + 2K) * A].
    Qkv,
    /// Rotated queries, [T, H * A].
    Queries,
    /// What attention comes to, [T, H * A].
    Attended,
    /// Gates and ups, [T, 2F].
    GateUp,
    /// The gated ups, [T, F].
    Hidden,
    /// What is added to the residual stream next, [T, D].
    Branch,
}

/// Which norm it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormAt {
    /// Before a layer's attention.
    BeforeAttention(u32),
    /// After a layer's attention.
    AfterAttention(u32),
    /// Before a layer's feed-forward.
    BeforeFeedForward(u32),
    /// After a layer's feed-forward.
    AfterFeedForward(u32),
    /// Before a block that has no norm: it has no weight, and only routers look at it.
    Routers,
    /// Before the head.
    Final,
}

/// The sites whose routers look at one norm, counted through all layers as by [`SiteAt::index`]. The sites between a
/// norm of the residual stream and the next one are a block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoutedSites {
    /// The sites of the norm's own block: of the first norm only, as no other comes before its block.
    pub own: Range<u32>,
    /// The sites of the next block, whose depths are so known before the block begins.
    pub next: Range<u32>,
}

impl Op {
    /// The register that is another one after it.
    pub fn writes(&self) -> Option<Register> {
        match self {
            Op::Embed | Op::Add { .. } => Some(Register::Residual),
            Op::Norm { to, .. } | Op::Project { to, .. } => Some(*to),
            Op::Rotate { .. } => Some(Register::Queries),
            Op::Attend { .. } => Some(Register::Attended),
            Op::Gate { .. } => Some(Register::Hidden),
            Op::Head { .. } => None,
        }
    }
}

impl Register {
    /// How many there are.
    pub const COUNT: usize = Register::Branch as usize + 1;
}

impl NormAt {
    /// The layer and the vector that is its weight, of a norm in a layer that has one.
    pub fn vector(self) -> Option<(u32, LayerVector)> {
        match self {
            NormAt::BeforeAttention(layer) => Some((layer, LayerVector::InputNorm)),
            NormAt::AfterAttention(layer) => Some((layer, LayerVector::AfterAttentionNorm)),
            NormAt::BeforeFeedForward(layer) => Some((layer, LayerVector::FfnNorm)),
            NormAt::AfterFeedForward(layer) => Some((layer, LayerVector::AfterFfnNorm)),
            NormAt::Routers | NormAt::Final => None,
        }
    }
}

impl RoutedSites {
    /// All of them, which are neighbours.
    pub fn all(&self) -> Range<u32> {
        self.own.start..self.next.end
    }
}

impl Program {
    /// The program of a model of so many layers.
    pub fn new(spec: &ModelSpec, layers: u32) -> Program {
        let mut program = Program {
            embed: Op::Embed,
            layers: (0..layers).map(|at| layer(at, spec.layer(at))).collect(),
            head: vec![norm(NormAt::Final, Register::Residual, Register::Normed), Op::Head { cap: spec.logit_cap }],
        };
        place_routers(&mut program.layers);
        program
    }

    /// All operations, in order.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        [&self.embed].into_iter().chain(self.layers.iter().flatten()).chain(&self.head)
    }
}

/// The operations of one layer; its routers are not placed yet.
fn layer(layer: u32, spec: &LayerSpec) -> Vec<Op> {
    let LayerSpec { norms, attention, activation } = *spec;
    let AttentionSpec { qkv_bias: bias, head_norm, rope_table, query_growth, score_cap: cap, window } = attention;
    let project = |site, from, to| Op::Project { at: SiteAt { layer, site }, from, to };
    let add = |has: bool, at| Op::Add { norm: has.then_some(at) };
    let mut ops = Vec::new();
    let input = norm_before(&mut ops, norms.before_attention.then_some(NormAt::BeforeAttention(layer)));
    ops.extend([
        project(Site::Qkv, input, Register::Qkv),
        Op::Rotate { layer, bias, head_norm, rope_table, query_growth },
        Op::Attend { layer, cap, window },
        project(Site::O, Register::Attended, Register::Branch),
        add(norms.after_attention, NormAt::AfterAttention(layer)),
    ]);
    let input = norm_before(&mut ops, norms.before_feed_forward.then_some(NormAt::BeforeFeedForward(layer)));
    ops.extend([
        project(Site::GateUp, input, Register::GateUp),
        Op::Gate { activation },
        project(Site::Down, Register::Hidden, Register::Branch),
        add(norms.after_feed_forward, NormAt::AfterFeedForward(layer)),
    ]);
    ops
}

/// Appends the norm of the residual stream that the layer has, or that routers have in its place; where the input of
/// what follows is.
fn norm_before(ops: &mut Vec<Op>, at: Option<NormAt>) -> Register {
    ops.push(norm(at.unwrap_or(NormAt::Routers), Register::Residual, Register::Normed));
    if at.is_some() { Register::Normed } else { Register::Residual }
}

fn norm(at: NormAt, from: Register, to: Register) -> Op {
    Op::Norm { at, from, to, routed: RoutedSites::default() }
}

/// Says of each norm of the residual stream which sites' routers look at it: those of the next block, so that a depth
/// is known before its product begins, and of the first norm those of its own block too.
fn place_routers(layers: &mut [Vec<Op>]) {
    let (mut blocks, mut sites): (Vec<Range<u32>>, u32) = (Vec::new(), 0);
    for op in layers.iter().flatten() {
        match op {
            Op::Norm { .. } => blocks.push(sites..sites),
            Op::Project { at, .. } => {
                sites = at.index() + 1;
                if let Some(block) = blocks.last_mut() {
                    block.end = sites;
                }
            }
            _ => (),
        }
    }
    let norms = layers.iter_mut().flatten().filter_map(|op| match op {
        Op::Norm { routed, .. } => Some(routed),
        _ => None,
    });
    for (at, routed) in norms.enumerate() {
        let end = blocks[at].end;
        let own = if at == 0 { blocks[0].clone() } else { end..end };
        let next = blocks.get(at + 1).cloned().unwrap_or(end..end);
        *routed = RoutedSites { own, next };
    }
}

#[cfg(test)]
#[path = "program_tests.rs"]
mod tests;
