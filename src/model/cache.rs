//! The key/value cache: one pool of cells for each layer, of which every sequence has a range.

use std::ops::Range;

use super::limits;
use super::ring::{self, Ring};
use crate::arch::ModelSpec;
use crate::engine::{Engine, Traits};
use crate::error::{Error, Result};
use crate::kernels::attention::quantized;
use crate::kernels::cache::layout::{GROUP, Layout, QuantizedKv, token_bytes};
use crate::kernels::cache::{copy_cells, rope};
use crate::kernels::step_rows::Cells;
use crate::precision::CacheType;
use crate::recording::{Buffer, Recording, Span};
use crate::shape::LlamaShape;

/// How many tokens a model's cache holds, for how many sequences, and how it stores their keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheOptions {
    /// Tokens of one sequence at most.
    pub context: u32,
    /// Sequences that may be open at one time, 1 or more; memory for all of them is taken at once.
    pub sequences: u32,
    /// How keys and values are stored.
    pub cache_type: CacheType,
    /// Tokens that a step has at most at first: a memory budget and layers with a window keep room for them. Where none
    /// are given, [`default_step_tokens`](super::default_step_tokens).
    pub step_tokens: Option<u32>,
}

impl CacheOptions {
    /// C: the tokens of all sequences. Panics where [`CacheOptions::check`] fails.
    pub fn cells(self) -> u32 {
        self.context.checked_mul(self.sequences).expect("options that were checked")
    }

    /// The cells of a layer, which has the ring if its window is short enough.
    fn layer_cells(self, ring: Option<Ring>, spec: &ModelSpec, layer: u32) -> Cells {
        match ring.filter(|ring| ring.is_of(ring::window(spec, layer))) {
            // No more than the context has.
            Some(Ring { cells, .. }) => Cells { count: cells * self.sequences, ring: Some(cells) },
            None => Cells::of_all_positions(self.cells()),
        }
    }

    /// Fails where the context is 0 or more than the model was trained for, where there is no sequence, where the
    /// device cannot hold the cells of all sequences or attend to so long a context, where the heads cannot be cut into
    /// the groups of a quantized cache, or not on such a device, and where steps cannot have so many tokens.
    pub fn check(self, shape: &LlamaShape, spec: &ModelSpec, traits: Traits) -> Result<()> {
        let CacheOptions { context, sequences, cache_type, .. } = self;
        if context == 0 || context > shape.max_context {
            return Err(Error::argument("context", format!("1 to {} tokens", shape.max_context), context));
        }
        if sequences == 0 || context.checked_mul(sequences).is_none() {
            return Err(Error::argument("sequences", format!("1 to {}", u32::MAX / context), sequences));
        }
        limits::check_context(self, shape, spec, traits)?;
        let Some(layout) = Layout::of(cache_type, shape.head_dim) else { return Ok(()) };
        if !shape.head_dim.is_multiple_of(GROUP as u32) {
            let expected = format!("f16 for a model whose heads have no multiple of {GROUP} dimensions");
            return Err(Error::argument("cache type", expected, format!("{cache_type} for {}", shape.head_dim)));
        }
        // Without subgroups, positions are made f16 for each token.
        if traits.packed_dot && traits.subgroup > 1 && !quantized::fits(traits, layout) {
            let (needs, has) = (quantized::least_subgroup(layout), traits.subgroup);
            let expected = format!("f16 for heads of {} on a device with subgroups of {has}", shape.head_dim);
            return Err(Error::argument("cache type", expected, format!("{cache_type}, which needs {needs}")));
        }
        Ok(())
    }
}

impl From<u32> for CacheOptions {
    /// One sequence of so many tokens, in f16.
    fn from(context: u32) -> CacheOptions {
        CacheOptions { context, sequences: 1, cache_type: CacheType::default(), step_tokens: None }
    }
}

/// Keys and values of every layer, the tokens they are of, and the rotary tables.
pub struct Cache {
    /// The sizes.
    pub options: CacheOptions,
    /// The ring of the layers whose window is shorter than the context.
    pub ring: Option<Ring>,
    /// First layer to last.
    pub layers: Vec<LayerCache>,
    /// The token of every cell, `[C]` u32.
    pub tokens: Buffer,
    /// By their numbers, the rotary tables that layers use: cosine and sine for every position of a sequence, [context,
    /// A/2, 2] f32.
    rope_tables: Vec<Option<Buffer>>,
    kv_heads: u32,
}

/// Keys and values of one layer.
#[derive(Debug, Clone, Copy)]
pub struct LayerCache {
    /// C of the layer.
    pub cells: Cells,
    /// [K, C, A] f16. All layers of a quantized cache share these, and one with a ring has their beginning: they hold
    /// what a step itself makes, and what it reads of earlier tokens where its kernels read f16.
    pub keys: Span,
    /// [K, C, A] f16, as the keys.
    pub values: Span,
    /// The codes of a quantized cache.
    pub quantized_kv: Option<QuantizedKv>,
}

impl Cache {
    /// An empty cache, as options say that were checked, for steps of so many tokens at most. Fails where the device
    /// has no room.
    pub fn new(
        shape: &LlamaShape,
        spec: &ModelSpec,
        engine: &mut dyn Engine,
        options: CacheOptions,
        step_tokens: u32,
    ) -> Result<Cache> {
        let ring = Ring::of(spec, shape.layers, options.context, step_tokens);
        let cells: Vec<Cells> = (0..shape.layers).map(|layer| options.layer_cells(ring, spec, layer)).collect();
        Cache::create((shape, spec), engine, options, ring, &cells).map_err(|error| match error {
            Error::Device { device, message } => {
                let all_cells: u64 = cells.iter().map(|cells| u64::from(cells.count)).sum();
                let bytes = all_cells * token_bytes(options.cache_type, shape);
                Error::NoRoomForContext { device, context: options.cells(), bytes, message }
            }
            other => other,
        })
    }

