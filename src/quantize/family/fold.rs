//! What is linear in a family, folded into the rows of its tensors as they are read.
//!
//! | what | where |
//! |---|---|
//! | norms that multiply by 1 + w | all norms |
//! | a scale of embeddings | the embedding; where it is the head too, the final norm has the inverse |
//! | a divisor of logits | the head, or the final norm where the head is the embedding |
//! | a scale of attention and feed-forward | their last matrices |
//! | a scale of scores | queries, or their norms where heads have any |
//! | a magnitude of rotated heads | rotated rows of queries and keys, or of their norms |
//! | heads that are rotated in part | rows of queries and keys change places: rotated ones begin both halves |
//! | pairs of neighbours | rows of queries and keys change places |

use std::ops::Range;

use super::super::source::SourceTensor;
use crate::arch::LayerVector;
use crate::error::{Error, Result};

/// What turns rows of files into rows of the runtime.
#[derive(Debug, Clone, PartialEq)]
pub struct Fold {
    /// Factor of the embedding.
    pub embed: f32,
    /// Factor of the head, where it is a tensor of its own.
    pub head: f32,
    /// Factor of the final norm.
    pub final_norm: f32,
    /// Factor of what attention and feed-forward give.
    pub branch: f32,
    /// Added to the weights of norms, before anything else.
    pub norm_offset: f32,
    /// A
    pub head_dim: u32,
    /// R: dimensions of each head that are rotated, the first ones in files.
    pub rotated_dim: u32,
    /// Whether files have pairs of neighbours in each head.
    pub is_interleaved: bool,
    /// Whether heads have norms, which take the factors of heads.
    pub in_head_norms: bool,
    /// The factors of heads of the kinds of layers, in turn.
    pub kinds: Vec<HeadFactors>,
}

/// What queries and keys of a layer are multiplied by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadFactors {
    /// Queries.
    pub query: f64,
    /// Rotated dimensions of queries and keys.
    pub rotated: f64,
}

/// Replaces the numbers by those of rows of a tensor, as the file has them.
pub type ReadRows<'a> = dyn FnMut(Range<u32>, &mut Vec<f32>) -> Result<()> + 'a;

/// What of attention a tensor is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum HeadPart {
    /// Rows or a bias: whether of queries, and the layer.
    Projection(bool, u32),
    /// The weight of a norm: the same.
    Norm(bool, u32),
}

impl Fold {
    /// Fails where a factor is no positive number, and names it.
    pub fn check(&self) -> Result<()> {
        let model = [
            ("scale of the embedding", self.embed.into()),
            ("scale of the head", self.head.into()),
            ("scale of the final norm", self.final_norm.into()),
            ("scale of branches", self.branch.into()),
        ];
        let heads = self
            .kinds
            .iter()
            .flat_map(|kind| [("scale of scores", kind.query), ("magnitude of rotary embeddings", kind.rotated)]);
        let unfit = |factor: &f64| !(factor.is_finite() && *factor > 0.0);
        match model.into_iter().chain(heads).find(|(_, factor)| unfit(factor)) {
            Some((what, factor)) => Err(Error::unsupported(what, factor, "a positive number")),
            None => Ok(()),
        }
    }

    /// Replaces `out` by rows of a tensor, of `input` numbers each, as the runtime takes them; `read` gives them as the
    /// file has them. A vector is one row.
    pub fn rows(
        &self,
        tensor: SourceTensor,
        rows: Range<u32>,
        input: u32,
        out: &mut Vec<f32>,
        read: &mut ReadRows<'_>,
    ) -> Result<()> {
        let Some(part) = head_part(tensor) else {
            read(rows, out)?;
            if is_norm(tensor) {
                add(out, self.norm_offset);
            }
            multiply(out, self.factor(tensor));
            return Ok(());
        };
        // Of a vector, the numbers are what rows are of a matrix.
        let vector = tensor.is_vector();
        let (units, width) = if vector { (0..input, 1) } else { (rows.clone(), input as usize) };
        if self.is_in_order() {
            read(rows, out)?;
        } else {
            // Whole heads are read, as their rows are in another order.
            let heads = units.start / self.head_dim * self.head_dim..units.end.next_multiple_of(self.head_dim);
            let mut raw = Vec::new();
            read(if vector { rows } else { heads.clone() }, &mut raw)?;
            out.clear();
            for unit in units.clone() {
                let at = (self.file_row(unit) - heads.start) as usize * width;
                out.extend_from_slice(&raw[at..at + width]);
            }
        }
        if matches!(part, HeadPart::Norm(..)) {
            add(out, self.norm_offset);
        }
        for (unit, out) in units.zip(out.chunks_exact_mut(width)) {
            multiply(out, self.head_factor(part, unit));
        }
        Ok(())
    }

