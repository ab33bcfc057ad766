//! What the host writes for the kernels of a step, and the depths that they read.

use std::ops::Range;

use super::bits_read::TokenDepths;
use crate::engine::{Engine, Traits};
use crate::error::Result;
use crate::kernels::product::gather_tokens;
use crate::kernels::product::largest_tile;
use crate::kernels::router::Control;
use crate::kernels::sample::token::Sampled;
use crate::kernels::step_rows::StepRow;
use crate::precision::Depth;
use crate::recording::{Buffer, Span};
use crate::sampling::Choice;
use crate::shape::{LlamaShape, Site};

/// Tokens of one step at most; longer prompts are cut.
pub const STEP_TOKENS: u32 = 2048;
/// Tokens that one step chooses at most.
pub const STEP_CHOICES: u32 = 8;

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

/// The most slices that a sequence may read, everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DepthLimits {
    /// At the embedding.
    pub embed: Depth,
    /// At the head.
    pub head: Depth,
    /// At the sites of each layer, first to last.
    pub layers: Vec<Depth>,
}

/// What the host writes for the kernels of a step, and the depths that they read.
///
/// There is an entry for each row of a step, or for each slot: that of the sequence whose number it is.
pub struct Inputs {
    /// [STEP_TOKENS] of [`StepRow`].
    rows: Buffer,
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
    /// [slots, 4 L] of [`Control`].
    control: Buffer,
    /// [STEP_CHOICES] of [`Choice`], of the step that is run.
    choices: Buffer,
    /// [slots] of [`Sampled`]: the token that each sequence's last step sampled.
    sampled: Buffer,
    sites: u32,
    written: Written,
}

/// What the buffers hold that is written only when it changes.
#[derive(Default)]
struct Written {
    /// [`Inputs::depths`]: words from one site's row to the next one's, and the depth of each layer. None where routers
    /// wrote there.
    depths: Option<(u32, Vec<Depth>)>,
    order: Option<Vec<Depth>>,
    head: Option<Depth>,
}

const _: () = assert!(STEP_TOKENS <= gather_tokens::TOKENS);

/// Words from one site's depths to the next one's: bindings begin at multiples of 256 bytes, and a step of few tokens
/// should read back little.
fn depth_stride(tokens: u32) -> u32 {
    tokens.next_multiple_of(64)
}

impl Inputs {
    /// Buffers for steps of up to [`STEP_TOKENS`] tokens of any of `slots` sequences.
    pub fn new(shape: &LlamaShape, engine: &mut dyn Engine, slots: u32) -> Result<Inputs> {
        let row = u64::from(STEP_TOKENS) * 4;
        let (sites, slots) = (shape.layers * Site::ALL.len() as u32, u64::from(slots));
        let inputs = Inputs {
            rows: engine.create("rows", u64::from(STEP_TOKENS) * StepRow::BYTES)?,
            targets: engine.create("targets", row)?,
            depths: engine.create("depths", u64::from(sites) * row)?,
            order: engine.create("order", u64::from(shape.layers) * row)?,
            head_depths: engine.create("head depths", row)?,
            head_order: engine.create("head order", row)?,
            control: engine.create("control", slots * u64::from(sites) * size_of::<Control>() as u64)?,
            choices: engine.create("choices", u64::from(STEP_CHOICES) * size_of::<Choice>() as u64)?,
            sampled: engine.create("sampled", slots * Sampled::BYTES)?,
            sites,
            written: Written::default(),
        };
        assert!(STEP_TOKENS.is_multiple_of(largest_tile(engine.traits())), "steps are whole tiles");
        Ok(inputs)
    }

    /// The step's rows, `[T]` of [`StepRow`].
    pub fn rows(&self, tokens: u32) -> Span {
        self.rows.span(0, u64::from(tokens) * StepRow::BYTES)
    }

    /// The token that each sequence's last step sampled, [slots] of [`Sampled`].
    pub fn sampled(&self) -> Span {
        self.sampled.all()
    }

