//! The unquantized model as burn tensors: frozen weights, and the operations of a layer around any products.

use std::ops::ControlFlow;

use burn::tensor::kind::Autodiff;
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData, activation};

use super::reduce::{softmax, spread, sum_rows};
use crate::arch::{LayerVector, NormAt, Op, Program, Register, RoutedSites};
use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::quantize::{Source, SourceTensor};
use crate::shape::{LlamaShape, Site, SiteAt};

/// Frozen weights on a device, f32, and what the forward pass needs beside them.
pub struct Network {
    /// Dimensions and constants.
    pub shape: LlamaShape,
    /// The operations of a forward pass.
    program: Program,
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
    /// By [`LayerVector`], those that the layer has.
    vectors: [Option<Tensor<1>>; LayerVector::ALL.len()],
    /// The stacked weight of each site, [rows, input].
    pub sites: [Tensor<2>; 4],
}

impl Layer {
    /// A vector of the layer; panics where its spec has none such.
    fn vector(&self, which: LayerVector) -> &Tensor<1> {
        self.vectors[which as usize].as_ref().expect("the operations follow from the spec, as the vectors do")
    }
}

/// What a block leaves to its caller.
pub trait SiteProducts {
    /// The product at a site with its input, [N, in]: [N, rows].
    fn product(&mut self, at: SiteAt, input: Tensor<2>) -> Tensor<2>;

    /// Follows the norms of the residual stream, [N, D], each with the sites whose routers look at it.
    fn normed(&mut self, _routed: &RoutedSites, _normed: &Tensor<2>) {}
}

/// What the operations of a block hand to each other.
#[derive(Default)]
struct BlockState {
    /// By [`Register`], each [N, width].
    registers: [Option<Tensor<2>>; Register::COUNT],
    heads: Option<Heads>,
}

