//! Tests of a layer's gradients: a stage at a time, they are those of one graph over the whole layer.

use burn::tensor::TensorData;

use super::*;
use crate::arch::RoutedSites;
use crate::calibrate::cpu;
use crate::calibrate::network::{Network, SiteProducts};
use crate::calibrate::products::{layer_slices, layer_weights};
use crate::calibrate::random_source::{RandomSource, WINDOW, ids, load, specs, untrained};
use crate::calibrate::scores::RouterScores;
use crate::calibrate::shelf::Keeping;
use crate::shape::SiteAt;

/// Distances from the largest gradient of a tensor that the order of sums makes: some hundred roundings of an f32, as
/// terms cancel out that are larger than their sum.
const SUMS: f32 = 5e-5;
const THRESHOLD: f32 = 0.2;
const PER_BIT: f32 = 0.01;
/// Windows, in two parts.
const WINDOWS: usize = 3;
const PARTS: [usize; 2] = [2, 1];

/// The products of a layer in one graph over all of its weights.
struct GraphProducts<'a> {
    network: &'a Network,
    slices: &'a [Tensor<2>; 4],
    params: &'a LayerParams,
    seen: Option<Tensor<2>>,
    norms: Vec<RouterInput>,
    bits: Option<Tensor<1>>,
}

impl SiteProducts for GraphProducts<'_> {
    fn product(&mut self, at: SiteAt, input: Tensor<2>) -> Tensor<2> {
        let own = self.norms.iter().find(|norm| norm.sites.contains(&at.index())).map(|norm| &norm.x);
        let looked_at = own.or(self.seen.as_ref()).unwrap().clone();
        let gates = gates(self.params[at.site as usize].scores(looked_at) - THRESHOLD);
        let shape = &self.network.shape;
        let all: u64 = Site::ALL.iter().map(|site| site.weights(shape)).sum();
        let share = at.site.weights(shape) as f32 / all as f32;
        let read = sum_all(gates.clone() + 1.0 / 3.0).mul_scalar(2.0 * share);
        self.bits = Some(self.bits.take().map_or(read.clone(), |bits| bits + read));
        self.network.product(widened(&input, &gates), self.slices[at.site as usize].clone())
    }

    fn normed(&mut self, routed: &RoutedSites, normed: &Tensor<2>) {
        self.norms.push(RouterInput { sites: routed.all(), x: normed.clone() });
    }
}

/// All gradients of a layer: of its parameters, by sites and names, and of its inputs, by parts.
type Gradients = (LayerParams, Vec<StudentStream>);

/// By one graph over the whole layer.
fn in_one_graph(
    network: &Network,
    at: usize,
    codes: &[CodedSite; 4],
    params: &LayerParams,
    parts: &[(StudentStream, StudentStream)],
) -> Gradients {
    let leaves = params.each_ref().map(SiteParams::leaves);
    let whole = |site: usize| codes[site].slices(&params[site], 0..codes[site].dims()[0]);
    let slices: [Tensor<2>; 4] = std::array::from_fn(|site| whole(site).autodiff().require_grad());
    let mut of_slices: [Option<Tensor<2>>; 4] = Default::default();
    let (mut sums, mut down) = (LayerSums::default(), Vec::new());
    for (input, upstream) in parts {
        let x = input.x.clone().autodiff().require_grad();
        let seen = input.seen.clone().map(|seen| seen.autodiff().require_grad());
        let mut products = GraphProducts {
            network,
            slices: &slices,
            params: &leaves,
            seen: seen.clone(),
            norms: Vec::new(),
            bits: None,
        };
        let y = network.block(at, x.clone(), &mut products);
        let last = products.norms.pop().unwrap().x;
        let mut loss = sum_all(y.clone() * beside(upstream.x.clone(), &y)) + products.bits.unwrap().mul_scalar(PER_BIT);
        if let Some(upstream) = &upstream.seen {
            loss = loss + sum_all(last.clone() * beside(upstream.clone(), &last));
        }
        let mut gradients = loss.backward();
        for site in 0..4 {
            add(&mut of_slices[site], slices[site].grad_remove(&mut gradients));
            for (sum, leaf) in sums.0[site].iter_mut().zip(leaves[site].tensors()).skip(FIRST_OF_ROUTER) {
                add(sum, leaf.grad_remove(&mut gradients));
            }
        }
        let x = x.grad_remove(&mut gradients).unwrap();
        down.push(StudentStream { x, seen: seen.map(|seen| seen.grad_remove(&mut gradients).unwrap()) });
    }
    for site in 0..4 {
        let of_ranges = codes[site].gradients(of_slices[site].take().unwrap(), 0..codes[site].dims()[0]);
        for (sum, gradient) in sums.0[site].iter_mut().zip(of_ranges) {
            *sum = Some(gradient);
        }
    }
    (sums.over(1.0), down)
}

