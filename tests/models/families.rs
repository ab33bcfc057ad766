//! The families' tiny models against what transformers computes of them: unquantized, and at eight bits on every
//! engine.
//!
//! Four comparisons, each as tight as what lies between its two sides:
//!
//! | ours | compared with | what lies between |
//! |---|---|---|
//! | the unquantized pass over the folder, in both styles of config.json | transformers in f32 | the order of sums |
//! | the unquantized pass over the GGUF file | transformers in f32 | the order of sums |
//! | an engine at eight bits | the unquantized pass over the same cut weights | the cache in f16, activations in int8 |
//! | an engine at eight bits | transformers in f32 | the rounding of weights to eight bits |
//!
//! The last bound is derived for each model: see [`eight_bits`].

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::common;
use crate::common::families::{FamilyModel, FamilyPrompt, folder, uniform};
use crate::common::{quantize_tiny, tokenizer_metadata};
use crate::derived::Derived;
use crate::gpu;
use edge_run::internals::arch::{AttentionSpec, LayerSpec, ModelSpec};
use edge_run::internals::cpu;
use edge_run::internals::engine::{Activations, Engine};
use edge_run::internals::format::ModelFolder;
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::model::Model;
use edge_run::internals::precision::{Depth, PrecisionPlan, SLICES};
use edge_run::internals::quantize::{Source, open};
use edge_run::internals::shape::{LlamaShape, Rope, RopeScaling};
use edge_run::internals::unquantized;
use serde_json::Value;

/// Two sums of f32 in another order, of logits that spread by about three: measured 0.00003. Records have five digits.
const SUMS_DIFFER: f32 = 1e-4;
/// Root of the mean square difference over the logits' spread, for keys and values that are kept as f16 (2^-12 of
/// each, on average), activations as pairs of int8s (a part in 30000 of a chunk's peak) and sums in another order:
/// measured 0.0021. Cooperative matrices take activations and weights as f16: measured 0.0054.
const ENGINES_DIFFER: f32 = 8e-3;
/// Draws of the error of eight bits.
const DRAWS: u32 = 4;
/// The error of eight bits over its draws' largest: measured 0.9 to 1.7 times that.
const OVER_DRAWS: f32 = 2.5;
/// The difference of two logits over the root of the mean square of one, which is rarely more: four deviations.
const RARE: f32 = 4.0 * std::f32::consts::SQRT_2;

/// A test module for each family.
macro_rules! families {
    ($($name:ident),* $(,)?) => {
        const FAMILIES: &[&str] = &[$(stringify!($name)),*];

        $(mod $name {
            #[test]
            fn its_folder_is_read_as_transformers_reads_it() {
                super::folders_are_read(stringify!($name));
            }

            #[test]
            fn its_gguf_file_is_the_same_model() {
                super::gguf_file_is_read(stringify!($name));
            }

            #[test]
            fn engines_compute_it_at_eight_bits() {
                super::engines_compute(stringify!($name));
            }
        })*
    };
}

families!(
    llama3,
    llama_linear,
    mistral,
    mistral_nemo,
    ministral3,
    ministral3_text,
    smollm3,
    qwen2,
    qwen2_window,
    qwen2_yarn,
    qwen3,
    qwen3_yarn,
    phi3_longrope,
    phi3_window,
    granite,
    granite_untied,
    granite_dense_hybrid,
    gemma2,
    gemma2_scaled,
    gemma3_text,
    gemma3_multimodal,
    olmo2,
);

#[test]
fn every_record_has_its_tests() {
    let mut there: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_string())
        .filter(|name| name != "refused")
        .collect();
    there.sort();
    let mut tested = FAMILIES.to_vec();
    tested.sort();
    assert_eq!(tested, there);
}

#[test]
fn weights_are_those_of_the_script() {
    // As `uniform` of make.py gives them.
    let first: Vec<f32> = uniform("model.embed_tokens.weight", 3).collect();
    assert_eq!(first, [-0.257_419_1, -0.359_963_66, 0.026_570_44]);
}

