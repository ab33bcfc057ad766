//! Buffers that outlive a step: the cache, and what the host tells the kernels of the step.

use crate::engine::Engine;
use crate::error::Result;
use crate::kernels::rope_cache;
use crate::precision::Depth;
use crate::recording::{Buffer, Span};
use crate::shape::{LlamaShape, Site};

/// Tokens of one step at most; longer prompts are cut.
pub const STEP_TOKENS: u32 = 256;

/// Keys and values of every layer, [K, C, A] f16 each, and the turns of the positions.
pub struct Cache {
    /// C
    pub context: u32,
    /// First layer to last.
    pub layers: Vec<LayerCache>,
    /// [C, A/2, 2] f32
    pub turns: Buffer,
}

/// Keys and values of one layer.
#[derive(Debug, Clone, Copy)]
pub struct LayerCache {
    /// [K, C, A] f16
    pub keys: Buffer,
    /// [K, C, A] f16
    pub values: Buffer,
}

impl Cache {
    /// An empty cache of `context` tokens.
    pub fn new(shape: &LlamaShape, engine: &mut dyn Engine, context: u32) -> Result<Cache> {
        let bytes = u64::from(shape.kv_dim()) * u64::from(context) * 2;
        let turns = rope_cache::turns(shape, context);
        let turns: &[u8] = bytemuck::cast_slice(&turns);
        let turns_buffer = engine.create("turns", turns.len() as u64)?;
        engine.write(turns_buffer.all(), turns);
        let layer = |_| Ok(LayerCache { keys: engine.create("keys", bytes)?, values: engine.create("values", bytes)? });
        let layers = (0..shape.layers).map(layer).collect::<Result<_>>()?;
        Ok(Cache { context, layers, turns: turns_buffer })
    }
}

/// What the host writes before a step.
pub struct Inputs {
    ids: Buffer,
    positions: Buffer,
    targets: Buffer,
    /// [4 L + 1, STEP_TOKENS] u32: the depth of each token at each site, and at the head.
    depths: Buffer,
    layers: u32,
}

impl Inputs {
    /// Buffers for steps of up to [`STEP_TOKENS`] tokens.
    pub fn new(shape: &LlamaShape, engine: &mut dyn Engine) -> Result<Inputs> {
        let row = u64::from(STEP_TOKENS) * 4;
        let rows = u64::from(shape.layers) * Site::ALL.len() as u64 + 1;
        Ok(Inputs {
            ids: engine.create("ids", row)?,
            positions: engine.create("positions", row)?,
            targets: engine.create("targets", row)?,
            depths: engine.create("depths", rows * row)?,
            layers: shape.layers,
        })
    }

    /// Token ids of the step, `[T]`.
    pub fn ids(&self, tokens: u32) -> Span {
        self.ids.span(0, u64::from(tokens) * 4)
    }

    /// Positions of the step's tokens, `[T]`.
    pub fn positions(&self, tokens: u32) -> Span {
        self.positions.span(0, u64::from(tokens) * 4)
    }

    /// The tokens that follow tokens `first` to `first + tokens` of the step.
    pub fn targets(&self, first: u32, tokens: u32) -> Span {
        self.targets.span(u64::from(first) * 4, u64::from(tokens) * 4)
    }

    /// Depths of the step's tokens at a site, `[T]`.
    pub fn depths(&self, layer: u32, site: Site, tokens: u32) -> Span {
        self.depth_row(layer * Site::ALL.len() as u32 + site as u32, tokens)
    }

    /// Depths of the step's tokens at the head, `[T]`.
    pub fn head_depths(&self, tokens: u32) -> Span {
        self.depth_row(self.layers * Site::ALL.len() as u32, tokens)
    }

    fn depth_row(&self, row: u32, tokens: u32) -> Span {
        self.depths.span(u64::from(row) * u64::from(STEP_TOKENS) * 4, u64::from(tokens) * 4)
    }

    /// Sets every token's depth at every site; the head reads all slices.
    pub fn write_depths(&self, engine: &mut dyn Engine, depth: Depth) {
        let words = (self.depths.bytes() / 4) as usize;
        let mut depths = vec![depth.slices() as u32; words];
        depths[words - STEP_TOKENS as usize..].fill(Depth::FULL.slices() as u32);
        engine.write(self.depths.all(), bytemuck::cast_slice(&depths));
    }

    /// Writes the ids of a step, and its positions from `first` on.
    pub fn write_tokens(&self, engine: &mut dyn Engine, ids: &[u32], first: u32) {
        let tokens = ids.len() as u32;
        let positions: Vec<u32> = (first..first + tokens).collect();
        engine.write(self.ids(tokens), bytemuck::cast_slice(ids));
        engine.write(self.positions(tokens), bytemuck::cast_slice(&positions));
    }

    /// Writes the tokens that follow those of a step.
    pub fn write_targets(&self, engine: &mut dyn Engine, targets: &[u32]) {
        engine.write(self.targets(0, targets.len() as u32), bytemuck::cast_slice(targets));
    }
}