/// A stage at a time.
fn by_stages(
    network: &Network,
    at: usize,
    codes: &[CodedSite; 4],
    params: &LayerParams,
    parts: &[(StudentStream, StudentStream)],
) -> Gradients {
    let slices = &layer_slices(network, codes, params);
    let block = RoutedBlock { network, at, params, threshold: THRESHOLD };
    let (layer, mut sums) = (LayerBackward { block, slices, codes, per_bit: PER_BIT }, LayerSums::default());
    let down = parts.iter().map(|(input, upstream)| layer.part(input.clone(), upstream.clone(), &mut sums)).collect();
    (sums.over(1.0), down)
}

/// Numbers from -1 to 1 that are not alike.
fn numbers<const D: usize>(dims: [usize; D], step: usize) -> Tensor<D> {
    let count: usize = dims.iter().product();
    let numbers: Vec<f32> = (0..count).map(|at| ((at * step + 13) % 211) as f32 / 105.5 - 1.0).collect();
    Tensor::from_data(TensorData::new(numbers, dims), &cpu())
}

/// A site whose ranges are moved, so that each of their gradients is its own, and whose gates differ by tokens.
fn moved(site: SiteParams) -> SiteParams {
    SiteParams {
        shift_1: numbers(site.shift_1.dims(), 37).mul_scalar(0.2),
        stretch_2: numbers(site.stretch_2.dims(), 41).mul_scalar(0.1),
        w2: site.w2.clone().mul_scalar(20.0),
        b2: Tensor::from_data([[1.0, 1.0, 1.0]], &cpu()),
        ..site
    }
}

/// Compares two gradients; the largest number in them.
fn assert_near<const D: usize>(what: &str, found: &Tensor<D>, expected: &Tensor<D>) -> f32 {
    let largest = |x: Tensor<D>| x.abs().max().into_scalar::<f32>();
    let (size, distance) = (largest(expected.clone()), largest(found.clone() - expected.clone()));
    assert!(distance <= SUMS * size, "{what}: {distance} away, of {size}");
    size
}

