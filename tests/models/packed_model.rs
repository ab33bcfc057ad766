//! A tiny model that decodes with int8 activations against itself with f32 ones, on both engines.

use std::path::Path;

use crate::common;
use crate::gpu;
use crate::logits::logits_at;
use crate::refusing;
use crate::routed;
use edge_run::internals::cpu;
use edge_run::internals::engine::{Activations, DeviceKind, Engine};
use edge_run::internals::format::ModelFolder;
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::model::Model;
use edge_run::internals::model::{CacheOptions, NextLogits};
use edge_run::internals::shape::Site;
use edge_run::{CacheType, PrecisionPlan};

const TOKENS: usize = 40;
const CONTEXT: u32 = 64;
/// Of the angle between two rows of logits, on average. An int8 of a chunk whose peak is 2.5 deviations is 0.6 percent
/// of a deviation off; eight products pass that on, and attention with scores as wide as a random model's makes it
/// more. Measured: 0.9995 to 0.9996.
const COSINE: f32 = 0.999;
/// At least. Measured: 0.9985.
const LEAST_COSINE: f32 = 0.997;
/// On average and at least, where tokens read the base alone, whose products on a GPU take eight bits of a number and
/// not sixteen. Measured: 0.9991, and 0.994 where tokens read on average 3 bits.
const COSINES_OF_BASES: (f32, f32) = (0.998, 0.99);
/// Sites of a hundred where the routers may choose otherwise, of those whose token was read alike until there. Numbers
/// 3 percent off move scores, which spread by about 1.5, by 0.05 or so, and each of three lies as near as that to the
/// threshold once in a hundred times. Measured: 1.6.
const OTHER_DEPTHS: f32 = 2.5;

type Open = fn(Activations) -> Box<dyn Engine>;

fn engines() -> Vec<Open> {
    let gpu = gpu::gpu().map(|_| {
        (|activations| edge_run::internals::gpu::open(0, GpuOptions { activations, ..GpuOptions::default() }).unwrap())
            as Open
    });
    [cpu::open_with as Open].into_iter().chain(gpu).collect()
}

fn folder(dir: &Path, max_context: u32) -> ModelFolder {
    let shape = edge_run::internals::shape::LlamaShape { max_context, ..common::tiny_shape(true) };
    common::TinyModel::new(shape, 11).write_hf(&dir.join("source"), safetensors::Dtype::F32, 1);
    let model = dir.join("model");
    common::quantize_tiny(&dir.join("source"), &model).unwrap();
    routed::add_routers(&model, 5);
    ModelFolder::open(&model).unwrap()
}

fn load(folder: &ModelFolder, open: Open, activations: Activations) -> Model {
    Model::load(folder, open(activations), CONTEXT, &mut |_, _| ()).unwrap()
}

/// Each token alone, behind those before it.
fn steps(model: &Model, plan: &PrecisionPlan, shift: u32) -> Vec<NextLogits> {
    let mut sequence = model.sequence(plan).unwrap();
    let ids = (0..TOKENS as u32).map(|i| 3 + shift + (i * i * 7 + i * 13) % 250);
    ids.map(|id| sequence.next_logits(&[id]).unwrap()).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Of a model with int8 activations that reads so many bits: the cosine on average, and at least.
fn cosines_wanted(packed: &Model, bits: f32) -> (f32, f32) {
    let reads_bases_on_a_gpu = bits < 4.0 && packed.device().kind != DeviceKind::Processor;
    if reads_bases_on_a_gpu { COSINES_OF_BASES } else { (COSINE, LEAST_COSINE) }
}

/// Depths of all sites.
fn depths(model: &Model, step: &NextLogits) -> Vec<u8> {
    (0..model.shape().layers as usize).flat_map(|layer| Site::ALL.map(|site| step.depths.at(layer, site)[0])).collect()
}

/// The least cosine among the steps, of those that read the same depths before and at the step.
fn least_cosine(a: &[NextLogits], b: &[NextLogits], alike: usize) -> f32 {
    a.iter().zip(b).take(alike).map(|(a, b)| cosine(&a.logits, &b.logits)).fold(1.0, f32::min)
}

#[test]
fn int8_logits_are_those_of_f32_but_for_their_rounding() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), CONTEXT);
    for open in engines() {
        let [float, packed] = [Activations::F32, Activations::Int8].map(|a| load(&folder, open, a));
        // Each with bits that are told apart from these.
        for (bits, wrong) in [(2.0, 4.0), (4.0, 2.0), (6.0, 2.0), (8.0, 2.0)] {
            let (mean_wanted, least_wanted) = cosines_wanted(&packed, bits);
            let plan = PrecisionPlan::for_bits(bits, false, "test").unwrap();
            let (a, b) = (steps(&float, &plan, 0), steps(&packed, &plan, 0));
            let least = least_cosine(&a, &b, TOKENS);
            let mean = a.iter().zip(&b).map(|(a, b)| cosine(&a.logits, &b.logits)).sum::<f32>() / TOKENS as f32;
            println!("{}, {bits} bits: cosine {mean}, {least} at least", float.device().name);
            assert!(mean > mean_wanted && least > least_wanted, "{bits} bits: {mean}, {least} at least");
            assert_ne!(a[1].logits, b[1].logits, "two paths");
            // Another token, and another depth, are far outside.
            assert!(least_cosine(&a, &steps(&packed, &plan, 1), TOKENS) < least_wanted);
            let wrong = PrecisionPlan::for_bits(wrong, false, "test").unwrap();
            assert!(least_cosine(&a, &steps(&packed, &wrong, 0), TOKENS) < least_wanted);
        }
    }
}

