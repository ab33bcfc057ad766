//! A tiny model with random routers on both engines: depths, thresholds, shuffled gates, and plans that change.

use std::path::Path;

use crate::common;
use crate::gpu;
use crate::logits::logits_at;
use crate::routed;
use edge_run::internals::arch::{LayerSpec, ModelSpec};
use edge_run::internals::bench::Synthetic;
use edge_run::internals::cpu;
use edge_run::internals::engine::{Activations, Engine};
use edge_run::internals::format::ModelFolder;
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::model::{BitsRead, STEP_TOKENS, Sequence, TokenDepths};
use edge_run::internals::model::{CacheOptions, Model};
use edge_run::internals::session::Next;
use edge_run::internals::shape::Site;
use edge_run::internals::text::{SamplerSettings, TextModel};
use edge_run::{Depth, Error, PrecisionPlan, PromptBits, Session};

/// More than a step holds of itself without matrices, so that steps are joined, which [`models`] makes sure of.
const TOKENS: u32 = 600;
const CONTEXT: u32 = 640;
/// Two engines differ by the order of their sums and the rounding of the cache to f16; tiny models' logits are below
/// 10.
const ENGINES_DIFFER: f32 = 0.02;

fn ids(count: u32) -> Vec<u32> {
    (0..count).map(|i| 3 + (i * i * 7 + i * 13) % 250).collect()
}

fn plan(bits: f32) -> PrecisionPlan {
    PrecisionPlan::for_bits(bits, true, "test").unwrap()
}

fn folder(dir: &Path, routers: bool) -> ModelFolder {
    let shape = edge_run::internals::shape::LlamaShape { max_context: CONTEXT, ..common::tiny_shape(true) };
    common::TinyModel::new(shape, 11).write_hf(&dir.join("source"), safetensors::Dtype::F32, 1);
    let model = dir.join("model");
    common::quantize_tiny(&dir.join("source"), &model).unwrap();
    if routers {
        routed::add_routers(&model, 5);
    }
    ModelFolder::open(&model).unwrap()
}

/// A cache for as many sequences as a test opens.
fn four_sequences() -> CacheOptions {
    CacheOptions { sequences: 4, ..CacheOptions::from(CONTEXT) }
}

/// The tiny model on every engine there is, the CPU first.
fn models() -> Vec<Model> {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), true);
    let options =
        GpuOptions { checks: true, activations: Activations::F32, cooperative_matrix: false, ..Default::default() };
    let gpu = gpu::gpu().map(|_| edge_run::internals::gpu::open(0, options).unwrap());
    let engines: Vec<Box<dyn Engine>> = [cpu::open_with(Activations::F32)].into_iter().chain(gpu).collect();
    let models =
        engines.into_iter().map(|engine| Model::load(&folder, engine, four_sequences(), &mut |_, _| ()).unwrap());
    let models: Vec<Model> = models.collect();
    let steps: Vec<u32> = models.iter().map(Model::step_tokens).collect();
    assert!(steps.iter().all(|step| *step < TOKENS), "{TOKENS} tokens are more than one step of {steps:?}");
    models
}

fn places(model: &Model) -> Vec<(usize, Site)> {
    (0..model.shape().layers as usize).flat_map(|layer| Site::ALL.map(|site| (layer, site))).collect()
}

fn mean_bits(model: &Model, depths: &TokenDepths) -> f32 {
    let mut read = BitsRead::new(model.shape());
    read.add(depths);
    read.mean()
}

#[test]
fn engines_route_alike_and_agree_where_they_do() {
    let models = models();
    for bits in [3.0, 4.5, 6.0] {
        let mut scores: Vec<_> =
            models.iter().map(|model| model.sequence(&plan(bits)).unwrap().token_nll(&ids(TOKENS)).unwrap()).collect();
        let Some(gpu) = scores.pop().filter(|_| models.len() == 2) else { return };
        let cpu = &scores[0];
        let differs = |token: usize| {
            places(&models[0])
                .iter()
                .filter(|(l, s)| cpu.depths.at(*l, *s)[token] != gpu.depths.at(*l, *s)[token])
                .count()
        };
        let tokens = cpu.depths.tokens();
        let far: usize = (0..tokens).map(differs).sum();
        let all = tokens * places(&models[0]).len();
        assert!(far * 1000 <= all * 5, "{bits} bits: {far} of {all} depths differ");
        // A token that was read at another depth is seen by all after it.
        let alike = (0..tokens).find(|token| differs(*token) > 0).unwrap_or(tokens);
        assert!(alike > 50, "{bits} bits: only {alike} tokens alike");
        for (at, (a, b)) in cpu.nll.iter().zip(&gpu.nll).enumerate().take(alike) {
            assert!((a - b).abs() < ENGINES_DIFFER, "{bits} bits, token {at}: {a} and {b}");
        }
        println!("{bits} bits: {far} of {all} depths differ, the first {alike} tokens alike");
    }
}