#[test]
fn other_families_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(folder().join("refused.json")).unwrap();
    let refused: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(refused.len() > 8);
    for entry in refused {
        let architecture = entry["config"]["architectures"][0].as_str().unwrap();
        let source = dir.path().join(architecture);
        // All that a folder has: what it says about its architecture is read first.
        FamilyModel::read("llama_linear").write_hf(&source, "new");
        fs::write(source.join("config.json"), entry["config"].to_string()).unwrap();
        let message = open(&source).err().expect("it is refused").to_string();
        assert!(message.contains(architecture), "{architecture}: {message}");

        let name = entry["gguf"].as_str().unwrap();
        if name == "llama" {
            continue;
        }
        let file = dir.path().join(format!("{name}.gguf"));
        let mut metadata = tokenizer_metadata();
        metadata.insert("general.architecture".into(), common::gguf::GgufValue::String(name.into()));
        common::gguf::write(&file, &metadata, &[]);
        let message = open(&file).err().expect("it is refused").to_string();
        assert!(message.contains(&format!("`{name}`")), "{name}: {message}");
    }
}

fn folders_are_read(family: &str) {
    let model = FamilyModel::read(family);
    let dir = tempfile::tempdir().unwrap();
    let mut sources = Vec::new();
    for style in model.configs.keys() {
        let folder = dir.path().join(style);
        model.write_hf(&folder, style);
        let mut source = open(&folder).unwrap_or_else(|fault| panic!("{style}: {fault}"));
        for prompt in &model.prompts {
            let far = farthest(&mut *source, prompt);
            println!("{family}, {style}, {} tokens: {far} at most apart", prompt.ids.len());
            assert!(far < SUMS_DIFFER, "{style}, {} tokens: {far}", prompt.ids.len());
        }
        sources.push(source);
    }
    for other in &sources[1..] {
        assert_eq!((other.shape(), other.spec()), (sources[0].shape(), sources[0].spec()));
    }
    // A token before the last is noticed.
    let prompt = &model.prompts[0];
    let mut ids = prompt.ids.clone();
    ids[prompt.ids.len() - 2] += 1;
    let other = FamilyPrompt { ids, context: prompt.context, logits: prompt.logits.clone() };
    assert!(farthest(&mut *sources[0], &other) > 100.0 * SUMS_DIFFER);
}

fn gguf_file_is_read(family: &str) {
    let model = FamilyModel::read(family);
    let dir = tempfile::tempdir().unwrap();
    let (from_folder, from_file) = (dir.path().join("folder"), dir.path().join("model.gguf"));
    model.write_hf(&from_folder, "new");
    model.write_gguf(&from_file);
    let mut source = open(&from_file).unwrap();
    for prompt in model.prompts.iter().filter(|prompt| prompt.ids.len() <= model.longest_in_gguf()) {
        let far = farthest(&mut *source, prompt);
        println!("{family}, {} tokens: {far} at most apart", prompt.ids.len());
        assert!(far < SUMS_DIFFER, "{} tokens: {far}", prompt.ids.len());
    }
    if model.longest_in_gguf() < usize::MAX {
        return;
    }
    let [a, b] = [&from_folder, &from_file].map(|source| {
        let out = source.with_extension("cut");
        quantize_tiny(source, &out).unwrap();
        ModelFolder::open(&out).unwrap()
    });
    assert_same_but_for_rounding(&a, &b);
    for file in ["base.safetensors", "slice-1.safetensors", "slice-2.safetensors", "slice-3.safetensors"] {
        assert_eq!(a.manifest().files[file], b.manifest().files[file], "{file}");
    }
}

