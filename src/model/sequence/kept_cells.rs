//! What the cache keeps of a sequence, to the host and back: keys and values in the bits that they are stored in.

use super::Sequence;
use crate::error::{Error, Result};
use crate::format::SavedCells;
use crate::kernels::step_rows::Cells;
use crate::model::Model;
use crate::model::cache::Cache;
use crate::precision::CacheType;
use crate::recording::{Recording, Span};
use crate::text::{Sampler, same_numbers};

/// Bytes that are read back at a time, so that a long context needs no second copy of it.
const PIECE_BYTES: u64 = 16 << 20;

/// The cells of one sequence in one of the cache's buffers, [heads, C, words] u32 of all sequences.
#[derive(Debug, Clone, Copy)]
struct CellRange {
    data: Span,
    heads: u32,
    /// C
    all_cells: u32,
    /// Words of a cell of one head.
    words: u32,
    /// The sequence's first cell.
    first: u32,
    /// Cells that are kept.
    count: u32,
}

impl CellRange {
    fn shape(self) -> [u32; 3] {
        [self.heads, self.count, self.words]
    }

    /// The ranges of the buffer, in the order of [heads, cells, words], none longer than a piece.
    fn pieces(self) -> impl Iterator<Item = Span> {
        let cell_bytes = u64::from(self.words) * 4;
        let step = (PIECE_BYTES / cell_bytes).max(1) as u32;
        (0..self.heads).flat_map(move |head| {
            (0..self.count).step_by(step as usize).map(move |cell| {
                let cells = step.min(self.count - cell);
                let at = u64::from(head) * u64::from(self.all_cells) + u64::from(self.first + cell);
                self.data.buffer.span(self.data.offset + at * cell_bytes, u64::from(cells) * cell_bytes)
            })
        })
    }
}

impl Cache {
    /// The keys and values of the first `count` tokens of a slot, layer by layer. Rings are kept whole.
    fn kept(&self, slot: u32, count: u32) -> Vec<CellRange> {
        let range = |data: Span, Cells { count: all_cells, ring }: Cells| {
            let heads = self.kv_heads();
            let words = (data.bytes / 4 / u64::from(all_cells) / u64::from(heads)) as u32;
            let (of_sequence, count) = ring.map_or((self.options.context, count), |ring| (ring, ring));
            CellRange { data, heads, all_cells, words, first: slot * of_sequence, count }
        };
        let layers = self.layers.iter().flat_map(|layer| match layer.quantized_kv {
            Some(quantized) => vec![range(quantized.rows, layer.cells)],
            None => vec![range(layer.keys, layer.cells), range(layer.values, layer.cells)],
        });
        layers.collect()
    }
}

impl Model {
    /// How the keys and values of so many tokens are laid out, of a sequence whose last written position is before
    /// `end`.
    fn cells_layout(&self, tokens: usize, end: usize) -> SavedCells {
        let executor = self.executor();
        SavedCells {
            cache_type: executor.cache.options.cache_type.to_string(),
            ring: self.ring().map(|ring| [ring.cells, ring.window]),
            end: end as u64,
            tensors: executor.cache.kept(0, tokens as u32).into_iter().map(CellRange::shape).collect(),
        }
    }
}

impl Sequence {
    /// How the keys and values of this sequence's tokens are laid out; none where they are to be computed again anyway.
    pub fn cells(&self) -> Option<SavedCells> {
        let tokens = self.tokens.len();
        let known = tokens > 0 && self.ring_history.has_window(tokens);
        known.then(|| self.model.cells_layout(tokens, self.ring_history.end()))
    }

    /// Reads the keys and values of this sequence's tokens; `on_piece` takes them piece by piece, each with the number
    /// of its tensor in [`Sequence::cells`].
    ///
    /// Fails where `on_piece` fails, where the device fails, and where a stop is asked for.
    pub fn read_cells(&self, on_piece: &mut dyn FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        let ranges = self.model.executor().cache.kept(self.slot, self.tokens.len() as u32);
        for (tensor, range) in ranges.into_iter().enumerate() {
            for piece in range.pieces() {
                let mut recording = Recording::new();
                recording.read_back(piece);
                // Between two pieces, other sequences have their turn.
                let bytes = {
                    let mut executor = self.model.executor();
                    executor.engine.set_cancel(self.cancel.clone());
                    let mut prepared = executor.engine.prepare(recording)?;
                    executor.engine.run(&mut prepared).map_err(|error| error.within("saving"))?.swap_remove(0)
                };
                on_piece(tensor, &bytes)?;
            }
        }
        Ok(())
    }