#[test]
fn shorter_steps_compute_the_same() {
    for model in models() {
        let mut sequence = model.sequence(&plan(4.5)).unwrap();
        let whole = sequence.token_nll(&ids(TOKENS)).unwrap();
        for tokens in [1, 7] {
            model.set_step_tokens(tokens).unwrap();
            let parts = sequence.token_nll(&ids(TOKENS)).unwrap();
            assert_eq!(parts.depths.tokens(), whole.depths.tokens());
            let alike = |token: usize| {
                places(&model).iter().all(|(l, s)| whole.depths.at(*l, *s)[token] == parts.depths.at(*l, *s)[token])
            };
            let alike = (0..whole.depths.tokens()).find(|token| !alike(*token)).unwrap_or(whole.depths.tokens());
            assert!(alike > 50, "steps of {tokens}: only {alike} tokens alike");
            for (at, (a, b)) in whole.nll.iter().zip(&parts.nll).enumerate().take(alike) {
                assert!((a - b).abs() < ENGINES_DIFFER, "steps of {tokens}, token {at}: {a} and {b}");
            }
        }
        for tokens in [0, STEP_TOKENS + 1] {
            let fault = model.set_step_tokens(tokens).unwrap_err().to_string();
            assert!(fault.contains("step tokens: expected 1 to 2048"), "{fault}");
        }
    }
}

#[test]
fn a_lower_threshold_reads_more_bits_and_every_depth_is_there() {
    for model in models() {
        let mut sequence = model.sequence(&plan(2.5)).unwrap();
        let mut before = 2.0;
        let mut seen = [false; 5];
        for bits in [2.5, 4.0, 5.0, 6.0, 7.5] {
            sequence.set_plan(&plan(bits)).unwrap();
            let step = logits_at(&mut sequence, &ids(TOKENS), 0);
            assert_eq!(step.depths.tokens(), TOKENS as usize);
            let read = mean_bits(&model, &step.depths);
            assert!(read > before, "{bits}: {read} after {before}");
            before = read;
            let depths = places(&model).into_iter().flat_map(|(l, s)| step.depths.at(l, s).to_vec());
            depths.for_each(|depth| seen[usize::from(depth)] = true);
        }
        assert_eq!(seen, [false, true, true, true, true]);
    }
}

