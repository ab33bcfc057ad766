//! The model as burn tensors: frozen weights and codes, and the operations of a layer around any products.

mod head;
mod load;

use std::collections::BTreeMap;

use burn::tensor::kind::Autodiff;
use burn::tensor::{Bool, DType, Device, Gradients, Int, Tensor, TensorData, activation};

use super::coded::CodedSite;
use super::reduce::{softmax, spread, sum_rows};
use super::shelf::Shelf;
use crate::arch::{ActivationFunction, HeadNorm, LayerVector, NormAt, Op, Program, QueryGrowth, Register, RoutedSites};
use crate::cancel::CancelToken;
use crate::shape::{LlamaShape, SiteAt};
pub use load::WeightPlace;

/// Frozen weights, and what the forward pass needs beside them. What is not of a layer is on the device.
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
    /// By layers and [`LayerVector`], those that the layer has.
    vectors: Vec<[Option<Tensor<1>>; LayerVector::ALL.len()]>,
    /// By layers, the stacked weight of each site, [rows, input].
    pub weights: Shelf<[Tensor<2>; 4]>,
    /// The same in codes.
    pub codes: Shelf<[CodedSite; 4]>,
    /// By their numbers.
    rotations: Vec<Rotation>,
    /// By windows of attention, what the token at each position does not look at, [T, T].
    hidden: BTreeMap<Option<u32>, Tensor<2, Bool>>,
    /// What matrix products are computed in, and matrices kept.
    pub product_dtype: DType,
    /// What asks to stop.
    pub cancel: CancelToken,
}

/// What a block leaves to its caller.
pub trait SiteProducts {
    /// The product at a site with its input, [N, in]: [N, rows].
    fn product(&mut self, at: SiteAt, input: Tensor<2>) -> Tensor<2>;

    /// Follows the norms of the residual stream, [N, D], each with the sites whose routers look at it.
    fn normed(&mut self, _routed: &RoutedSites, _normed: &Tensor<2>) {}
}

/// What the operations of a block hand to each other.
#[derive(Clone, Default)]
pub struct BlockState {
    /// By [`Register`], each [N, width].
    registers: [Option<Tensor<2>>; Register::COUNT],
    heads: Option<Heads>,
}

/// Rotated queries and keys, and values.
#[derive(Clone)]
struct Heads {
    /// [B, H, T, A]
    q: Tensor<4>,
    /// [B, K, T, A]
    k: Tensor<4>,
    /// [B, K, T, A]
    v: Tensor<4>,
}

/// Cosines and sines of every position, [T, A].
struct Rotation {
    cos: Tensor<2>,
    sin: Tensor<2>,
}

