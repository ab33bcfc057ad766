//! The operations of a forward pass, in order, made from a model's spec.

use std::ops::Range;

use super::spec::{ActivationFunction, HeadNorm, LayerSpec, ModelSpec, RotarySpec, ScoreSpec};
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
    /// Residual = the embedding's rows, times `scale`.
    Embed {
        /// Multiplies the rows.
        scale: f32,
    },
    /// `to` = RMSNorm of `from`.
    Norm {
        /// Whose weight is taken.
        at: NormAt,
        /// What is normalized.
        from: Register,
        /// Where that goes.
        to: Register,
        /// The sites whose routers look at `to`.
        routed: RoutedSites,
    },
    /// `to` = the stacked weight of a site times `from`, and its bias.
    Project {
        /// Whose weight is taken.
        at: SiteAt,
        /// Whether there is a bias.
        bias: bool,
        /// The site's input.
        from: Register,
        /// Where the products go.
        to: Register,
    },
    /// Queries = the queries in Qkv, normalized and rotated. The keys in Qkv, normalized and rotated, and the values go
    /// to the layer's cache.
    Rotate {
        /// The layer.
        layer: u32,
        /// The norm of queries and keys.
        head_norm: HeadNorm,
        /// How they are rotated.
        rotary: RotarySpec,
    },
    /// Attended = softmax(scores of Queries and the layer's keys) times its values.
    Attend {
        /// The layer.
        layer: u32,
        /// From queries and keys to scores.
        scores: ScoreSpec,
    },
    /// Hidden = activation(the gates in GateUp) times the ups in it.
    Gate {
        /// What gates.
        activation: ActivationFunction,
    },
    /// Residual += Branch, times `scale`.
    Add {
        /// Multiplies the branch.
        scale: f32,
    },
    /// The logits: the head times Normed, times `scale`, bounded by `cap`.
    Head {
        /// Multiplies the products.
        scale: f32,
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

impl Register {
    /// How many there are.
    pub const COUNT: usize = Register::Branch as usize + 1;
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
        let ModelSpec { layers: _, embedding_scale, logit_scale, logit_cap, rope_tables: _ } = spec;
        let mut program = Program {
            embed: Op::Embed { scale: *embedding_scale },
            layers: (0..layers).map(|at| layer(at, spec.layer(at))).collect(),
            head: vec![
                norm(NormAt::Final, Register::Residual, Register::Normed),
                Op::Head { scale: *logit_scale, cap: *logit_cap },
            ],
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
    let LayerSpec { norms, attention, feed_forward, residual_scale } = *spec;
    let mut ops = Vec::new();
    let input = norm_before(&mut ops, norms.before_attention, NormAt::BeforeAttention(layer));
    let project = |site, bias, from, to| Op::Project { at: SiteAt { layer, site }, bias, from, to };
    ops.extend([
        project(Site::Qkv, attention.qkv_bias, input, Register::Qkv),
        Op::Rotate { layer, head_norm: attention.head_norm, rotary: attention.rotary },
        Op::Attend { layer, scores: attention.scores },
        project(Site::O, attention.o_bias, Register::Attended, Register::Branch),
    ]);
    norm_after(&mut ops, norms.after_attention, NormAt::AfterAttention(layer));
    ops.push(Op::Add { scale: residual_scale });
    let input = norm_before(&mut ops, norms.before_feed_forward, NormAt::BeforeFeedForward(layer));
    ops.extend([
        project(Site::GateUp, feed_forward.bias, input, Register::GateUp),
        Op::Gate { activation: feed_forward.activation },
        project(Site::Down, feed_forward.bias, Register::Hidden, Register::Branch),
    ]);
    norm_after(&mut ops, norms.after_feed_forward, NormAt::AfterFeedForward(layer));
    ops.push(Op::Add { scale: residual_scale });
    ops
}

/// Appends the norm of the residual stream if the layer has it; where the input of what follows is.
fn norm_before(ops: &mut Vec<Op>, has: bool, at: NormAt) -> Register {
    if has {
        ops.push(norm(at, Register::Residual, Register::Normed));
    }
    if has { Register::Normed } else { Register::Residual }
}

/// Appends the norm of the branch if the layer has it.
fn norm_after(ops: &mut Vec<Op>, has: bool, at: NormAt) {
    if has {
        ops.push(norm(at, Register::Branch, Register::Branch));
    }
}

fn norm(at: NormAt, from: Register, to: Register) -> Op {
    Op::Norm { at, from, to, routed: RoutedSites::default() }
}

/// Says of each norm of the residual stream which sites' routers look at it: those of the next block, so that a depth
/// is known before its product begins, and of the first norm those of its own block too. Sites before the first norm
/// have no router.
fn place_routers(layers: &mut [Vec<Op>]) {
    let (mut blocks, mut sites): (Vec<Range<u32>>, u32) = (Vec::new(), 0);
    for op in layers.iter().flatten() {
        match op {
            Op::Norm { from: Register::Residual, .. } => blocks.push(sites..sites),
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
        Op::Norm { from: Register::Residual, routed, .. } => Some(routed),
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