    /// Words of the random numbers of [`Sequence::seed`] that the tokens so far took; none where there are too many to
    /// tell.
    pub fn draws(&self) -> Option<u64> {
        Sampler::words(self.rng_after)
    }

    /// Goes to the place in the random numbers of [`Sequence::seed`] before which so many words were taken.
    pub fn set_draws(&mut self, words: u64) {
        self.rng_after = self.sampler.seek(words);
    }

    /// A sequence on another model with the same tokens, plan and random numbers to come. The tokens are computed again
    /// before the next ones run, all of them as a prompt.
    ///
    /// Fails as [`Model::sequence`] and [`Sequence::replace_tokens`] do.
    pub fn resume_on(&self, model: &Model) -> Result<Sequence> {
        let mut other = Sequence::open(model, &self.plan)?;
        other.replace_tokens(&self.tokens, self.sampled)?;
        other.prompt_bits = self.prompt_bits;
        other.sampler = self.sampler.clone();
        other.sampler.rewind(self.rng_after);
        other.rng_after = self.rng_after;
        other.shuffle = self.shuffle.as_ref().map(same_numbers);
        other.choosing = self.choosing.clone();
        Ok(other)
    }

    /// Takes other tokens in the place of its own, and `sampled` as the token that was sampled last. They are computed
    /// before the next ones run, all of them as a prompt, by the plan that is set then.
    ///
    /// Fails where one is not in the vocabulary, and where they leave the context; the sequence is then as it was.
    pub fn replace_tokens(&mut self, tokens: &[u32], sampled: Option<u32>) -> Result<()> {
        let vocab = self.model.shape().vocab;
        if let Some(id) = tokens.iter().chain(&sampled).find(|id| **id >= vocab) {
            return Err(Error::argument("token id", format!("below {vocab}"), id));
        }
        self.check_fits(0, tokens.len())?;
        (self.tokens, self.sampled) = (tokens.to_vec(), sampled);
        if tokens.is_empty() {
            self.ring_history.recover()
        } else {
            self.ring_history.lose()
        }
        Ok(())
    }

    /// As [`Sequence::replace_tokens`], with keys and values laid out as `layout` tells, which `cells` gives by the
    /// number of their tensor: nothing is computed again. Why these are of no use here, in words, where that is so; the
    /// tokens are then computed again.
    ///
    /// Fails as `replace_tokens` does, and where the device fails; the tokens are then to be computed again.
    pub fn replace_cells<'c>(
        &mut self,
        tokens: &[u32],
        sampled: Option<u32>,
        layout: &SavedCells,
        cells: &dyn Fn(usize) -> &'c [u8],
    ) -> Result<Option<String>> {
        self.replace_tokens(tokens, sampled)?;
        if tokens.is_empty() {
            return Ok(None);
        }
        let here = self.model.cells_layout(tokens.len(), layout.end as usize);
        if let Some(why) = unfit(layout, &here) {
            return Ok(Some(why));
        }
        let (slot, context) = (u64::from(self.slot), u64::from(self.model.context()));
        let mut executor = self.model.executor();
        let ids = executor.cache.tokens.span(slot * context * 4, tokens.len() as u64 * 4);
        executor.engine.upload(ids, bytemuck::cast_slice(tokens))?;
        for (tensor, range) in executor.cache.kept(self.slot, tokens.len() as u32).into_iter().enumerate() {
            let mut left = cells(tensor);
            for piece in range.pieces() {
                let (bytes, rest) = left.split_at(piece.bytes as usize);
                executor.engine.upload(piece, bytes)?;
                left = rest;
            }
        }
        drop(executor);
        self.ring_history.write(0, tokens.len().max(layout.end as usize));
        self.ring_history.recover();
        Ok(None)
    }
}

/// Why cells of one layout are none of another, in words.
fn unfit(saved: &SavedCells, here: &SavedCells) -> Option<String> {
    if saved.cache_type != here.cache_type {
        let known = CacheType::ALL.iter().any(|cache_type| cache_type.name() == saved.cache_type);
        let saved = if known { saved.cache_type.as_str() } else { "another type" };
        return Some(format!("its keys and values are in {saved} and this cache's in {}", here.cache_type));
    }
    if saved.ring != here.ring || saved.tensors != here.tensors {
        return Some("its layers keep other parts of the context than those of this cache".to_string());
    }
    None
}