#[test]
fn routers_choose_by_int8_as_by_f32() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), CONTEXT);
    for open in engines() {
        let [float, packed] = [Activations::F32, Activations::Int8].map(|a| load(&folder, open, a));
        let (mut sites, mut differ, mut seen) = (0, 0, [0; 5]);
        for bits in [3.0, 4.0, 5.0, 6.0, 7.0] {
            let plan = PrecisionPlan::for_bits(bits, true, "test").unwrap();
            let (a, b) = (steps(&float, &plan, 0), steps(&packed, &plan, 0));
            let mut alike = TOKENS;
            for (at, (a, b)) in a.iter().zip(&b).enumerate() {
                let (a, b) = (depths(&float, a), depths(&packed, b));
                // What follows a site that was read at another depth has another input.
                let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
                let far = usize::from(same < a.len());
                alike = if far > 0 { alike.min(at) } else { alike };
                sites += same + far;
                differ += far;
                b.iter().for_each(|depth| seen[usize::from(*depth)] += 1);
            }
            let least = least_cosine(&a, &b, alike);
            println!("{bits} bits, {alike} tokens alike: {least}");
            assert!(least > cosines_wanted(&packed, bits).1, "{bits} bits: {least}");
        }
        println!("{}: {differ} of {sites} depths differ; by depth: {seen:?}", float.device().name);
        assert!(differ as f32 * 100.0 <= sites as f32 * OTHER_DEPTHS, "{differ} of {sites} depths differ");
        assert!(seen[1..].iter().all(|count| count * 20 > sites), "every depth comes often: {seen:?}");
        let [a, b] = [4.0, 5.0].map(|bits| {
            let plan = PrecisionPlan::for_bits(bits, true, "test").unwrap();
            let steps = steps(&packed, &plan, 0);
            steps.iter().flat_map(|step| depths(&packed, step)).collect::<Vec<u8>>()
        });
        let far = a.iter().zip(&b).filter(|(a, b)| a != b).count();
        assert!(
            far as f32 * 100.0 > a.len() as f32 * OTHER_DEPTHS * 2.0,
            "another threshold is noticed: {far} of {}",
            a.len()
        );
    }
}

/// Attention in parts, few and many of a head: what puts them together differs, the numbers do not.
#[test]
fn tokens_behind_long_contexts_are_those_of_the_cpu() {
    if gpu::gpu().is_none() {
        return;
    }
    let hardware = GpuOptions { activations: Activations::Int8, as_hardware: true, ..GpuOptions::default() };
    let plan = PrecisionPlan::for_bits(8.0, false, "test").unwrap();
    for context in [700, 1300] {
        let dir = tempfile::tempdir().unwrap();
        let folder = folder(dir.path(), context);
        let engines = [cpu::open_with(Activations::Int8), edge_run::internals::gpu::open(0, hardware).unwrap()];
        let logits = engines.map(|engine| {
            let model = Model::load(&folder, engine, context, &mut |_, _| ()).unwrap();
            let mut sequence = model.sequence(&plan).unwrap();
            let prompt: Vec<u32> = (0..520).map(|i| 3 + (i * i * 7 + i * 13) % 250).collect();
            sequence.next_logits(&prompt).unwrap();
            [9, 8].map(|token| logits_at(&mut sequence, &[token], 520).logits)
        });
        let found = cosine(&logits[0][0], &logits[1][0]);
        println!("{context}: cosine {found}");
        assert!(found > LEAST_COSINE, "{context}: {found}");
        assert!(cosine(&logits[0][0], &logits[1][1]) < 0.9, "another token is noticed");
    }
}

