//! Attention over the cache on the processor. A thread has some neighbouring tokens of a sequence and the heads that
//! share keys and values, and takes the positions in blocks, each widened to f32 once for all of them.
//!
//! Blocks begin at multiples of their size, so that what a token comes to does not depend on its neighbours. For
//! several tokens of a sequence a block's keys are transposed, so that vectors go over positions. A single token of a
//! sequence multiplies keys as they lie, and its positions are cut into parts, so that there is work for all threads
//! whatever the number of heads. What it comes to does not depend on the number of threads, nor on the tokens of other
//! sequences beside it.

use std::ops::Range;

use half::f16;
use multiversion::multiversion;
use rayon::prelude::*;

use super::exponential::exp;
use super::halves;
use crate::cancel::Watch;
use crate::kernels::attention::ScoreRules;
use crate::kernels::attention::whole::Params;
use crate::kernels::step_rows::{Cells, StepRow};
use crate::recording::Arguments;

/// Positions of a block.
pub const BLOCK: usize = 64;
/// Neighbouring tokens that a thread has at most.
const TOKENS: usize = 16;
/// Positions of a part of a single token's attention, a multiple of [`BLOCK`].
const PART: usize = 4 * BLOCK;

/// Keys and values as a cache stores them.
pub trait CachedNumbers: Sync {
    /// Makes f32 of the keys and values at some positions of a row's sequence, in one head: [positions, A] each.
    fn widen(&self, kv_head: usize, row: StepRow, positions: Range<usize>, keys: &mut [f32], values: &mut [f32]);
}

/// Attention over what a dispatch has bound.
pub struct CachedAttention<C> {
    pub numbers: C,
    /// Cells of a ring, where positions take turns in them.
    pub ring: Option<u32>,
    pub rules: ScoreRules,
    /// H
    pub heads: usize,
    /// K
    pub kv_heads: usize,
    /// A
    pub dim: usize,
}

/// A head of a token, and what it has summed up over the blocks before.
struct HeadState<'a> {
    /// `[A]`
    query: &'a [f32],
    /// The sum of values by their weights, `[A]`.
    sum: &'a mut [f32],
    /// The positions that it looks at.
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

pub fn whole(args: &mut Arguments<'_>) {
    let p: Params = args.params();
    let [heads, kv_heads, dim] = [p.heads, p.kv_heads, p.head_dim].map(|n| n as usize);
    let (q, step_rows): (&[f32], &[StepRow]) = (args.read(0), args.read(1));
    let (cells, rules) = (Cells::in_arguments(args, p.cells), ScoreRules::in_arguments(args));
    let numbers = HalfNumbers { keys: args.read(2), values: args.read(3), cells, dim };
    let (tokens, watch) = (args.workgroups[1] as usize, args.watch);
    let y: &mut [f32] = &mut args.write(4)[..tokens * heads * dim];
    let attention = CachedAttention { numbers, ring: cells.ring, rules, heads, kv_heads, dim };
    let rows = &step_rows[..tokens];
    // A step has several tokens of one sequence, or one of each.
    if tokens > 1 && rows.iter().all(|row| row.slot == rows[0].slot) {
        attention.of_many(q, rows, y, watch);
    } else {
        attention.of_each(q, rows, y, watch);
    }
}

/// Keys and values in f16.
struct HalfNumbers<'a> {
    /// [K, C, A]
    keys: &'a [f16],
    /// [K, C, A]
    values: &'a [f16],
    cells: Cells,
    dim: usize,
}

impl CachedNumbers for HalfNumbers<'_> {
    fn widen(&self, kv_head: usize, row: StepRow, positions: Range<usize>, keys: &mut [f32], values: &mut [f32]) {
        let (head, mut at) = (kv_head * self.cells.count as usize, 0);
        for cells in self.cells.stretches(row, positions) {
            let from = (head + cells.start) * self.dim..(head + cells.end) * self.dim;
            let to = at..at + from.len();
            halves::widen(&self.keys[from.clone()], &mut keys[to.clone()]);
            halves::widen(&self.values[from], &mut values[to.clone()]);
            at = to.end;
        }
    }
}

impl<C: CachedNumbers> CachedAttention<C> {
    /// The attention of one token of each of some sequences, [T, H, A].
    pub fn of_each(&self, q: &[f32], rows: &[StepRow], y: &mut [f32], watch: &Watch) {
        let parts_of = |row: &StepRow| {
            let visible = row.visible(self.rules.window);
            visible.start / PART..visible.end.div_ceil(PART)
        };
        let counts: Vec<usize> = rows.iter().map(|row| parts_of(row).len()).collect();
        let (count, width) = (counts.iter().sum(), self.heads * self.dim);
        let groups = self.groups(count);
        let group = width / groups;
        // [parts of all tokens, H, A]
        let mut sums = vec![0f32; count * width];
        let mut jobs: Vec<Job<'_>> = Vec::with_capacity(count * groups);
        let parts = rows.iter().enumerate().flat_map(|(at, row)| parts_of(row).map(move |part| (at, *row, part)));
        for ((at, row, part), sums) in parts.zip(sums.chunks_exact_mut(width)) {
            let visible = row.visible(self.rules.window);
            let seen = visible.start.max(part * PART)..visible.end.min((part + 1) * PART);
            let q = q[at * width..][..width].chunks_exact(group);
            jobs.extend(q.zip(sums.chunks_exact_mut(group)).enumerate().map(|(at, (q, sums))| {
                let heads = self.states(q, sums, &seen).collect();
                Job { kv_head: at / (groups / self.kv_heads), row, heads }
            }));
        }
        let block = || Block::of(self.dim, false);
        jobs.par_iter_mut().for_each_init(block, |block, job| self.attend(job, block, watch));
        let heads = jobs.iter().flat_map(|job| &job.heads);
        let peaks: Vec<[f32; 2]> = heads.map(|head| [head.highest, head.total]).collect();
        let mut first = 0;
        for (y, count) in y.chunks_exact_mut(width).zip(counts) {
            let parts = first..first + count;
            let peaks = &peaks[parts.start * self.heads..parts.end * self.heads];
            combine(self.dim, &sums[parts.start * width..parts.end * width], peaks, y);
            first = parts.end;
        }
    }