    /// The factor of all of a tensor that is no part of heads.
    fn factor(&self, tensor: SourceTensor) -> f32 {
        match tensor {
            SourceTensor::Embed => self.embed,
            SourceTensor::Head => self.head,
            SourceTensor::FinalNorm => self.final_norm,
            SourceTensor::Output(_) | SourceTensor::Down(_) => self.branch,
            _ => 1.0,
        }
    }

    /// The factor of a row of queries or keys, or of a number of their biases or norms.
    fn head_factor(&self, part: HeadPart, row: u32) -> f32 {
        let (is_query, layer) = match (part, self.in_head_norms) {
            (HeadPart::Projection(is_query, layer), false) | (HeadPart::Norm(is_query, layer), true) => {
                (is_query, layer)
            }
            _ => return 1.0,
        };
        let HeadFactors { query, rotated } = self.kinds[layer as usize % self.kinds.len()];
        let is_rotated = row % (self.head_dim / 2) < self.rotated_dim / 2;
        ((if is_query { query } else { 1.0 }) * (if is_rotated { rotated } else { 1.0 })) as f32
    }

    fn is_in_order(&self) -> bool {
        self.rotated_dim == self.head_dim && !self.is_interleaved
    }

    /// The row of the file that is row `row` of the runtime, in queries and keys.
    fn file_row(&self, row: u32) -> u32 {
        let (head, within) = (row / self.head_dim, row % self.head_dim);
        let (half, rotated_half) = (self.head_dim / 2, self.rotated_dim / 2);
        let (side, at) = (within / half, within % half);
        let within = if at < rotated_half {
            side * rotated_half + at
        } else {
            // Rows that are not rotated follow in their order: scores are sums over all of them.
            self.rotated_dim + side * (half - rotated_half) + at - rotated_half
        };
        head * self.head_dim + if self.is_interleaved { interleaved(within, half) } else { within }
    }
}

/// The row within a head of a GGUF file that is row `within` of a Hugging Face checkpoint.
///
/// llama.cpp rotates neighbours of a head where Hugging Face rotates halves, so its converter permutes the rows by
/// reshape(heads, 2, A/2, D).swapaxes(1, 2): row `i + A/2 * c` of a head becomes `2 * i + c`.
fn interleaved(within: u32, half: u32) -> u32 {
    2 * (within % half) + within / half
}

fn head_part(tensor: SourceTensor) -> Option<HeadPart> {
    match tensor {
        SourceTensor::Query(l) | SourceTensor::QueryBias(l) => Some(HeadPart::Projection(true, l)),
        SourceTensor::Key(l) | SourceTensor::KeyBias(l) => Some(HeadPart::Projection(false, l)),
        SourceTensor::Vector(l, LayerVector::QueryNorm) => Some(HeadPart::Norm(true, l)),
        SourceTensor::Vector(l, LayerVector::KeyNorm) => Some(HeadPart::Norm(false, l)),
        _ => None,
    }
}

fn is_norm(tensor: SourceTensor) -> bool {
    match tensor {
        SourceTensor::FinalNorm => true,
        SourceTensor::Vector(_, vector) => vector != LayerVector::QkvBias,
        _ => false,
    }
}

fn add(numbers: &mut [f32], offset: f32) {
    if offset != 0.0 {
        numbers.iter_mut().for_each(|number| *number += offset);
    }
}

fn multiply(numbers: &mut [f32], factor: f32) {
    if factor != 1.0 {
        numbers.iter_mut().for_each(|number| *number *= factor);
    }
}

#[cfg(test)]
#[path = "fold_tests.rs"]
mod tests;
