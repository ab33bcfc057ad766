//! Logits that stay on the device between the step that computes them and the choice from them.
//!
//! A choice under a mask or a bias is a run of its own, so that the host makes the mask while the device computes the
//! logits. Every step leaves them in the same place, so that all sequences share its recording. Where another
//! sequence's step comes before the choice, they first move to a row of their own sequence's.

use std::sync::Arc;

use super::executor::{Executor, StepKind, TokenRows};
use crate::cancel::CancelToken;
use crate::constraint::TokenMask;
use crate::engine::Engine;
use crate::error::{Error, Result, mib};
use crate::kernels::copy;
use crate::kernels::sample::constrain_logits::{self, ConstrainInputs};
use crate::kernels::sample::peaks::{BLOCK_BYTES, BLOCKS, SampleInputs};
use crate::kernels::sample::token;
use crate::kernels::step_rows::StepRow;
use crate::recording::{Buffer, Prepared, Recording, Span, Ticket};
use crate::sampling::{Choice, LogitBias};

/// Words from one slot's row to the next one's are a multiple of this: bindings begin at multiples of 256 bytes.
const ROW_WORDS: u32 = 64;

/// Bytes at most of the work space of a choice: what is written of the blocks of its logits, with what a pool adds.
const CHOICE_BYTES: u64 = BLOCKS as u64 * BLOCK_BYTES * 5 / 4;

/// The logits of the last step and the rows of all slots, and what changes them before a choice.
pub(super) struct KeptLogits {
    /// `[V]` f32, a row of [`KeptLogits::row_bytes`]: those of the last step that kept any.
    latest: Buffer,
    /// The slot of the sequence that is to choose from the latest; none where nobody is.
    owner: Option<u32>,
    /// [slots, V] f32: those that another sequence's step took the place of.
    moved: Buffer,
    /// The same of what is added to the logits.
    bias: Buffer,
    /// Whether each token may be chosen, [ceil(V / 32)] u32, of the choice that is made.
    allowed: Buffer,
    vocab: u32,
    /// The bias that each slot's row holds; zeros where there is none.
    written: Vec<Option<Arc<LogitBias>>>,
    /// The choice of each slot, from the latest logits and from its own row, as far as it was made before.
    choices: Vec<[Option<Prepared>; 2]>,
    /// What moves the latest logits to each slot's row, as far as it was made before.
    moves: Vec<Option<Prepared>>,
}

/// What one choice from kept logits depends on.
pub(super) struct KeptChoice<'a> {
    /// What the kernels read of the last token that ran.
    pub row: StepRow,
    pub choice: Choice,
    /// Which tokens may be chosen: some.
    pub allowed: &'a TokenMask,
    pub bias: Option<&'a Arc<LogitBias>>,
}

impl KeptLogits {
    /// Fails where the device has no room; nothing of it is then left.
    fn new(engine: &mut dyn Engine, vocab: u32, slots: u32) -> Result<KeptLogits> {
        let mut made = Vec::new();
        for (label, bytes) in KeptLogits::wanted(vocab, slots) {
            match engine.create(label, bytes) {
                Ok(buffer) => made.push(buffer),
                Err(error) => {
                    made.into_iter().for_each(|buffer| engine.destroy(buffer));
                    // Their memory is not to be waited for at the next try.
                    let _ = engine.wait();
                    return Err(error);
                }
            }
        }
        let [latest, moved, bias, allowed] = made[..] else { unreachable!("a buffer for each that is wanted") };
        Ok(KeptLogits {
            latest,
            owner: None,
            moved,
            bias,
            allowed,
            vocab,
            written: vec![None; slots as usize],
            choices: (0..slots).map(|_| [None, None]).collect(),
            moves: (0..slots).map(|_| None).collect(),
        })
    }