    /// How the tokens are chosen that follow the step's last `count` tokens, one after each of them.
    pub fn choices(&self, count: u32) -> Span {
        self.choices.span(0, u64::from(count) * size_of::<Choice>() as u64)
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

    /// The step's tokens in a layer, under a uniform plan, in whole tiles of so many, of which the step's come first.
    pub fn order(&self, layer: u32, tokens: u32, tile: u32) -> Span {
        let row = u64::from(layer * STEP_TOKENS) * 4;
        self.order.span(row, u64::from(tokens.next_multiple_of(tile)) * 4)
    }

    /// Depths of tokens at the head, `[T]`.
    pub fn head_depths(&self, tokens: u32) -> Span {
        self.head_depths.span(0, u64::from(tokens) * 4)
    }

    /// The same at the head.
    pub fn head_order(&self, tokens: u32, tile: u32) -> Span {
        self.head_order.span(0, u64::from(tokens.next_multiple_of(tile)) * 4)
    }

    /// A [`Control`] for each site of each sequence, [slots, 4 L].
    pub fn control(&self) -> Span {
        self.control.all()
    }

    /// The first of a slot's entries in [`Inputs::control`].
    pub fn first_control(&self, slot: u32) -> u32 {
        slot * self.sites
    }

    /// Writes a step's rows.
    pub fn write_rows(&self, engine: &mut dyn Engine, rows: &[StepRow]) {
        engine.write(self.rows(rows.len() as u32), bytemuck::cast_slice(rows));
    }

    /// Makes sure that a step of so many tokens under a uniform plan finds these depths.
    pub fn write_uniform(&mut self, engine: &mut dyn Engine, limits: &DepthLimits, tokens: u32) {
        let key = (depth_stride(tokens), limits.layers.as_slice());
        if self.written.depths.as_ref().is_none_or(|(stride, layers)| (*stride, layers.as_slice()) != key) {
            let row = depth_stride(tokens) as usize * Site::ALL.len();
            let depths: Vec<u32> = limits.layers.iter().flat_map(|depth| vec![depth.slices() as u32; row]).collect();
            engine.write(self.all_depths(tokens), bytemuck::cast_slice(&depths));
            self.written.depths = Some((key.0, key.1.to_vec()));
        }
        if self.written.order.as_ref() != Some(&limits.layers) {
            let order = |depth: &Depth| gather_tokens::uniform(0..STEP_TOKENS, depth.slices() as u32);
            write_all(engine, self.order, &limits.layers.iter().flat_map(order).collect::<Vec<u32>>());
            self.written.order = Some(limits.layers.clone());
        }
    }

    /// Makes sure that a step of so many tokens of one sequence finds its depths: at the head, and where routers do not
    /// write them in the layers.
    pub fn write_limits(&mut self, engine: &mut dyn Engine, limits: &DepthLimits, tokens: u32, routed: bool) {
        if routed {
            self.leave_depths_to_routers();
        } else {
            self.write_uniform(engine, limits, tokens);
        }
        self.write_head(engine, limits.head);
    }

    /// Makes sure that a step of few tokens, each of a sequence with these limits, finds its depths: at the head, and
    /// where routers do not write them in the layers.
    pub fn write_each(&mut self, engine: &mut dyn Engine, limits: &[&DepthLimits], routed: bool) {
        let tokens = limits.len() as u32;
        let alike = |of: fn(&DepthLimits) -> &[Depth]| limits.iter().all(|own| of(own) == of(limits[0]));
        if alike(|own| std::slice::from_ref(&own.head)) {
            self.write_head(engine, limits[0].head);
        } else {
            let depths: Vec<u32> = limits.iter().map(|own| own.head.slices() as u32).collect();
            engine.write(self.head_depths(tokens), bytemuck::cast_slice(&depths));
            self.written.head = None;
        }
        if routed {
            self.leave_depths_to_routers();
        } else if alike(|own| &own.layers) {
            self.write_uniform(engine, limits[0], tokens);
        } else {
            let row = depth_stride(tokens) as usize;
            let of_site = |site: usize| {
                let own = limits.iter().map(move |own| own.layers[site / Site::ALL.len()].slices() as u32);
                own.chain(std::iter::repeat(1)).take(row)
            };
            let depths: Vec<u32> = (0..self.sites as usize).flat_map(of_site).collect();
            engine.write(self.all_depths(tokens), bytemuck::cast_slice(&depths));
            self.written.depths = None;
        }
    }

    /// To be called before a step in which routers write the depths.
    pub fn leave_depths_to_routers(&mut self) {
        self.written.depths = None;
    }

    /// Makes sure that the head is read at this depth.
    pub fn write_head(&mut self, engine: &mut dyn Engine, depth: Depth) {
        if self.written.head != Some(depth) {
            let slices = depth.slices() as u32;
            write_all(engine, self.head_depths, &[slices; STEP_TOKENS as usize]);
            write_all(engine, self.head_order, &gather_tokens::uniform(0..STEP_TOKENS, slices));
            self.written.head = Some(depth);
        }
    }

    /// Sets every router's threshold for a slot's sequence, and the most slices that it may read in each layer.
    pub fn write_control(&self, engine: &mut dyn Engine, slot: u32, threshold: f32, layers: &[Depth]) {
        let control = |depth: &Depth| [Control { threshold, most: depth.slices() as u32 }; Site::ALL.len()];
        let controls: Vec<Control> = layers.iter().flat_map(control).collect();
        let bytes: &[u8] = bytemuck::cast_slice(&controls);
        engine.write(self.control.span(u64::from(slot) * bytes.len() as u64, bytes.len() as u64), bytes);
    }

    /// Writes how the tokens are chosen that follow the step's last ones.
    pub fn write_choices(&self, engine: &mut dyn Engine, choices: &[Choice]) {
        engine.write(self.choices(choices.len() as u32), bytemuck::cast_slice(choices));
    }

    /// Writes the tokens that follow those of a step.
    pub fn write_targets(&self, engine: &mut dyn Engine, targets: &[u32]) {
        engine.write(self.targets(0, targets.len() as u32), bytemuck::cast_slice(targets));
    }
}

fn write_all<T: bytemuck::Pod>(engine: &mut dyn Engine, buffer: Buffer, values: &[T]) {
    engine.write(buffer.all(), bytemuck::cast_slice(values));
}
