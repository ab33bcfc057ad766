//! Attention over the cache on the processor. A thread has some neighbouring tokens of a sequence and the heads that
//! share keys and values, and takes the positions in blocks, each widened to f32 once for all of them.
//!
//! Blocks begin at multiples of their size, so that what a token comes to does not depend on its neighbours. A single
//! token multiplies keys as they lie; for several ones a block's keys are transposed, so that vectors go over
//! positions.

use std::ops::Range;

use half::f16;
use half::slice::HalfFloatSliceExt;
use multiversion::multiversion;
use rayon::prelude::*;

use super::exponential::exp;
use crate::kernels::attention::ScoreRules;
use crate::kernels::attention::whole::Params;
use crate::kernels::step_rows::{Cells, StepRow};
use crate::recording::Arguments;

/// Positions of a block.
const BLOCK: usize = 64;
/// Neighbouring tokens that a thread has at most.
const TOKENS: usize = 16;

/// A head of a token, and what it has summed up over the blocks before.
struct HeadState<'a> {
    /// `[A]`
    query: &'a [f32],
    /// The sum of values by their weights, `[A]`.
    sum: &'a mut [f32],
    /// The positions that the token looks at.
    visible: Range<usize>,
    /// The highest score.
    highest: f32,
    /// The sum of exp(score - highest).
    total: f32,
}

/// What a thread computes at once.
struct Job<'a> {
    kv_head: usize,
    /// Whose cells are read.
    row: StepRow,
    heads: Vec<HeadState<'a>>,
}

/// The cache that a dispatch has bound.
struct BoundCache<'a> {
    /// [K, C, A]
    keys: &'a [f16],
    /// [K, C, A]
    values: &'a [f16],
    cells: Cells,
    dim: usize,
    /// Whether the keys of blocks are transposed.
    transposes: bool,
    cap: Option<f32>,
}

pub fn whole(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let [heads, kv_heads, dim] = [p.heads, p.kv_heads, p.head_dim].map(|n| n as usize);
    let (q, step_rows): (&[f32], &[StepRow]) = (args.read(0), args.read(1));
    let (keys, values): (&[f16], &[f16]) = (args.read(2), args.read(3));
    let (cells, rules) = (Cells::in_arguments(args, p.cells), ScoreRules::in_arguments(args));
    let (tokens, watch) = (args.workgroups[1] as usize, args.watch);
    let y: &mut [f32] = &mut args.write(4)[..tokens * heads * dim];
    y.fill(0.0);
    let cache = BoundCache { keys, values, cells, dim, transposes: tokens > 1, cap: rules.cap };
    let mut jobs: Vec<Job<'_>> = Vec::new();
    // The heads that share keys and values, or each by itself where the threads would otherwise have too little to do.
    let groups = if tokens * kv_heads < rayon::current_num_threads() { heads } else { kv_heads };
    let group = heads / groups * dim;
    for (at, (y, q)) in y.chunks_exact_mut(group).zip(q.chunks_exact(group)).enumerate() {
        let (row, kv_head) = (step_rows[at / groups], at % groups / (groups / kv_heads));
        let visible = row.visible(rules.window);
        // The jobs of the token before are the last ones, one for each group.
        let before = jobs.len().checked_sub(groups).filter(|before| {
            let Job { row: last, heads, .. } = &jobs[*before];
            let follows = heads[heads.len() - 1].visible.end == row.position as usize;
            let of_one = (last.slot, last.first_cell) == (row.slot, row.first_cell);
            let fits = cells.ring.is_none_or(|ring| visible.end - heads[0].visible.start <= ring as usize);
            follows && of_one && fits && heads.len() < TOKENS * (group / dim)
        });
        let state =
            |(query, sum)| HeadState { query, sum, visible: visible.clone(), highest: f32::NEG_INFINITY, total: 0.0 };
        let states = q.chunks_exact(dim).zip(y.chunks_exact_mut(dim)).map(state);
        match before {
            // The first of these jobs becomes the last one, as the next head's is then the first.
            Some(before) => {
                let mut job = jobs.remove(before);
                job.heads.extend(states);
                jobs.push(job);
            }
            None => jobs.push(Job { kv_head, row, heads: states.collect() }),
        }
    }
    jobs.par_iter_mut().for_each(|job| {
        if !watch.stops() {
            cache.attend(job);
        }
    });
}

impl BoundCache<'_> {
    /// Computes the heads of a job.
    fn attend(&self, job: &mut Job<'_>) {
        let heads = &mut job.heads;
        let (first, end) = (heads[0].visible.start, heads[heads.len() - 1].visible.end);
        let mut block = Block::of(self.dim);
        for start in (first / BLOCK * BLOCK..end).step_by(BLOCK) {
            let positions = start.max(first)..end.min(start + BLOCK);
            self.widen(job.kv_head, job.row, &positions, &mut block);
            for head in heads.iter_mut() {
                let seen = head.visible.start.max(positions.start)..head.visible.end.min(positions.end);
                if seen.is_empty() {
                    continue;
                }
                let seen = seen.start - positions.start..seen.end - positions.start;
                block.attend(seen, self.cap, head);
            }
        }
        for HeadState { sum, total, .. } in heads {
            sum.iter_mut().for_each(|number| *number /= *total);
        }
    }

    /// Makes f32 of these positions' keys and values.
    fn widen(&self, kv_head: usize, row: StepRow, positions: &Range<usize>, block: &mut Block) {
        let (head, mut at) = (kv_head * self.cells.count as usize, 0);
        for cells in self.cells.stretches(row, positions.clone()) {
            let from = (head + cells.start) * self.dim..(head + cells.end) * self.dim;
            let to = at..at + from.len();
            self.keys[from.clone()].convert_to_f32_slice(&mut block.keys[to.clone()]);
            self.values[from].convert_to_f32_slice(&mut block.values[to.clone()]);
            at = to.end;
        }
        if self.transposes {
            transpose(&block.keys[..at], self.dim, &mut block.columns);
        }
        block.is_transposed = self.transposes;
    }
}