impl Network {
    /// The residual stream at the first layer: [B, T] ids to [B, T, D].
    pub fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [batch, tokens] = ids.dims();
        let rows = self.embed.clone().select(0, ids.reshape([batch * tokens])).cast(DType::F32);
        rows.reshape([batch as i64, tokens as i64, -1])
    }

    /// Logits of the residual stream after the last layer: [N, D] to [N, V].
    pub fn logits(&self, x: Tensor<2>) -> Tensor<2> {
        let [Op::Norm { at, .. }, Op::Head { cap }] = self.program.head[..] else {
            panic!("calibration has no operations like {:?}", self.program.head)
        };
        let head = self.head.as_ref().unwrap_or(&self.embed);
        let x = self.as_factor(self.norm(at, x));
        let head = beside(head.clone(), &x);
        capped(head::head_product(x, head), cap)
    }

    /// x [N, in] times w [rows, in] transposed, [N, rows].
    pub fn product(&self, x: Tensor<2>, w: Tensor<2>) -> Tensor<2> {
        let w = beside(w, &x);
        self.matmul(x, w.transpose())
    }

    /// The same with a w in parts of its rows.
    pub fn product_in_parts(&self, x: Tensor<2>, parts: &[Tensor<2>]) -> Tensor<2> {
        let x = self.as_factor(x);
        joined(parts.iter().map(|w| self.product(x.clone(), w.clone())).collect(), 1)
    }

    /// A matrix product in [`Network::product_dtype`], to f32.
    pub fn matmul<const D: usize>(&self, a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
        let [a, b] = [a, b].map(|x| self.as_factor(x));
        a.matmul(b).cast(DType::F32)
    }

    /// The same in [`Network::product_dtype`], for one who multiplies it more than once.
    pub fn as_factor<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        if x.dtype() == self.product_dtype { x } else { x.cast(self.product_dtype) }
    }

    /// How many layers there are.
    pub fn layers(&self) -> usize {
        self.vectors.len()
    }

    /// Layer `at`: [B, T, D] to [B, T, D]; the `products` are the caller's.
    pub fn block(&self, at: usize, x: Tensor<3>, products: &mut dyn SiteProducts) -> Tensor<3> {
        let [batch, tokens, dim] = x.dims();
        let mut state = BlockState::default();
        state.put(Register::Residual, x.reshape([batch * tokens, dim]));
        for op in &self.program.layers[at] {
            match op {
                Op::Project { at, from, to } => {
                    let input = state.read(*from);
                    state.put(*to, products.product(*at, input));
                }
                op => self.operate(op, [batch, tokens], &mut state, &mut |routed, normed| {
                    products.normed(routed, normed);
                }),
            }
        }
        state.take(Register::Residual).reshape([batch, tokens, dim])
    }

    /// The operations of layer `at` in stages: each is one product, or all that lies between two of them.
    pub fn stages(&self, at: usize) -> impl Iterator<Item = &[Op]> {
        let is_product = |op: &Op| matches!(op, Op::Project { .. });
        self.program.layers[at].chunk_by(move |a, b| !is_product(a) && !is_product(b))
    }

    /// Carries out one operation that is no product, on windows of [B, T] tokens; `on_norm` follows the norms of the
    /// residual stream.
    pub fn operate(
        &self,
        op: &Op,
        windows: [usize; 2],
        state: &mut BlockState,
        on_norm: &mut dyn FnMut(&RoutedSites, &Tensor<2>),
    ) {
        match op {
            Op::Norm { at, from, to, routed } => {
                let normed = self.norm(*at, state.read(*from));
                if *from == Register::Residual {
                    on_norm(routed, &normed);
                }
                state.put(*to, normed);
            }
            Op::Rotate { .. } => state.heads = Some(self.rotate(op, state.take(Register::Qkv), windows)),
            Op::Attend { cap, window, .. } => {
                let heads = state.heads.take().expect("queries are rotated before they attend");
                state.put(Register::Attended, self.attend(heads, *cap, *window));
            }
            Op::Gate { activation } => {
                let (gate_up, ffn) = (state.take(Register::GateUp), self.shape.ffn_dim as usize);
                let (gate, up) = (gate_up.clone().narrow(1, 0, ffn), gate_up.narrow(1, ffn, ffn));
                state.put(Register::Hidden, activated(*activation, gate) * up);
            }
            Op::Add { norm } => {
                let branch = state.take(Register::Branch);
                let branch = norm.map_or(branch.clone(), |norm| self.norm(norm, branch));
                let sum = state.take(Register::Residual) + branch;
                state.put(Register::Residual, sum);
            }
            Op::Project { .. } | Op::Embed | Op::Head { .. } => panic!("{op:?} is not an operation between products"),
        }
    }

    /// A vector of a layer; panics where its spec has none such.
    fn vector(&self, layer: u32, which: LayerVector) -> &Tensor<1> {
        let vector = self.vectors[layer as usize][which as usize].as_ref();
        vector.expect("the operations follow from the spec, as the vectors do")
    }

    /// A norm of the rows of x, [N, D].
    fn norm(&self, at: NormAt, x: Tensor<2>) -> Tensor<2> {
        let weight = match at.vector() {
            Some((layer, vector)) => self.vector(layer, vector),
            None if at == NormAt::Routers => return unit_rms(x, self.shape.norm_eps),
            None => &self.final_norm,
        };
        let weight = beside(weight.clone(), &x).unsqueeze::<2>();
        unit_rms(x, self.shape.norm_eps) * weight
    }

    /// Queries, keys and values of windows of [B, T] tokens, [N, (H + 2K) A], with their biases, of which the first two
    /// are normalized and rotated as the operation says.
    fn rotate(&self, op: &Op, qkv: Tensor<2>, [batch, tokens]: [usize; 2]) -> Heads {
        let Op::Rotate { layer, bias, head_norm, rope_table, query_growth } = *op else {
            panic!("{op:?} does not rotate")
        };
        let (shape, own) = (&self.shape, |which| self.vector(layer, which));
        let (heads, kv, dim) = (shape.heads as usize, shape.kv_heads as usize, shape.head_dim as usize);
        let qkv = match bias {
            true => qkv.clone() + beside(own(LayerVector::QkvBias).clone(), &qkv).unsqueeze::<2>(),
            false => qkv,
        };
        let columns = |first: usize, count: usize| qkv.clone().narrow(1, first * dim, count * dim);
        let part = |part: Tensor<2>, count: usize| part.reshape([batch, tokens, count, dim]).swap_dims(1, 2);
        let normed = |x: Tensor<2>, weight: LayerVector| match head_norm {
            HeadNorm::None => x,
            HeadNorm::EachHead | HeadNorm::AllHeads => self.normalize_heads(x, own(weight)),
        };
        let (q, k) =
            (normed(columns(0, heads), LayerVector::QueryNorm), normed(columns(heads, kv), LayerVector::KeyNorm));
        let rotation = &self.rotations[rope_table as usize];
        let q = rotation.rotate(part(q, heads));
        let q = query_growth.map_or(q.clone(), |growth| grown(q, growth));
        Heads { q, k: rotation.rotate(part(k, kv)), v: part(columns(heads + kv, kv), kv) }
    }

    /// The norm of each stretch of x, [N, heads * A], that is as long as the weight.
    fn normalize_heads(&self, x: Tensor<2>, weight: &Tensor<1>) -> Tensor<2> {
        let ([rows, width], [length]) = (x.dims(), weight.dims());
        let weight = beside(weight.clone(), &x).unsqueeze::<2>();
        let normed = unit_rms(x.reshape([rows * width / length, length]), self.shape.norm_eps) * weight;
        normed.reshape([rows, width])
    }

    /// Causal grouped-query attention, [N, H A], over so many positions at most and with scores that are bounded so.
    fn attend(&self, Heads { q, k, v }: Heads, cap: Option<f32>, window: Option<u32>) -> Tensor<2> {
        let ([batch, heads, tokens, dim], [_, kv, _, _]) = (q.dims(), k.dims());
        let q = q.reshape([batch, kv, heads / kv * tokens, dim]);
        let scores = capped(self.matmul(q.mul_scalar(1.0 / (dim as f32).sqrt()), k.transpose()), cap);
        let scores = scores.reshape([batch * heads, tokens, tokens]);
        let hidden = beside(self.hidden[&window].clone(), &scores).narrow(0, 0, tokens).narrow(1, 0, tokens);
        let hidden = hidden.unsqueeze::<3>().expand([batch * heads, tokens, tokens]);
        let scores = scores.mask_fill(hidden, -1e9);
        let weights = softmax(scores.reshape([batch * heads * tokens, tokens]));
        let weights = weights.reshape([batch, kv, heads / kv * tokens, tokens]);
        let attended = self.matmul(weights, v).reshape([batch, heads, tokens, dim]);
        attended.swap_dims(1, 2).reshape([batch * tokens, heads * dim])
    }
}