    /// The buffers and their bytes.
    fn wanted(vocab: u32, slots: u32) -> [(&'static str, u64); 4] {
        let row = KeptLogits::row_bytes(vocab);
        let rows = row * u64::from(slots);
        let allowed = TokenMask::words_of(vocab) as u64 * 4;
        [("kept logits", row), ("moved logits", rows), ("logit bias", rows), ("allowed tokens", allowed)]
    }

    /// Bytes on the device at most, what its choices take among them.
    pub fn most_bytes(vocab: u32, slots: u32) -> u64 {
        let buffers: u64 = KeptLogits::wanted(vocab, slots).iter().map(|(_, bytes)| bytes).sum();
        buffers + 2 * u64::from(slots) * CHOICE_BYTES
    }

    fn row_bytes(vocab: u32) -> u64 {
        u64::from(vocab.next_multiple_of(ROW_WORDS)) * 4
    }

    /// Where a step leaves its logits, `[V]`.
    pub fn latest(&self) -> Span {
        self.latest.span(0, u64::from(self.vocab) * 4)
    }

    fn row(&self, of: Buffer, slot: u32) -> Span {
        of.span(u64::from(slot) * KeptLogits::row_bytes(self.vocab), u64::from(self.vocab) * 4)
    }

    /// Moves the latest logits to a slot's row.
    fn record_move(&self, slot: u32) -> Recording {
        let (mut r, bytes) = (Recording::new(), KeptLogits::row_bytes(self.vocab));
        copy::record(&mut r, self.latest.all(), self.moved.span(u64::from(slot) * bytes, bytes));
        r
    }

    /// Writes which tokens may be chosen, and what is added to the logits of a slot where that changed.
    fn write(&mut self, engine: &mut dyn Engine, slot: u32, chosen: &KeptChoice<'_>) -> Result<()> {
        assert_eq!(chosen.allowed.vocab(), self.vocab, "a mask is of the model's vocabulary");
        engine.write(self.allowed.all(), bytemuck::cast_slice(chosen.allowed.words()));
        let written = &self.written[slot as usize];
        let same = match (written, chosen.bias) {
            (Some(written), Some(bias)) => Arc::ptr_eq(written, bias),
            (written, bias) => written.is_none() && bias.is_none(),
        };
        if !same {
            let mut row = vec![0.0f32; self.vocab as usize];
            if let Some(bias) = chosen.bias {
                bias.added().filter(|(id, _)| *id < self.vocab).for_each(|(id, value)| row[id as usize] = value);
            }
            engine.upload(self.row(self.bias, slot), bytemuck::cast_slice(&row))?;
            self.written[slot as usize] = chosen.bias.cloned();
        }
        Ok(())
    }
}

impl Executor {
    /// Begins a step whose last token's logits are kept for [`Executor::sample_kept`]; where that is said, they are
    /// read back too. Fails where the device has no room for the logits of all sequences, or the memory budget.
    pub fn keep_logits(&mut self, tokens: TokenRows, read_back: bool, cancel: &CancelToken) -> Result<Ticket> {
        self.reserve_for_kept(read_back)?;
        if self.kept_logits.is_none() {
            let slots = self.slots.len() as u32;
            self.kept_logits = Some(KeptLogits::new(self.engine.as_mut(), self.shape.vocab, slots)?);
        }
        let slot = tokens.rows[0].slot;
        self.move_logits_before(slot)?;
        let ticket = self.submit(StepKind::KeepLogits { read_back }, tokens, cancel)?;
        self.kept_logits.as_mut().expect("made above").owner = Some(slot);
        Ok(ticket)
    }

    /// Moves the latest logits to their sequence's row, where that is another one than the slot's.
    fn move_logits_before(&mut self, slot: u32) -> Result<()> {
        let kept = self.kept_logits.as_mut().expect("there is a place for logits");
        let Some(owner) = kept.owner.filter(|owner| *owner != slot) else { return Ok(()) };
        // A stop of this sequence leaves the other one's logits what they are.
        self.engine.set_cancel(CancelToken::new());
        let mut prepared = match kept.moves[owner as usize].take() {
            Some(prepared) => prepared,
            None => self.engine.prepare(kept.record_move(owner))?,
        };
        // What reads them comes after it on the device, so that nobody waits for it.
        self.engine.submit(&mut prepared)?;
        kept.moves[owner as usize] = Some(prepared);
        kept.owner = None;
        Ok(())
    }

