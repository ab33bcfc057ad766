//! Causal grouped-query attention over the cache, by the kernel that is best for a device and a step.

pub mod combine;
pub mod matrix;
pub mod partials;
mod problem;
pub mod quantized;
pub mod split;
pub mod whole;

pub use problem::{Attention, AttentionBuffers, ContextClass, ScoreRules};

use super::cache::layout::{CacheConversion, QuantizedKv};
use super::cache::{dequantize, quantize};
use crate::engine::Traits;
use crate::recording::Recording;
use crate::shape::LlamaShape;
use partials::Partials;

/// Records the attention of a step's tokens, each over positions up to its own, by the kernel that is best.
///
/// Where the cache has its keys and values in few bits, those of the step's tokens, which `buffers` has as f16, are
/// quantized into it. Many tokens read their own as f16, and a single one reads its own as quantized. So does, on the
/// processor, each one that is computed as if it were alone.
///
/// The attention of a single token over a long context may be left in partials. These are returned then, and y is not
/// written.
#[must_use = "y is not written where partials are returned"]
pub fn record(recording: &mut Recording, traits: Traits, problem: &Attention<'_>) -> Option<Partials> {
    let Some(quantized_kv) = problem.quantized_kv else {
        return record_f16(recording, traits, problem);
    };
    if problem.tokens == 1 && quantized::fits(traits, quantized_kv.layout) {
        return quantized::record(recording, traits, problem, quantized_kv, splits(traits, problem));
    }
    if problem.as_alone && traits.runs_functions() && quantized::fits(traits, quantized_kv.layout) {
        for token in 0..problem.tokens {
            let partials = quantized::record(recording, traits, &problem.of_token(token), quantized_kv, 1);
            debug_assert!(partials.is_none(), "one part is the whole");
        }
        return None;
    }
    let conversion = conversion(problem, quantized_kv);
    dequantize::record(recording, &conversion);
    let partials = record_f16(recording, traits, problem);
    quantize::record(recording, problem.tokens, &conversion);
    partials
}

/// Records the attention over keys and values in f16.
fn record_f16(recording: &mut Recording, traits: Traits, problem: &Attention<'_>) -> Option<Partials> {
    if traits.software || !split::fits(traits) {
        whole::record(recording, problem);
        return None;
    }
    if !problem.as_alone && matrix::suits(traits, problem.shape, problem.tokens) {
        matrix::record(recording, problem);
        return None;
    }
    split::record(recording, traits, problem, splits(traits, problem))
}

fn conversion(problem: &Attention<'_>, quantized_kv: QuantizedKv) -> CacheConversion {
    let AttentionBuffers { step_rows, keys, values, .. } = problem.buffers;
    let (kv_heads, cells, rules) = (problem.shape.kv_heads, problem.cells, problem.scores);
    CacheConversion { kv_heads, cells, window: rules.window, step_rows, keys, values, quantized_kv }
}

fn splits(traits: Traits, problem: &Attention<'_>) -> u32 {
    // A function shares the positions among the threads by itself.
    if traits.runs_functions() {
        return 1;
    }
    match problem.class.within(problem.reach()) {
        ContextClass::Long => split::splits(traits, problem.shape, problem.reach()),
        ContextClass::Short => 1,
    }
}

/// Positions that a token can look at: as many as the device's loops last for, where it attends by this kernel.
pub fn most_positions(traits: Traits, shape: &LlamaShape) -> u32 {
    if traits.loop_rounds == u32::MAX || (!traits.software && split::fits(traits)) {
        return u32::MAX;
    }
    // A block of positions takes these rounds: the words of a key, each position for each word of the output,
    // and what the reductions take with the last rounds, in which loops end.
    const BLOCK: u32 = 64;
    const REDUCTIONS: u32 = 20;
    let words = shape.head_dim / 2;
    let block = words + BLOCK * words.div_ceil(BLOCK) + REDUCTIONS;
    (traits.loop_rounds - 2 * REDUCTIONS) / block * BLOCK
}
