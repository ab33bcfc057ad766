//! The unquantized model as burn tensors: frozen weights, and the forward pass of a block around any linears.

use std::ops::ControlFlow;

use burn::tensor::kind::Autodiff;
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData, activation};

use super::reduce::{softmax, spread, sum_rows};
use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::quantize::{Source, SourceTensor};
use crate::shape::{LlamaShape, Site};

/// Frozen weights on a device, f32, and what the forward pass needs beside them.
pub struct Network {
    /// Dimensions and constants.
    pub shape: LlamaShape,
    /// [V, D]
    embed: Tensor<2>,
    /// [V, D], of a model whose head is not its embedding.
    head: Option<Tensor<2>>,
    /// `[D]`
    final_norm: Tensor<1>,
    /// First to last.
    pub layers: Vec<Layer>,
    rotation: Rotation,
    /// What matrix products are computed in.
    pub product_dtype: DType,
    /// What asks to stop.
    pub cancel: CancelToken,
}

/// The frozen weights of one layer.
pub struct Layer {
    input_norm: Tensor<1>,
    ffn_norm: Tensor<1>,
    /// The stacked weight of each site, [rows, input].
    pub sites: [Tensor<2>; 4],
}

/// Cosines and sines of every position, [T, A], and what a position may not look at, [T, T].
struct Rotation {
    cos: Tensor<2>,
    sin: Tensor<2>,
    ahead: Tensor<2, Bool>,
}

impl Network {
    /// Loads the weights of `source` for windows of `window` tokens; `on_tensor(done, total)` follows it and may break
    /// off.
    pub fn load(
        source: &mut dyn Source,
        device: &Device,
        window: usize,
        on_tensor: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Network> {
        let shape = source.shape().clone();
        let total = shape.linear_params() + shape.embedding_params();
        let mut done = 0;
        let mut stacked = |source: &mut dyn Source, tensors: &[SourceTensor]| -> Result<Tensor<2>> {
            let (mut all, mut block, mut rows) = (Vec::new(), Vec::new(), 0);
            let mut input = 0;
            for tensor in tensors {
                let dims = tensor.dims(&shape);
                source.rows(*tensor, 0..dims.0, &mut block)?;
                all.extend_from_slice(&block);
                (rows, input) = (rows + dims.0 as usize, dims.1 as usize);
            }
            if rows > 1 {
                done += all.len() as u64;
                if on_tensor(done, total).is_break() {
                    return Err(Error::Stopped("calibrate"));
                }
            }
            Ok(Tensor::from_data(TensorData::new(all, [rows, input]), device))
        };
        let embed = stacked(source, &[SourceTensor::Embed])?;
        let head = if shape.tied_head { None } else { Some(stacked(source, &[SourceTensor::Head])?) };
        let mut layers = Vec::with_capacity(shape.layers as usize);
        for layer in 0..shape.layers {
            let mut site = |site| stacked(source, &SourceTensor::of_site(layer, site));
            let sites = [site(Site::Qkv)?, site(Site::O)?, site(Site::GateUp)?, site(Site::Down)?];
            layers.push(Layer {
                input_norm: stacked(source, &[SourceTensor::InputNorm(layer)])?.squeeze_dim(0),
                ffn_norm: stacked(source, &[SourceTensor::FfnNorm(layer)])?.squeeze_dim(0),
                sites,
            });
        }
        let final_norm = stacked(source, &[SourceTensor::FinalNorm])?.squeeze_dim(0);
        let rotation = Rotation::new(&shape, window, device);
        Ok(Network {
            shape,
            embed,
            head,
            final_norm,
            layers,
            rotation,
            product_dtype: DType::F32,
            cancel: CancelToken::new(),
        })
    }

    /// The residual stream at the first layer: [B, T] ids to [B, T, D].
    pub fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [batch, tokens] = ids.dims();
        self.embed.clone().select(0, ids.reshape([batch * tokens])).reshape([batch as i64, tokens as i64, -1])
    }

    /// Logits of the residual stream after the last layer: [N, D] to [N, V].
    pub fn logits(&self, x: Tensor<2>) -> Tensor<2> {
        let head = self.head.as_ref().unwrap_or(&self.embed);
        self.product(norm(x, &self.final_norm, self.shape.norm_eps), head.clone())
    }

    /// x [N, in] times w [rows, in] transposed, [N, rows].
    pub fn product(&self, x: Tensor<2>, w: Tensor<2>) -> Tensor<2> {
        let w = beside(w, &x);
        self.matmul(x, w.transpose())
    }

    /// A matrix product in [`Network::product_dtype`], of f32 and to f32.
    fn matmul<const D: usize>(&self, a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
        match self.product_dtype {
            DType::F32 => a.matmul(b),
            dtype => a.cast(dtype).matmul(b.cast(dtype)).cast(DType::F32),
        }
    }

