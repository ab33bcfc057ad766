//! Logits made ready for the choice of a token, and the likeliest ones of each block of them.

use rayon::prelude::*;

use crate::kernels::declare::params;
use crate::kernels::step_rows::StepRow;
use crate::recording::{Access, Arguments, Dispatch, Kernel, Recording, Span};
use crate::sampling::{Choice, finite, penalize};

params! {
    /// V
    vocab: u32,
    /// The token of the step that the first choice follows; the others follow the tokens after it.
    first_row: u32,
    /// 1, which no compiler knows, so that none unrolls a loop whose bound it is part of.
    one: u32,
}

/// `shaders/sample_peaks.wgsl`; bindings: choices `[S]` of [`Choice`], step rows `[T]` of [`StepRow`], the tokens of
/// the cells `[C]` u32, logits [S, V], peaks [S, blocks(V)] of [`Peak`], leaders [S, blocks(V), LEADERS] of [`Leader`].
pub static KERNEL: Kernel = Kernel {
    name: "sample_peaks",
    wgsl: include_str!("../../../shaders/sample_peaks.wgsl"),
    params: Params::FIELDS,
    bindings: &[Access::Read, Access::Read, Access::Read, Access::Write, Access::Write, Access::Write],
    reference: sample_peaks,
};

/// The likeliest token of a block, and the weights of all.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Peak {
    /// Its logit as a number that is ordered like logits.
    pub key: u32,
    /// The sum of exp(logit - its logit) over the block; 0 where no logit is above minus infinity.
    pub mass: f32,
    /// The same of the logits divided by the temperature, where there is one above 0.
    pub tempered_mass: f32,
}

/// One of the likeliest tokens of a block.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct Leader {
    /// Its logit as a number that is ordered like logits.
    pub key: u32,
    /// Its id.
    pub id: u32,
}

impl Leader {
    /// In place of a leader where the block has fewer tokens above minus infinity.
    pub const NONE: Leader = Leader { key: 0, id: u32::MAX };
}

/// Leaders of a block, likelier ones first; of equally likely ones the lower ids.
pub const LEADERS: usize = 8;

/// Blocks at most, whose leaders one workgroup can have in its memory.
pub const BLOCKS: u32 = 128;

/// Bytes of what is written of a block.
pub const BLOCK_BYTES: u64 = (size_of::<Peak>() + LEADERS * size_of::<Leader>()) as u64;

/// Logits that an invocation loads at one time.
const AT_ONCE: u32 = 8;
/// Invocations of a workgroup at most; they are a multiple of [`LANES`].
const INVOCATIONS: u32 = 256;
const LANES: u32 = 32;

/// Where the logits are, and the tokens before them. S choices are made, each by logits of its own.
#[derive(Debug, Clone, Copy)]
pub struct SampleInputs {
    /// `[S]` of [`Choice`].
    pub choices: Span,
    /// The step's rows, `[T]` of [`StepRow`]; the logits are those of what follows the last S ones.
    pub step_rows: Span,
    /// The token of each cell of the cache, `[C]` u32.
    pub cell_tokens: Span,
    /// [S, V] f32, of any bits.
    pub logits: Span,
}

impl SampleInputs {
    /// S
    pub(super) fn count(&self) -> u32 {
        (self.choices.bytes / size_of::<Choice>() as u64) as u32
    }

    /// V
    pub(super) fn vocab(&self) -> u32 {
        (self.logits.bytes / 4) as u32 / self.count()
    }

    /// The row of the step that the first choice follows.
    pub(super) fn first_row(&self) -> u32 {
        (self.step_rows.bytes / StepRow::BYTES) as u32 - self.count()
    }
}

/// How often an invocation loads logits. Where that is often, half as many invocations do so twice as often, as they
/// have more beside their logits in the workgroup's memory than these take.
fn pieces(vocab: u32) -> u32 {
    let pieces = vocab.div_ceil(BLOCKS * INVOCATIONS * AT_ONCE);
    if pieces > 3 { 2 * pieces } else { pieces }
}

/// Logits of a block.
pub fn block(vocab: u32) -> u32 {
    vocab.div_ceil(BLOCKS).next_multiple_of(LANES * AT_ONCE * pieces(vocab))
}

/// Blocks of V logits.
pub fn blocks(vocab: u32) -> u32 {
    vocab.div_ceil(block(vocab))
}

/// Records `logits[v] = penalize(finite(logits[v]))`, as in [`crate::sampling`], and the peaks and leaders of their
/// blocks.
pub fn record(recording: &mut Recording, inputs: SampleInputs, peaks: Span, leaders: Span) {
    let (vocab, count) = (inputs.vocab(), inputs.count());
    let params = Params { vocab, first_row: inputs.first_row(), one: 1 };
    let workgroup = block(vocab) / (pieces(vocab) * AT_ONCE);
    recording.dispatch(Dispatch {
        kernel: &KERNEL,
        constants: vec![("WORKGROUP", workgroup), ("PIECES", pieces(vocab))],
        params: bytemuck::bytes_of(&params).to_vec(),
        bindings: vec![inputs.choices, inputs.step_rows, inputs.cell_tokens, inputs.logits, peaks, leaders],
        workgroups: [blocks(vocab), count, 1],
    });
}

