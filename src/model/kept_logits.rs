//! Logits that stay on the device between the step that computes them and the choice from them.
//!
//! A choice under a mask or a bias is a run of its own, so that the host makes the mask while the device computes the
//! logits. Each slot has a row of its own, which no other sequence's step writes to.

use std::sync::Arc;

use super::executor::{Executor, StepKind, TokenRows};
use crate::cancel::CancelToken;
use crate::constraint::TokenMask;
use crate::engine::Engine;
use crate::error::Result;
use crate::kernels::sample::constrain_logits::{self, ConstrainInputs};
use crate::kernels::sample::peaks::SampleInputs;
use crate::kernels::sample::token;
use crate::kernels::step_rows::StepRow;
use crate::recording::{Buffer, Prepared, Recording, Span, Ticket};
use crate::sampling::{Choice, LogitBias};

/// Words from one slot's row to the next one's are a multiple of this: bindings begin at multiples of 256 bytes.
const ROW_WORDS: u32 = 64;

/// The rows of all slots, and what changes them before a choice.
pub(super) struct KeptLogits {
    /// [slots, V] f32, rows of [`KeptLogits::row_bytes`].
    logits: Buffer,
    /// The same of what is added to the logits.
    bias: Buffer,
    /// Whether each token may be chosen, [ceil(V / 32)] u32, of the choice that is made.
    allowed: Buffer,
    vocab: u32,
    /// The bias that each slot's row holds; zeros where there is none.
    written: Vec<Option<Arc<LogitBias>>>,
    /// The choice from each slot's row, as far as it was made before.
    prepared: Vec<Option<Prepared>>,
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
    fn new(engine: &mut dyn Engine, vocab: u32, slots: u32) -> Result<KeptLogits> {
        let bytes = KeptLogits::row_bytes(vocab) * u64::from(slots);
        Ok(KeptLogits {
            logits: engine.create("kept logits", bytes)?,
            bias: engine.create("logit bias", bytes)?,
            allowed: engine.create("allowed tokens", TokenMask::words_of(vocab) as u64 * 4)?,
            vocab,
            written: vec![None; slots as usize],
            prepared: (0..slots).map(|_| None).collect(),
        })
    }

    fn row_bytes(vocab: u32) -> u64 {
        u64::from(vocab.next_multiple_of(ROW_WORDS)) * 4
    }

    /// A slot's logits, `[V]`.
    pub fn logits(&self, slot: u32) -> Span {
        self.row(self.logits, slot)
    }

    fn row(&self, of: Buffer, slot: u32) -> Span {
        of.span(u64::from(slot) * KeptLogits::row_bytes(self.vocab), u64::from(self.vocab) * 4)
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
    /// read back too. Fails where the device has no room for the logits of all sequences.
    pub fn keep_logits(&mut self, tokens: TokenRows, read_back: bool, cancel: &CancelToken) -> Result<Ticket> {
        if self.kept_logits.is_none() {
            let slots = self.slots.len() as u32;
            self.kept_logits = Some(KeptLogits::new(self.engine.as_mut(), self.shape.vocab, slots)?);
        }
        let slot = tokens.rows[0].slot;
        self.submit(StepKind::KeepLogits { slot, read_back }, tokens, cancel)
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
        kept.write(self.engine.as_mut(), slot, chosen)?;
        self.inputs.write_choice(self.engine.as_mut(), &chosen.choice);
        self.inputs.write_rows(self.engine.as_mut(), &[chosen.row]);
        let mut prepared = match kept.prepared[slot as usize].take() {
            Some(prepared) => prepared,
            None => self.engine.prepare(self.choice_from(kept, slot))?,
        };
        let ticket = self.engine.submit(&mut prepared);
        kept.prepared[slot as usize] = Some(prepared);
        ticket
    }

    /// The choice from a slot's kept logits; it reads back what every sequence's last step sampled.
    fn choice_from(&self, kept: &KeptLogits, slot: u32) -> Recording {
        let mut r = Recording::new();
        let logits = kept.logits(slot);
        let (allowed, bias) = (kept.allowed.all(), kept.row(kept.bias, slot));
        constrain_logits::record(&mut r, ConstrainInputs { allowed, bias, logits });
        let (choice, step_rows) = (self.inputs.choice(), self.inputs.rows(1));
        let inputs = SampleInputs { choice, step_rows, cell_tokens: self.cache.tokens.all(), logits };
        token::record(&mut r, self.traits(), inputs, self.inputs.sampled());
        r.read_back(self.inputs.sampled());
        r
    }

    /// Waits for a choice from kept logits: what every sequence's last step sampled.
    pub fn finish_choice(&mut self, ticket: Ticket, cancel: &CancelToken) -> Result<Vec<u8>> {
        self.engine.set_cancel(cancel.clone());
        Ok(self.engine.finish(ticket)?.pop().expect("a choice reads back what was sampled"))
    }
}
