//! Which slices a model read: for each token at each site, and summed up.

use crate::precision::SLICE_BITS;
use crate::shape::{LlamaShape, Site};

/// The depths that a step read: of each of its tokens at each site of each layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenDepths {
    layers: usize,
    /// Slices, [L, SITES, T].
    depths: Vec<u8>,
    tokens: usize,
}

impl TokenDepths {
    /// The depths in `depths`, [L, SITES, T]; panics where their number is not that.
    pub fn new(layers: usize, tokens: usize, depths: Vec<u8>) -> TokenDepths {
        assert_eq!(depths.len(), layers * Site::ALL.len() * tokens, "depths of {layers} layers and {tokens} tokens");
        TokenDepths { layers, depths, tokens }
    }

    /// The depths of several steps of one model, one after the other; panics where there is none.
    pub fn concat(steps: &[TokenDepths]) -> TokenDepths {
        let layers = steps.first().expect("at least one step").layers;
        let row = |layer, site| steps.iter().flat_map(move |step| step.at(layer, site).iter().copied());
        let depths = (0..layers).flat_map(|layer| Site::ALL.into_iter().flat_map(move |site| row(layer, site)));
        TokenDepths::new(layers, steps.iter().map(TokenDepths::tokens).sum(), depths.collect())
    }

    /// T
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Slices read of each token at a site, `[T]`.
    pub fn at(&self, layer: usize, site: Site) -> &[u8] {
        &self.depths[(layer * Site::ALL.len() + site as usize) * self.tokens..][..self.tokens]
    }

    /// Those of one token.
    pub fn of_token(&self, token: usize) -> TokenDepths {
        let row = |layer, site| self.at(layer, site)[token];
        let depths = (0..self.layers).flat_map(|layer| Site::ALL.map(|site| row(layer, site))).collect();
        TokenDepths::new(self.layers, 1, depths)
    }

    /// Bits read for one token, weighted by parameters.
    pub fn token_bits(&self, shape: &LlamaShape, token: usize) -> f32 {
        let mut tally = BitsRead::new(shape);
        tally.add(&self.of_token(token));
        tally.mean()
    }
}

/// Bits read over any number of tokens. Averages are weighted by the parameters of the sites.
#[derive(Debug, Clone, PartialEq)]
pub struct BitsRead {
    /// Sum of the slices read, [L][SITES].
    slices: Vec<[u64; 4]>,
    /// Weights of each site.
    params: [u64; 4],
    tokens: u64,
}

impl BitsRead {
    /// Nothing read yet of a model of this shape.
    pub fn new(shape: &LlamaShape) -> BitsRead {
        let params = Site::ALL.map(|site| site.dims(shape)).map(|(rows, input)| u64::from(rows) * u64::from(input));
        BitsRead { slices: vec![[0; 4]; shape.layers as usize], params, tokens: 0 }
    }

    /// Adds a step's tokens.
    pub fn add(&mut self, depths: &TokenDepths) {
        for (layer, sums) in self.slices.iter_mut().enumerate() {
            for site in Site::ALL {
                sums[site as usize] += depths.at(layer, site).iter().map(|depth| u64::from(*depth)).sum::<u64>();
            }
        }
        self.tokens += depths.tokens() as u64;
    }

    /// Adds all tokens of another sum, of the same model.
    pub fn add_all(&mut self, other: &BitsRead) {
        for (sums, more) in self.slices.iter_mut().flatten().zip(other.slices.iter().flatten()) {
            *sums += more;
        }
        self.tokens += other.tokens;
    }

    /// Tokens added.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Over all sites; 0 before the first token.
    pub fn mean(&self) -> f32 {
        self.mean_of(0..self.slices.len(), &Site::ALL)
    }

    /// Over one kind of site in all layers.
    pub fn of_site(&self, site: Site) -> f32 {
        self.mean_of(0..self.slices.len(), &[site])
    }

    /// Over one layer.
    pub fn of_layer(&self, layer: usize) -> f32 {
        self.mean_of(layer..layer + 1, &Site::ALL)
    }

    /// At one site of one layer.
    pub fn at(&self, layer: usize, site: Site) -> f32 {
        self.mean_of(layer..layer + 1, &[site])
    }

    fn mean_of(&self, layers: std::ops::Range<usize>, sites: &[Site]) -> f32 {
        let params = |site: &Site| self.params[*site as usize];
        let all: u64 = sites.iter().map(params).sum::<u64>() * layers.len() as u64 * self.tokens.max(1);
        let read: u64 =
            self.slices[layers].iter().flat_map(|sums| sites.iter().map(|s| sums[*s as usize] * params(s))).sum();
        (read as f64 * f64::from(SLICE_BITS) / all as f64) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_one_after_the_other_are_one_step() {
        // One layer: a step of two tokens, and one of one.
        let steps = [TokenDepths::new(1, 2, vec![1, 2, 3, 4, 1, 1, 2, 2]), TokenDepths::new(1, 1, vec![4, 3, 2, 1])];
        let all = TokenDepths::concat(&steps);
        assert_eq!(Site::ALL.map(|site| all.at(0, site)), [&[1, 2, 4], &[3, 4, 3], &[1, 1, 2], &[2, 2, 1]]);
    }
}