fn sample_peaks(args: &mut Arguments<'_>) {
    let logits = ready_logits(args);
    let p: Params = args.params();
    let choices: &[Choice] = args.read(0);
    let peaks: &mut [Peak] = args.write(4);
    let leaders: &mut [Leader] = args.write(5);
    let (width, count) = (block(p.vocab) as usize, blocks(p.vocab) as usize);
    let rows = logits.chunks_exact(p.vocab as usize).zip(choices);
    let blocks = peaks.chunks_exact_mut(count).zip(leaders.chunks_exact_mut(count * LEADERS));
    for ((logits, choice), (peaks, leaders)) in rows.zip(blocks) {
        let blocks = peaks.iter_mut().zip(leaders.chunks_exact_mut(LEADERS));
        for ((logits, first), (peak, leaders)) in logits.chunks(width).zip((0..).step_by(width)).zip(blocks) {
            *peak = peak_of(logits, choice.temperature);
            write_leaders(logits, first, leaders);
        }
    }
}

/// What the kernel does beside the peaks and leaders.
pub(crate) fn make_ready(args: &mut Arguments<'_>) {
    ready_logits(args);
}

/// Makes the logits of each choice finite, and penalizes the tokens seen lately; the logits.
fn ready_logits<'a>(args: &mut Arguments<'a>) -> &'a [f32] {
    let p: Params = args.params();
    let choices: &[Choice] = args.read(0);
    let (step_rows, cell_tokens): (&[StepRow], &[u32]) = (args.read(1), args.read(2));
    let logits: &mut [f32] = args.write(3);
    let of_choices = choices.par_iter().zip(&step_rows[p.first_row as usize..]);
    logits.par_chunks_exact_mut(p.vocab as usize).zip(of_choices).for_each(|(logits, (choice, row))| {
        logits.iter_mut().for_each(|logit| *logit = finite(*logit));
        penalize(choice, &cell_tokens[row.first_cell as usize..=row.cell()], logits);
    });
    logits
}

/// The peak of a block of logits.
fn peak_of(logits: &[f32], temperature: f32) -> Peak {
    let best = logits.iter().copied().max_by(f32::total_cmp).expect("a block has a logit at least");
    let mass = |temperature: f32| {
        let part = |logit: &f32| if best > f32::NEG_INFINITY { ((logit - best) / temperature).exp() } else { 0.0 };
        logits.iter().map(|logit| f64::from(part(logit))).sum::<f64>() as f32
    };
    let tempered_mass = mass(if temperature == 0.0 { 1.0 } else { temperature });
    Peak { key: key(best), mass: mass(1.0), tempered_mass }
}

/// The leaders of a block of logits, the first of which is that of the token `first`.
fn write_leaders(logits: &[f32], first: u32, leaders: &mut [Leader]) {
    let above = (first..).zip(logits).filter(|(_, logit)| **logit > f32::NEG_INFINITY);
    let mut found: Vec<Leader> = above.map(|(id, logit)| Leader { key: key(*logit), id }).collect();
    found.sort_unstable_by_key(|leader| (!leader.key, leader.id));
    found.resize(leaders.len(), Leader::NONE);
    leaders.copy_from_slice(&found);
}

/// The logit's bits as a number that is ordered like logits.
fn key(logit: f32) -> u32 {
    let bits = logit.to_bits();
    if logit.is_sign_negative() { !bits } else { bits ^ 1 << 31 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_ordered_like_logits() {
        let logits = [f32::NEG_INFINITY, f32::MIN, -1.0, -f32::MIN_POSITIVE, -0.0, 0.0, 1e-40, 1.0, f32::MAX];
        assert!(logits.windows(2).all(|w| key(w[0]) < key(w[1])));
        // The shader's constants.
        assert_eq!((key(f32::NEG_INFINITY), key(f32::MAX)), (0x007fffff, 0xff7fffff));
    }

    #[test]
    fn any_vocabulary_has_few_blocks_of_whole_invocations() {
        for vocab in [1, 255, 256, 257, 32_000, 49_152, 128_256, 151_936, 262_144, 262_145, 917_505, 1_000_000] {
            assert!(blocks(vocab) <= BLOCKS && blocks(vocab) * block(vocab) >= vocab, "{vocab}");
            let invocations = block(vocab) / (pieces(vocab) * AT_ONCE);
            assert_eq!(invocations * pieces(vocab) * AT_ONCE, block(vocab), "{vocab}");
            assert!(invocations <= INVOCATIONS && invocations.is_multiple_of(LANES), "{vocab}: {invocations}");
            // What the shader declares: staged logits, maxima twice and two sums, and a fourth for the rest; finalists;
            // and a bit of each token.
            let of_invocations = (4 * (AT_ONCE + 1) + 4 + 4 + 8 + 1) * invocations;
            let bytes = of_invocations + LEADERS as u32 * 8 * AT_ONCE * pieces(vocab) + block(vocab) / 8;
            assert!(bytes + 64 <= 16 << 10, "{vocab}: {bytes} bytes of a workgroup's memory");
        }
    }

    #[test]
    fn leaders_are_the_likeliest_tokens_above_minus_infinity() {
        let mut leaders = [Leader { key: 1, id: 1 }; LEADERS];
        write_leaders(&[1.0, f32::NEG_INFINITY, 3.0, 1.0], 256, &mut leaders);
        let few = [(3.0, 258), (1.0, 256), (1.0, 259)].map(|(logit, id)| Leader { key: key(logit), id });
        assert_eq!((&leaders[..3], &leaders[3..]), (&few[..], &[Leader::NONE; LEADERS - 3][..]));
        let rising: Vec<f32> = (0..20).map(|at| at as f32).collect();
        write_leaders(&rising, 0, &mut leaders);
        assert_eq!(leaders.map(|leader| leader.id), [19, 18, 17, 16, 15, 14, 13, 12]);
    }
}
