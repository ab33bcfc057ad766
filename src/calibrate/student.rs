//! What is trained: the ranges of every group and the routers, and a block that reads the weights through them.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData, activation};
use rand::RngExt;

use super::network::{Network, SiteProducts, beside, unit_rms};
use super::products::{DepthWeights, product_by_depth};
use super::scores::{RouterScores, open_gates};
use super::shelf::{ShelfReader, ShelfWriter, Shelved};
use crate::arch::RoutedSites;
use crate::error::Result;
use crate::precision::{Depth, SLICE_BITS};
use crate::routing::{EPS, HIDDEN, SCORES};
use crate::shape::{Site, SiteAt};

/// Sharpness of the gates' gradient: that of sigmoid(score / this).
const GATE_WIDTH: f32 = 0.5;
/// The least of a trained `stretch`: a gradient may push a range together.
const STRETCH_MIN: f32 = -0.9;

/// The trained tensors of one site.
///
/// Of the first two depths, each group's range moves from where it starts by `shift` bins, and its bins
/// are wider by `stretch` of their width; [rows, groups] each.
#[derive(Debug, Clone)]
pub struct SiteParams {
    pub shift_1: Tensor<2>,
    pub stretch_1: Tensor<2>,
    pub shift_2: Tensor<2>,
    pub stretch_2: Tensor<2>,
    /// [HIDDEN, D]
    pub w1: Tensor<2>,
    /// [1, HIDDEN]
    pub b1: Tensor<2>,
    /// [SCORES, HIDDEN]
    pub w2: Tensor<2>,
    /// [1, SCORES]
    pub b2: Tensor<2>,
}

/// The trained tensors of a layer's sites.
pub type LayerParams = [SiteParams; 4];

/// Names of a site's trained tensors, in the order of [`SiteParams::tensors`].
pub const NAMES: [&str; 8] = ["shift_1", "stretch_1", "shift_2", "stretch_2", "w1", "b1", "w2", "b2"];
/// The first of these that belongs to the router.
pub const FIRST_OF_ROUTER: usize = 4;

impl SiteParams {
    /// Ranges of [rows, groups] as they were chosen, and a router over `dim` numbers whose gates stand about
    /// half open.
    pub fn new(groups: [usize; 2], dim: usize, device: &Device, rng: &mut impl rand::Rng) -> SiteParams {
        let mut normal = |rows: u32, columns: usize, deviation: f32| {
            let count = rows as usize * columns;
            let values: Vec<f32> = (0..count).map(|_| deviation * standard_normal(rng)).collect();
            Tensor::<2>::from_data(TensorData::new(values, [rows as usize, columns]), device)
        };
        let unmoved = || Tensor::zeros(groups, device);
        SiteParams {
            w1: normal(HIDDEN, dim, 1.0 / (dim as f32).sqrt()),
            b1: Tensor::zeros([1, HIDDEN as usize], device),
            w2: normal(SCORES, HIDDEN as usize, 0.1),
            b2: Tensor::from_data([[1.0, 0.5, 0.5]], device),
            shift_1: unmoved(),
            stretch_1: unmoved(),
            shift_2: unmoved(),
            stretch_2: unmoved(),
        }
    }

    /// The tensors, in the order of [`NAMES`].
    pub fn tensors(&self) -> [&Tensor<2>; NAMES.len()] {
        let SiteParams { shift_1, stretch_1, shift_2, stretch_2, w1, b1, w2, b2 } = self;
        [shift_1, stretch_1, shift_2, stretch_2, w1, b1, w2, b2]
    }

    /// From tensors in the order of [`NAMES`].
    pub fn from_tensors(tensors: [Tensor<2>; NAMES.len()]) -> SiteParams {
        let [shift_1, stretch_1, shift_2, stretch_2, w1, b1, w2, b2] = tensors;
        SiteParams { shift_1, stretch_1, shift_2, stretch_2, w1, b1, w2, b2 }
    }

    /// How far the range of a depth is moved and stretched, where that is trained.
    pub fn trained(&self, slice: usize) -> Option<(&Tensor<2>, &Tensor<2>)> {
        match slice {
            0 => Some((&self.shift_1, &self.stretch_1)),
            1 => Some((&self.shift_2, &self.stretch_2)),
            _ => None,
        }
    }

