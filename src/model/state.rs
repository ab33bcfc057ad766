//! Buffers that outlive a step: the cache, what the host tells the kernels of the step, and the depths they read.

use std::ops::Range;

use super::bits_read::TokenDepths;
use super::limits;
use crate::engine::{Engine, Traits};
use crate::error::{Error, Result};
use crate::kernels::attention_quantized;
use crate::kernels::product::largest_tile;
use crate::kernels::quantized_cache::{GROUP, Kept, Layout, token_bytes};
use crate::kernels::routers::Control;
use crate::kernels::sample_token::Sampled;
use crate::kernels::{gather_tokens, rope_cache};
use crate::precision::{CacheType, Depth};
use crate::recording::{Buffer, Span};
use crate::sampling::Choice;
use crate::shape::{LlamaShape, Site};

/// Tokens of one step at most; longer prompts are cut.
pub const STEP_TOKENS: u32 = 2048;

/// Tokens of one step at most where nothing else is asked for. More take more work space, and are worth it where
/// products are so fast that it counts what each step leaves of tiles unfilled. A software renderer cannot be stopped
/// within a dispatch, so that its dispatches are to be short.
pub fn default_step_tokens(traits: Traits) -> u32 {
    match (traits.software, traits.cooperative_matrix) {
        (false, true) => STEP_TOKENS,
        (true, _) if traits.subgroup > 1 => 128,
        _ => 512,
    }
}

/// How many tokens a model's cache holds, and how it keeps their keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheOptions {
    /// C
    pub context: u32,
    /// How keys and values are kept.
    pub cache_type: CacheType,
}

impl CacheOptions {
    /// Fails where the context is 0, more than the model was trained for or more than the device can hold or attend to,
    /// and where its heads cannot be cut into the groups of a cache in few bits, or not on such a device.
    pub fn check(self, shape: &LlamaShape, traits: Traits) -> Result<()> {
        let CacheOptions { context, cache_type } = self;
        if context == 0 || context > shape.max_context {
            return Err(Error::argument("context", format!("1 to {} tokens", shape.max_context), context));
        }
        limits::check_context(self, shape, traits)?;
        let Some(layout) = Layout::of(cache_type, shape.head_dim) else { return Ok(()) };
        if !shape.head_dim.is_multiple_of(GROUP as u32) {
            let expected = format!("f16 for a model whose heads have no multiple of {GROUP} dimensions");
            return Err(Error::argument("cache type", expected, format!("{cache_type} for {}", shape.head_dim)));
        }
        // What computes without subgroups runs the kernels' references.
        if traits.packed_dot && traits.subgroup > 1 && !attention_quantized::fits(traits, layout) {
            let (needs, has) = (attention_quantized::least_subgroup(layout), traits.subgroup);
            let expected = format!("f16 for heads of {} on a device with subgroups of {has}", shape.head_dim);
            return Err(Error::argument("cache type", expected, format!("{cache_type}, which needs {needs}")));
        }
        Ok(())
    }
}

impl From<u32> for CacheOptions {
    /// So many tokens, in f16.
    fn from(context: u32) -> CacheOptions {
        CacheOptions { context, cache_type: CacheType::default() }
    }
}

/// Keys and values of every layer, and the turns of the positions.
pub struct Cache {
    /// How many tokens, and how they are kept.
    pub options: CacheOptions,
    /// First layer to last.
    pub layers: Vec<LayerCache>,
    /// [C, A/2, 2] f32
    pub turns: Buffer,
}

/// Keys and values of one layer.
#[derive(Debug, Clone, Copy)]
pub struct LayerCache {
    /// [K, C, A] f16. Where they are kept in few bits, all layers share these, which hold what a step itself makes, and
    /// what it reads of earlier tokens where its kernels read f16.
    pub keys: Buffer,
    /// [K, C, A] f16, as the keys.
    pub values: Buffer,
    /// Where they are kept in few bits.
    pub kept: Option<Kept>,
}