    /// A cache whose layers have these cells.
    fn create(
        (shape, spec): (&LlamaShape, &ModelSpec),
        engine: &mut dyn Engine,
        options: CacheOptions,
        ring: Option<Ring>,
        cells: &[Cells],
    ) -> Result<Cache> {
        let layout = Layout::of(options.cache_type, shape.head_dim);
        let f16_bytes = |cells: Cells| u64::from(shape.kv_dim()) * u64::from(cells.count) * 2;
        let rope_tables = create_rope_tables((shape, spec), engine, options.context)?;
        let tokens = engine.create("tokens of the cache", u64::from(options.cells()) * 4)?;
        let f16_layer = |engine: &mut dyn Engine, cells: Cells| -> Result<LayerCache> {
            let bytes = f16_bytes(cells);
            let [keys, values] = [engine.create("keys", bytes)?.all(), engine.create("values", bytes)?.all()];
            Ok(LayerCache { cells, keys, values, quantized_kv: None })
        };
        let layers = match layout {
            None => cells.iter().map(|cells| f16_layer(engine, *cells)).collect::<Result<_>>()?,
            Some(layout) => {
                let most = cells.iter().max_by_key(|cells| cells.count).expect("a model has layers");
                let shared = f16_layer(engine, *most)?;
                let layer = |cells: &Cells| {
                    let bytes = u64::from(cells.count) * token_bytes(options.cache_type, shape);
                    let rows = engine.create("keys and values", bytes)?.all();
                    let [keys, values] = [shared.keys, shared.values].map(|all| all.buffer.span(0, f16_bytes(*cells)));
                    Ok(LayerCache { cells: *cells, keys, values, quantized_kv: Some(QuantizedKv { rows, layout }) })
                };
                cells.iter().map(layer).collect::<Result<_>>()?
            }
        };
        Ok(Cache { options, ring, layers, tokens, rope_tables, kv_heads: shape.kv_heads })
    }

    /// A rotary table that a layer uses, [context, A/2, 2] f32; panics where none uses it.
    pub fn rope_table(&self, table: u32) -> Span {
        self.rope_tables[table as usize].expect("the operations follow from the spec, as the tables do").all()
    }

    /// K
    pub fn kv_heads(&self) -> u32 {
        self.kv_heads
    }

    /// The cells of a slot.
    pub fn cells(&self, slot: u32) -> Range<u32> {
        let first = slot * self.options.context;
        first..first + self.options.context
    }

    /// What copies the first `count` tokens of one slot to another, all that later steps read of them. Rings are copied
    /// whole.
    pub fn copy(&self, from: u32, to: u32, count: u32) -> Recording {
        let mut recording = Recording::new();
        let mut copy = |data: Span, heads: u32, Cells { count: cells, ring }: Cells| {
            let words = (data.bytes / 4 / u64::from(cells) / u64::from(heads)) as u32;
            let (of_sequence, count) = ring.map_or((self.options.context, count), |ring| (ring, ring));
            let [from, to] = [from, to].map(|slot| slot * of_sequence);
            copy_cells::record(&mut recording, data, copy_cells::CellCopy { heads, cells, words, from, to, count });
        };
        copy(self.tokens.all(), 1, Cells::of_all_positions(self.options.cells()));
        for layer in &self.layers {
            match layer.quantized_kv {
                Some(quantized_kv) => copy(quantized_kv.rows, self.kv_heads, layer.cells),
                None => [layer.keys, layer.values].into_iter().for_each(|data| copy(data, self.kv_heads, layer.cells)),
            }
        }
        recording
    }
}

/// The rotary tables that layers use, for contexts of so many tokens.
fn create_rope_tables(
    (shape, spec): (&LlamaShape, &ModelSpec),
    engine: &mut dyn Engine,
    context: u32,
) -> Result<Vec<Option<Buffer>>> {
    let used: Vec<u32> = (0..shape.layers).map(|layer| spec.layer(layer).attention.rope_table).collect();
    let mut create = |table| {
        let buffer = engine.create("rope table", u64::from(context) * u64::from(shape.head_dim) * 4)?;
        write_rope_table(&spec.frequencies(shape, table, context), engine, buffer)?;
        Ok(buffer)
    };
    let tables = 0..=spec.rope_tables.len() as u32;
    tables.map(|table| used.contains(&table).then(|| create(table)).transpose()).collect()
}

/// Fills a rotary table, a piece after the other, as all of it may be large.
fn write_rope_table(frequencies: &[f32], engine: &mut dyn Engine, rope_table: Buffer) -> Result<()> {
    const PIECE: u64 = 1 << 14;
    let row = frequencies.len() as u64 * 8;
    let context = rope_table.bytes() / row;
    for first in (0..context).step_by(PIECE as usize) {
        let end = (first + PIECE).min(context);
        let piece = rope::table(frequencies, first as u32..end as u32);
        engine.upload(rope_table.span(first * row, (end - first) * row), bytemuck::cast_slice(&piece))?;
    }
    Ok(())
}
