//! What the inputs of a matrix have in common: the sums of the products of any two numbers of an input.
//!
//! Of numbers that are far apart nothing is kept: a matrix's input is divided into blocks of neighbours, so that memory
//! and time grow with its width and not with the square of it.

use multiversion::multiversion;
use rayon::prelude::*;

use super::channels::ChannelScales;
use super::source::SourceTensor;
use crate::format::codes::WORD_GROUP;
use crate::shape::{LlamaShape, Site, SiteAt};

/// Numbers of a block at most.
pub const LARGEST_BLOCK: usize = 768;
/// Rows of a tile of sums, which are stored beside each other.
const TILE_ROWS: usize = 4;
/// Columns of a tile.
const TILE_COLUMNS: usize = 16;
/// Inputs that are summed up before their sums are added: as many as stay in a processor's cache.
const INPUTS_AT_ONCE: usize = 256;

/// The moments of all matrices of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelMoments {
    /// By layer, then by [`Site`].
    sites: Vec<[InputMoments; Site::ALL.len()]>,
    head: InputMoments,
}

impl ModelMoments {
    /// Those of no inputs yet, of a model of this shape.
    pub fn new(shape: &LlamaShape) -> ModelMoments {
        let of_layer = |_| Site::ALL.map(|site| InputMoments::new(site.dims(shape).1 as usize));
        ModelMoments {
            sites: (0..shape.layers).map(of_layer).collect(),
            head: InputMoments::new(shape.model_dim as usize),
        }
    }

    /// Bytes of memory that those of a model of this shape take.
    pub fn bytes(shape: &LlamaShape) -> u64 {
        let of_width = |width: u32| blocks(width as usize).map(|(_, n)| 4 * panels(n) as u64).sum::<u64>();
        let layer: u64 = Site::ALL.into_iter().map(|site| of_width(site.dims(shape).1)).sum();
        u64::from(shape.layers) * layer + of_width(shape.model_dim)
    }

    /// Whether all sums are numbers.
    pub fn are_finite(&self) -> bool {
        self.sites.iter().flatten().chain([&self.head]).all(InputMoments::are_finite)
    }

    /// Those of a site's input.
    pub fn of_site(&self, at: SiteAt) -> &InputMoments {
        &self.sites[at.layer as usize][at.site as usize]
    }

    /// Those of a site's input, to add to.
    pub fn of_site_mut(&mut self, at: SiteAt) -> &mut InputMoments {
        &mut self.sites[at.layer as usize][at.site as usize]
    }

    /// Those of the head's input.
    pub fn of_head(&self) -> &InputMoments {
        &self.head
    }

    /// Those of the head's input, to add to.
    pub fn of_head_mut(&mut self) -> &mut InputMoments {
        &mut self.head
    }

    /// Makes them those of inputs that are divided by the scales.
    pub fn divide_by(&mut self, scales: &ChannelScales) {
        for (layer, of_layer) in (0..).zip(&mut self.sites) {
            for site in Site::ALL {
                if let Some(scales) = scales.of(SourceTensor::of_site(layer, site)[0]) {
                    of_layer[site as usize].divide_by(scales);
                }
            }
        }
        if let Some(scales) = scales.of(SourceTensor::Head) {
            self.head.divide_by(scales);
        }
    }
}

/// The moments of one input.
#[derive(Debug, Clone, PartialEq)]
pub struct InputMoments {
    width: usize,
    inputs: u64,
    blocks: Vec<MomentBlock>,
}

/// The moments of neighbours among the numbers of an input.
#[derive(Debug, Clone, PartialEq)]
pub struct MomentBlock {
    /// The first of them.
    pub first: usize,
    /// How many there are.
    pub n: usize,
    /// Of each tile of rows, the columns from the first tile that reaches the diagonal on: [4, columns] each.
    panels: Vec<f32>,
}

impl InputMoments {
    /// Those of no inputs yet, of so many numbers each, a multiple of 32.
    pub fn new(width: usize) -> InputMoments {
        let block = |(first, n)| MomentBlock { first, n, panels: vec![0.0; panels(n)] };
        InputMoments { width, inputs: 0, blocks: blocks(width).map(block).collect() }
    }

    /// Numbers of an input.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Inputs that were added.
    pub fn inputs(&self) -> u64 {
        self.inputs
    }

    /// The blocks, from the first number on.
    pub fn blocks(&self) -> &[MomentBlock] {
        &self.blocks
    }

    /// Whether all sums are numbers.
    pub fn are_finite(&self) -> bool {
        self.blocks.iter().all(|block| block.panels.iter().all(|sum| sum.is_finite()))
    }

    /// Adds inputs, [T, width].
    pub fn add(&mut self, inputs: &[f32]) {
        self.inputs += (inputs.len() / self.width) as u64;
        for part in inputs.chunks(INPUTS_AT_ONCE * self.width) {
            for block in &mut self.blocks {
                block.add(part, self.width);
            }
        }
    }

    fn divide_by(&mut self, scales: &[f32]) {
        for block in &mut self.blocks {
            let (n, scales) = (block.n, &scales[block.first..][..block.n]);
            for (row, panel) in tiles(n, &mut block.panels) {
                let (start, columns) = reach(row, n);
                for (at, sum) in panel.iter_mut().enumerate() {
                    *sum /= scales[row + at / columns] * scales[start + at % columns];
                }
            }
        }
    }
}

