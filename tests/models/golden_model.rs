//! The default model on both engines: uncalibrated against the reference's record, calibrated against each other and on
//! a question.

use crate::default_model::{default_model, record, skipped};
use crate::gpu;
use crate::logits::logits_at;
use crate::uncalibrated::uncalibrated_model;
use edge_run::internals::cpu;
use edge_run::internals::engine::{Activations, Engine};
use edge_run::internals::format::ModelFolder;
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::model::Model;
use edge_run::internals::model::{NextLogits, Sequence};
use edge_run::internals::power::PowerMode;
use edge_run::internals::session::Next;
use edge_run::internals::shape::Site;
use edge_run::internals::text::{Message, Role, SamplerSettings, TextModel};
use edge_run::{PrecisionPlan, Session};
use serde_json::Value;

/// Reading eight bits moves the default model's logits by 0.1 to 0.2 (root of the mean square over the vocabulary), and
/// the reference's own choices hang on as little as 0.003 between the first and the second token. So at each step the
/// reference's token must be ours, or within this of it; nearer than that, eight bits cannot tell.
const TIE: f32 = 0.25;
/// Tokens of a text that are followed.
const FOLLOWED: usize = 20;
/// Two engines differ by the order of their sums and the rounding of the cache to f16: measured 0.002 in a logit.
const ENGINES_DIFFER: f32 = 0.05;
/// Engines are compared, of which the processor's has f32 activations.
const F32: GpuOptions =
    GpuOptions { checks: false, activations: Activations::F32, cooperative_matrix: false, as_hardware: false };
const CONTEXT: u32 = 512;

/// The CPU engine, and a GPU where there is one.
fn engines() -> Vec<Box<dyn Engine>> {
    // The lock is let go at once: these tests open an engine of their own.
    let gpu = gpu::gpu().map(|_| edge_run::internals::gpu::open(0, F32).expect("the first adapter opens"));
    [cpu::open()].into_iter().chain(gpu).collect()
}

/// The default model on every engine.
fn models() -> Option<Vec<Model>> {
    let folder = default_model().map_err(|reason| skipped(&reason)).ok()?;
    Some(load(&folder))
}

/// A sequence of the default model on every engine, read at `bits`.
fn sequences(bits: u32) -> Option<Vec<Sequence>> {
    Some(open(models()?, bits))
}

/// The same without its calibration.
fn uncalibrated_sequences(bits: u32) -> Option<Vec<Sequence>> {
    let (_dir, folder) = uncalibrated_model().map_err(|reason| skipped(&reason)).ok()?;
    Some(open(load(&folder), bits))
}

fn load(folder: &ModelFolder) -> Vec<Model> {
    let load = |engine| Model::load(folder, engine, CONTEXT, &mut |_, _| ()).expect("the default model loads");
    engines().into_iter().map(load).collect()
}

fn open(models: Vec<Model>, bits: u32) -> Vec<Sequence> {
    models.iter().map(|model| model.sequence(&plan(bits)).expect("a uniform plan")).collect()
}

fn plan(bits: u32) -> PrecisionPlan {
    PrecisionPlan::for_bits(bits as f32, false, "test").expect("a whole number of slices")
}

fn set_bits(sequence: &mut Sequence, bits: u32) {
    sequence.set_plan(&plan(bits)).expect("a uniform plan");
}

fn golden() -> Value {
    serde_json::from_slice(&record("golden.json")).expect("the record is JSON")
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("the record has ids")
}

fn top(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).expect("there are logits")
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn logits_at_eight_bits_are_the_reference_s() {
    let golden = golden();
    let Some(sequences) = uncalibrated_sequences(8) else { return };
    let bytes = record("logits.safetensors");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("the record is sound");
    for mut sequence in sequences {
        for (at, prompt) in golden["logit_prompts"].as_array().expect("a list").iter().enumerate() {
            let reference = tensors.tensor(&format!("logits_{at}")).expect("logits for each prompt");
            let reference: Vec<f32> = bytemuck::pod_collect_to_vec(reference.data());
            let logits = logits_at(&mut sequence, &ids(&prompt["ids"]), 0).logits;
            let (device, cosine) = (sequence.model().device().name.clone(), cosine(&logits, &reference));
            assert!(cosine > 0.999, "{device}, prompt {at}: cosine {cosine}");
            assert_eq!(top(&logits), top(&reference), "{device}, prompt {at}");
        }
    }
}

#[test]
fn the_reference_s_greedy_text_is_followed_at_eight_bits() {
    let golden = golden();
    let Some(sequences) = uncalibrated_sequences(8) else { return };
    for mut sequence in sequences {
        for entry in ["plain", "chat"].iter().flat_map(|list| golden[list].as_array().expect("a list")) {
            let prompt = ids(&entry["prompt_ids"]);
            let mut logits = logits_at(&mut sequence, &prompt, 0).logits;
            for (at, id) in ids(&entry["new_ids"]).into_iter().take(FOLLOWED).enumerate() {
                let (ours, theirs) = (logits[top(&logits)], logits[id as usize]);
                let device = &sequence.model().device().name;
                assert!(ours - theirs <= TIE, "{device}, {}, token {at}: {} short", entry["text"], ours - theirs);
                logits = sequence.next_logits(&[id]).expect("the token runs").logits;
            }
        }
    }
}

