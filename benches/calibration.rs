//! Seconds and memory of a calibration step, of random weights in any shape, with layers that come from a file.
//!
//! `cargo bench --features calibrate --bench calibration -- SHAPE LAYERS STEPS MEMORY DEVICE [BATCH] [SEQ]`, as in
//! `llama3-8b 2,4 2 16 gpu`: SHAPE as for `edge-run bench --synthetic`, LAYERS how many of its layers, with a line for
//! each of these numbers; MEMORY in GiB; DEVICE `cpu`, `gpu`, or a number of `edge-run devices`. A step's time is
//! linear in the number of layers: two runs give the share of a layer, from which the time of all layers follows.

use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::time::Instant;

use edge_run::CancelToken;
use edge_run::internals::arch::ModelSpec;
use edge_run::internals::bench::Synthetic;
use edge_run::internals::calibrate::{
    self, CalibrationOptions, CalibrationProgress, Device, Memory, calibrate as train, cpu,
};
use edge_run::internals::engine::DeviceKind;
use edge_run::internals::error::{Error, Result};
use edge_run::internals::format::ModelSource;
use edge_run::internals::gpu;
use edge_run::internals::model::WeightSource;
use edge_run::internals::quantize::{Source, SourceTensor, TextAssets};
use edge_run::internals::shape::LlamaShape;
use tokenizers::Tokenizer;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// Random numbers that all weights are cut from.
const BLOCK: usize = (1 << 20) + 7;
/// The context of a model, which rotary tables do not depend on.
const CONTEXT: u32 = 4096;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let [shape, layers, steps, memory, device, rest @ ..] = &words[..] else {
        println!("skipped: no SHAPE LAYERS STEPS MEMORY DEVICE are named");
        return Ok(());
    };
    let number = |word: &str| word.parse::<usize>().expect("a number");
    let setting = |at: usize, default: usize| rest.get(at).map_or(default, |word| number(word));
    let device = device_of(device)?;
    let synthetic = Synthetic::parse(shape, 0)?;
    let whole = WeightSource::shape(&synthetic).clone();
    let dir = tempfile::tempdir().expect("a folder");
    let text = dir.path().join("text.txt");
    std::fs::write(&text, words_of_text()).expect("a text");
    let mut found = Vec::new();
    for layers in layers.split(',').map(number) {
        let options = CalibrationOptions {
            texts: vec![text.clone()],
            steps: number(steps),
            batch: setting(0, 12),
            seq: setting(1, 512),
            seed: 0,
            memory: (number(memory) as u64) << 30,
            stream: true,
            out: dir.path().join("a.pack"),
        };
        let shape = LlamaShape { layers: layers as u32, max_context: CONTEXT, ..whole.clone() };
        let source = RandomWeights::new(shape, WeightSource::spec(&synthetic));
        found.push((layers, measure(source, &device, &options)?));
        let _ = std::fs::remove_file(calibrate::checkpoint_path(&options.out));
    }
    if let [(few, of_few), .., (many, of_many)] = found[..] {
        let layer = (of_many - of_few) / (many as f64 - few as f64);
        let all = of_few + layer * (f64::from(whole.layers) - few as f64);
        println!("a layer takes {layer:.2} s of a step; all {} would take {all:.1} s a step", whole.layers);
    }
    Ok(())
}