impl MomentBlock {
    /// The sum of products of the block's number `row` and its number `column`, which is `row` or a later one.
    pub fn sum(&self, row: usize, column: usize) -> f32 {
        let tile = row / TILE_ROWS * TILE_ROWS;
        let (start, columns) = reach(tile, self.n);
        self.panels[offset(tile, self.n) + (row - tile) * columns + column - start]
    }

    fn add(&mut self, inputs: &[f32], width: usize) {
        let (first, n) = (self.first, self.n);
        let tiles = tiles(n, &mut self.panels);
        tiles.into_par_iter().for_each(|(row, panel)| add_tiles(panel, (row, n), inputs, (width, first)));
    }
}

/// The first number and the length of each block of an input of such a width.
fn blocks(width: usize) -> impl Iterator<Item = (usize, usize)> {
    let (group, count) = (WORD_GROUP as usize, width.div_ceil(LARGEST_BLOCK));
    let start = move |at: usize| width / group * at / count * group;
    (0..count).map(move |at| (start(at), start(at + 1) - start(at)))
}

/// The first column that a tile of rows from `row` on has sums of, and how many there are from there.
fn reach(row: usize, n: usize) -> (usize, usize) {
    let start = row / TILE_COLUMNS * TILE_COLUMNS;
    (start, n - start)
}

/// Where the tile of rows from `row` on lies in the panels of n numbers.
fn offset(row: usize, n: usize) -> usize {
    let (whole, rest) = (row / TILE_COLUMNS, row % TILE_COLUMNS);
    let before: usize = (0..whole).map(|at| TILE_COLUMNS * (n - at * TILE_COLUMNS)).sum();
    before + rest * reach(row, n).1
}

/// Numbers of the panels of n numbers.
fn panels(n: usize) -> usize {
    offset(n, n)
}

/// The tiles of rows, each with its first row.
fn tiles(n: usize, mut panels: &mut [f32]) -> Vec<(usize, &mut [f32])> {
    let mut all = Vec::with_capacity(n / TILE_ROWS);
    for row in (0..n).step_by(TILE_ROWS) {
        let (tile, rest) = panels.split_at_mut(TILE_ROWS * reach(row, n).1);
        all.push((row, tile));
        panels = rest;
    }
    all
}

/// Adds the products of inputs, [T, width], of which the block has n numbers from `first` on, to the tiles of `row`.
#[multiversion(targets = "simd")]
fn add_tiles(panel: &mut [f32], (row, n): (usize, usize), inputs: &[f32], (width, first): (usize, usize)) {
    let (start, columns) = reach(row, n);
    for column in (start..n).step_by(TILE_COLUMNS) {
        let mut sums = [[0f32; TILE_COLUMNS]; TILE_ROWS];
        for input in inputs.chunks_exact(width) {
            let input = &input[first..];
            let a: [f32; TILE_ROWS] = std::array::from_fn(|r| input[row + r]);
            let b: [f32; TILE_COLUMNS] = std::array::from_fn(|c| input[column + c]);
            for r in 0..TILE_ROWS {
                for c in 0..TILE_COLUMNS {
                    sums[r][c] += a[r] * b[c];
                }
            }
        }
        for r in 0..TILE_ROWS {
            for c in 0..TILE_COLUMNS {
                panel[r * columns + column - start + c] += sums[r][c];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_whole_groups_and_all_of_an_input() {
        for width in [32, 576, 768, 800, 1536, 8960, 14336] {
            let mut end = 0;
            for (first, n) in blocks(width) {
                assert!(first == end && n > 0 && n <= LARGEST_BLOCK && n.is_multiple_of(32), "{first}, {n} of {width}");
                end += n;
            }
            assert_eq!(end, width);
        }
    }

    #[test]
    fn every_sum_stands_at_its_place() {
        let (width, tokens) = (800, INPUTS_AT_ONCE + 3);
        let inputs: Vec<f32> = (0..tokens * width).map(|at| ((at * 7919) % 23) as f32 - 11.0).collect();
        let mut moments = InputMoments::new(width);
        let (first, second) = inputs.split_at(5 * width);
        moments.add(first);
        moments.add(second);
        let scales: Vec<f32> = (0..width).map(|at| if at % 3 == 0 { 0.5 } else { 2.0 }).collect();
        let mut divided = moments.clone();
        divided.divide_by(&scales);
        assert_eq!((moments.blocks().len(), moments.inputs()), (2, tokens as u64));
        for (block, divided) in moments.blocks().iter().zip(divided.blocks()) {
            let last = block.n - 1;
            for (i, j) in [(0, 0), (0, last), (17, 17), (17, 18), (31, 200), (last, last)] {
                let (a, b) = (block.first + i, block.first + j);
                let sum: f32 = inputs.chunks_exact(width).map(|input| input[a] * input[b]).sum();
                assert_eq!(block.sum(i, j), sum, "{a}, {b}");
                assert_eq!(divided.sum(i, j), sum / (scales[a] * scales[b]));
            }
        }
    }
}