/// Asserts that two folders say the same of their model. One format may give frequencies as a formula, and the other as
/// numbers.
fn assert_same_but_for_rounding(a: &ModelFolder, b: &ModelFolder) {
    let without_rope = |folder: &ModelFolder| {
        let rope = Rope { theta: 1.0, scaling: RopeScaling::None };
        let layer =
            |layer: &LayerSpec| LayerSpec { attention: AttentionSpec { rope_table: 0, ..layer.attention }, ..*layer };
        let layers = (0..folder.shape().layers).map(|at| layer(folder.manifest().spec.layer(at))).collect();
        let spec = ModelSpec { layers, rope_tables: Vec::new(), ..folder.manifest().spec.clone() };
        (LlamaShape { rope, ..folder.shape().clone() }, spec)
    };
    assert_eq!(without_rope(a), without_rope(b));
    for (layer, context) in (0..a.shape().layers).flat_map(|layer| [(layer, 1), (layer, a.shape().max_context)]) {
        let [a, b] = [a, b].map(|folder| {
            let table = folder.manifest().spec.layer(layer).attention.rope_table;
            folder.manifest().spec.frequencies(folder.shape(), table, context)
        });
        let near = a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-6 * b);
        assert!(near && a.len() == b.len(), "layer {layer}, context {context}: {a:?} and {b:?}");
    }
}

fn engines_compute(family: &str) {
    let model = FamilyModel::read(family);
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("source"), dir.path().join("model"));
    model.write_hf(&from, "new");
    quantize_tiny(&from, &to).unwrap();
    let cut = ModelFolder::open(&to).unwrap();
    let mut same_weights = Derived::dequantized(open(&from).unwrap(), &cut);
    let expected: Vec<Expected<'_>> =
        model.prompts.iter().map(|prompt| Expected::of(&from, &mut same_weights, prompt)).collect();
    let contexts: BTreeSet<u32> = model.prompts.iter().map(|prompt| prompt.context).collect();
    for open_engine in engines() {
        for activations in [Activations::F32, Activations::Int8] {
            for context in &contexts {
                let loaded = Model::load(&cut, open_engine(activations), *context, &mut |_, _| ()).unwrap();
                for expected in expected.iter().filter(|expected| expected.prompt.context == *context) {
                    let what = format!("{family}, {}, {activations:?}", loaded.device().name);
                    expected.assert(&format!("{what}, many tokens a step"), &run(&loaded, expected.prompt, false));
                    expected.assert(&format!("{what}, token by token"), &run(&loaded, expected.prompt, true));
                    expected.assert_notices(&run_at(&loaded, expected.prompt, false, 2));
                }
            }
        }
    }
}

/// What an engine may come to for a prompt.
struct Expected<'a> {
    prompt: &'a FamilyPrompt,
    /// Of the unquantized pass over the cut weights, [T][V].
    same_weights: Vec<Vec<f32>>,
    /// See [`eight_bits`].
    eight_bits: f32,
}

impl Expected<'_> {
    fn of<'a>(source: &Path, same_weights: &mut dyn Source, prompt: &'a FamilyPrompt) -> Expected<'a> {
        let same_weights = unquantized::logits(same_weights, &prompt.ids, prompt.context).unwrap();
        Expected { prompt, same_weights, eight_bits: eight_bits(source, prompt) }
    }

    /// Asserts that logits are those of the cut weights, and transformers' within the error of eight
    /// bits beside that.
    fn assert(&self, what: &str, found: &[(usize, Vec<f32>)]) {
        for (place, logits) in found {
            let reference = &self.prompt.logits[place];
            let what = format!("{what}, token {place} of {}", self.prompt.ids.len());
            let (spread, bound) = (rms(reference, &[]), self.eight_bits + ENGINES_DIFFER);
            let far = rms(logits, &self.same_weights[*place]) / spread;
            let far_from_f32 = rms(logits, reference) / spread;
            println!("{what}: {far:.5} from the same weights, {far_from_f32:.5} of {:.5} from f32", self.eight_bits);
            assert!(far < ENGINES_DIFFER, "{what}: {far} from the same weights");
            assert!(far_from_f32 < bound, "{what}: {far_from_f32} from f32, of {bound}");
            assert_top(&what, logits, reference, bound * spread);
        }
    }

    /// Asserts that logits at fewer bits are outside of both bounds, and those of one token for another.
    fn assert_notices(&self, coarse: &[(usize, Vec<f32>)]) {
        for (place, logits) in coarse {
            let reference = &self.prompt.logits[place];
            let bound = (self.eight_bits + ENGINES_DIFFER) * rms(reference, &[]);
            assert!(rms(logits, reference) > bound && rms(logits, &self.same_weights[*place]) > bound, "fewer bits");
            assert!(rms(&self.same_weights[*place - 1], reference) > bound, "another token");
        }
    }
}