    /// The attention of several tokens of a sequence, [T, H, A].
    fn of_many(&self, q: &[f32], rows: &[StepRow], y: &mut [f32], watch: &Watch) {
        y.fill(0.0);
        let mut jobs: Vec<Job<'_>> = Vec::new();
        let groups = self.groups(rows.len());
        let group = self.heads / groups * self.dim;
        for (at, (y, q)) in y.chunks_exact_mut(group).zip(q.chunks_exact(group)).enumerate() {
            let (row, kv_head) = (rows[at / groups], at % groups / (groups / self.kv_heads));
            let visible = row.visible(self.rules.window);
            // The jobs of the token before are the last ones, one for each group.
            let before = jobs.len().checked_sub(groups).filter(|before| {
                let Job { row: last, heads, .. } = &jobs[*before];
                let follows = heads[heads.len() - 1].visible.end == row.position as usize;
                let of_one = (last.slot, last.first_cell) == (row.slot, row.first_cell);
                let fits = self.ring.is_none_or(|ring| visible.end - heads[0].visible.start <= ring as usize);
                follows && of_one && fits && heads.len() < TOKENS * (group / self.dim)
            });
            let states = self.states(q, y, &visible);
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
        let block = || Block::of(self.dim, true);
        jobs.par_iter_mut().for_each_init(block, |block, job| {
            self.attend(job, block, watch);
            for HeadState { sum, total, .. } in &mut job.heads {
                sum.iter_mut().for_each(|number| *number /= *total);
            }
        });
    }

    /// Groups of the heads that are computed together, where there are so many times as many jobs as groups: the heads
    /// that share keys and values, or each by itself where the threads would otherwise have too little to do.
    fn groups(&self, times: usize) -> usize {
        if times * self.kv_heads < rayon::current_num_threads() { self.heads } else { self.kv_heads }
    }

    /// Heads that have seen nothing yet.
    fn states<'a>(
        &self,
        q: &'a [f32],
        sums: &'a mut [f32],
        visible: &Range<usize>,
    ) -> impl Iterator<Item = HeadState<'a>> + use<'a, C> {
        let visible = visible.clone();
        q.chunks_exact(self.dim).zip(sums.chunks_exact_mut(self.dim)).map(move |(query, sum)| {
            let visible = visible.clone();
            HeadState { query, sum, visible, highest: f32::NEG_INFINITY, total: 0.0 }
        })
    }

    /// Sums up what the heads of a job look at, while that is wanted.
    fn attend(&self, job: &mut Job<'_>, block: &mut Block, watch: &Watch) {
        if watch.stops() {
            return;
        }
        let heads = &mut job.heads;
        let (first, end) = (heads[0].visible.start, heads[heads.len() - 1].visible.end);
        for start in (first / BLOCK * BLOCK..end).step_by(BLOCK) {
            let positions = start.max(first)..end.min(start + BLOCK);
            let numbers = positions.len() * self.dim;
            let (keys, values) = (&mut block.keys[..numbers], &mut block.values[..numbers]);
            self.numbers.widen(job.kv_head, job.row, positions.clone(), keys, values);
            if block.is_transposed {
                transpose(keys, self.dim, &mut block.columns);
            }
            for head in heads.iter_mut() {
                let seen = head.visible.start.max(positions.start)..head.visible.end.min(positions.end);
                if seen.is_empty() {
                    continue;
                }
                let seen = seen.start - positions.start..seen.end - positions.start;
                block.attend(seen, self.rules.cap, head);
            }
        }
    }
}

/// What the parts of a token's attention come to: by the sums of values, [parts, H, A], and the highest scores and the
/// sums of weights, [parts, H].
fn combine(dim: usize, sums: &[f32], peaks: &[[f32; 2]], y: &mut [f32]) {
    let heads = y.len() / dim;
    for (head, y) in y.chunks_exact_mut(dim).enumerate() {
        let peaks = || peaks[head..].iter().step_by(heads);
        let highest = peaks().fold(f32::NEG_INFINITY, |highest, peak| highest.max(peak[0]));
        let total: f32 = peaks().map(|[peak, total]| exp(peak - highest) * total).sum();
        y.fill(0.0);
        for (part, [peak, _]) in peaks().enumerate() {
            let weight = exp(peak - highest) / total;
            let sum = &sums[(part * heads + head) * dim..][..dim];
            y.iter_mut().zip(sum).for_each(|(number, sum)| *number += weight * sum);
        }
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
    fn of(dim: usize, is_transposed: bool) -> Block {
        let rows = vec![0.0; BLOCK * dim];
        let columns = vec![[0.0; BLOCK]; if is_transposed { dim } else { 0 }];
        Block { dim, keys: rows.clone(), values: rows, columns, is_transposed }
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
    // By halves, which are vectors too.
    let eight: [f32; 8] = std::array::from_fn(|lane| sums[lane] + sums[lane + 8]);
    let four: [f32; 4] = std::array::from_fn(|lane| eight[lane] + eight[lane + 4]);
    (four[0] + four[2]) + (four[1] + four[3]) + rest
}
