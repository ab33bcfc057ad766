//! One step of distillation: the loss of a batch, and its gradients, layer by layer.
//!
//! The unquantized model and the student go through the layers together, and nothing is kept of that but the input of
//! each layer. The backward pass then runs each layer once more. So a step reads every layer twice, and memory holds
//! one layer and the graph of one stage of it ([`super::backward`]), of `micro` windows, whatever the depth of the
//! model.

use burn::tensor::{Int, Tensor};

use super::backward::{LayerBackward, LayerSums};
use super::network::{Network, SiteProducts, beside};
use super::products::{layer_slices, layer_weights};
use super::reduce::{log_softmax, sum_all};
use super::scores::RouterScores;
use super::student::{FIRST_OF_ROUTER, LayerParams, RoutedBlock, StudentStream};
use super::trained::{Params, Trained};
use crate::error::{Error, Result};
use crate::shape::SiteAt;

/// What the loss is multiplied with on its way back: products in f16 lose gradients below its smallest number, and the
/// gradients of one token of thousands are small.
const LOSS_SCALE: f32 = 64.0;
/// Elements of logits that exist at one time.
pub const LOGITS: usize = 1 << 24;

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

/// What a step found, beside [`Trained::gradients`].
pub struct Outcome {
    /// Mean over the tokens of KL(unquantized model, student), in nats.
    pub kl: f32,
    /// Average bits read, weighted by parameters.
    pub bits: f32,
    /// The sum of the squares of all gradients of ranges, `[1]`.
    pub squares: Tensor<1>,
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

/// The products of the unquantized model in one layer.
struct FullProducts<'a> {
    network: &'a Network,
    weights: &'a [Tensor<2>; 4],
}

impl SiteProducts for FullProducts<'_> {
    fn product(&mut self, at: SiteAt, input: Tensor<2>) -> Tensor<2> {
        self.network.product(input, self.weights[at.site as usize].clone())
    }
}

/// The residual stream of the unquantized model, of each part of a batch, [B, T, D].
pub struct TeacherStreams(Vec<Tensor<3>>);

impl TeacherStreams {
    /// At the first layer.
    fn embedded(network: &Network, batch: &Batch) -> TeacherStreams {
        TeacherStreams(batch.parts().into_iter().map(|ids| network.embed(ids)).collect())
    }

    /// Goes through a layer.
    fn pass(&mut self, network: &Network, at: usize) -> Result<()> {
        let weights = &network.weights.get(at)?;
        for x in &mut self.0 {
            *x = network.block(at, x.clone(), &mut FullProducts { network, weights });
        }
        Ok(())
    }
}

/// What the student is to reach on a batch: the streams after the last layer. Fails where a stop is asked for, and
/// where layers cannot be read.
pub fn teacher(network: &Network, batch: &Batch) -> Result<TeacherStreams> {
    let mut streams = TeacherStreams::embedded(network, batch);
    for at in 0..network.layers() {
        go_on(network)?;
        streams.pass(network, at)?;
    }
    Ok(streams)
}

/// The student's way through the layers, without gradients.
struct StudentStreams {
    parts: Vec<StudentStream>,
    /// What the routers found so far.
    scores: RouterScores,
}

impl StudentStreams {
    /// At the first layer.
    fn embedded(network: &Network, batch: &Batch) -> StudentStreams {
        let parts = batch.parts().into_iter().map(|ids| StudentStream { x: network.embed(ids), seen: None });
        StudentStreams { parts: parts.collect(), scores: RouterScores::default() }
    }

    /// Goes through a layer.
    fn pass(&mut self, network: &Network, at: usize, params: &LayerParams, threshold: f32) -> Result<()> {
        let codes = network.codes.get(at)?;
        let weights = layer_weights(network, &codes, params);
        let block = RoutedBlock { network, at, params, threshold };
        for stream in &mut self.parts {
            *stream = block.forward(stream.clone(), &weights, &mut self.scores);
        }
        Ok(())
    }

    /// The outputs of the last layer, [B, T, D], and what the routers found.
    fn end(self) -> (Vec<Tensor<3>>, RouterScores) {
        (self.parts.into_iter().map(|stream| stream.x).collect(), self.scores)
    }
}

