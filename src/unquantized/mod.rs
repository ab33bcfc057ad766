//! The forward pass of any source in f32: what a model computes before its weights are cut.
//!
//! It carries out [`Program`](crate::arch::Program) in plain loops over the rows that a [`Source`] gives, without
//! kernels, cache or slices. So it shows whether an importer reads a family right, and what the cut weights lose. It
//! holds a block of one matrix at a time, and the activations of one layer, of as many windows as go together.

mod importance;
mod operations;
mod pass;
mod product;
mod reference;

use crate::error::{Error, Result};
use crate::quantize::Source;

use std::ops::ControlFlow;

use pass::PlainPass;

pub use importance::ImportancePlan;
pub use reference::{ReferenceOptions, ReferencePlan, ReferenceReport, ReferenceWindows};

/// The logits after each of the tokens, `[T][V]`, in a context of so many tokens.
///
/// The context decides between the rotary frequencies for short and for long contexts, and nothing else. Fails where
/// the tokens do not fit into it, where a token is not below V, and where the source cannot be read.
pub fn logits(source: &mut dyn Source, ids: &[u32], context: u32) -> Result<Vec<Vec<f32>>> {
    let (vocab, trained) = (source.shape().vocab, source.shape().max_context as usize);
    if ids.len() > context as usize {
        return Err(Error::PromptTooLong { tokens: ids.len(), context: context as usize, trained });
    }
    match ids.iter().find(|id| **id >= vocab) {
        Some(id) => Err(Error::argument("token id", format!("below {vocab}"), id)),
        None => {
            let mut all = Vec::with_capacity(ids.len());
            let mut on_products = |_| ControlFlow::Continue(());
            PlainPass::new(source, &[ids.len()], context, &mut on_products).run(ids, &mut |_, rows| {
                all.extend(rows.chunks_exact(vocab as usize).map(<[f32]>::to_vec));
                Ok(())
            })?;
            Ok(all)
        }
    }
}