impl BlockState {
    /// Fills a register.
    pub fn put(&mut self, register: Register, value: Tensor<2>) {
        self.registers[register as usize] = Some(value);
    }

    /// Adds to what is in a register, if anything is.
    pub fn add(&mut self, register: Register, value: Option<Tensor<2>>) {
        let own = &mut self.registers[register as usize];
        *own = sum(own.take(), value);
    }

    /// Adds to each register the gradient by the leaf in that of `leaves`, if there is one.
    pub fn add_gradients(&mut self, leaves: BlockState, gradients: &mut Gradients) {
        for (register, leaf) in self.registers.iter_mut().zip(leaves.registers) {
            let gradient = leaf.and_then(|leaf| leaf.grad_remove(gradients));
            *register = sum(register.take(), gradient);
        }
    }

    /// Empties a register, so that its memory is free once its reader is done.
    pub fn take(&mut self, register: Register) -> Tensor<2> {
        self.take_if_full(register).expect("an operation before this one writes what it reads")
    }

    /// Empties a register that may be empty.
    pub fn take_if_full(&mut self, register: Register) -> Option<Tensor<2>> {
        self.registers[register as usize].take()
    }

    /// Empties a register, but for the residual stream, which is read more than once.
    pub fn read(&mut self, register: Register) -> Tensor<2> {
        let value = self.take(register);
        if register == Register::Residual {
            self.put(register, value.clone());
        }
        value
    }