    /// The same with the ranges of a trained depth as training started from them.
    pub fn with_starting_ranges(&self, slice: usize) -> SiteParams {
        let (mut same, unmoved) = (self.clone(), Tensor::zeros(self.shift_1.dims(), &self.shift_1.device()));
        match slice {
            0 => (same.shift_1, same.stretch_1) = (unmoved.clone(), unmoved),
            1 => (same.shift_2, same.stretch_2) = (unmoved.clone(), unmoved),
            _ => panic!("the ranges of slice {slice} are not trained"),
        }
        same
    }

    /// The same with a router whose scores lie farther apart, each by about `distance`.
    pub fn with_scores_apart(&self, distance: f32) -> SiteParams {
        let added = Tensor::from_data([[0.0, distance, distance]], &self.b2.device());
        SiteParams { b2: self.b2.clone() + added, ..self.clone() }
    }

    /// The same with a router that chooses `depth` for every token, at a threshold of 0.
    pub fn always(&self, depth: Depth) -> SiteParams {
        // A score is 1 or close to it where its gate is to open, and far below 0 otherwise.
        let first = if depth.slices() > 1 { 1.0 } else { -1.0 };
        let apart = |slices: usize| if depth.slices() > slices { -20.0 } else { 20.0 };
        let b2 = Tensor::from_data([[first, apart(2), apart(3)]], &self.b2.device());
        SiteParams { w2: self.w2.zeros_like(), b2, ..self.clone() }
    }

    /// The same with bins of some width.
    pub fn in_range(self) -> SiteParams {
        let [stretch_1, stretch_2] = [&self.stretch_1, &self.stretch_2].map(|s| s.clone().clamp_min(STRETCH_MIN));
        SiteParams { stretch_1, stretch_2, ..self }
    }

    /// The same with a router whose tensors are leaves of a new graph.
    pub fn leaves(&self) -> SiteParams {
        let leaf = |tensor: &Tensor<2>| tensor.clone().autodiff().require_grad();
        let (w1, b1, w2, b2) = (leaf(&self.w1), leaf(&self.b1), leaf(&self.w2), leaf(&self.b2));
        SiteParams { w1, b1, w2, b2, ..self.clone() }
    }

    /// The scores of the residual slices, [N, SCORES], by what the router looks at, [N, D]; they fall from the left.
    pub fn scores(&self, x: Tensor<2>) -> Tensor<2> {
        // Biases as products, whose gradients are products too: sums over all tokens would be slow ones.
        let ones = Tensor::ones([x.dims()[0], 1], &x.device());
        let bias = |b: &Tensor<2>| beside(ones.clone(), b).matmul(b.clone());
        let hidden = activation::silu(unit_rms(x, EPS).matmul(self.w1.clone().transpose()) + bias(&self.b1));
        let o = hidden.matmul(self.w2.clone().transpose()) + bias(&self.b2);
        let column = |at| o.clone().narrow(1, at, 1);
        let first = column(0);
        let second = first.clone() - activation::softplus(column(1), 1.0);
        let third = second.clone() - activation::softplus(column(2), 1.0);
        Tensor::cat(vec![first, second, third], 1)
    }
}

impl Shelved for SiteParams {
    fn store(&self, to: &mut ShelfWriter<'_>) -> Result<()> {
        self.tensors().into_iter().try_for_each(|tensor| tensor.store(to))
    }

    fn restore(from: &mut ShelfReader<'_>) -> Result<SiteParams> {
        <[Tensor<2>; NAMES.len()]>::restore(from).map(SiteParams::from_tensors)
    }
}

/// A block whose routers choose for each token how deep the weights are read.
pub struct RoutedBlock<'a> {
    /// The model.
    pub network: &'a Network,
    /// The layer's place.
    pub at: usize,
    /// Routers and ranges.
    pub params: &'a LayerParams,
    /// Scores above this open their gates.
    pub threshold: f32,
}

/// What a layer hands to the next.
#[derive(Clone)]
pub struct StudentStream {
    /// The residual stream, [B, T, D].
    pub x: Tensor<3>,
    /// The last norm of the residual stream in the layer, [N, D], which the routers of the next layer's first sites
    /// look at; none before the first layer.
    pub seen: Option<Tensor<2>>,
}