/// The loss of a batch; its gradients are in [`Trained::gradients`] then. Fails where a stop is asked for, where layers
/// cannot be read and where a disk is full.
pub fn step(network: &Network, trained: &mut Trained, batch: &Batch, target: Target) -> Result<Outcome> {
    let Trained { params, gradients, inputs, .. } = trained;
    let mut teacher = TeacherStreams::embedded(network, batch);
    let mut student = StudentStreams::embedded(network, batch);
    let parts = student.parts.len();
    for at in 0..network.layers() {
        go_on(network)?;
        teacher.pass(network, at)?;
        for (part, stream) in student.parts.iter().enumerate() {
            inputs.put(at * parts + part, stream.clone())?;
        }
        student.pass(network, at, &params.get(at)?, target.threshold)?;
    }
    let (outputs, scores) = student.end();
    let bits = scores.bits(target.threshold);
    let (kl, upstream) = distance(network, outputs, teacher.0, batch.tokens(), target.weight);
    let mut upstream: Vec<StudentStream> = upstream.into_iter().map(|x| StudentStream { x, seen: None }).collect();

    // The gradient of the squared distance by the sum of the bits over tokens and layers.
    let share = 1.0 / (batch.tokens() * network.layers()) as f32;
    let per_bit = 2.0 * (bits - target.bits) * share * LOSS_SCALE;

    let mut squares = Vec::new();
    for at in (0..network.layers()).rev() {
        go_on(network)?;
        let (params, codes) = (&params.get(at)?, &network.codes.get(at)?);
        let slices = &layer_slices(network, codes, params);
        let block = RoutedBlock { network, at, params, threshold: target.threshold };
        let (backward, mut sums) = (LayerBackward { block, slices, codes, per_bit }, LayerSums::default());
        for (part, upstream) in upstream.iter_mut().enumerate() {
            let input = inputs.take(at * parts + part)?;
            *upstream = backward.part(input, upstream.clone(), &mut sums);
        }
        let own = sums.over(LOSS_SCALE);
        squares.push(squares_of_ranges(&own));
        gradients.put(at, own)?;
    }
    Ok(Outcome { kl, bits, squares: Tensor::cat(squares, 0).sum() })
}

/// The sum of the squares of each range's gradients, `[sites * tensors]`.
fn squares_of_ranges(gradients: &LayerParams) -> Tensor<1> {
    let ranges = gradients.iter().flat_map(|site| site.tensors().into_iter().take(FIRST_OF_ROUTER));
    Tensor::cat(ranges.map(|gradient| sum_all(gradient.clone().square())).collect(), 0)
}

/// The loss of a batch under each target: the weighted KL divergence, and the squared distance from the bits wanted.
/// Fails where a stop is asked for, and where layers cannot be read.
pub fn losses(network: &Network, params: &Params<'_>, batch: &Batch, targets: &[Target]) -> Result<Vec<f32>> {
    let found = divergences(network, params, batch, targets)?.into_iter().zip(targets);
    Ok(found.map(|((bits, kl), target)| target.weight * kl + (bits - target.bits).powi(2)).collect())
}

/// The average bits read of a batch under each target, and the mean KL divergence. Fails where a stop is asked for, and
/// where layers cannot be read.
pub fn divergences(
    network: &Network,
    params: &Params<'_>,
    batch: &Batch,
    targets: &[Target],
) -> Result<Vec<(f32, f32)>> {
    let teacher = teacher(network, batch)?;
    let at = |target: &Target| {
        let (scores, kl) = divergence_at(network, params, batch, &teacher, target.threshold)?;
        Ok((scores.bits(target.threshold), kl))
    };
    targets.iter().map(at).collect()
}

/// The routers' scores on a batch that is read at a threshold, and the mean KL divergence from what the teacher said
/// of it. Fails where a stop is asked for, and where layers cannot be read.
pub fn divergence_at(
    network: &Network,
    params: &Params<'_>,
    batch: &Batch,
    teacher: &TeacherStreams,
    threshold: f32,
) -> Result<(RouterScores, f32)> {
    let mut student = StudentStreams::embedded(network, batch);
    for at in 0..network.layers() {
        go_on(network)?;
        student.pass(network, at, &params.layer(at)?, threshold)?;
    }
    let (outputs, scores) = student.end();
    let parts = outputs.into_iter().zip(&teacher.0).flat_map(|(student, teacher)| {
        let pairs = parts(network, student).into_iter().zip(parts(network, teacher.clone()));
        pairs.map(|(student, teacher)| divergence(network, student, teacher, batch.tokens()))
    });
    let kl: f32 = Tensor::cat(parts.collect(), 0).sum().into_scalar();
    let bits = scores.bits(threshold);
    if !kl.is_finite() || !bits.is_finite() {
        let device = format!("{:?}", batch.ids.device());
        return Err(Error::Device { device, message: format!("a KL divergence of {kl} at {bits} bits") });
    }
    Ok((scores, kl))
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