#[test]
fn routed_tokens_one_by_one_read_what_they_read_together() {
    for model in models() {
        let mut sequence = model.sequence(&plan(5.0)).unwrap();
        let ids = ids(12);
        let together = logits_at(&mut sequence, &ids, 0);
        for (at, id) in ids.iter().enumerate() {
            let alone = logits_at(&mut sequence, &[*id], at);
            for (layer, site) in places(&model) {
                assert_eq!(
                    alone.depths.at(layer, site)[0],
                    together.depths.at(layer, site)[at],
                    "{layer} {site:?} {at}"
                );
            }
            if at + 1 == ids.len() {
                let far = alone.logits.iter().zip(&together.logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(far < ENGINES_DIFFER, "{far}");
            }
        }
    }
}

#[test]
fn shuffled_gates_are_others_of_the_same_number() {
    for model in models() {
        let mut sequence = model.sequence(&plan(5.0)).unwrap();
        let ids = ids(100);
        let first = |sequence: &mut Sequence| {
            // The first site's input hangs on no depth, so that its router chooses the same however they were shuffled.
            logits_at(sequence, &ids, 0).depths.at(0, Site::Qkv).to_vec()
        };
        let own = first(&mut sequence);
        sequence.shuffle_gates(Some(1));
        let (shuffled, again) = (first(&mut sequence), first(&mut sequence));
        sequence.shuffle_gates(Some(1));
        assert_eq!(first(&mut sequence), shuffled, "a seed tells the permutations");
        assert!(own != shuffled && shuffled != again, "every step shuffles anew");
        let sorted = |mut depths: Vec<u8>| {
            depths.sort_unstable();
            depths
        };
        assert_eq!(sorted(shuffled), sorted(own.clone()));
        assert_eq!(sorted(again), sorted(own.clone()));
        sequence.shuffle_gates(None);
        assert_eq!(first(&mut sequence), own);
    }
}

#[test]
fn a_plan_that_changes_in_mid_conversation_keeps_the_cache() {
    for model in models() {
        let ids = ids(40);
        let (prompt, next) = (&ids[..39], &ids[39..]);
        let uniform = |depth| PrecisionPlan::uniform(depth, "test");
        let mut sequence = model.sequence(&plan(4.0)).unwrap();
        sequence.fill(prompt).unwrap();
        sequence.set_plan(&uniform(Depth::FULL)).unwrap();
        let full = logits_at(&mut sequence, next, 39);
        assert_eq!(mean_bits(&model, &full.depths), 8.0);
        sequence.set_plan(&plan(4.0)).unwrap();
        let coarse = logits_at(&mut sequence, next, 39);
        assert_ne!(full.logits, coarse.logits);
        sequence.set_plan(&uniform(Depth::FULL)).unwrap();
        assert_eq!(logits_at(&mut sequence, next, 39).logits, full.logits, "the prompt's keys and values stand");
        // A prompt that was run at other depths left others.
        logits_at(&mut sequence, prompt, 0);
        assert_ne!(logits_at(&mut sequence, next, 39).logits, full.logits);
    }
}

#[test]
fn a_session_reports_the_bits_that_were_read() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), true);
    for model in models() {
        let greedy = SamplerSettings { temperature: 0.0, ..SamplerSettings::default() };
        let mut session = Session::new(&model, TextModel::open(&folder).unwrap(), greedy, plan(4.0)).unwrap();
        session.set_prompt_bits(PromptBits::Plan);
        let mut bits = Vec::new();
        let summary = session.generate(&ids(20), Some(8), &mut |token| {
            bits.push(token.bits);
            Ok(if bits.len() == 4 { Next::Replan(PrecisionPlan::uniform(Depth::FULL, "test")) } else { Next::Go })
        });
        let summary = summary.unwrap();
        assert!(bits.len() > 4, "the seed is one whose text goes on");
        assert!(bits[..4].iter().all(|bits| (2.0..8.0).contains(bits)), "{bits:?}");
        assert!(bits[..4].iter().any(|b| *b != bits[0]), "tokens differ: {bits:?}");
        assert!(bits[4..].iter().all(|bits| *bits == 8.0), "{bits:?}");
        let shape = session.model().shape();
        let weighted = |site: Site| {
            let (rows, input) = site.dims(shape);
            f64::from(rows * input) * f64::from(summary.bits_by_site[site as usize].1)
        };
        let params: u64 = shape.linear_params() / u64::from(shape.layers);
        let mean = Site::ALL.map(weighted).iter().sum::<f64>() / params as f64;
        assert!((mean - f64::from(summary.bits)).abs() < 1e-5, "{mean} and {}", summary.bits);
    }
}

#[test]
fn a_routed_plan_is_refused_without_routers() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), false);
    let model = Model::load(&folder, cpu::open_with(Activations::F32), CONTEXT, &mut |_, _| ()).unwrap();
    assert!(!model.has_routers() && model.thresholds().is_none());
    let mut sequence = model.sequence(&PrecisionPlan::uniform(Depth::ALL[1], "test")).unwrap();
    let refused = sequence.set_plan(&plan(3.5));
    assert!(matches!(&refused, Err(Error::InvalidArgument { name, .. }) if name == "bits"), "{refused:?}");
    let step = sequence.next_logits(&ids(3)).unwrap();
    assert_eq!(mean_bits(&model, &step.depths), 4.0, "the plan before stands");
    drop(sequence);
    let refused = model.sequence(&plan(3.5)).map(drop);
    assert!(matches!(&refused, Err(Error::InvalidArgument { name, .. }) if name == "bits"), "{refused:?}");
    model.sequence(&PrecisionPlan::uniform(Depth::FULL, "test")).expect("what was refused takes no place");
}

#[test]
fn bits_that_no_router_can_read_are_refused() {
    let model = models().remove(0);
    for bits in [f32::NAN, f32::INFINITY, 1.9, 8.1, -4.0] {
        let refused = model.sequence(&PrecisionPlan::routed(bits, "test")).map(drop);
        assert!(matches!(&refused, Err(Error::InvalidArgument { name, .. }) if name == "bits"), "{bits}: {refused:?}");
    }
    model.sequence(&plan(2.5)).expect("what was refused takes no place");
}

