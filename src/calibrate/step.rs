//! One step of distillation: the loss of a batch, and its gradients, layer by layer.
//!
//! The forward pass keeps nothing but the input of each layer; the backward pass runs each layer once more, with a
//! graph of its own. So memory holds one layer's graph, of `micro` windows, whatever the depth of the model.

use burn::tensor::{Int, Tensor};

use super::network::{Network, SiteProducts, beside};
use super::reduce::{log_softmax, sum_all};
use super::student::{FIRST_OF_ROUTER, NAMES, RoutedBlock, SiteParams, StudentStream};
use crate::error::{Error, Result};
use crate::shape::SiteAt;

/// What the loss is multiplied with on its way back: products in f16 lose gradients below its smallest number, and the
/// gradients of one token of thousands are small.
const LOSS_SCALE: f32 = 64.0;
/// Elements of logits that exist at one time.
pub const LOGITS: usize = 1 << 25;

/// The trained tensors of every layer and site.
pub type Params = Vec<[SiteParams; 4]>;

/// What a step asks for.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Average bits wanted.
    pub bits: f32,
    /// Scores above this open their gates.
    pub threshold: f32,
    /// Weight of the KL divergence, beside the squared distance from `bits`.
    pub weight: f32,
}

/// What a step found.
pub struct Outcome {
    /// Mean over the tokens of KL(unquantized model, student), in nats.
    pub kl: f32,
    /// Average bits read, weighted by parameters.
    pub bits: f32,
    /// Gradients of the loss, as the parameters lie.
    pub gradients: Params,
}

/// A batch, and how much of it is computed at once.
pub struct Batch {
    /// [B, T]
    pub ids: Tensor<2, Int>,
    /// Windows computed at once.
    pub micro: usize,
}

impl Batch {
    fn parts(&self) -> Vec<Tensor<2, Int>> {
        self.ids.clone().split(self.micro, 0)
    }

    fn tokens(&self) -> usize {
        let [windows, tokens] = self.ids.dims();
        windows * tokens
    }
}

/// Fails where a stop is asked for: to be called before each layer.
fn go_on(network: &Network) -> Result<()> {
    network.cancel.check("calibrate")
}

/// The products of the unquantized model.
struct FullProducts<'a>(&'a Network);

impl SiteProducts for FullProducts<'_> {
    fn product(&mut self, at: SiteAt, input: Tensor<2>) -> Tensor<2> {
        let weight = &self.0.layers[at.layer as usize].sites[at.site as usize];
        self.0.product(input, weight.clone())
    }
}

/// The residual stream after the last layer of the unquantized model, of each part of a batch, [B, T, D].
pub struct TeacherOutputs(Vec<Tensor<3>>);

/// What the student is to reach on a batch. Fails where a stop is asked for.
pub fn teacher(network: &Network, batch: &Batch) -> Result<TeacherOutputs> {
    let layers = |x| {
        (0..network.layers.len()).try_fold(x, |x, at| {
            go_on(network)?;
            Ok(network.block(at, x, &mut FullProducts(network)))
        })
    };
    let outputs: Result<Vec<_>> = batch.parts().into_iter().map(|ids| layers(network.embed(ids))).collect();
    outputs.map(TeacherOutputs)
}

/// The student's way through the layers, without gradients.
struct Forward {
    /// Input of each layer and, last, the output: [L + 1][parts].
    inputs: Vec<Vec<StudentStream>>,
    /// Average bits read.
    bits: f32,
}

/// Runs the student; `keep` the inputs of all layers, or only the output. Fails where a stop is asked for.
fn forward(network: &Network, params: &Params, batch: &Batch, threshold: f32, keep: bool) -> Result<Forward> {
    let embedded = batch.parts().into_iter().map(|ids| StudentStream { x: network.embed(ids), seen: None });
    let mut inputs = vec![embedded.collect::<Vec<_>>()];
    let mut bits: Vec<Tensor<1>> = Vec::new();
    for (at, (layer, params)) in network.layers.iter().zip(params).enumerate() {
        go_on(network)?;
        let slices = std::array::from_fn(|site| layer.coded[site].slices(&params[site]));
        let block = RoutedBlock { network, at, params, slices: &slices, threshold };
        let (outputs, read): (Vec<_>, Vec<_>) =
            inputs.last().expect("the embedding").iter().map(|stream| block.forward(stream.clone())).unzip();
        bits.extend(read);
        if !keep {
            inputs.clear();
        }
        inputs.push(outputs);
    }
    let bits: f32 = Tensor::cat(bits, 0).sum().into_scalar();
    Ok(Forward { inputs, bits: bits / (batch.tokens() * network.layers.len()) as f32 })
}

