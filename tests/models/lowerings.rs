//! Which kernels the two lowerings make of LLaMA's operations, in which order.

use std::sync::{Arc, Mutex};

use edge_run::internals::arch::{HeadNorm, LayerNorms, LayerSpec, ModelSpec};
use edge_run::internals::bench::Synthetic;
use edge_run::internals::cancel::CancelToken;
use edge_run::internals::engine::{Activations, DeviceInfo, DeviceKind, Engine, KernelTime, Traits};
use edge_run::internals::error::Result;
use edge_run::internals::format::MappedTensor;
use edge_run::internals::model::{CacheOptions, Model, Sequence, Step, WeightSource};
use edge_run::internals::precision::{Depth, PrecisionPlan};
use edge_run::internals::recording::{Buffer, Command, Prepared, Recording, Span, Ticket};

const GPU: Traits = Traits {
    software: false,
    cooperative_matrix: false,
    packed_dot: true,
    activations: Activations::Int8,
    subgroup: 32,
    processors: 132,
    workgroup_invocations: 1024,
    workgroup_bytes: 48 << 10,
    binding_bytes: 1 << 27,
    buffer_bytes: 1 << 31,
    loop_rounds: u32::MAX,
};

/// A GPU whose workgroups have the least memory that Vulkan asks for.
const SMALL: Traits = Traits { workgroup_bytes: 16 << 10, ..GPU };

/// An engine that writes down the kernels of what it should prepare, and answers zeros.
struct NameList {
    info: DeviceInfo,
    cancel: CancelToken,
    traits: Traits,
    kernels: Arc<Mutex<Vec<&'static str>>>,
}

impl Engine for NameList {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn traits(&self) -> Traits {
        self.traits
    }

    fn cancel_token(&self) -> &CancelToken {
        &self.cancel
    }

    fn set_cancel(&mut self, cancel: CancelToken) {
        self.cancel = cancel;
    }

    fn create(&mut self, _label: &str, bytes: u64) -> Result<Buffer> {
        Ok(Buffer::new(bytes))
    }

    fn load(&mut self, _label: &str, _tensor: &MappedTensor) -> Result<Buffer> {
        panic!("a synthetic model maps no file")
    }

    fn destroy(&mut self, _buffer: Buffer) {}

    fn retiring_bytes(&mut self) -> Result<u64> {
        Ok(0)
    }

    fn wait(&mut self) -> Result<()> {
        Ok(())
    }

    fn write(&mut self, _to: Span, _bytes: &[u8]) {}

    fn upload(&mut self, _to: Span, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn prepare(&mut self, recording: Recording) -> Result<Prepared> {
        let (mut kernels, mut read_backs) = (Vec::new(), Vec::new());
        for command in recording.commands() {
            match command {
                Command::Dispatch(dispatch) => kernels.push(dispatch.kernel.name),
                Command::Clear(_) => kernels.push("clear"),
                Command::ReadBack(span) => read_backs.push(vec![0u8; span.bytes as usize]),
            }
        }
        *self.kernels.lock().unwrap() = kernels;
        Ok(Prepared(Box::new(read_backs)))
    }

    fn overlaps(&self) -> bool {
        false
    }

    fn submit(&mut self, prepared: &mut Prepared) -> Result<Ticket> {
        Ok(Ticket(Box::new(prepared.0.downcast_ref::<Vec<Vec<u8>>>().unwrap().clone())))
    }

    fn finish(&mut self, ticket: Ticket) -> Result<Vec<Vec<u8>>> {
        Ok(*ticket.0.downcast().unwrap())
    }

    fn profile(&mut self, _prepared: &mut Prepared) -> Result<Vec<KernelTime>> {
        Ok(Vec::new())
    }

    fn allocated_bytes(&self) -> u64 {
        0
    }
}

/// The kernels of a step of so many tokens, which reads back logits, in a LLaMA of two layers.
fn kernels(traits: Traits, plan: &PrecisionPlan, tokens: usize) -> Vec<&'static str> {
    kernels_of(&ModelSpec::default(), traits, plan, tokens)
}

/// The same of a model that differs from LLaMA so.
fn kernels_of(spec: &ModelSpec, traits: Traits, plan: &PrecisionPlan, tokens: usize) -> Vec<&'static str> {
    let kernels = Arc::default();
    let model = model_of(spec, traits, &kernels, 1);
    model.sequence(plan).unwrap().next_logits(&vec![1; tokens]).unwrap();
    kernels.lock().unwrap().clone()
}