/// A sequence whose prompts are read so, and which takes the likeliest token.
fn greedy_sequence(model: &Model, plan: &PrecisionPlan, prompt_bits: PromptBits) -> Sequence {
    let mut sequence = model.sequence(plan).unwrap();
    sequence.set_sampler(SamplerSettings { temperature: 0.0, ..SamplerSettings::default() }).unwrap();
    sequence.set_prompt_bits(prompt_bits);
    sequence
}

#[test]
fn a_prompt_is_read_at_the_deepest_and_the_tokens_of_its_answer_by_the_routers() {
    for model in models() {
        let prompt = ids(TOKENS - 20);
        let full = PrecisionPlan::uniform(Depth::FULL, "test");
        let mut sequence = greedy_sequence(&model, &plan(4.5), PromptBits::Deepest);
        // What it does is a plan by hand: all slices for the prompt, then the routers.
        let mut by_hand = greedy_sequence(&model, &full, PromptBits::Plan);
        let mut off = greedy_sequence(&model, &plan(4.5), PromptBits::Plan);
        let mut first = |sequence: &mut Sequence| {
            let step = sequence.begin(&prompt).unwrap();
            sequence.finish(step).unwrap()
        };
        let [read, expected, routed] = [&mut sequence, &mut by_hand, &mut off].map(&mut first);
        assert_eq!(read, expected);
        assert_eq!(mean_bits(&model, &read.depths), 8.0);
        assert!(mean_bits(&model, &routed.depths) < 7.0, "the routers choose where the setting is off");
        by_hand.set_plan(&plan(4.5)).unwrap();
        // The next two steps, the second one begun ahead.
        let mut next = |sequence: &mut Sequence| {
            let step = sequence.begin(&[read.id]).unwrap();
            let ahead = sequence.begin_after(&step).unwrap();
            [sequence.finish(step).unwrap(), sequence.finish(ahead).unwrap()]
        };
        let [answer, expected] = [&mut sequence, &mut by_hand].map(&mut next);
        assert_eq!(answer, expected);
        assert!(answer.iter().all(|token| mean_bits(&model, &token.depths) < 8.0));
        // A token that was not sampled is a prompt, also where it stands alone.
        let mut fork = sequence.fork().unwrap();
        let given = (answer[1].id + 1) % model.shape().vocab;
        assert_eq!(mean_bits(&model, &fork.fill(&[given]).unwrap()), 8.0);
        assert!(mean_bits(&model, &sequence.fill(&[answer[1].id]).unwrap()) < 8.0);
    }
}

#[test]
fn answers_are_scored_behind_a_prompt_as_they_are_given() {
    for model in models() {
        let ids = ids(60);
        let score = |prompt_bits| greedy_sequence(&model, &plan(4.5), prompt_bits).answer_nll(&ids, 40).unwrap();
        let [deepest, routed] = [PromptBits::Deepest, PromptBits::Plan].map(score);
        assert_eq!((deepest.answer.nll.len(), deepest.answer.depths.tokens()), (20, 19));
        assert_eq!(mean_bits(&model, &deepest.prompt_depths), 8.0);
        assert!(mean_bits(&model, &deepest.answer.depths) < 7.0);
        assert_ne!(deepest.answer.nll, routed.answer.nll);
        // By the routers alone it is the score of a text; the first token follows the prompt at full depth.
        let text = model.sequence(&plan(4.5)).unwrap().token_nll(&ids).unwrap();
        let full = model.sequence(&PrecisionPlan::uniform(Depth::FULL, "test")).unwrap().token_nll(&ids).unwrap();
        let far = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far(&routed.answer.nll, &text.nll[39..]) < ENGINES_DIFFER);
        assert!(far(&deepest.answer.nll[..1], &full.nll[39..40]) < ENGINES_DIFFER);
        assert!(far(&deepest.answer.nll, &full.nll[39..]) > ENGINES_DIFFER, "other scores are told apart");
        for prompt in [0, 59] {
            let refused = model.sequence(&plan(4.5)).unwrap().answer_nll(&ids, prompt).unwrap_err().to_string();
            assert_eq!(refused, format!("tokens of the prompt: expected 1 to 58, got {prompt}"));
        }
    }
}

