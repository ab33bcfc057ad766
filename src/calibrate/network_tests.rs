//! Tests of the network: its logits against plain loops, and that training lowers the loss, for what families have.

use std::ops::{ControlFlow, Range};
use std::path::PathBuf;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::arch::{AttentionSpec, LayerNorms, LayerSpec, LongFrequencies, ModelSpec, RopeTable};
use crate::calibrate::device::cpu;
use crate::calibrate::optimizer::{Optimizer, Rates};
use crate::calibrate::selection::{keep_better_ranges, loss_of, widen_gates};
use crate::calibrate::step::{Batch, Params, Target, losses, step, teacher};
use crate::calibrate::student::SiteParams;
use crate::calibrate::thresholds::Scale;
use crate::error::Result;
use crate::format::ModelSource;
use crate::quantize::{Source, SourceTensor, TextAssets};
use crate::shape::{Rope, RopeScaling};
use crate::unquantized;

/// Tokens of a window.
const WINDOW: usize = 12;
/// The order of sums, of logits of order one.
const SUMS: f32 = 1e-4;

/// A model of random weights.
struct RandomSource {
    shape: LlamaShape,
    spec: ModelSpec,
    about: ModelSource,
}

impl RandomSource {
    fn new(spec: ModelSpec) -> RandomSource {
        let shape = LlamaShape {
            layers: 3,
            model_dim: 64,
            ffn_dim: 128,
            heads: 8,
            kv_heads: 2,
            head_dim: 24,
            vocab: 90,
            max_context: 64,
            norm_eps: 1e-5,
            tied_head: false,
            rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        };
        spec.check(&shape).unwrap();
        let about = ModelSource {
            name: "random".into(),
            format: "none".into(),
            family: None,
            dtypes: Vec::new(),
            licence: None,
        };
        RandomSource { shape, spec, about }
    }
}

impl Source for RandomSource {
    fn shape(&self) -> &LlamaShape {
        &self.shape
    }

    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn model_source(&self) -> &ModelSource {
        &self.about
    }

    fn warnings(&self) -> &[String] {
        &[]
    }

    fn text(&self) -> Result<TextAssets> {
        panic!("no test reads a text")
    }

    fn rows(&mut self, tensor: SourceTensor, rows: Range<u32>, out: &mut Vec<f32>) -> Result<()> {
        let (_, input) = tensor.dims(&self.shape, &self.spec);
        let seed = format!("{tensor:?}").bytes().fold(7u64, |seed, byte| seed.wrapping_mul(31) + u64::from(byte));
        let (middle, most) = match tensor {
            SourceTensor::Vector(..) | SourceTensor::FinalNorm => (1.0, 0.5),
            SourceTensor::Embed => (0.0, 1.0),
            _ if tensor.is_vector() => (0.0, 0.5),
            _ => (0.0, (3.0 / input as f32).sqrt()),
        };
        out.clear();
        for row in rows {
            let mut random = ChaCha8Rng::seed_from_u64(seed ^ u64::from(row) << 32);
            out.extend((0..input).map(|_| middle + random.random_range(-most..most)));
        }
        Ok(())
    }

    fn locate(&self, tensor: SourceTensor) -> (PathBuf, String) {
        (PathBuf::new(), format!("{tensor:?}"))
    }
}

/// The products of the unquantized model.
struct Full<'a>(&'a Network);

impl SiteProducts for Full<'_> {
    fn product(&mut self, at: SiteAt, input: Tensor<2>) -> Tensor<2> {
        self.0.product(input, self.0.layers[at.layer as usize].sites[at.site as usize].clone())
    }
}

fn alike(layer: LayerSpec) -> ModelSpec {
    ModelSpec { layers: vec![layer], ..ModelSpec::default() }
}

fn attention(attention: AttentionSpec) -> ModelSpec {
    alike(LayerSpec { attention, ..LayerSpec::default() })
}