#[test]
fn a_text_that_is_not_the_model_s_is_not_followed() {
    let Some(sequences) = sequences(8) else { return };
    for mut sequence in sequences {
        let logits = logits_at(&mut sequence, &[504, 3575, 282, 4649, 314], 0).logits;
        let unlikely = (0..logits.len()).min_by(|a, b| logits[*a].total_cmp(&logits[*b])).expect("there are logits");
        assert!(logits[top(&logits)] - logits[unlikely] > TIE);
    }
}

#[test]
fn engines_agree_at_every_depth() {
    let Some(mut sequences) = sequences(8) else { return };
    let tokens: Vec<u32> = (0..40).map(|i| 1000 + 37 * i).collect();
    for bits in [2, 4, 6, 8] {
        let logits: Vec<Vec<f32>> = sequences
            .iter_mut()
            .map(|sequence| {
                set_bits(sequence, bits);
                logits_at(sequence, &tokens, 0).logits
            })
            .collect();
        for other in &logits[1..] {
            let far = logits[0].iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(far < ENGINES_DIFFER, "{bits} bits: {far}");
        }
    }
}

#[test]
fn engines_choose_the_same_depths() {
    let Some(mut sequences) = sequences(8) else { return };
    if !sequences[0].model().has_routers() {
        return skipped("the default model has no routers");
    }
    let text = TextModel::open(&default_model().expect("it was there")).expect("a sound text side");
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("it is there");
    let tokens = &text.encode(&readme, false).expect("a sound tokenizer")[..4 * 24];
    // Each plan reads a part of the text, as a software renderer takes a second for three tokens.
    for (bits, tokens) in [2.5, 3.25, 4.0, 5.0].into_iter().zip(tokens.chunks_exact(24)) {
        let plan = PrecisionPlan::for_bits(bits, true, "test").expect("bits in range");
        let steps: Vec<NextLogits> = sequences
            .iter_mut()
            .map(|sequence| {
                sequence.set_plan(&plan).expect("a model with routers");
                logits_at(sequence, tokens, 0)
            })
            .collect();
        let depths = |step: &NextLogits| -> Vec<u8> {
            let layers = 0..sequences[0].model().shape().layers as usize;
            let sites = layers.flat_map(|layer| Site::ALL.map(|site| step.depths.at(layer, site).to_vec()));
            sites.flatten().collect()
        };
        let first = depths(&steps[0]);
        assert!(first.iter().any(|depth| *depth != first[0]), "{bits} bits are routed");
        for other in &steps[1..] {
            let same = first.iter().zip(depths(other)).filter(|(a, b)| *a == b).count();
            assert!(same as f64 >= 0.995 * first.len() as f64, "{bits} bits: {same} of {}", first.len());
        }
    }
}

#[test]
fn the_default_model_knows_the_capital_of_germany() {
    for mode in [PowerMode::Low, PowerMode::High] {
        let Some(models) = models() else { return };
        for model in models {
            let text = TextModel::open(&default_model().expect("it was there")).expect("a sound text side");
            let question = Message::new(Role::User, "What is the capital of Germany?");
            let chat = text.render_chat(&[question]).expect("a sound template").expect("a chat model");
            let prompt = text.encode(&chat, false).expect("a sound tokenizer");
            let device = model.device().name.clone();
            let greedy = SamplerSettings { temperature: 0.0, ..SamplerSettings::default() };
            let mut session = Session::new(&model, text, greedy, mode.plan(false)).expect("sound settings");
            let mut answer = String::new();
            let summary = session.generate(&prompt, Some(40), &mut |token| {
                answer += &token.text;
                Ok(Next::Go)
            });
            assert!(answer.contains("Berlin"), "{device}, {mode:?}: {answer:?} ({summary:?})");
        }
    }
}

#[test]
fn precision_changes_in_the_middle_of_a_conversation() {
    let Some(sequences) = sequences(8) else { return };
    for mut sequence in sequences {
        let prompt: Vec<u32> = vec![504, 3575, 282, 4649, 314];
        let steady = logits_at(&mut sequence, &prompt, 0).logits;
        set_bits(&mut sequence, 4);
        let coarse = logits_at(&mut sequence, &[7042], prompt.len()).logits;
        set_bits(&mut sequence, 8);
        let fine = logits_at(&mut sequence, &[7042], prompt.len()).logits;
        assert_ne!(coarse, fine, "the depth is read from the plan");
        assert_eq!(logits_at(&mut sequence, &prompt, 0).logits, steady, "and leaves no trace");
    }
}