/// Rotated queries and keys, and values.
struct Heads {
    /// [B, H, T, A]
    q: Tensor<4>,
    /// [B, K, T, A]
    k: Tensor<4>,
    /// [B, K, T, A]
    v: Tensor<4>,
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
        let (shape, spec) = (source.shape().clone(), source.spec().clone());
        let total = shape.linear_params() + shape.embedding_params();
        let mut done = 0;
        let mut stacked = |source: &mut dyn Source, tensors: &[SourceTensor]| -> Result<Tensor<2>> {
            let (mut all, mut block, mut rows) = (Vec::new(), Vec::new(), 0);
            let mut input = 0;
            for tensor in tensors {
                let dims = tensor.dims(&shape, &spec);
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
            let mut vectors = [const { None }; LayerVector::ALL.len()];
            for vector in LayerVector::of(spec.layer(layer)) {
                let mut parts = Vec::new();
                for tensor in SourceTensor::of_vector(layer, vector) {
                    parts.push(stacked(source, &[tensor])?.squeeze_dim(0));
                }
                vectors[vector as usize] = Some(Tensor::cat(parts, 0));
            }
            layers.push(Layer { vectors, sites });
        }
        let final_norm = stacked(source, &[SourceTensor::FinalNorm])?.squeeze_dim(0);
        let rotation = Rotation::new(&shape, window, device);
        Ok(Network {
            program: Program::new(&spec, shape.layers),
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
        let [Op::Norm { at, .. }, Op::Head { .. }] = self.program.head[..] else {
            panic!("calibration has no operations like {:?}", self.program.head)
        };
        let head = self.head.as_ref().unwrap_or(&self.embed);
        self.product(self.norm(at, x), head.clone())
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

    /// Layer `at`: [B, T, D] to [B, T, D]; the `products` are the caller's.
    pub fn block(&self, at: usize, x: Tensor<3>, products: &mut dyn SiteProducts) -> Tensor<3> {
        let [batch, tokens, dim] = x.dims();
        let mut state = BlockState::default();
        state.put(Register::Residual, x.reshape([batch * tokens, dim]));
        for op in &self.program.layers[at] {
            self.operate(op, [batch, tokens], &mut state, products);
        }
        state.take(Register::Residual).reshape([batch, tokens, dim])
    }

    /// Carries out one operation on windows of [B, T] tokens.
    fn operate(&self, op: &Op, windows: [usize; 2], state: &mut BlockState, products: &mut dyn SiteProducts) {
        match op {
            Op::Norm { at, from, to, routed } => {
                let normed = self.norm(*at, state.read(*from));
                if *from == Register::Residual {
                    products.normed(routed, &normed);
                }
                state.put(*to, normed);
            }
            Op::Project { at, from, to } => {
                let input = state.read(*from);
                state.put(*to, products.product(*at, input));
            }
            Op::Rotate { .. } => state.heads = Some(self.rotate(state.take(Register::Qkv), windows)),
            Op::Attend { .. } => {
                let heads = state.heads.take().expect("queries are rotated before they attend");
                state.put(Register::Attended, self.attend(heads));
            }
            Op::Gate { .. } => {
                let (gate_up, ffn) = (state.take(Register::GateUp), self.shape.ffn_dim as usize);
                let (gate, up) = (gate_up.clone().narrow(1, 0, ffn), gate_up.narrow(1, ffn, ffn));
                state.put(Register::Hidden, activation::silu(gate) * up);
            }
            Op::Add { .. } => {
                let sum = state.take(Register::Residual) + state.take(Register::Branch);
                state.put(Register::Residual, sum);
            }
            Op::Embed | Op::Head { .. } => panic!("{op:?} in a layer"),
        }
    }

    /// A norm of the rows of x, [N, D].
    fn norm(&self, at: NormAt, x: Tensor<2>) -> Tensor<2> {
        let weight = match at.vector() {
            Some((layer, vector)) => self.layers[layer as usize].vector(vector),
            None => &self.final_norm,
        };
        let weight = beside(weight.clone(), &x).unsqueeze::<2>();
        unit_rms(x, self.shape.norm_eps) * weight
    }

    /// Queries, keys and values of windows of [B, T] tokens, [N, (H + 2K) A], the first two rotated.
    fn rotate(&self, qkv: Tensor<2>, [batch, tokens]: [usize; 2]) -> Heads {
        let shape = &self.shape;
        let (heads, kv, dim) = (shape.heads as usize, shape.kv_heads as usize, shape.head_dim as usize);
        let qkv = qkv.reshape([batch as i64, tokens as i64, -1]);
        let part = |first: usize, count: usize| {
            let part = qkv.clone().narrow(2, first * dim, count * dim);
            part.reshape([batch, tokens, count, dim]).swap_dims(1, 2)
        };
        let rotation = &self.rotation;
        Heads { q: rotation.rotate(part(0, heads)), k: rotation.rotate(part(heads, kv)), v: part(heads + kv, kv) }
    }

    /// Causal grouped-query attention, [N, H A].
    fn attend(&self, Heads { q, k, v }: Heads) -> Tensor<2> {
        let ([batch, heads, tokens, dim], [_, kv, _, _]) = (q.dims(), k.dims());
        let q = q.reshape([batch, kv, heads / kv * tokens, dim]);
        let scores = self.matmul(q.mul_scalar(1.0 / (dim as f32).sqrt()), k.transpose());
        let scores = scores.reshape([batch * heads, tokens, tokens]);
        let ahead = beside(self.rotation.ahead.clone(), &scores).narrow(0, 0, tokens).narrow(1, 0, tokens);
        let scores = scores.mask_fill(ahead.unsqueeze::<3>().expand([batch * heads, tokens, tokens]), -1e9);
        let weights = softmax(scores.reshape([batch * heads * tokens, tokens]));
        let weights = weights.reshape([batch, kv, heads / kv * tokens, tokens]);
        let attended = self.matmul(weights, v).reshape([batch, heads, tokens, dim]);
        attended.swap_dims(1, 2).reshape([batch * tokens, heads * dim])
    }
}

impl BlockState {
    fn put(&mut self, register: Register, value: Tensor<2>) {
        self.registers[register as usize] = Some(value);
    }

    /// Empties a register, so that its memory is free once its reader is done.
    fn take(&mut self, register: Register) -> Tensor<2> {
        self.registers[register as usize].take().expect("an operation before this one writes what it reads")
    }

    /// Empties a register, but for the residual stream, which is read more than once.
    fn read(&mut self, register: Register) -> Tensor<2> {
        let value = self.take(register);
        if register == Register::Residual {
            self.put(register, value.clone());
        }
        value
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

    /// Rotates the halves of each head, [B, heads, T, A].
    fn rotate(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, tokens, dim] = x.dims();
        let table = |table: &Tensor<2>| beside(table.clone(), &x).narrow(0, 0, tokens).unsqueeze::<4>();
        let (cos, sin) = (table(&self.cos), table(&self.sin));
        let half = dim / 2;
        let swapped = Tensor::cat(vec![x.clone().narrow(3, half, half).neg(), x.clone().narrow(3, 0, half)], 3);
        x * cos + swapped * sin
    }
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