/// LLaMA, each field of a spec, and all of them at once.
fn specs() -> Vec<ModelSpec> {
    let plain = AttentionSpec::default();
    let frequencies = (0..12).map(|at| 0.4 / (1.0 + at as f32)).collect();
    let long = LongFrequencies { original_context: 20, frequencies: vec![0.1; 12] };
    let table = RopeTable { frequencies, long: Some(long) };
    let growth = Some(QueryGrowth { beta: 0.5, original_context: 3 });
    let four = LayerNorms { after_attention: true, after_feed_forward: true, ..LayerNorms::default() };
    let after = LayerNorms { before_attention: false, before_feed_forward: false, ..four };
    let all = |norms, head_norm, window| LayerSpec {
        norms,
        attention: AttentionSpec {
            qkv_bias: true,
            head_norm,
            rope_table: 1,
            query_growth: growth,
            score_cap: Some(2.0),
            window,
        },
        activation: ActivationFunction::GeluTanh,
    };
    let layers =
        vec![all(four, HeadNorm::EachHead, Some(4)), all(after, HeadNorm::AllHeads, None), LayerSpec::default()];
    vec![
        ModelSpec::default(),
        attention(AttentionSpec { qkv_bias: true, ..plain }),
        attention(AttentionSpec { head_norm: HeadNorm::EachHead, ..plain }),
        attention(AttentionSpec { head_norm: HeadNorm::AllHeads, ..plain }),
        ModelSpec { rope_tables: vec![table.clone()], ..attention(AttentionSpec { rope_table: 1, ..plain }) },
        attention(AttentionSpec { query_growth: growth, ..plain }),
        attention(AttentionSpec { score_cap: Some(0.5), ..plain }),
        attention(AttentionSpec { window: Some(3), ..plain }),
        alike(LayerSpec { norms: four, ..LayerSpec::default() }),
        alike(LayerSpec { norms: after, ..LayerSpec::default() }),
        alike(LayerSpec { activation: ActivationFunction::GeluTanh, ..LayerSpec::default() }),
        ModelSpec { logit_cap: Some(1.0), ..ModelSpec::default() },
        ModelSpec { layers, logit_cap: Some(3.0), rope_tables: vec![table] },
    ]
}

