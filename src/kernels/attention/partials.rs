//! The partials of a token's attention, where the positions of a head are cut into splits, each the work of one
//! workgroup: `shaders/shared/write_partial.wgsl` writes them and `shaders/shared/partials.wgsl` reads them.
//!
//! The reader combines a head's S partials. [Few](PROJECTION_SPLITS_MAX) of them are combined by the projection that
//! multiplies them ([`residual`](crate::kernels::project::residual)), so that nothing waits for a kernel between. More
//! are combined by [`combine`](super::combine) before it.

use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use crate::cancel::Watch;
use crate::kernels::declare::each_row;
use crate::recording::{Arguments, Recording, Span};

/// The partials of heads in a buffer: [T, H, S, A] f16, of each partial the mean of its values by their weights, and
/// behind that [T, H, S, 2] f32, of each partial the highest score and the sum of exp(score - highest).
#[derive(Debug, Clone, Copy)]
pub struct Partials {
    /// All of it.
    pub span: Span,
    /// S, more than one.
    pub splits: u32,
    /// A
    pub head_dim: u32,
}

/// Splits whose partials a projection combines itself, at most: each of its workgroups reads them all. With 4 that
/// costs less than a kernel before it would, with 15 more (H100).
pub const PROJECTION_SPLITS_MAX: u32 = 8;
/// The constants for an input without partials.
pub(crate) const NO_PARTIALS: [(&str, u32); 3] = [("SPLITS", 1), ("HEAD_VEC4S", 1), ("PEAKS_AT", 0)];

/// The score of no position; the shader's constant.
const LOWEST: f32 = -3.4e38;

impl Partials {
    /// Room for the partials of `heads` heads of all tokens.
    pub(super) fn new(recording: &mut Recording, heads: u32, splits: u32, head_dim: u32) -> Partials {
        let count = u64::from(heads * splits);
        // Readers take peaks by two.
        let bytes = count * u64::from(head_dim) * 2 + count.next_multiple_of(2) * 8;
        Partials { span: recording.transient(bytes).all(), splits, head_dim }
    }

    /// The constants of `shaders/shared/partials.wgsl`, for an input of so many numbers.
    pub(crate) fn constants(self, numbers: u32) -> [(&'static str, u32); 3] {
        let Partials { splits, head_dim, .. } = self;
        [("SPLITS", splits), ("HEAD_VEC4S", head_dim / 4), ("PEAKS_AT", numbers * splits / 8)]
    }
}

/// How many partials there are, and of how many numbers.
pub(super) struct PartialDims {
    /// Heads of all tokens.
    pub heads: usize,
    /// S
    pub splits: usize,
    /// A
    pub head_dim: usize,
}

/// Writes heads as the shaders do: `partial` fills one of those that lie one after the other with its mean, and
/// returns its highest score and sum, or none where it has no position and nothing was filled.
pub(super) fn write(
    y: &mut [u32],
    PartialDims { heads, splits, head_dim }: PartialDims,
    watch: &Watch,
    partial: impl Fn(usize, &mut [f32]) -> Option<[f32; 2]> + Sync,
) {
    if splits == 1 {
        let y: &mut [f32] = bytemuck::cast_slice_mut(y);
        return each_row(watch, &mut y[..heads * head_dim], head_dim, |at, y| {
            partial(at, y);
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
        *peak = partial(at, &mut mean).unwrap_or([LOWEST, 0.0]);
        means.convert_from_f32_slice(&mean);
    });
}

/// The first `numbers` numbers of a bound input, whose partials are combined if it has any.
pub(crate) fn numbers(args: &Arguments<'_>, binding: usize, numbers: usize) -> Vec<f32> {
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