/// The loss of a batch and its gradients. Fails where a stop is asked for.
pub fn step(network: &Network, params: &Params, batch: &Batch, target: Target) -> Result<Outcome> {
    let mut forward = forward(network, params, batch, target.threshold, true)?;
    let outputs = forward.inputs.pop().expect("the output").into_iter().map(|stream| stream.x);
    let (kl, upstream) =
        distance(network, outputs.collect(), teacher(network, batch)?.0, batch.tokens(), target.weight);
    let mut upstream: Vec<StudentStream> = upstream.into_iter().map(|x| StudentStream { x, seen: None }).collect();

    // The gradient of the squared distance by the sum of the bits over tokens and layers.
    let share = 1.0 / (batch.tokens() * network.layers.len()) as f32;
    let per_bit = 2.0 * (forward.bits - target.bits) * share * LOSS_SCALE;

    let mut gradients = Vec::with_capacity(params.len());
    for (at, inputs) in forward.inputs.into_iter().enumerate().rev() {
        go_on(network)?;
        let leaves = params[at].each_ref().map(SiteParams::leaves);
        let (own, down) = backward(network, at, &leaves, inputs, upstream, target.threshold, per_bit);
        gradients.push(own);
        upstream = down;
    }
    gradients.reverse();
    Ok(Outcome { kl, bits: forward.bits, gradients })
}

/// The loss of a batch under each target: the weighted KL divergence, and the squared distance from the bits wanted.
/// Fails where a stop is asked for.
pub fn losses(network: &Network, params: &Params, batch: &Batch, targets: &[Target]) -> Result<Vec<f32>> {
    let found = divergences(network, params, batch, targets)?.into_iter().zip(targets);
    Ok(found.map(|((bits, kl), target)| target.weight * kl + (bits - target.bits).powi(2)).collect())
}

/// The average bits read of a batch under each target, and the mean KL divergence. Fails where a stop is asked for.
pub fn divergences(network: &Network, params: &Params, batch: &Batch, targets: &[Target]) -> Result<Vec<(f32, f32)>> {
    let teacher = teacher(network, batch)?;
    targets.iter().map(|target| divergence_at(network, params, batch, &teacher, target.threshold)).collect()
}

/// The average bits read of a batch at a threshold, and the mean KL divergence from what the teacher said of it. Fails
/// where a stop is asked for.
pub fn divergence_at(
    network: &Network,
    params: &Params,
    batch: &Batch,
    teacher: &TeacherOutputs,
    threshold: f32,
) -> Result<(f32, f32)> {
    let mut forward = forward(network, params, batch, threshold, false)?;
    let outputs = forward.inputs.pop().expect("the output").into_iter();
    let parts = outputs.zip(&teacher.0).flat_map(|(student, teacher)| {
        let pairs = parts(network, student.x).into_iter().zip(parts(network, teacher.clone()));
        pairs.map(|(student, teacher)| divergence(network, student, teacher, batch.tokens()))
    });
    let kl: f32 = Tensor::cat(parts.collect(), 0).sum().into_scalar();
    if !kl.is_finite() {
        let device = format!("{:?}", batch.ids.device());
        return Err(Error::Device { device, message: format!("a KL divergence of {kl}") });
    }
    Ok((forward.bits, kl))
}

/// The mean KL divergence between the two models' next tokens, and its gradients by the student's outputs, weighted.
fn distance(
    network: &Network,
    student: Vec<Tensor<3>>,
    teacher: Vec<Tensor<3>>,
    tokens: usize,
    weight: f32,
) -> (f32, Vec<Tensor<3>>) {
    let mut total: Vec<Tensor<1>> = Vec::new();
    let mut upstream = Vec::with_capacity(student.len());
    for (student, teacher) in student.into_iter().zip(teacher) {
        let dims = student.dims();
        let pairs = parts(network, student).into_iter().zip(parts(network, teacher)).map(|(student, teacher)| {
            let student = student.autodiff().require_grad();
            let kl = divergence(network, student.clone(), teacher, tokens);
            let mut gradients = kl.clone().mul_scalar(weight * LOSS_SCALE).backward();
            total.push(kl.without_autodiff());
            student.grad_remove(&mut gradients).expect("the loss depends on the student")
        });
        upstream.push(Tensor::cat(pairs.collect(), 0).reshape(dims));
    }
    (Tensor::cat(total, 0).sum().into_scalar(), upstream)
}