/// Asserts that the first token is the reference's, where its margin is more than such an error rarely takes.
fn assert_top(what: &str, logits: &[f32], reference: &[f32], error: f32) {
    let first = top(reference);
    let others = reference.iter().enumerate().filter(|(id, _)| *id != first);
    let margin = reference[first] - others.map(|(_, logit)| *logit).fold(f32::NEG_INFINITY, f32::max);
    assert!(margin < RARE * error || top(logits) == first, "{what}: {} for {first}", top(logits));
}

/// What the rounding of weights to eight bits does to a prompt's logits: the root of the mean square difference over
/// the logits' spread. A code of eight bits leaves each weight an error within half a bin, and the errors have nothing
/// to do with each other. So the pass in f32 is repeated with random errors of that size, drawn without the quantizer.
fn eight_bits(source: &Path, prompt: &FamilyPrompt) -> f32 {
    let draws = (0..DRAWS).map(|seed| {
        let mut source = Derived::perturbed(open(source).unwrap(), seed);
        let logits = unquantized::logits(&mut source, &prompt.ids, prompt.context).unwrap();
        let relative = |(place, reference): (&usize, &Vec<f32>)| rms(&logits[*place], reference) / rms(reference, &[]);
        prompt.logits.iter().map(relative).fold(0.0, f32::max)
    });
    OVER_DRAWS * draws.fold(0.0, f32::max)
}

/// The CPU engine, and a GPU where there is one.
fn engines() -> Vec<fn(Activations) -> Box<dyn Engine>> {
    let gpu = gpu::gpu().map(|_| {
        (|activations| edge_run::internals::gpu::open(0, GpuOptions { activations, ..gpu::options() }).unwrap())
            as fn(_) -> _
    });
    [cpu::open_with as fn(_) -> _].into_iter().chain(gpu).collect()
}

/// The logits at the recorded places, at eight bits.
fn run(model: &Model, prompt: &FamilyPrompt, one_by_one: bool) -> Vec<(usize, Vec<f32>)> {
    run_at(model, prompt, one_by_one, SLICES)
}

/// The same of so many slices.
fn run_at(model: &Model, prompt: &FamilyPrompt, one_by_one: bool, slices: usize) -> Vec<(usize, Vec<f32>)> {
    let plan = PrecisionPlan::uniform(Depth::new(slices).unwrap(), "a test");
    let mut sequence = model.sequence(&plan).unwrap();
    let mut found = Vec::new();
    for place in prompt.logits.keys() {
        let ids = &prompt.ids[sequence.tokens().len()..=*place];
        let step = if one_by_one { 1 } else { ids.len() };
        let steps = ids.chunks(step).map(|ids| sequence.next_logits(ids).unwrap().logits);
        found.push((*place, steps.last().unwrap()));
    }
    found
}

/// How far the unquantized pass is from transformers, at most.
fn farthest(source: &mut dyn Source, prompt: &FamilyPrompt) -> f32 {
    let logits = unquantized::logits(source, &prompt.ids, prompt.context).unwrap();
    let far = |(place, reference): (&usize, &Vec<f32>)| {
        let differences = logits[*place].iter().zip(reference).map(|(a, b)| (a - b).abs());
        differences.fold(0.0, f32::max)
    };
    prompt.logits.iter().map(far).fold(0.0, f32::max)
}

fn top(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap()
}

/// The root of the mean square of `a - b`; without `b`, of `a` from its mean.
fn rms(a: &[f32], b: &[f32]) -> f32 {
    let mean = a.iter().sum::<f32>() / a.len() as f32;
    let square = |(at, a): (usize, &f32)| (a - b.get(at).copied().unwrap_or(mean)).powi(2);
    (a.iter().enumerate().map(square).sum::<f32>() / a.len() as f32).sqrt()
}