#[test]
fn activations_are_chosen_by_a_trial_that_a_file_remembers() {
    if gpu::gpu().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (folder, file) = (folder(dir.path(), CONTEXT), dir.path().join("made/activations.json"));
    let open: Open = |activations| {
        edge_run::internals::gpu::open(0, GpuOptions { activations, as_hardware: true, ..GpuOptions::default() })
            .unwrap()
    };
    let chosen = |activations| {
        let model = load(&folder, open, activations);
        model.choose_activations(Some(&file)).unwrap();
        model
    };
    let trial = chosen(Activations::Auto).activations_trial().unwrap();
    assert!(trial.f32_us > 0 && trial.int8_us > 0, "{trial:?}");
    assert_eq!(chosen(Activations::Auto).activations_trial(), Some(trial), "it is remembered");

    let plan = PrecisionPlan::for_bits(4.0, false, "test").unwrap();
    for (asked, times) in [(Activations::Int8, [2_000_000, 1]), (Activations::F32, [1, 2_000_000])] {
        let mut entries: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let entries = entries.as_array_mut().unwrap();
        assert_eq!(entries.len(), 1, "one device and one model");
        (entries[0]["f32_us"], entries[0]["int8_us"]) = (times[0].into(), times[1].into());
        std::fs::write(&file, serde_json::to_vec(&entries).unwrap()).unwrap();
        let model = chosen(Activations::Auto);
        assert_eq!(model.int8_activations(), asked == Activations::Int8);
        let forced = chosen(asked);
        assert_eq!(forced.activations_trial(), None, "nothing to choose");
        assert!(steps(&model, &plan, 0) == steps(&forced, &plan, 0), "{asked:?}");
    }
    // A trial of another driver says nothing, and stays.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"driver\":\"", "\"driver\":\"another ")).unwrap();
    assert_ne!(chosen(Activations::Auto).activations_trial().unwrap().int8_us, 2_000_000);
    let entries: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(entries.as_array().unwrap().len(), 2);
}

/// The plan stayed at the two bits of the trial.
#[test]
fn a_trial_that_fails_leaves_the_plan_as_it_was() {
    if gpu::gpu().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), CONTEXT);
    let gpu = edge_run::internals::gpu::open(0, GpuOptions { as_hardware: true, ..GpuOptions::default() }).unwrap();
    let (engine, refuses) = refusing::refusing(gpu);
    // The trial takes the place of a second sequence.
    let cache = CacheOptions { sequences: 2, ..CacheOptions::from(CONTEXT) };
    let model = Model::load(&folder, engine, cache, &mut |_, _| ()).unwrap();
    let mut sequence = model.sequence(&PrecisionPlan::for_bits(6.0, false, "test").unwrap()).unwrap();
    refuses.lose();
    assert!(model.choose_activations(None).unwrap_err().to_string().contains("was lost"));
    assert_eq!(model.activations_trial(), None);
    refuses.find();
    let step = logits_at(&mut sequence, &[5], 0);
    assert!(depths(&model, &step).iter().all(|depth| *depth == 3), "six bits as before");
    model.choose_activations(None).unwrap();
    let step = logits_at(&mut sequence, &[5], 0);
    assert!(depths(&model, &step).iter().all(|depth| *depth == 3), "and after one that does not fail");
}

/// Which way is faster depends on the cache's kernels too.
#[test]
fn each_type_of_cache_has_a_trial_of_its_own() {
    if gpu::gpu().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let shape = edge_run::internals::shape::LlamaShape {
        heads: 2,
        kv_heads: 2,
        head_dim: 32,
        max_context: CONTEXT,
        ..common::tiny_shape(true)
    };
    common::TinyModel::new(shape, 11).write_hf(&dir.path().join("source"), safetensors::Dtype::F32, 1);
    common::quantize_tiny(&dir.path().join("source"), &dir.path().join("model")).unwrap();
    let (folder, file) = (ModelFolder::open(&dir.path().join("model")).unwrap(), dir.path().join("trials.json"));
    for cache_type in [CacheType::F16, CacheType::Q8, CacheType::F16] {
        let gpu = edge_run::internals::gpu::open(0, GpuOptions { as_hardware: true, ..GpuOptions::default() }).unwrap();
        let options = CacheOptions { cache_type, ..CacheOptions::from(CONTEXT) };
        let model = Model::load(&folder, gpu, options, &mut |_, _| ()).unwrap();
        model.choose_activations(Some(&file)).unwrap();
    }
    let entries: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let types: Vec<&str> = entries.iter().map(|entry| entry["cache_type"].as_str().unwrap()).collect();
    assert_eq!(types, ["f16", "q8"]);
}