fn load(source: &mut RandomSource) -> Network {
    Network::load(source, (&cpu(), DType::F32), WINDOW, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

fn ids(windows: usize) -> Tensor<2, Int> {
    let ids: Vec<i32> = (0..(windows * WINDOW) as i32).map(|at| (at * at * 7 + at) % 90).collect();
    Tensor::from_data(TensorData::new(ids, [windows, WINDOW]), &cpu())
}

#[test]
fn logits_are_those_of_plain_loops() {
    let mut before: Vec<Vec<f32>> = Vec::new();
    for spec in specs() {
        let mut source = RandomSource::new(spec);
        let network = load(&mut source);
        let layers = 0..network.layers.len();
        let x = layers.fold(network.embed(ids(1)), |x, at| network.block(at, x, &mut Full(&network)));
        let logits = network.logits(x.reshape([WINDOW, 64])).into_data().try_to_vec::<f32>().unwrap();
        let tokens: Vec<u32> = ids(1).into_data().iter::<u32>().collect();
        let expected = unquantized::logits(&mut source, &tokens, WINDOW as u32).unwrap().concat();
        let distance = |other: &[f32]| logits.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(distance(&expected) < SUMS, "{}: {:?}", distance(&expected), source.spec);
        assert!(before.iter().all(|other| distance(other) > SUMS), "nothing changes: {:?}", source.spec);
        before.push(logits);
    }
}

fn untrained(network: &Network) -> Params {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut site = |coded: &CodedSite| SiteParams::new(coded.dims(), 64, &cpu(), &mut random);
    network.layers.iter().map(|layer| layer.coded.each_ref().map(&mut site)).collect()
}

/// Changes every site's parameters.
fn each(params: &Params, change: impl Fn(&SiteParams) -> SiteParams) -> Params {
    params.iter().map(|sites| sites.each_ref().map(&change)).collect()
}

#[test]
fn ranges_that_training_spoiled_are_taken_back_and_those_that_it_bettered_stay() {
    let network = load(&mut RandomSource::new(ModelSpec::default()));
    let mut params = untrained(&network);
    let mut optimizer = Optimizer::new(network.layers.len(), 12, Rates { ranges: 5e-3, routers: 0.0 });
    let batch = Batch { ids: ids(4), micro: 4 };
    // No gate opens: the ranges of depth 1 alone are read, and trained.
    let target = Target { bits: 2.0, threshold: 100.0, weight: 1.0 };
    for at in 0..12 {
        let outcome = step(&network, &params, &batch, target).unwrap();
        optimizer.step(at, &mut params, outcome.gradients);
    }
    let spoiled = each(&params, |site| SiteParams { shift_2: site.shift_2.clone().add_scalar(1.5), ..site.clone() });
    let teacher = teacher(&network, &batch).unwrap();
    let largest = |tensor: &Tensor<2>| tensor.clone().abs().max().into_scalar::<f32>();
    let kept = keep_better_ranges(&network, spoiled, &batch, &teacher).unwrap();
    for site in kept.iter().flatten() {
        assert_eq!((largest(&site.shift_2), largest(&site.stretch_2)), (0.0, 0.0));
        assert!(largest(&site.shift_1) > 0.0);
    }
    let spoiled = each(&kept, |site| SiteParams { shift_1: site.shift_1.clone().add_scalar(1.5), ..site.clone() });
    let kept = keep_better_ranges(&network, spoiled, &batch, &teacher).unwrap();
    assert!(kept.iter().flatten().all(|site| largest(&site.shift_1) == 0.0));
}

#[test]
fn gates_are_moved_apart_where_one_depth_for_all_is_better() {
    let network = load(&mut RandomSource::new(ModelSpec::default()));
    let batch = Batch { ids: ids(4), micro: 4 };
    let teacher = teacher(&network, &batch).unwrap();
    // Routers that know nothing of the tokens, and would open the gates of all depths together.
    let params = each(&untrained(&network), |site| {
        let b2 = Tensor::from_data([[1.0, -8.0, -8.0]], &cpu());
        SiteParams { b2, w2: site.w2.clone().mul_scalar(20.0), ..site.clone() }
    });
    let mut on_measurement = |_| Ok(());
    let (network, batch, teacher) = (&network, &batch, &teacher);
    let mut scale = Scale { network, batch, teacher, on_measurement: &mut on_measurement, done: 0 };
    let (before, (widened, after)) = (scale.sketch(&params).unwrap(), widen_gates(&mut scale, &params).unwrap());
    assert!(loss_of(&after) < loss_of(&before), "{} and {}", loss_of(&after), loss_of(&before));
    // Moved once, they may stay: the loss never grows.
    let (_, again) = widen_gates(&mut scale, &widened).unwrap();
    assert!(loss_of(&again) <= loss_of(&after));
}

#[test]
fn training_lowers_the_loss_of_all_that_families_have() {
    let specs = specs();
    for spec in [&specs[9], &specs[12]] {
        const STEPS: usize = 25;
        let network = load(&mut RandomSource::new(spec.clone()));
        let mut params = untrained(&network);
        let mut optimizer = Optimizer::new(network.layers.len(), STEPS, Rates { ranges: 5e-3, routers: 2e-3 });
        let batch = Batch { ids: ids(4), micro: 2 };
        let target = Target { bits: 4.0, threshold: 1.0, weight: 1.0 };
        let first = losses(&network, &params, &batch, &[target]).unwrap()[0];
        for at in 0..STEPS {
            let outcome = step(&network, &params, &batch, target).unwrap();
            optimizer.step(at, &mut params, outcome.gradients);
        }
        let last = losses(&network, &params, &batch, &[target]).unwrap()[0];
        println!("{first} before, {last} after");
        assert!(last < 0.9 * first, "{first} before, {last} after: {spec:?}");
    }
}
