//! How much the inputs of a source's matrices count, by a pass over some text.

use std::ops::ControlFlow;

use super::pass::{self, PlainPass};
use super::reference::{ACTIVATION_BYTES, BLOCK_BYTES, groups};
use crate::error::{Error, Result};
use crate::quantize::{Importance, Source, SourceTensor, SquaredInputs, block_rows};
use crate::shape::LlamaShape;
use crate::text::TextModel;

/// Tokens of a window, where the model was trained for that many.
const WINDOW: usize = 512;
/// Tokens of a text that are looked at. More of them hardly change a mean square.
const MOST_TOKENS: usize = 1 << 14;
/// Bytes that are read of a text at most: tokens have fewer than 32 on average.
const MOST_BYTES: usize = 32 * MOST_TOKENS;
/// Tokens that a text needs, and a last, shorter window to count: at its beginning a text is unlike the rest of it.
const LEAST_TOKENS: usize = 64;

/// A measurement of importance that can be made.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportancePlan {
    shape: LlamaShape,
    /// Tokens of all windows.
    ids: Vec<u32>,
    /// Tokens of each window.
    windows: Vec<usize>,
    with_moments: bool,
}

impl ImportancePlan {
    /// One over the first 16384 tokens of a text, of half a megabyte at most, in windows of 512 or of what the model
    /// was trained for if that is less, each behind the tokens that the tokenizer puts before every text. Fails where
    /// the text, which errors call `name`, has fewer than 64 tokens, or one that the model has no embedding of.
    pub fn new(source: &dyn Source, tokenizer: &TextModel, name: &str, text: &str) -> Result<ImportancePlan> {
        let shape = source.shape().clone();
        let text = &text[..text.floor_char_boundary(MOST_BYTES)];
        let text = tokenizer.encode_for_windows(name, text)?;
        // Of a word or two, what is large by chance would pass for what is large.
        if text.ids().len() < LEAST_TOKENS {
            return Err(Error::argument(name, format!("{LEAST_TOKENS} tokens or more"), text.ids().len()));
        }
        let (window, before) = (WINDOW.min(shape.max_context as usize), text.before().len());
        let text = text.first(MOST_TOKENS);
        let long = |part: &Vec<u32>| part.len() - before >= LEAST_TOKENS.min(window - before);
        let parts: Vec<Vec<u32>> = text.windows(window)?.filter(long).collect();
        let windows = parts.iter().map(Vec::len).collect();
        let ids = parts.concat();
        Ok(ImportancePlan { shape, ids, windows, with_moments: false })
    }

    /// The same, but it also sums up what the numbers of an input have in common, so that rounding can be compensated.
    pub fn with_moments(self) -> ImportancePlan {
        ImportancePlan { with_moments: true, ..self }
    }

    /// Bytes of memory that what is found takes while weights are cut.
    pub fn cutting_bytes(&self) -> u64 {
        SquaredInputs::cutting_bytes(&self.shape, self.with_moments)
    }

    /// Tokens of all windows.
    pub fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// Bytes of memory that the work takes, about: the sums, activations, and a block of a matrix.
    pub fn memory_bytes(&self) -> u64 {
        let mut windows = self.windows.iter();
        let largest = self.groups().iter().map(|count| windows.by_ref().take(*count).sum::<usize>()).max();
        let sums = SquaredInputs::bytes(&self.shape, self.with_moments);
        sums + largest.unwrap_or(0) as u64 * pass::token_bytes(&self.shape) + BLOCK_BYTES
    }

    /// Reads all weights but those of the embedding and computes. `on_progress(done, total)` counts products of two
    /// numbers and may break off, which is [`Error::Stopped`]. Fails as the source does, and where an input is not
    /// finite.
    pub fn measure(
        &self,
        source: &mut dyn Source,
        on_progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Importance> {
        let new = if self.with_moments { SquaredInputs::with_moments } else { SquaredInputs::new };
        let mut squares = new(&self.shape);
        let context = self.windows.iter().copied().max().unwrap_or(0) as u32;
        let (products, mut windows, mut ids) = (self.shape.linear_params(), &self.windows[..], &self.ids[..]);
        for count in self.groups() {
            let (group, later_windows) = windows.split_at(count);
            let (group_ids, later_ids) = ids.split_at(group.iter().sum());
            let before = products * (self.ids.len() - ids.len()) as u64;
            let mut on_products = |done| on_progress(before + done, products * self.ids.len() as u64);
            let pass = PlainPass::new(source, group, context, &mut on_products);
            let done = pass.run_inputs(group_ids, &mut |at, inputs| match at {
                Some(at) => squares.add_of_site(at, inputs),
                None => squares.add_of_head(inputs),
            });
            done.map_err(|e| e.within("quantize"))?;
            (windows, ids) = (later_windows, later_ids);
        }
        match squares.importance() {
            Some(importance) => Ok(importance),
            None => Err(not_finite(source)?),
        }
    }

    /// How many windows each pass takes.
    fn groups(&self) -> Vec<usize> {
        groups(self.windows.iter().copied(), ACTIVATION_BYTES / pass::token_bytes(&self.shape))
    }
}

/// The error for a source whose activations are not finite, which names the first weight that is not, if there is one.
fn not_finite(source: &mut dyn Source) -> Result<Error> {
    let (shape, spec) = (source.shape().clone(), source.spec().clone());
    let mut weights = Vec::new();
    for tensor in SourceTensor::all(&shape, &spec) {
        let (rows, input) = tensor.dims(&shape, &spec);
        for first in (0..rows).step_by(block_rows(input) as usize) {
            source.rows(tensor, first..rows.min(first + block_rows(input)), &mut weights)?;
            if let Some(at) = weights.iter().position(|weight| !weight.is_finite()) {
                let (file, name) = source.locate(tensor);
                let got = format!("{} in row {}", weights[at], first as usize + at / input as usize);
                return Ok(Error::damaged(file, name, "finite weights", got));
            }
        }
    }
    let file = source.locate(SourceTensor::Embed).0;
    let got = "others, on the text of importance";
    Ok(Error::damaged(file, "weights", "weights that give finite activations", got))
}