    /// The same with every register as a leaf of a new graph.
    pub fn leaves(&self) -> BlockState {
        let leaf = |tensor: &Option<Tensor<2>>| tensor.clone().map(|tensor| tensor.autodiff().require_grad());
        assert!(self.heads.is_none(), "no product comes between rotation and attention");
        BlockState { registers: self.registers.each_ref().map(leaf), heads: None }
    }
}

impl Rotation {
    fn new(frequencies: &[f32], window: usize, device: &Device) -> Rotation {
        let angles = (0..window).flat_map(|t| {
            let row = frequencies.iter().map(move |f| t as f32 * f);
            row.clone().chain(row)
        });
        let angles: Vec<f32> = angles.collect();
        let table = |f: fn(f32) -> f32| {
            let data: Vec<f32> = angles.iter().map(|a| f(*a)).collect();
            Tensor::from_data(TensorData::new(data, [window, 2 * frequencies.len()]), device)
        };
        Rotation { cos: table(f32::cos), sin: table(f32::sin) }
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

/// What the token at each of so many positions does not look at through a window, [T, T].
fn hidden_positions(tokens: usize, window: Option<u32>, device: &Device) -> Tensor<2, Bool> {
    let reach = window.map_or(tokens, |window| window as usize);
    let hidden = |t: usize| (0..tokens).map(move |key| i32::from(key > t || key + reach <= t));
    let hidden: Vec<i32> = (0..tokens).flat_map(hidden).collect();
    Tensor::<2, Int>::from_data(TensorData::new(hidden, [tokens, tokens]), device).equal_elem(1)
}

/// Queries, [B, H, T, A], of which those at position p are multiplied by what they grow to there.
fn grown(q: Tensor<4>, growth: QueryGrowth) -> Tensor<4> {
    let [_, _, tokens, _] = q.dims();
    let factor = |p: usize| 1.0 + growth.beta * ((p / growth.original_context as usize) as f32).ln_1p();
    let factors: Vec<f32> = (0..tokens).map(factor).collect();
    let factors = Tensor::<4>::from_data(TensorData::new(factors, [1, 1, tokens, 1]), &q.device());
    q.clone() * beside(factors, &q)
}

/// cap * tanh(x / cap), or x.
fn capped<const D: usize>(x: Tensor<D>, cap: Option<f32>) -> Tensor<D> {
    match cap {
        Some(cap) => x.div_scalar(cap).tanh().mul_scalar(cap),
        None => x,
    }
}

fn activated(function: ActivationFunction, x: Tensor<2>) -> Tensor<2> {
    match function {
        ActivationFunction::Silu => activation::silu(x),
        // x * (1 + tanh(u)) / 2 with u = sqrt(2 / pi) * (x + 0.044715 x^3).
        ActivationFunction::GeluTanh => {
            let double_u = (x.clone() + x.clone().powi_scalar(3).mul_scalar(0.044715)).mul_scalar(1.595_769_1);
            x * activation::sigmoid(double_u)
        }
    }
}

/// The rows of x, [N, in], divided by the root of their mean square.
pub fn unit_rms(x: Tensor<2>, eps: f32) -> Tensor<2> {
    let [_, length] = x.dims();
    let scale = sum_rows(x.clone().square()).div_scalar(length as f32).add_scalar(eps).sqrt();
    x / spread(scale, length)
}

/// The sum of what there is.
pub fn sum(a: Option<Tensor<2>>, b: Option<Tensor<2>>) -> Option<Tensor<2>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    }
}

/// The parts as one tensor, without a copy of a single one.
pub fn joined(mut parts: Vec<Tensor<2>>, dim: usize) -> Tensor<2> {
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, dim) }
}

/// A constant made fit to meet `other`: burn mixes no tensors with gradients and without.
pub fn beside<const D: usize, const E: usize, K: Autodiff>(constant: Tensor<D, K>, other: &Tensor<E>) -> Tensor<D, K> {
    if other.is_autodiff() { constant.autodiff() } else { constant }
}

#[cfg(test)]
#[path = "network_tests.rs"]
mod tests;