impl Cache {
    /// An empty cache, as options say that were checked. Fails where the device has no room.
    pub fn new(shape: &LlamaShape, engine: &mut dyn Engine, options: CacheOptions) -> Result<Cache> {
        let CacheOptions { context, cache_type } = options;
        Cache::create(shape, engine, options).map_err(|error| match error {
            Error::Device { device, message } => {
                let bytes = u64::from(shape.layers) * u64::from(context) * token_bytes(cache_type, shape);
                Error::NoRoomForContext { device, context, bytes, message }
            }
            other => other,
        })
    }

    fn create(shape: &LlamaShape, engine: &mut dyn Engine, options: CacheOptions) -> Result<Cache> {
        let CacheOptions { context, cache_type } = options;
        let layout = Layout::of(cache_type, shape.head_dim);
        let bytes = u64::from(shape.kv_dim()) * u64::from(context) * 2;
        let turns = engine.create("turns", u64::from(context) * u64::from(shape.head_dim) * 4)?;
        write_turns(shape, engine, turns)?;
        let halves = |engine: &mut dyn Engine| -> Result<LayerCache> {
            Ok(LayerCache { keys: engine.create("keys", bytes)?, values: engine.create("values", bytes)?, kept: None })
        };
        let layers = match layout {
            None => (0..shape.layers).map(|_| halves(engine)).collect::<Result<_>>()?,
            Some(layout) => {
                let shared = halves(engine)?;
                let bytes = u64::from(context) * token_bytes(cache_type, shape);
                let layer = |_| {
                    let rows = engine.create("keys and values", bytes)?.all();
                    Ok(LayerCache { kept: Some(Kept { rows, layout }), ..shared })
                };
                (0..shape.layers).map(layer).collect::<Result<_>>()?
            }
        };
        Ok(Cache { options, layers, turns })
    }
}

/// Fills the table of turns, a piece after the other, as all of it may be large.
fn write_turns(shape: &LlamaShape, engine: &mut dyn Engine, turns: Buffer) -> Result<()> {
    const PIECE: u64 = 1 << 14;
    let row = u64::from(shape.head_dim) * 4;
    let context = turns.bytes() / row;
    for first in (0..context).step_by(PIECE as usize) {
        let end = (first + PIECE).min(context);
        let piece = rope_cache::turns(shape, first as u32..end as u32);
        engine.upload(turns.span(first * row, (end - first) * row), bytemuck::cast_slice(&piece))?;
    }
    Ok(())
}

/// What the host tells the kernels of a step, and the depths that they read.
pub struct Inputs {
    ids: Buffer,
    positions: Buffer,
    targets: Buffer,
    /// [4 L, T] u32, rows of [`depth_stride`] words: the depth of each token at each site. Written by the host for a
    /// uniform plan, by the routers for a routed one.
    depths: Buffer,
    /// [L, STEP_TOKENS] u32: the step's tokens in tiles, for a uniform plan, which can be as deep in each layer as its
    /// slices are there.
    order: Buffer,
    /// [STEP_TOKENS] u32 each: the depth of all tokens at the head.
    head_depths: Buffer,
    head_order: Buffer,
    /// [4 L] of [`Control`].
    control: Buffer,
    /// [STEP_TOKENS] u32: who gets the depth chosen for each token.
    deal: Buffer,
    /// [C + 1] u32: the token of each position, and room for one chosen after the last.
    history: Buffer,
    /// One [`Choice`].
    choice: Buffer,
    sites: u32,
    /// Tokens of the largest tile.
    tile: u32,
}

const _: () = assert!(STEP_TOKENS <= gather_tokens::TOKENS);

/// Words from one site's depths to the next one's: bindings begin at multiples of 256 bytes, and a step of few tokens
/// should read back little.
fn depth_stride(tokens: u32) -> u32 {
    tokens.next_multiple_of(64)
}

