//! What the attention of single tokens comes to where the positions of a head are cut into parts, each the work of one
//! workgroup: `shaders/shared/part_of.wgsl` writes it and `shaders/shared/parts.wgsl` reads it.
//!
//! Whoever reads them puts a head's S parts together: where they are [few](FEW) the projection that multiplies them
//! ([`project_residual`](super::project_residual)), so that nothing waits for a kernel between, else
//! [`attention_join`](super::attention_join).

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::each_row;
use crate::cancel::Watch;
use crate::recording::{Arguments, Recording, Span};

/// The parts of heads in a buffer: [T, H, S, A] f16, of each part the mean of its values by their weights, and behind
/// that [T, H, S, 2] f32, of each part the highest score and the sum of exp(score - highest).
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    /// All of it.
    pub span: Span,
    /// S, more than one.
    pub splits: u32,
    /// A
    pub head_dim: u32,
}

/// Parts that a projection puts together itself, at most: each of its workgroups reads them all. With 4 that costs less
/// than a kernel before it would, with 15 more (H100).
pub const FEW: u32 = 8;
/// The constants for an input that is no parts.
pub(super) const WHOLE: [(&str, u32); 3] = [("SPLITS", 1), ("HEAD_VEC4S", 1), ("PEAKS_AT", 0)];

/// The score of no position; the shader's constant.
const LOWEST: f32 = -3.4e38;

impl Parts {
    /// Room for the parts of `heads` heads of all tokens.
    pub(super) fn new(recording: &mut Recording, heads: u32, splits: u32, head_dim: u32) -> Parts {
        let count = u64::from(heads * splits);
        // Readers take peaks by two.
        let bytes = count * u64::from(head_dim) * 2 + count.next_multiple_of(2) * 8;
        Parts { span: recording.transient(bytes).all(), splits, head_dim }
    }

    /// The constants of `shaders/shared/parts.wgsl`, for an input of so many numbers.
    pub(super) fn constants(self, numbers: u32) -> [(&'static str, u32); 3] {
        let Parts { splits, head_dim, .. } = self;
        [("SPLITS", splits), ("HEAD_VEC4S", head_dim / 4), ("PEAKS_AT", numbers * splits / 8)]
    }
}

/// Writes heads as the shaders do: `part` fills a part, of those that lie one after the other, with its mean, and
/// returns its highest score and sum, or none where it has no position and nothing was filled.
pub(super) fn write(
    y: &mut [u32],
    (heads, splits, head_dim): (usize, usize, usize),
    watch: &Watch,
    part: impl Fn(usize, &mut [f32]) -> Option<[f32; 2]> + Sync,
) {
    if splits == 1 {
        let y: &mut [f32] = bytemuck::cast_slice_mut(y);
        return each_row(watch, &mut y[..heads * head_dim], head_dim, |at, y| {
            part(at, y);
        });
    }
    let count = heads * splits;
    let (means, peaks) = y.split_at_mut(count * head_dim / 2);
    let means: &mut [f16] = bytemuck::cast_slice_mut(means);
    let peaks: &mut [[f32; 2]] = bytemuck::cast_slice_mut(&mut peaks[..count * 2]);
    means.par_chunks_exact_mut(head_dim).zip(peaks).enumerate().for_each(|(at, (means, peak))| {
        if watch.stops() {
            return;
        }
        let mut mean = vec![0f32; head_dim];
        *peak = part(at, &mut mean).unwrap_or([LOWEST, 0.0]);
        means.convert_from_f32_slice(&mean);
    });
}

/// The first `numbers` numbers of a bound input, whose parts are put together if it has any.
pub(super) fn numbers(args: &Arguments<'_>, binding: usize, numbers: usize) -> Vec<f32> {
    let [splits, head_dim, peaks_at] =
        [args.constant("SPLITS"), args.constant("HEAD_VEC4S") * 4, args.constant("PEAKS_AT") * 4].map(|n| n as usize);
    if splits == 1 {
        return args.read::<f32>(binding)[..numbers].to_vec();
    }
    let (means, peaks) = args.read::<u32>(binding).split_at(peaks_at);
    let (means, peaks): (&[f16], &[[f32; 2]]) = (bytemuck::cast_slice(means), bytemuck::cast_slice(peaks));
    let mut all = vec![0f32; numbers];
    let heads = means.chunks_exact(head_dim * splits).zip(peaks.chunks_exact(splits));
    for (head, (means, peaks)) in all.chunks_exact_mut(head_dim).zip(heads) {
        let highest = peaks.iter().map(|peak| peak[0]).fold(f32::NEG_INFINITY, f32::max);
        let weights: Vec<f32> = peaks.iter().map(|peak| (peak[0] - highest).exp() * peak[1]).collect();
        let total: f32 = weights.iter().sum();
        for (mean, weight) in means.chunks_exact(head_dim).zip(&weights) {
            head.iter_mut().zip(mean).for_each(|(number, mean)| *number += weight / total * mean.to_f32());
        }
    }
    all
}
