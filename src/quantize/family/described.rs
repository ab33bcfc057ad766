//! What follows from what a checkpoint says about itself: shape, spec and fold.

use super::Family;
use super::fold::{Fold, HeadFactors};
use super::layers::{LayerFacts, shortest_turn};
use super::rope::RopeFacts;
use crate::arch::{HeadNorm, LayerSpec, ModelSpec, QueryGrowth, RopeTable};
use crate::error::{Error, Result};
use crate::shape::{LlamaShape, Rope, RopeScaling};

/// What a checkpoint says about itself, in no format's own words.
#[derive(Debug, Clone, PartialEq)]
pub struct FamilyFacts {
    /// The family.
    pub family: Family,
    /// The dimensions; its rotary embedding is left to `rope`.
    pub shape: LlamaShape,
    /// What tensors and scores are multiplied by.
    pub scales: FamilyScales,
    /// Whether norms multiply by 1 more than their weights.
    pub norms_less_one: bool,
    /// Whether the rows of a head of queries and keys are pairs of neighbours, where the runtime has halves.
    pub is_interleaved: bool,
    /// R: the first dimensions of each head, which are rotated.
    pub rotated_dim: u32,
    /// The rotary embedding.
    pub rope: RopeFacts,
    /// That of local layers, where it is another.
    pub local_rope: Option<RopeFacts>,
    /// Bound of the scores.
    pub score_cap: Option<f32>,
    /// Bound of the logits.
    pub logit_cap: Option<f32>,
    /// How queries grow with their position.
    pub query_growth: Option<QueryGrowth>,
    /// The layers, as many as the shape has.
    pub layers: Vec<LayerFacts>,
}

/// What is multiplied, and is folded into the weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FamilyScales {
    /// Embeddings are multiplied by it.
    pub embedding: f64,
    /// Scores are multiplied by it, where it is not 1/sqrt(A).
    pub score: Option<f64>,
    /// Outputs of attention and feed-forward are multiplied by it.
    pub residual: f64,
    /// Logits are divided by it.
    pub logit_divisor: f64,
}

impl Default for FamilyScales {
    fn default() -> FamilyScales {
        FamilyScales { embedding: 1.0, score: None, residual: 1.0, logit_divisor: 1.0 }
    }
}

/// A checkpoint as the runtime takes it.
#[derive(Debug, Clone)]
pub struct Described {
    /// The family, for people.
    pub family: Family,
    /// Dimensions and constants, without a fault.
    pub shape: LlamaShape,
    /// Where the model differs from LLaMA, without a fault.
    pub spec: ModelSpec,
    /// What turns rows of files into rows of the runtime.
    pub fold: Fold,
}

/// Fails where a shape has a fault, and names it.
pub fn check_shape(shape: &LlamaShape) -> Result<()> {
    match shape.fault() {
        Some((field, supported, got)) => Err(Error::unsupported(field, got, supported)),
        None => Ok(()),
    }
}

impl Described {
    /// What follows from these facts. Fails where the shape has a fault or the frequencies are no numbers.
    pub fn new(facts: FamilyFacts) -> Result<Described> {
        let mut shape = facts.shape.clone();
        let is_whole = facts.rotated_dim == shape.head_dim;
        let plain = Rope { theta: facts.rope.theta, scaling: RopeScaling::None };
        shape.rope = facts.rope.of_shape().filter(|_| is_whole).unwrap_or(plain);
        check_shape(&shape)?;
        let mut tables = Vec::new();
        let kinds: Vec<(LayerSpec, HeadFactors)> =
            facts.layers.iter().map(|layer| facts.layer(&shape, layer, &mut tables)).collect();
        let (layers, heads) = shortest_turn(&kinds).iter().copied().unzip();
        let spec = ModelSpec { layers, logit_cap: facts.logit_cap, rope_tables: tables };
        spec.check(&shape)?;
        let fold = facts.fold(&shape, heads);
        fold.check()?;
        Ok(Described { family: facts.family, shape, spec, fold })
    }

    /// The family as manifests have it. The manifest of a model that is a LLaMA to the runtime has none, so that older
    /// versions of this program read it.
    pub fn family_field(&self) -> Option<String> {
        (!self.spec.is_llama()).then(|| self.family.name().to_string())
    }

    /// The tensors that the model has, in words for messages.
    pub fn tensors_in_words(&self) -> String {
        let biases = if self.spec.layer(0).attention.qkv_bias { " biases of q, k and v only" } else { "out biases" };
        format!("those of a {} model with{biases}", self.family.title())
    }
}

impl FamilyFacts {
    /// The spec of a layer and what its heads are multiplied by; a rotary table that it needs is added to `tables`.
    fn layer(&self, shape: &LlamaShape, layer: &LayerFacts, tables: &mut Vec<RopeTable>) -> (LayerSpec, HeadFactors) {
        let mut spec = self.family.layer();
        let rope = self.local_rope.as_ref().filter(|_| layer.is_local).unwrap_or(&self.rope);
        spec.attention.rope_table = self.rope_table(shape, layer.is_rotated.then_some(rope), tables);
        spec.attention.query_growth = self.query_growth;
        spec.attention.score_cap = self.score_cap;
        // A window that no context of the training goes beyond is none.
        spec.attention.window = layer.window.filter(|window| *window < shape.max_context);
        let score = self.scales.score.map_or(1.0, |score| score * f64::from(shape.head_dim).sqrt());
        // One format states it as f32, the other does not: both come to the same weights.
        let magnitude = if layer.is_rotated { rope.magnitude as f32 } else { 1.0 };
        (spec, HeadFactors { query: score, rotated: magnitude.into() })
    }

    /// The number of the table of a rotary embedding, of none where there is none.
    fn rope_table(&self, shape: &LlamaShape, rope: Option<&RopeFacts>, tables: &mut Vec<RopeTable>) -> u32 {
        let (head_dim, rotated) = (shape.head_dim, self.rotated_dim);
        if rope.is_some_and(|rope| rotated == head_dim && rope.of_shape().as_ref() == Some(&shape.rope)) {
            return 0;
        }
        let still = || RopeTable { frequencies: vec![0.0; head_dim as usize / 2], long: None };
        let table = rope.map_or_else(still, |rope| rope.table(head_dim, rotated, shape.max_context));
        let known = tables.iter().position(|known| *known == table);
        let at = known.unwrap_or_else(|| {
            tables.push(table);
            tables.len() - 1
        });
        at as u32 + 1
    }

    fn fold(&self, shape: &LlamaShape, kinds: Vec<HeadFactors>) -> Fold {
        let FamilyScales { embedding, residual, logit_divisor, .. } = self.scales;
        // A head that is the embedding is multiplied as that is, which the final norm takes back.
        let (head, final_norm) =
            if shape.tied_head { (1.0, 1.0 / (embedding * logit_divisor)) } else { (1.0 / logit_divisor, 1.0) };
        Fold {
            embed: embedding as f32,
            head: head as f32,
            final_norm: final_norm as f32,
            branch: residual as f32,
            norm_offset: if self.norms_less_one { 1.0 } else { 0.0 },
            head_dim: shape.head_dim,
            rotated_dim: self.rotated_dim,
            is_interleaved: self.is_interleaved,
            in_head_norms: self.family.layer().attention.head_norm != HeadNorm::None,
            kinds,
        }
    }
}

#[cfg(test)]
#[path = "described_tests.rs"]
mod tests;