/// The tokens of [B, T, D] in parts whose logits may exist at one time, [N, D] each.
fn parts(network: &Network, x: Tensor<3>) -> Vec<Tensor<2>> {
    let [windows, tokens, dim] = x.dims();
    let rows = (LOGITS / network.shape.vocab as usize).max(1);
    x.reshape([windows * tokens, dim]).split(rows, 0)
}

/// The share that some of a batch's `tokens` tokens have in its mean KL divergence: [N, D] of both models, `[1]`.
fn divergence(network: &Network, student: Tensor<2>, teacher: Tensor<2>, tokens: usize) -> Tensor<1> {
    let reached = log_softmax(network.logits(student));
    let wanted = beside(log_softmax(network.logits(teacher)), &reached);
    sum_all(wanted.clone().exp() * (wanted - reached)).div_scalar(tokens as f32)
}

/// Gradients of one layer's parameters and of its inputs, by those of its outputs; nobody looks at what the last layer
/// has seen.
fn backward(
    network: &Network,
    at: usize,
    leaves: &[SiteParams; 4],
    inputs: Vec<StudentStream>,
    upstream: Vec<StudentStream>,
    threshold: f32,
    per_bit: f32,
) -> ([SiteParams; 4], Vec<StudentStream>) {
    let layer = &network.layers[at];
    // The ranges' gradients follow once, from the sum of those that the weights have in all parts.
    let slices: [Tensor<2>; 4] =
        std::array::from_fn(|site| layer.coded[site].slices(&leaves[site]).autodiff().require_grad());
    let mut of_slices: [Option<Tensor<2>>; 4] = [const { None }; 4];
    let mut all: [[Option<Tensor<2>>; NAMES.len()]; 4] = [const { [const { None }; NAMES.len()] }; 4];
    let mut down = Vec::with_capacity(inputs.len());
    for (StudentStream { x, seen }, upstream) in inputs.into_iter().zip(upstream) {
        let x = x.autodiff().require_grad();
        let seen = seen.map(|seen| seen.autodiff().require_grad());
        let block = RoutedBlock { network, at, params: leaves, slices: &slices, threshold };
        let (y, bits) = block.forward(StudentStream { x: x.clone(), seen: seen.clone() });
        let mut loss = sum_all(y.x.clone() * beside(upstream.x, &y.x)) + bits.mul_scalar(per_bit);
        if let (Some(seen), Some(upstream)) = (y.seen, upstream.seen) {
            loss = loss + sum_all(seen.clone() * beside(upstream, &seen));
        }
        let mut gradients = loss.backward();
        for site in 0..4 {
            add(&mut of_slices[site], slices[site].grad_remove(&mut gradients));
            for (sum, leaf) in all[site].iter_mut().zip(leaves[site].tensors()).skip(FIRST_OF_ROUTER) {
                add(sum, leaf.grad_remove(&mut gradients));
            }
        }
        down.push(StudentStream {
            x: x.grad_remove(&mut gradients).expect("the output depends on the input"),
            seen: seen.map(|seen| seen.grad_remove(&mut gradients).expect("a router looks at it")),
        });
    }
    for site in 0..4 {
        let of_slices = of_slices[site].take().expect("the output depends on the weight");
        for (sum, gradient) in all[site].iter_mut().zip(layer.coded[site].gradients(of_slices)) {
            *sum = Some(gradient);
        }
    }
    let whole = all.map(|tensors| {
        SiteParams::from_tensors(
            tensors.map(|tensor| tensor.expect("the output depends on every parameter").div_scalar(LOSS_SCALE)),
        )
    });
    (whole, down)
}

fn add(sum: &mut Option<Tensor<2>>, term: Option<Tensor<2>>) {
    *sum = match (sum.take(), term) {
        (Some(sum), Some(term)) => Some(sum + term),
        (sum, term) => sum.or(term),
    };
}