impl Inputs {
    /// Buffers for steps of up to [`STEP_TOKENS`] tokens in a context of `context`.
    pub fn new(shape: &LlamaShape, engine: &mut dyn Engine, context: u32) -> Result<Inputs> {
        let row = u64::from(STEP_TOKENS) * 4;
        let sites = shape.layers * Site::ALL.len() as u32;
        let inputs = Inputs {
            ids: engine.create("ids", row)?,
            positions: engine.create("positions", row)?,
            targets: engine.create("targets", row)?,
            depths: engine.create("depths", u64::from(sites) * row)?,
            order: engine.create("order", u64::from(shape.layers) * row)?,
            head_depths: engine.create("head depths", row)?,
            head_order: engine.create("head order", row)?,
            control: engine.create("control", u64::from(sites) * size_of::<Control>() as u64)?,
            deal: engine.create("deal", row)?,
            history: engine.create("history", (u64::from(context) + 1) * 4)?,
            choice: engine.create("choice", size_of::<Choice>() as u64)?,
            sites,
            tile: largest_tile(engine.traits()),
        };
        assert!(STEP_TOKENS.is_multiple_of(inputs.tile), "steps are whole tiles");
        inputs.write_head_depth(engine, Depth::FULL);
        inputs.write_no_deal(engine);
        Ok(inputs)
    }

    /// Token ids of the step, `[T]`.
    pub fn ids(&self, tokens: u32) -> Span {
        self.ids.span(0, u64::from(tokens) * 4)
    }