/// The model, which writes down the kernels of what it prepares last.
fn model_of(spec: &ModelSpec, traits: Traits, kernels: &Arc<Mutex<Vec<&'static str>>>, sequences: u32) -> Model {
    let info = DeviceInfo {
        index: None,
        name: "none".into(),
        kind: DeviceKind::DiscreteGpu,
        backend: "none".into(),
        driver: String::new(),
        features: Vec::new(),
    };
    let engine = NameList { info, cancel: CancelToken::new(), traits, kernels: Arc::clone(kernels) };
    let shape = Synthetic::parse("128x256x2x4x2x300", 1).unwrap().shape().clone();
    let source = Synthetic::new(shape, spec.clone(), 1).unwrap();
    let cache = CacheOptions { sequences, ..CacheOptions::from(64) };
    Model::load(&source, Box::new(engine), cache, &mut |_, _| ()).unwrap()
}

/// The kernels of a step that are these at the beginning, these for each of two layers, and these at the end.
fn of_two_layers(first: &[&'static str], layer: &[&'static str], last: &[&'static str]) -> Vec<&'static str> {
    [first, layer, layer, last].concat()
}

fn uniform() -> PrecisionPlan {
    PrecisionPlan::uniform(Depth::FULL, "a test")
}

fn routed() -> PrecisionPlan {
    PrecisionPlan::routed(5.0, "a test")
}

const ONE: [&str; 5] = ["project_qkv", "attention_split", "project_residual", "project_gate", "project_residual"];

#[test]
fn a_layer_of_one_token_is_five_kernels() {
    assert_eq!(kernels(GPU, &uniform(), 1), of_two_layers(&["embed_sliced"], &ONE, &["project_logits"]));
    // The depths of the first sites alone are chosen by a kernel of its own.
    let first = ["embed_sliced", "route"];
    assert_eq!(kernels(GPU, &routed(), 1), of_two_layers(&first, &ONE, &["project_logits"]));
}

#[test]
fn a_layer_of_many_tokens_is_a_kernel_an_operation() {
    let many =
        |norm, product| [norm, product, "rope_cache", "attention_split", product, norm, product, "gate", product];
    let vector = "matvec_sliced";
    // The head has one token, the last.
    let expected = of_two_layers(&["embed_sliced"], &many("rms_norm", vector), &["project_logits"]);
    assert_eq!(kernels(GPU, &uniform(), 9), expected);
    // The last norm of the last layer is looked at by no router.
    let mut expected = of_two_layers(&["embed_sliced"], &many("route", vector), &["project_logits"]);
    expected[15] = "rms_norm";
    assert_eq!(kernels(GPU, &routed(), 9), expected);

    // So is a single token without int8 activations.
    let plain = Traits { activations: Activations::F32, ..GPU };
    let expected = of_two_layers(&["embed_sliced"], &many("rms_norm", vector), &["rms_norm", vector]);
    assert_eq!(kernels(plain, &uniform(), 1), expected);
}

/// Few tokens have the kernels of one, and a kernel before each product that makes its inputs ready. They have no
/// others where activations are not of int8s.
#[test]
fn few_tokens_have_the_kernels_of_one() {
    let [qkv, attend, residual, gate, down] = ONE;
    let pack = "project_pack";
    let few = [pack, qkv, attend, pack, residual, pack, gate, pack, down];
    for tokens in [2, 3, 8] {
        let expected = of_two_layers(&["embed_sliced"], &few, &["project_logits"]);
        assert_eq!(kernels(GPU, &uniform(), tokens), expected);
        let expected = of_two_layers(&["embed_sliced", "route"], &few, &["project_logits"]);
        assert_eq!(kernels(GPU, &routed(), tokens), expected);
        let plain = Traits { activations: Activations::F32, ..GPU };
        assert!(!kernels(plain, &uniform(), tokens).contains(&pack));
    }
    assert!(!kernels(GPU, &uniform(), 9).contains(&pack));
    // Where a workgroup has no room for the sums of several, they go the way of many.
    let small = kernels(SMALL, &uniform(), 3);
    assert!(!small.contains(&pack) && kernels(SMALL, &uniform(), 1).contains(&residual), "{small:?}");
}

/// A step of one token of each of some sequences is one run, with as many choices, whatever their plans.
#[test]
fn sequences_share_a_run() {
    let kernels = Arc::default();
    let model = model_of(&ModelSpec::default(), GPU, &kernels, 5);
    let mut sequences: Vec<Sequence> = [uniform(), PrecisionPlan::uniform(Depth::ALL[0], "a test"), uniform()]
        .iter()
        .map(|plan| model.sequence(plan).unwrap())
        .collect();
    let mut step = Step::new();
    sequences.iter_mut().for_each(|sequence| step.add(sequence, &[1]));
    // The engine answers zeros, so that every choice is sound and of token 0.
    assert!(step.run().into_iter().all(|sampled| sampled.unwrap().id == 0));
    let shared = kernels.lock().unwrap().clone();
    assert_eq!(shared.iter().filter(|kernel| **kernel == "project_pack").count(), 9);
    assert_eq!(shared[shared.len() - 3..], ["project_logits", "sample_peaks", "sample_token"]);
    // So it is on the processor, where several tokens of one sequence have kernels of their own.
    let processor = Traits { software: true, subgroup: 1, workgroup_invocations: u32::MAX, ..GPU };
    let model = model_of(&ModelSpec::default(), processor, &kernels, 5);
    let mut sequences: Vec<Sequence> = (0..3).map(|_| model.sequence(&uniform()).unwrap()).collect();
    let mut step = Step::new();
    sequences.iter_mut().for_each(|sequence| step.add(sequence, &[1]));
    assert!(step.run().into_iter().all(|sampled| sampled.unwrap().id == 0));
    let on_processor = kernels.lock().unwrap().clone();
    let but_attention = |kernels: &[&'static str]| {
        kernels.iter().copied().filter(|kernel| !kernel.starts_with("attention")).collect::<Vec<_>>()
    };
    assert_eq!(but_attention(&on_processor), but_attention(&shared));
    sequences[0].next_logits(&[1, 1, 1]).unwrap();
    assert!(!kernels.lock().unwrap().contains(&"project_pack"));
    // Where a single token has f32 activations, or there is no room for the sums of several, each runs alone.
    for alone in [Traits { activations: Activations::F32, ..GPU }, SMALL] {
        let model = model_of(&ModelSpec::default(), alone, &kernels, 5);
        let mut sequences: Vec<Sequence> = (0..2).map(|_| model.sequence(&uniform()).unwrap()).collect();
        let mut step = Step::new();
        sequences.iter_mut().for_each(|sequence| step.add(sequence, &[1]));
        assert!(step.run().into_iter().all(|sampled| sampled.is_ok()));
        assert!(!kernels.lock().unwrap().contains(&"project_pack"));
    }
}

#[test]
fn many_routed_tokens_are_gathered_before_each_product() {
    let (product, gather) = ("matmul_tiled", "gather_tokens");
    let gathered = kernels(GPU, &routed(), 20);
    assert_eq!(gathered.iter().filter(|kernel| **kernel == gather).count(), 8);
    let followed = gathered.windows(2).filter(|pair| pair[0] == gather).all(|pair| pair[1] == product);
    assert!(followed, "{gathered:?}");
    assert!(!kernels(GPU, &uniform(), 20).contains(&gather));
}

/// Qwen's biases and norms of heads take a kernel more, and Gemma's norms after blocks two. A model without norms
/// before blocks has routers that look at one all the same.
#[test]
fn families_have_a_kernel_more_for_each_thing_that_no_other_can_do() {
    let mut layer = LayerSpec::default();
    layer.attention.qkv_bias = true;
    let spec = |layer| ModelSpec { layers: vec![layer], ..ModelSpec::default() };
    let one = |spec: &ModelSpec, plan: &PrecisionPlan| kernels_of(spec, GPU, plan, 1);
    let [qkv, attend, residual, gate, _] = ONE;
    let finished = [qkv, "finish_qkv", attend, residual, gate, residual];
    let embed = ["embed_sliced"];
    assert_eq!(one(&spec(layer), &uniform()), of_two_layers(&embed, &finished, &["project_logits"]));

    layer.attention.head_norm = HeadNorm::EachHead;
    layer.norms = LayerNorms { after_attention: true, after_feed_forward: true, ..LayerNorms::default() };
    let gemma = ModelSpec { logit_cap: Some(30.0), ..spec(layer) };
    let normed = [qkv, "finish_qkv", attend, residual, "add_norm", gate, residual, "add_norm"];
    let last = ["project_logits", "cap_logits"];
    assert_eq!(one(&gemma, &uniform()), of_two_layers(&embed, &normed, &last));
    assert_eq!(one(&gemma, &routed()), of_two_layers(&["embed_sliced", "route"], &normed, &last));
    let (vector, norm) = ("matvec_sliced", "rms_norm");
    let many = [norm, vector, "finish_qkv", attend, vector, "add_norm", norm, vector, "gate", vector, "add_norm"];
    assert_eq!(kernels_of(&gemma, GPU, &uniform(), 9), of_two_layers(&embed, &many, &last));

    layer.norms = LayerNorms { before_attention: false, before_feed_forward: false, ..layer.norms };
    let olmo = spec(layer);
    let last = ["project_logits"];
    assert_eq!(one(&olmo, &uniform()), of_two_layers(&embed, &normed, &last));
    assert_eq!(one(&olmo, &routed()), of_two_layers(&["embed_sliced", "route"], &normed, &last));
    let many = [vector, "finish_qkv", attend, vector, "add_norm", vector, "gate", vector, "add_norm"];
    assert_eq!(kernels_of(&olmo, GPU, &uniform(), 9), of_two_layers(&embed, &many, &last));
    // No router looks at the last one.
    let routes = kernels_of(&olmo, GPU, &routed(), 9).into_iter().filter(|kernel| *kernel == "route").count();
    assert_eq!(routes, 3);
}