#[test]
fn gradients_by_stages_are_those_of_one_graph_for_all_that_families_have() {
    for spec in specs() {
        let mut source = RandomSource::new(spec);
        let network = load(&mut source, &Keeping::OnDevice);
        let trained = untrained(&network, &Keeping::OnDevice);
        // Where all tokens have a gate open, or none, some gradients are zero: in no tensor of all sites.
        let mut largest = [0.0f32; NAMES.len()];
        for at in 0..network.layers() {
            let params = trained.params.get(at).unwrap().map(moved);
            let x = network.embed(ids(WINDOWS)).split_with_sizes(PARTS.to_vec(), 0);
            let is_last = at + 1 == network.layers();
            let parts = x.into_iter().enumerate().map(|(part, x)| {
                let (windows, tokens) = (PARTS[part], PARTS[part] * WINDOW);
                let seen = |step| numbers([tokens, 64], step + part);
                let input = StudentStream { x, seen: (at > 0).then(|| seen(17)) };
                let by_seen = (!is_last).then(|| seen(29));
                (input, StudentStream { x: numbers([windows, WINDOW, 64], 23 + part), seen: by_seen })
            });
            let parts: Vec<_> = parts.collect();
            let codes = network.codes.get(at).unwrap();
            let expected = in_one_graph(&network, at, &codes, &params, &parts);
            for rows in [usize::MAX, 40] {
                let codes = codes.clone().map(|site| {
                    let rows = rows.min(site.dims()[0]);
                    site.with_rows_at_once(rows)
                });
                let found = by_stages(&network, at, &codes, &params, &parts);
                let what = format!("layer {at}, {rows} rows at once, {:?}", source.spec);
                for (found, expected) in found.0.iter().zip(&expected.0) {
                    for (name, (found, expected)) in found.tensors().into_iter().zip(expected.tensors()).enumerate() {
                        let size = assert_near(&format!("{}: {what}", NAMES[name]), found, expected);
                        largest[name] = largest[name].max(size);
                    }
                }
                for (found, expected) in found.1.iter().zip(&expected.1) {
                    assert!(assert_near(&format!("x: {what}"), &found.x, &expected.x) > 0.0);
                    if let (Some(found), Some(expected)) = (&found.seen, &expected.seen) {
                        assert!(assert_near(&format!("seen: {what}"), found, expected) > 0.0);
                    }
                    assert_eq!(found.seen.is_some(), expected.seen.is_some());
                }
            }
        }
        assert!(largest.iter().all(|size| *size > 0.0), "{largest:?}: {:?}", source.spec);
    }
}

#[test]
fn tokens_that_are_multiplied_at_their_own_depths_alone_come_out_as_by_all_slices() {
    let mut bits_read = Vec::new();
    for spec in specs() {
        let mut source = RandomSource::new(spec);
        let network = load(&mut source, &Keeping::OnDevice);
        let trained = untrained(&network, &Keeping::OnDevice);
        for at in 0..network.layers() {
            let params = trained.params.get(at).unwrap().map(moved);
            let seen = (at > 0).then(|| numbers([WINDOWS * WINDOW, 64], 17));
            let input = StudentStream { x: network.embed(ids(WINDOWS)), seen };
            let codes = network.codes.get(at).unwrap().map(|site| {
                let rows = site.dims()[0].min(40);
                site.with_rows_at_once(rows)
            });
            let slices = std::array::from_fn(|site| codes[site].slices(&params[site], 0..codes[site].dims()[0]));
            let mut products = GraphProducts {
                network: &network,
                slices: &slices,
                params: &params,
                seen: input.seen.clone(),
                norms: Vec::new(),
                bits: None,
            };
            let expected = network.block(at, input.x.clone(), &mut products);
            let block = RoutedBlock { network: &network, at, params: &params, threshold: THRESHOLD };
            let mut scores = RouterScores::default();
            let mut weights = layer_weights(&network, &codes, &params);
            let found = block.forward(input.clone(), &weights, &mut scores);
            assert_near(&format!("layer {at}: {:?}", source.spec), &found.x, &expected);
            weights.iter_mut().for_each(|depths| depths.swap(0, 1));
            let other = block.forward(input, &weights, &mut RouterScores::default()).x;
            let distance = (other - expected).abs().max().into_scalar::<f32>();
            assert!(distance > 1e-3, "tokens of depths 1 and 2 have other weights, {distance} away");
            let (found, expected) = (scores.bits(THRESHOLD), products.bits.unwrap().into_scalar::<f32>());
            let expected = expected / (WINDOWS * WINDOW) as f32;
            assert!((found / expected - 1.0).abs() < 1e-5, "{found} bits, {expected}");
            bits_read.push(found);
        }
    }
    assert!(
        bits_read.iter().all(|bits| *bits > 2.1 && *bits < 7.9),
        "gates are neither all open nor all shut: {bits_read:?}"
    );
}