/// Runs so many steps, and tells the time of the fastest, and what memory was taken.
fn measure(mut source: RandomWeights, device: &Device, options: &CalibrationOptions) -> Result<f64> {
    let (begin, mut reserved, mut in_use) = (Instant::now(), 0, 0);
    let (mut plan, mut loaded, mut last): (Option<Memory>, f64, f64) = (None, 0.0, 0.0);
    let (mut steps, mut divergence) = (Vec::new(), f32::NAN);
    let layers = source.shape.layers;
    let outcome = train(&mut source, device, options, None, &CancelToken::new(), &mut |progress| {
        let now = begin.elapsed().as_secs_f64();
        if let Some(usage) = device.memory_pool_usage() {
            (reserved, in_use) = (reserved.max(usage.bytes_reserved), in_use.max(usage.bytes_in_use));
        }
        match progress {
            CalibrationProgress::Plan(memory) => plan = Some(memory),
            CalibrationProgress::Weights(..) | CalibrationProgress::Scales(..) => loaded = now,
            CalibrationProgress::Resumed(_) => (),
            CalibrationProgress::Step(step) => {
                // The first one has the measurement before it in its time.
                if step.done > 1 {
                    steps.push(now - last);
                }
                (last, divergence) = (now, step.kl);
                if step.done == options.steps {
                    return ControlFlow::Break(());
                }
            }
            CalibrationProgress::Table(_) => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    });
    match outcome {
        Ok(_) | Err(Error::Stopped(_)) => (),
        Err(fault) => return Err(fault),
    }
    let plan = plan.expect("a plan comes first");
    let fastest = steps.iter().copied().fold(f64::INFINITY, f64::min);
    let mib = |bytes: u64| bytes >> 20;
    println!(
        "{layers} layers: {fastest:.2} s a step ({} measured), KL {divergence:.4}, {} windows at once; \
         loaded in {loaded:.0} s; {} MiB planned, {} MiB reserved on the device, {} MiB in use between steps; {}",
        steps.len(),
        plan.micro,
        mib(plan.total()),
        mib(reserved),
        mib(in_use),
        host_peak(),
    );
    Ok(fastest)
}

/// The most memory that the process had, in words.
fn host_peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find(|line| line.starts_with("VmHWM"));
    format!("host peak {}", peak.and_then(|line| line.split_once(':')).map_or("unknown", |(_, peak)| peak.trim()))
}

fn device_of(word: &str) -> Result<Device> {
    if word == "cpu" {
        return Ok(cpu());
    }
    let all = gpu::devices();
    let discrete = all.iter().position(|info| info.kind == DeviceKind::DiscreteGpu);
    let at = if word == "gpu" { discrete.unwrap_or(0) } else { word.parse().expect("a device by its number") };
    let info = all.get(at).ok_or_else(|| Error::argument("device", "one of `edge-run devices`", word))?;
    println!("{}", info.name);
    calibrate::gpu(info, &all)
}

/// Text of many windows, whose tokens are letters.
fn words_of_text() -> String {
    (0..40_000u32).map(|at| ["on ", "a day ", "the sea ", "was "][(at * at % 7 % 4) as usize]).collect()
}

/// A checkpoint of random weights that lies nowhere.
struct RandomWeights {
    shape: LlamaShape,
    spec: ModelSpec,
    about: ModelSource,
    /// Numbers from -1 to 1.
    block: Vec<f32>,
}

impl RandomWeights {
    fn new(shape: LlamaShape, spec: ModelSpec) -> RandomWeights {
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let about = ModelSource {
            name: "random weights".into(),
            format: "none".into(),
            family: None,
            dtypes: Vec::new(),
            licence: None,
        };
        RandomWeights { shape, spec, about, block: (0..BLOCK).map(|_| random()).collect() }
    }
}

impl Source for RandomWeights {
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
        // Sorted, as the alphabet has another order in every run.
        let mut letters: Vec<String> = ByteLevel::alphabet().into_iter().map(String::from).collect();
        letters.sort();
        let vocab: Vocab = letters.into_iter().zip(0..).collect();
        let model = BPE::builder().vocab_and_merges(vocab, Vec::new()).build().expect("a vocabulary");
        let mut tokenizer = Tokenizer::new(model);
        tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
        tokenizer.with_decoder(Some(ByteLevel::default()));
        Ok(TextAssets {
            tokenizer: tokenizer.to_string(false).expect("plain data"),
            chat_template: None,
            named_templates: Vec::new(),
            generation_config: r#"{"eos_token_id": [0]}"#.into(),
            warnings: Vec::new(),
        })
    }

    fn rows(&mut self, tensor: SourceTensor, rows: Range<u32>, out: &mut Vec<f32>) -> Result<()> {
        let (_, input) = tensor.dims(&self.shape, &self.spec);
        // So that products are of order one, as norms are.
        let (middle, most) = match tensor {
            _ if tensor.is_vector() => (1.0, 0.1),
            SourceTensor::Embed => (0.0, 1.0),
            _ => (0.0, (3.0 / input as f32).sqrt()),
        };
        out.clear();
        let mut at = (rows.start as usize * 7919 + input as usize) % BLOCK;
        let count = rows.len() * input as usize;
        while out.len() < count {
            let piece = &self.block[at..][..(count - out.len()).min(BLOCK - at)];
            out.extend(piece.iter().map(|number| middle + most * number));
            at = 0;
        }
        Ok(())
    }

    fn locate(&self, tensor: SourceTensor) -> (PathBuf, String) {
        (PathBuf::new(), format!("{tensor:?}"))
    }
}