    /// Begins the choice from a slot's kept logits.
    pub fn sample_kept(&mut self, chosen: &KeptChoice<'_>, cancel: &CancelToken) -> Result<Ticket> {
        let slot = chosen.row.slot;
        self.engine.set_cancel(cancel.clone());
        let mut kept = self.kept_logits.take().expect("a step kept logits");
        let ticket = self.submit_choice(&mut kept, slot, chosen);
        self.kept_logits = Some(kept);
        ticket
    }

    fn submit_choice(&mut self, kept: &mut KeptLogits, slot: u32, chosen: &KeptChoice<'_>) -> Result<Ticket> {
        // A choice changes the logits, and is made once.
        let moved = kept.owner.take_if(|owner| *owner == slot).is_none();
        kept.write(self.engine.as_mut(), slot, chosen)?;
        self.inputs.write_choices(self.engine.as_mut(), &[chosen.choice]);
        self.inputs.write_rows(self.engine.as_mut(), &[chosen.row]);
        let mut prepared = match kept.choices[slot as usize][usize::from(moved)].take() {
            Some(prepared) => prepared,
            None => self.engine.prepare(self.choice_from(kept, slot, moved))?,
        };
        let ticket = self.engine.submit(&mut prepared);
        kept.choices[slot as usize][usize::from(moved)] = Some(prepared);
        ticket
    }

    /// The choice from a slot's kept logits; it reads back what every sequence's last step sampled.
    fn choice_from(&self, kept: &KeptLogits, slot: u32, moved: bool) -> Recording {
        let mut r = Recording::new();
        let logits = if moved { kept.row(kept.moved, slot) } else { kept.latest() };
        let (allowed, bias) = (kept.allowed.all(), kept.row(kept.bias, slot));
        constrain_logits::record(&mut r, ConstrainInputs { allowed, bias, logits });
        let (choices, step_rows) = (self.inputs.choices(1), self.inputs.rows(1));
        let inputs = SampleInputs { choices, step_rows, cell_tokens: self.cache.tokens.all(), logits };
        token::record(&mut r, inputs, self.inputs.sampled());
        r.read_back(self.inputs.sampled());
        r
    }

    /// Takes from what slices may take what kept logits and their steps do, which a memory budget leaves out as long as
    /// nothing asks for them. Fails where the budget does not hold that.
    fn reserve_for_kept(&mut self, read_back: bool) -> Result<()> {
        let slots = self.slots.len() as u32;
        let (Some(budget), Some(residency)) = (&mut self.budget, &mut self.residency) else { return Ok(()) };
        let reserved = &mut budget.kept_reserved;
        if reserved[usize::from(read_back)] {
            return Ok(());
        }
        let is_first = *reserved == [false; 2];
        let kept_bytes = if is_first { KeptLogits::most_bytes(self.shape.vocab, slots) } else { 0 };
        let bytes = kept_bytes + budget.choosing_steps_bytes;
        if let Err(lacking) = residency.reserve(self.engine.as_mut(), bytes)? {
            let least = mib(budget.bytes + lacking);
            let expected = format!("at least {least}, as a bias, a constraint and log-probabilities take logits apart");
            return Err(Error::argument("memory budget", expected, mib(budget.bytes)));
        }
        reserved[usize::from(read_back)] = true;
        self.update_wanted_slices();
        // What slices had is to be free before something else takes it.
        self.residency.as_mut().map_or(Ok(()), |residency| residency.wait_for_memory(self.engine.as_mut()))
    }

    /// Waits for a choice from kept logits: what every sequence's last step sampled.
    pub fn finish_choice(&mut self, ticket: Ticket, cancel: &CancelToken) -> Result<Vec<u8>> {
        self.engine.set_cancel(cancel.clone());
        Ok(self.engine.finish(ticket)?.pop().expect("a choice reads back what was sampled"))
    }
}