#[test]
fn a_session_s_prompts_stay_at_the_deepest_whatever_the_plan_becomes() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), true);
    for model in models() {
        let greedy = SamplerSettings { temperature: 0.0, ..SamplerSettings::default() };
        let mut session = Session::new(&model, TextModel::open(&folder).unwrap(), greedy, plan(4.5)).unwrap();
        let turn = |session: &mut Session, then: PrecisionPlan| {
            let mut tokens = 0;
            let told = session.generate(&ids(20), Some(6), &mut |_| {
                tokens += 1;
                Ok(if tokens == 3 { Next::Replan(then.clone()) } else { Next::Go })
            });
            let summary = told.unwrap();
            assert!(summary.generated_tokens > 3, "the seed is one whose text goes on");
            (summary.prompt_bits, summary.answer_bits.unwrap())
        };
        let two_slices = plan(3.0).at_most(Depth::ALL[1]);
        let (prompt, answer) = turn(&mut session, plan(3.0));
        assert!(prompt == 8.0 && answer < 7.0, "{prompt} and {answer}");
        let (prompt, answer) = turn(&mut session, two_slices.clone());
        assert!(prompt == 8.0 && answer < 7.0, "{prompt} and {answer}");
        // A plan that allows two slices has prompts of two slices.
        let (prompt, answer) = turn(&mut session, two_slices);
        assert!(prompt == 4.0 && answer < 4.0, "{prompt} and {answer}");
        session.set_prompt_bits(PromptBits::Plan);
        let (prompt, _) = turn(&mut session, PrecisionPlan::uniform(Depth::ALL[2], "test"));
        assert!(prompt < 4.0, "{prompt}");
        let (prompt, answer) = turn(&mut session, PrecisionPlan::uniform(Depth::ALL[2], "test"));
        assert_eq!((prompt, answer), (6.0, 6.0));
    }
}

#[test]
fn a_prompt_makes_no_slice_come_that_the_plan_does_not_want() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), true);
    let engines = [cpu::open_with(Activations::F32)]
        .into_iter()
        .chain(gpu::gpu().map(|_| edge_run::internals::gpu::open(0, gpu::options()).unwrap()));
    for engine in engines {
        let model = Model::load_base(&folder, engine, four_sequences(), None, &mut |_, _| ()).unwrap();
        let mut sequence = greedy_sequence(&model, &plan(3.0).at_most(Depth::ALL[1]), PromptBits::Deepest);
        let read = |sequence: &mut Sequence| mean_bits(&model, &sequence.fill(&ids(20)).unwrap());
        assert_eq!(read(&mut sequence), 2.0, "nothing but the base is there");
        model.settle(None).unwrap();
        let loaded = model.slices().unwrap();
        assert_eq!(read(&mut sequence), 4.0);
        assert!(model.is_settled() && model.slices().unwrap() == loaded);
        // Where another sequence wants more, this one reads what its own plan allows.
        let _other = model.sequence(&PrecisionPlan::uniform(Depth::FULL, "test")).unwrap();
        assert_eq!(read(&mut sequence), 4.0);
        sequence.set_plan(&plan(3.0)).unwrap();
        model.settle(None).unwrap();
        assert_eq!(read(&mut sequence), 8.0);
        assert!(model.slices().unwrap().resident_bytes > loaded.resident_bytes);
    }
}

#[test]
fn tokens_that_are_computed_again_are_all_read_as_a_prompt() {
    let mut layer = LayerSpec::default();
    layer.attention.window = Some(20);
    let spec = ModelSpec { layers: vec![layer], ..ModelSpec::default() };
    let shape = edge_run::internals::shape::LlamaShape { max_context: CONTEXT, ..common::tiny_shape(true) };
    let source = Synthetic::new(shape, spec, 3).unwrap();
    let model = Model::load(&source, cpu::open_with(Activations::F32), four_sequences(), &mut |_, _| ()).unwrap();
    let after = |tokens: &[u32], plan: &PrecisionPlan| {
        let mut sequence = greedy_sequence(&model, plan, PromptBits::Deepest);
        sequence.fill(tokens).unwrap();
        sequence.next_logits(&[70]).unwrap().logits
    };
    let mut sequence = greedy_sequence(&model, &plan(4.0), PromptBits::Deepest);
    let mut run = ids(20);
    for _ in 0..10 {
        let step = sequence.begin(&run).unwrap();
        run = vec![sequence.finish(step).unwrap().id];
    }
    let said = sequence.tokens().to_vec();
    let full = after(&said, &PrecisionPlan::uniform(Depth::FULL, "test"));
    assert_ne!(logits_at(&mut sequence, &[70], said.len()).logits, full, "the answer was read by the routers");
    // So long a text has no cells left for the window of a token at its beginning.
    sequence.fill(&ids(TOKENS - said.len() as u32)).unwrap();
    assert_eq!(logits_at(&mut sequence, &[70], said.len()).logits, full);
}