/// Keys and values of a block of positions, in f32.
struct Block {
    dim: usize,
    /// [positions, A]
    keys: Vec<f32>,
    /// [positions, A]
    values: Vec<f32>,
    /// The keys, [A, BLOCK], where they are transposed.
    columns: Vec<[f32; BLOCK]>,
    is_transposed: bool,
}

impl Block {
    fn of(dim: usize) -> Block {
        let rows = vec![0.0; BLOCK * dim];
        Block { dim, keys: rows.clone(), values: rows, columns: vec![[0.0; BLOCK]; dim], is_transposed: false }
    }

    /// Adds some of the block's positions to what a head has summed up.
    fn attend(&self, seen: Range<usize>, cap: Option<f32>, head: &mut HeadState<'_>) {
        let numbers = seen.start * self.dim..seen.end * self.dim;
        let mut scores = [f32::NEG_INFINITY; BLOCK];
        if self.is_transposed {
            score_columns(&self.columns, head.query, seen.clone(), &mut scores);
        } else {
            score_rows(&self.keys[numbers.clone()], head.query, &mut scores);
        }
        if let Some(cap) = cap {
            scores[..seen.len()].iter_mut().for_each(|score| *score = cap * (*score / cap).tanh());
        }
        add_values(&mut scores, &self.values[numbers], head);
    }
}

/// [A, BLOCK] of [positions, A]
#[multiversion(targets = "simd")]
fn transpose(rows: &[f32], dim: usize, columns: &mut [[f32; BLOCK]]) {
    for (position, row) in rows.chunks_exact(dim).enumerate() {
        for (column, number) in columns.iter_mut().zip(row) {
            column[position] = *number;
        }
    }
}

/// The scores of the positions that are seen, by transposed keys.
#[multiversion(targets = "simd")]
fn score_columns(columns: &[[f32; BLOCK]], query: &[f32], seen: Range<usize>, scores: &mut [f32; BLOCK]) {
    let scale = 1.0 / (query.len() as f32).sqrt();
    let mut sums = [0f32; BLOCK];
    for (column, number) in columns.iter().zip(query) {
        for (sum, key) in sums.iter_mut().zip(column) {
            *sum += number * key;
        }
    }
    for (score, sum) in scores.iter_mut().zip(&sums[seen]) {
        *score = sum * scale;
    }
}

/// The scores of positions by their keys.
#[multiversion(targets = "simd")]
fn score_rows(keys: &[f32], query: &[f32], scores: &mut [f32; BLOCK]) {
    let scale = 1.0 / (query.len() as f32).sqrt();
    for (score, key) in scores.iter_mut().zip(keys.chunks_exact(query.len())) {
        *score = inner_product(query, key) * scale;
    }
}

/// Adds the values of positions by their scores, of which those without a position are minus infinity.
#[multiversion(targets = "simd")]
fn add_values(scores: &mut [f32; BLOCK], values: &[f32], head: &mut HeadState<'_>) {
    let highest = scores.iter().copied().fold(head.highest, f32::max);
    // NaN, where a score is none, comes through: it is no maximum, but it is in the sum.
    scores.iter_mut().for_each(|score| *score = exp(*score - highest));
    let before = exp(head.highest - highest);
    head.total = head.total * before + scores.iter().sum::<f32>();
    head.highest = highest;
    let (dim, mut at) = (head.sum.len(), 0);
    while at < dim {
        at += match dim - at {
            64.. => add_columns::<64>(scores, values, dim, at, head.sum, before),
            16.. => add_columns::<16>(scores, values, dim, at, head.sum, before),
            8.. => add_columns::<8>(scores, values, dim, at, head.sum, before),
            _ => add_columns::<1>(scores, values, dim, at, head.sum, before),
        };
    }
}

/// Adds WIDTH numbers of each value, from number `at` on, to the sum, of which a part is kept; WIDTH.
#[inline(always)]
fn add_columns<const WIDTH: usize>(
    weights: &[f32; BLOCK],
    values: &[f32],
    dim: usize,
    at: usize,
    sum: &mut [f32],
    kept: f32,
) -> usize {
    let sum: &mut [f32; WIDTH] = (&mut sum[at..at + WIDTH]).try_into().expect("so many numbers");
    let mut sums = sum.map(|number| number * kept);
    for (value, weight) in values.chunks_exact(dim).zip(weights) {
        let value: &[f32; WIDTH] = value[at..at + WIDTH].try_into().expect("so many numbers");
        for (sum, number) in sums.iter_mut().zip(value) {
            *sum += weight * number;
        }
    }
    *sum = sums;
    WIDTH
}

/// The inner product in sixteen sums, which are lanes of a vector.
#[inline(always)]
fn inner_product(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}