    /// A block: [B, T, D] to [B, T, D]; `linear` multiplies a site's input [N, in] with its weight, [N, rows].
    pub fn block(
        &self,
        layer: &Layer,
        x: Tensor<3>,
        linear: &mut dyn FnMut(Site, Tensor<2>) -> Tensor<2>,
    ) -> Tensor<3> {
        let [batch, tokens, dim] = x.dims();
        let (shape, eps) = (&self.shape, self.shape.norm_eps);
        let x = x.reshape([batch * tokens, dim]);
        let qkv = linear(Site::Qkv, norm(x.clone(), &layer.input_norm, eps));
        let attended = self.attention(qkv.reshape([batch as i64, tokens as i64, -1]));
        let x = x + linear(Site::O, attended.reshape([batch * tokens, shape.q_dim() as usize]));
        let gate_up = linear(Site::GateUp, norm(x.clone(), &layer.ffn_norm, eps));
        let ffn = shape.ffn_dim as usize;
        let (gate, up) = (gate_up.clone().narrow(1, 0, ffn), gate_up.narrow(1, ffn, ffn));
        let x = x + linear(Site::Down, activation::silu(gate) * up);
        x.reshape([batch, tokens, dim])
    }

    /// Causal grouped-query attention: [B, T, (H + 2K) A] to [B, T, H A].
    fn attention(&self, qkv: Tensor<3>) -> Tensor<3> {
        let [batch, tokens, _] = qkv.dims();
        let shape = &self.shape;
        let (heads, kv, dim) = (shape.heads as usize, shape.kv_heads as usize, shape.head_dim as usize);
        let part = |first: usize, count: usize| {
            let part = qkv.clone().narrow(2, first * dim, count * dim);
            part.reshape([batch, tokens, count, dim]).swap_dims(1, 2)
        };
        let q = self.rotation.turn(part(0, heads)).reshape([batch, kv, heads / kv * tokens, dim]);
        let k = self.rotation.turn(part(heads, kv));
        let v = part(heads + kv, kv);
        let scores = self.matmul(q.mul_scalar(1.0 / (dim as f32).sqrt()), k.transpose());
        let scores = scores.reshape([batch * heads, tokens, tokens]);
        let ahead = beside(self.rotation.ahead.clone(), &scores).narrow(0, 0, tokens).narrow(1, 0, tokens);
        let scores = scores.mask_fill(ahead.unsqueeze::<3>().expand([batch * heads, tokens, tokens]), -1e9);
        let weights = softmax(scores.reshape([batch * heads * tokens, tokens]));
        let weights = weights.reshape([batch, kv, heads / kv * tokens, tokens]);
        let attended = self.matmul(weights, v).reshape([batch, heads, tokens, dim]);
        attended.swap_dims(1, 2).reshape([batch, tokens, heads * dim])
    }
}

impl Rotation {
    fn new(shape: &LlamaShape, window: usize, device: &Device) -> Rotation {
        let frequencies = shape.rope.frequencies(shape.head_dim);
        let angles = (0..window).flat_map(|t| {
            let row = frequencies.iter().map(move |f| t as f32 * f);
            row.clone().chain(row)
        });
        let angles: Vec<f32> = angles.collect();
        let table = |f: fn(f32) -> f32| {
            let data: Vec<f32> = angles.iter().map(|a| f(*a)).collect();
            Tensor::from_data(TensorData::new(data, [window, shape.head_dim as usize]), device)
        };
        let ahead = (0..window).flat_map(|t| (0..window).map(move |key| i32::from(key > t))).collect::<Vec<i32>>();
        let ahead = Tensor::<2, Int>::from_data(TensorData::new(ahead, [window, window]), device).equal_elem(1);
        Rotation { cos: table(f32::cos), sin: table(f32::sin), ahead }
    }

    /// Turns the halves of each head, [B, heads, T, A].
    fn turn(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, tokens, dim] = x.dims();
        let table = |table: &Tensor<2>| beside(table.clone(), &x).narrow(0, 0, tokens).unsqueeze::<4>();
        let (cos, sin) = (table(&self.cos), table(&self.sin));
        let half = dim / 2;
        let turned = Tensor::cat(vec![x.clone().narrow(3, half, half).neg(), x.clone().narrow(3, 0, half)], 3);
        x * cos + turned * sin
    }
}

/// RMSNorm of the rows of x, [N, D].
fn norm(x: Tensor<2>, weight: &Tensor<1>, eps: f32) -> Tensor<2> {
    let weight = beside(weight.clone(), &x).unsqueeze::<2>();
    unit_rms(x, eps) * weight
}

/// The rows of x, [N, in], divided by the root of their mean square.
pub fn unit_rms(x: Tensor<2>, eps: f32) -> Tensor<2> {
    let [_, length] = x.dims();
    let scale = sum_rows(x.clone().square()).div_scalar(length as f32).add_scalar(eps).sqrt();
    x / spread(scale, length)
}

/// A constant made fit to meet `other`: burn mixes no tensors with gradients and without.
pub fn beside<const D: usize, const E: usize, K: Autodiff>(constant: Tensor<D, K>, other: &Tensor<E>) -> Tensor<D, K> {
    if other.is_autodiff() { constant.autodiff() } else { constant }
}