impl Shelved for StudentStream {
    fn store(&self, to: &mut ShelfWriter<'_>) -> Result<()> {
        self.x.store(to)?;
        self.seen.as_ref().map_or(Ok(()), |seen| seen.store(to))
    }

    fn restore(from: &mut ShelfReader<'_>) -> Result<StudentStream> {
        let x = Tensor::restore(from)?;
        let seen = if from.is_at_end() { None } else { Some(Tensor::restore(from)?) };
        Ok(StudentStream { x, seen })
    }
}

/// The products of a routed block, and what was seen and read for them.
struct RoutedProducts<'a> {
    block: &'a RoutedBlock<'a>,
    weights: &'a DepthWeights,
    /// [`StudentStream::seen`] of the layer before.
    seen: Option<Tensor<2>>,
    /// The norms of this layer, first to last.
    norms: Vec<RouterInput>,
    scores: &'a mut RouterScores,
}

/// What routers look at.
pub struct RouterInput {
    /// The sites that these routers are of.
    pub sites: Range<u32>,
    /// [N, D]
    pub x: Tensor<2>,
}

/// What the routers of a site look at, [N, D], and which of the layer's norms that is: none of them where it is
/// [`StudentStream::seen`].
pub fn looked_at<'a>(
    norms: &'a [RouterInput],
    seen: Option<&'a Tensor<2>>,
    at: SiteAt,
) -> (Option<usize>, &'a Tensor<2>) {
    let own = norms.iter().position(|norm| norm.sites.contains(&at.index()));
    (own, own.map(|own| &norms[own].x).or(seen).expect("a norm comes before every site"))
}

impl RoutedBlock<'_> {
    /// What goes on to the next layer; the routers' scores are added to `scores`. Each token is multiplied at its own
    /// depth alone, so there are no gradients.
    pub fn forward(&self, stream: StudentStream, weights: &DepthWeights, scores: &mut RouterScores) -> StudentStream {
        let mut products = RoutedProducts { block: self, weights, seen: stream.seen, norms: Vec::new(), scores };
        let x = self.network.block(self.at, stream.x, &mut products);
        let seen = products.norms.pop().map(|norm| norm.x);
        StudentStream { x, seen }
    }

    /// The scores of a site's routers that look at `looked_at`, [N, D]: of each token, [`SCORES`] numbers.
    pub fn scores(&self, site: Site, looked_at: Tensor<2>) -> Vec<f32> {
        self.params[site as usize].scores(looked_at).try_to_vec_as().expect("the device answers")
    }

    /// What an open gate of a site adds to the bits of a token.
    pub fn bits_of_gate(&self, site: Site) -> f32 {
        let shape = &self.network.shape;
        let all: f64 = Site::ALL.iter().map(|site| site.weights(shape) as f64).sum();
        SLICE_BITS as f32 * (site.weights(shape) as f64 / all) as f32
    }
}

impl SiteProducts for RoutedProducts<'_> {
    fn product(&mut self, at: SiteAt, input: Tensor<2>) -> Tensor<2> {
        let (_, looked_at) = looked_at(&self.norms, self.seen.as_ref(), at);
        let scores = self.block.scores(at.site, looked_at.clone());
        let open = open_gates(&scores, self.block.threshold);
        self.scores.add(self.block.bits_of_gate(at.site), scores);
        product_by_depth(self.block.network, input, &open, |open| self.weights[at.site as usize][open].clone())
    }

    fn normed(&mut self, routed: &RoutedSites, normed: &Tensor<2>) {
        self.norms.push(RouterInput { sites: routed.all(), x: normed.clone() });
    }
}

/// 1 where x > 0, else 0, with the gradient of a sigmoid.
pub fn gates(x: Tensor<2>) -> Tensor<2> {
    let soft = activation::sigmoid(x.clone().div_scalar(GATE_WIDTH));
    let open = x.greater_elem(0.0).float();
    soft.clone() + (open - soft).detach()
}

/// A sample of the normal distribution, by Box and Muller.
fn standard_normal(rng: &mut impl rand::Rng) -> f32 {
    let (radius, turn): (f32, f32) = (1.0 - rng.random::<f32>(), rng.random());
    (-2.0 * radius.ln()).sqrt() * (std::f32::consts::TAU * turn).cos()
}