    /// Where the choice after the step is written: its token is the first id of the next step.
    pub fn sampled(&self) -> Span {
        self.ids.span(0, Sampled::BYTES)
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
    pub fn depths(&self, site: u32, tokens: u32) -> Span {
        self.depths.span(u64::from(site) * u64::from(depth_stride(tokens)) * 4, u64::from(tokens) * 4)
    }

    /// Depths of the step's tokens at some sites, [S, T] u32, in rows of so many entries.
    pub fn depths_of(&self, sites: &Range<u32>, tokens: u32) -> (Span, u32) {
        let row = depth_stride(tokens);
        let first = self.depths(sites.start, tokens);
        (Span { bytes: u64::from(sites.len() as u32 * row) * 4, ..first }, row)
    }

    /// Depths of the step's tokens at all sites, for [`Inputs::token_depths`].
    pub fn all_depths(&self, tokens: u32) -> Span {
        self.depths.span(0, u64::from(self.sites) * u64::from(depth_stride(tokens)) * 4)
    }

    /// What [`Inputs::all_depths`] read back means.
    pub fn token_depths(&self, tokens: u32, read_back: &[u8]) -> TokenDepths {
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(read_back);
        let rows = words.chunks_exact(depth_stride(tokens) as usize);
        let depths = rows.flat_map(|row| row[..tokens as usize].iter().map(|depth| *depth as u8)).collect();
        TokenDepths::new(self.sites as usize / Site::ALL.len(), tokens as usize, depths)
    }

    /// The step's tokens in tiles in a layer, under a uniform plan; whole tiles, of which the step's tokens come first.
    pub fn order(&self, layer: u32, tokens: u32) -> Span {
        let row = u64::from(layer * STEP_TOKENS) * 4;
        self.order.span(row, u64::from(tokens.next_multiple_of(self.tile)) * 4)
    }

    /// Depths of tokens at the head, `[T]`.
    pub fn head_depths(&self, tokens: u32) -> Span {
        self.head_depths.span(0, u64::from(tokens) * 4)
    }

    /// Tokens in tiles at the head.
    pub fn head_order(&self, tokens: u32) -> Span {
        self.head_order.span(0, u64::from(tokens.next_multiple_of(self.tile)) * 4)
    }

    /// A [`Control`] for each site.
    pub fn control(&self) -> Span {
        self.control.all()
    }

    /// Who gets the depth chosen for each of the step's tokens, `[T]`.
    pub fn deal(&self, tokens: u32) -> Span {
        self.deal.span(0, u64::from(tokens) * 4)
    }

    /// The token of each position, and of the one that follows.
    pub fn history(&self) -> Span {
        self.history.all()
    }

    /// How the token is chosen that follows the step.
    pub fn choice(&self) -> Span {
        self.choice.all()
    }

    /// Sets the depth of every token at the sites of each layer, for steps of as many tokens as `tokens` or of another
    /// number for which [`Inputs::same_rows`].
    pub fn write_depths(&self, engine: &mut dyn Engine, layers: &[Depth], tokens: u32) {
        let row = depth_stride(tokens) as usize * Site::ALL.len();
        let depths: Vec<u32> = layers.iter().flat_map(|depth| vec![depth.slices() as u32; row]).collect();
        engine.write(self.all_depths(tokens), bytemuck::cast_slice(&depths));
    }

    /// Whether the depths of steps of so many tokens lie at the same places.
    pub fn same_rows(tokens: u32, others: u32) -> bool {
        depth_stride(tokens) == depth_stride(others)
    }

    /// Sets the tiles of each layer to its depth.
    pub fn write_orders(&self, engine: &mut dyn Engine, layers: &[Depth]) {
        let order = |depth: &Depth| gather_tokens::uniform(0..STEP_TOKENS, depth.slices() as u32);
        write_all(engine, self.order, &layers.iter().flat_map(order).collect::<Vec<u32>>());
    }

    /// Sets every router's threshold, and the most slices that may be read in each layer.
    pub fn write_control(&self, engine: &mut dyn Engine, threshold: f32, layers: &[Depth]) {
        let control = |depth: &Depth| [Control { threshold, most: depth.slices() as u32 }; Site::ALL.len()];
        write_all(engine, self.control, &layers.iter().flat_map(control).collect::<Vec<Control>>());
    }

    /// Sets the depth of every token at the head.
    pub fn write_head_depth(&self, engine: &mut dyn Engine, depth: Depth) {
        let depth = depth.slices() as u32;
        write_all(engine, self.head_depths, &[depth; STEP_TOKENS as usize]);
        write_all(engine, self.head_order, &gather_tokens::uniform(0..STEP_TOKENS, depth));
    }

    /// Writes who gets the depth chosen for each token of a step: a permutation of them.
    pub fn write_deal(&self, engine: &mut dyn Engine, deal: &[u32]) {
        engine.write(self.deal(deal.len() as u32), bytemuck::cast_slice(deal));
    }

    /// Lets every token have the depth that was chosen for it.
    pub fn write_no_deal(&self, engine: &mut dyn Engine) {
        self.write_deal(engine, &Vec::from_iter(0..STEP_TOKENS));
    }

    /// Writes the ids of a step, and its positions from `first` on.
    pub fn write_tokens(&self, engine: &mut dyn Engine, ids: &[u32], first: u32) {
        let bytes: &[u8] = bytemuck::cast_slice(ids);
        engine.write(self.ids(ids.len() as u32), bytes);
        engine.write(self.history.span(u64::from(first) * 4, bytes.len() as u64), bytes);
        self.write_positions(engine, first, ids.len() as u32);
    }

    /// Writes the positions of a step, whose ids are there.
    pub fn write_positions(&self, engine: &mut dyn Engine, first: u32, tokens: u32) {
        let positions: Vec<u32> = (first..first + tokens).collect();
        engine.write(self.positions(tokens), bytemuck::cast_slice(&positions));
    }

    /// Writes how the token is chosen that follows the step.
    pub fn write_choice(&self, engine: &mut dyn Engine, choice: &Choice) {
        engine.write(self.choice(), bytemuck::bytes_of(choice));
    }

    /// Writes the tokens that follow those of a step.
    pub fn write_targets(&self, engine: &mut dyn Engine, targets: &[u32]) {
        engine.write(self.targets(0, targets.len() as u32), bytemuck::cast_slice(targets));
    }
}

fn write_all<T: bytemuck::Pod>(engine: &mut dyn Engine, buffer: Buffer, values: &[T]) {
    engine.write(buffer.all(), bytemuck::cast_slice(values));
}
