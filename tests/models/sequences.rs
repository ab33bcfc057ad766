//! Several sequences on one model, on both engines: what each one computes in company is what it computes alone.

use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::common;
use crate::gpu;
use crate::refusing::refusing;
use crate::routed;
use edge_run::internals::cpu;
use edge_run::internals::engine::{Activations, Engine};
use edge_run::internals::format::ModelFolder;
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::model::Model;
use edge_run::internals::model::{BitsRead, CacheOptions, PendingStep, SampledToken, Sequence, Step};
use edge_run::internals::session::{Event, Next, StopReason};
use edge_run::internals::shape::LlamaShape;
use edge_run::internals::text::{Message, Role, SamplerSettings, TextModel};
use edge_run::{CacheType, CancelToken, Error, PrecisionPlan, Result, Session};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use safetensors::Dtype;

const CONTEXT: u32 = 64;
/// Tokens that a sequence is to sample.
const LENGTH: usize = 12;
/// Steps that are under way at one time, of one sequence.
const PENDING_MAX: usize = 3;

type Open = fn() -> Box<dyn Engine>;

/// The CPU engine, and where there is a GPU that as it is and with its kernels launched as on hardware.
fn engines() -> Vec<Open> {
    there(cpu::open, [|| open_gpu(false, Activations::F32), || open_gpu(true, Activations::F32)])
}

/// The same with int8 activations, by which sequences share runs.
fn int8_engines() -> Vec<Open> {
    let cpu = || cpu::open_with(Activations::Int8);
    there(cpu, [|| open_gpu(false, Activations::Int8), || open_gpu(true, Activations::Int8)])
}

/// Those of the engines that this machine has.
fn there(cpu: Open, gpus: [Open; 2]) -> Vec<Open> {
    let is_there = gpu::gpu().is_some();
    [cpu].into_iter().chain(gpus.into_iter().filter(|_| is_there)).collect()
}

fn open_gpu(as_hardware: bool, activations: Activations) -> Box<dyn Engine> {
    edge_run::internals::gpu::open(0, GpuOptions { as_hardware, activations, ..gpu::options() }).unwrap()
}

/// A tiny model with routers whose answers do not end.
fn folder(dir: &Path) -> ModelFolder {
    folder_of(dir, common::tiny_shape(false))
}

fn folder_of(dir: &Path, shape: LlamaShape) -> ModelFolder {
    let (source, out) = (dir.join("source"), dir.join("model"));
    common::TinyModel::new(shape, 7).write_hf(&source, Dtype::F32, 1);
    std::fs::write(source.join("generation_config.json"), r#"{"bos_token_id": 1, "eos_token_id": []}"#).unwrap();
    common::quantize_tiny(&source, &out).unwrap();
    routed::add_routers(&out, 5);
    ModelFolder::open(&out).unwrap()
}

fn load(folder: &ModelFolder, open: Open, sequences: u32) -> Model {
    let cache = CacheOptions { sequences, ..CacheOptions::from(CONTEXT) };
    let model = Model::load(folder, open(), cache, &mut |_, _| ()).unwrap();
    // So that a prompt takes several steps.
    model.set_step_tokens(5).unwrap();
    model
}

/// The plan of the same slices everywhere, where `bits` are whole slices, or else a routed one.
fn plan(bits: f32) -> PrecisionPlan {
    let whole = [2.0, 4.0, 6.0, 8.0].contains(&bits);
    PrecisionPlan::for_bits(bits, !whole, "test").unwrap()
}

/// The likeliest token without a seed, else drawn ones.
fn sampling(seed: Option<u32>) -> SamplerSettings {
    SamplerSettings { temperature: if seed.is_some() { 1.0 } else { 0.0 }, seed, ..SamplerSettings::default() }
}

/// What a sequence is asked for.
#[derive(Debug, Clone, PartialEq)]
struct Request {
    prompt: Vec<u32>,
    /// The bits of the steps that sample the tokens from these places on; the first place is 0.
    bits: Vec<(usize, f32)>,
    seed: Option<u32>,
}

impl Request {
    fn random(random: &mut StdRng) -> Request {
        let bits = |random: &mut StdRng| [2.0, 3.3, 4.0, 6.0, 8.0][random.random_range(0..5)];
        let prompt = (0..random.random_range(1..13)).map(|_| random.random_range(3..250)).collect();
        let mut all = vec![(0, bits(random))];
        if random.random_range(0..3) == 0 {
            // Another plan from a fixed place on, and back.
            all.extend([(4, bits(random)), (8, all[0].1)]);
        }
        let seed = (random.random_range(0..3) == 0).then(|| random.random_range(0..1000));
        Request { prompt, bits: all, seed }
    }

    /// The plan of the step that samples the token at this place.
    fn plan_at(&self, place: usize) -> PrecisionPlan {
        plan(self.bits.iter().rfind(|(from, _)| *from <= place).expect("the first place is 0").1)
    }

    /// What it gives on a model that has this sequence only.
    fn alone(&self, model: &Model) -> Text {
        let mut speaker = Speaker::new(model, self.clone(), Text::default());
        let mut sampled = Vec::new();
        while !speaker.done() {
            sampled.push(speaker.step().unwrap());
            speaker.said.push(sampled[sampled.len() - 1].id);
        }
        Text { sampled, logits: speaker.last_logits() }
    }
}

/// What a request gives.
#[derive(Debug, Clone, Default, PartialEq)]
struct Text {
    sampled: Vec<SampledToken>,
    /// Of what follows all of it.
    logits: Vec<f32>,
}

impl Text {
    fn ids(&self) -> Vec<u32> {
        self.sampled.iter().map(|sampled| sampled.id).collect()
    }
}

/// A sequence in company, and what it has to say.
struct Speaker {
    sequence: Sequence,
    request: Request,
    said: Vec<u32>,
    /// Steps under way, the first one first.
    pending: VecDeque<PendingStep>,
    expected: Text,
}

impl Speaker {
    fn new(model: &Model, request: Request, expected: Text) -> Speaker {
        let mut sequence = model.sequence(&request.plan_at(0)).unwrap();
        sequence.set_sampler(sampling(request.seed)).unwrap();
        Speaker { sequence, request, said: Vec::new(), pending: VecDeque::new(), expected }
    }

    fn done(&self) -> bool {
        self.said.len() >= LENGTH
    }

    /// The tokens of the text that have not run; there is at least one.
    fn next_ids(&self) -> Vec<u32> {
        let text = [&self.request.prompt[..], &self.said].concat();
        text[self.sequence.tokens().len()..].to_vec()
    }

    /// Makes the plan that of the next step.
    fn follow_plan(&mut self) {
        let plan = self.request.plan_at(self.said.len());
        if *self.sequence.plan() != plan {
            self.sequence.set_plan(&plan).unwrap();
        }
    }

    fn step(&mut self) -> Result<SampledToken> {
        self.follow_plan();
        let ids = self.next_ids();
        let step = self.sequence.begin(&ids)?;
        self.sequence.finish(step)
    }

    fn say(&mut self, sampled: &SampledToken) {
        assert_eq!(*sampled, self.expected.sampled[self.said.len()], "token {} of {:?}", self.said.len(), self.request);
        self.said.push(sampled.id);
    }

    fn last_logits(&mut self) -> Vec<f32> {
        self.follow_plan();
        let ids = self.next_ids();
        self.sequence.next_logits(&ids).unwrap().logits
    }

    /// Begins a step more, and waits for none.
    fn begin(&mut self) {
        let place = self.said.len() + self.pending.len();
        let step = match self.pending.back() {
            None => {
                self.follow_plan();
                let ids = self.next_ids();
                self.sequence.begin(&ids).unwrap()
            }
            Some(last) if place < LENGTH && self.request.plan_at(place) == *self.sequence.plan() => {
                self.sequence.begin_after(last).unwrap()
            }
            Some(_) => return,
        };
        self.pending.push_back(step);
    }

    fn finish_first(&mut self) {
        if let Some(step) = self.pending.pop_front() {
            let sampled = self.sequence.finish(step).unwrap();
            self.say(&sampled);
        }
    }

    /// Ends what is under way, some of it unheard.
    fn settle(&mut self, random: &mut StdRng) {
        while !self.pending.is_empty() {
            if random.random_range(0..2) == 0 {
                self.finish_first();
            } else if let Some(step) = self.pending.pop_back() {
                self.sequence.discard(step);
            }
        }
    }

    /// Forgets a part of the text. The prompt is forgotten as a whole, as other steps than before sum up in another
    /// order; what was drawn is not drawn again.
    fn truncate(&mut self, random: &mut StdRng) {
        let (prompt, ran) = (self.request.prompt.len(), self.sequence.tokens().len());
        if self.request.seed.is_some() || ran < prompt {
            return self.reset();
        }
        let length = if random.random_range(0..4) == 0 { 0 } else { random.random_range(prompt..=ran) };
        self.sequence.truncate(length);
        self.said.truncate(if length == 0 { 0 } else { length - prompt + 1 });
    }

    fn reset(&mut self) {
        self.sequence.reset();
        self.said.clear();
        assert_eq!((self.sequence.tokens(), self.sequence.sampled()), (&[][..], None));
    }

    /// A second sequence that goes on beside this one, and then alone in its place or not at all.
    fn fork(&mut self, random: &mut StdRng) {
        let sequence = self.sequence.fork().unwrap();
        assert_eq!(sequence.tokens(), self.sequence.tokens());
        let (request, expected) = (self.request.clone(), self.expected.clone());
        let mut fork = Speaker { sequence, request, said: self.said.clone(), pending: VecDeque::new(), expected };
        for _ in 0..random.random_range(1..4) {
            for speaker in [&mut fork, &mut *self] {
                if !speaker.done() && random.random_range(0..3) > 0 {
                    let sampled = speaker.step().unwrap();
                    speaker.say(&sampled);
                }
            }
        }
        if random.random_range(0..2) == 0 {
            *self = fork;
        }
    }

    /// Asks for a stop, of a step under way or of the next one.
    fn cancel(&mut self) {
        self.sequence.cancel_token().cancel();
        let ran = self.sequence.tokens().to_vec();
        let stopped = match self.pending.pop_front() {
            Some(step) => self.sequence.finish(step),
            None => self.step(),
        };
        match stopped {
            Ok(sampled) => self.say(&sampled),
            Err(Error::Stopped(_)) => {
                assert_eq!(self.sequence.tokens(), ran, "what had run stands");
                // What was begun after a step that failed does not count.
                self.pending.clear();
            }
            Err(error) => panic!("{error}"),
        }
        self.pending.drain(..).rev().for_each(|step| self.sequence.discard(step));
        assert!(matches!(self.step(), Err(Error::Stopped(_))), "nothing begins as long as it is asked for");
    }
}

/// Steps of some speakers together.
fn step_together(speakers: &mut [Speaker], random: &mut StdRng) {
    let chosen: Vec<bool> = speakers.iter().map(|speaker| !speaker.done() && random.random_range(0..2) == 0).collect();
    for (speaker, _) in speakers.iter_mut().zip(&chosen).filter(|(_, chosen)| **chosen) {
        speaker.settle(random);
    }
    // Some have ended with what was under way.
    let chosen: Vec<bool> = speakers.iter().zip(chosen).map(|(speaker, chosen)| chosen && !speaker.done()).collect();
    let mut step = Step::new();
    for (speaker, _) in speakers.iter_mut().zip(&chosen).filter(|(_, chosen)| **chosen) {
        speaker.follow_plan();
        let ids = speaker.next_ids();
        step.add(&mut speaker.sequence, &ids);
    }
    let sampled = step.run();
    assert_eq!(sampled.len(), chosen.iter().filter(|chosen| **chosen).count());
    let together = speakers.iter_mut().zip(&chosen).filter(|(_, chosen)| **chosen);
    for ((speaker, _), sampled) in together.zip(sampled) {
        speaker.say(&sampled.unwrap());
    }
}

/// One thing that happens in company.
fn act(speakers: &mut [Speaker], random: &mut StdRng) {
    let at = random.random_range(0..speakers.len());
    let what = random.random_range(0..16);
    match what {
        0..3 => return step_together(speakers, random),
        3..7 if !speakers[at].done() && speakers[at].pending.len() < PENDING_MAX => return speakers[at].begin(),
        3..9 => return speakers[at].finish_first(),
        9 => {
            if !speakers[at].done() {
                speakers[at].cancel();
            }
            // Another one goes on meanwhile.
            let other = (at + 1) % speakers.len();
            speakers[other].settle(random);
            if !speakers[other].done() {
                let sampled = speakers[other].step().unwrap();
                speakers[other].say(&sampled);
            }
            return speakers[at].sequence.cancel_token().reset();
        }
        _ => (),
    }
    let speaker = &mut speakers[at];
    speaker.settle(random);
    match what {
        10 => speaker.truncate(random),
        11 => speaker.reset(),
        12 => speaker.fork(random),
        13 => {
            let plans = [plan(2.0), speaker.sequence.plan().clone()];
            plans.iter().for_each(|plan| speaker.sequence.set_plan(plan).unwrap());
        }
        _ if !speaker.done() => {
            let sampled = speaker.step().unwrap();
            speaker.say(&sampled);
        }
        _ => (),
    }
}

fn assert_as_alone(speaker: &mut Speaker) {
    assert_eq!(speaker.said, speaker.expected.ids());
    assert!(speaker.last_logits() == speaker.expected.logits, "{:?}", speaker.request);
}

#[test]
fn whatever_happens_in_company_each_sequence_says_what_it_says_alone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    for open in engines() {
        let lone = load(&folder, open, 1);
        let (mut texts, mut requests) = (HashSet::new(), 0);
        for count in [2, 4, 8] {
            // One more, for forks.
            let model = load(&folder, open, count + 1);
            for case in 0..gpu::cases(7) {
                let seed = u64::from(count * 100 + case);
                println!("{}, {count} sequences, seed {seed}", model.device().name);
                let random = &mut StdRng::seed_from_u64(seed);
                let speaker = |_| {
                    let request = Request::random(random);
                    let expected = request.alone(&lone);
                    texts.insert(expected.ids());
                    requests += 1;
                    Speaker::new(&model, request, expected)
                };
                let mut speakers: Vec<Speaker> = (0..count).map(speaker).collect();
                let random = &mut StdRng::seed_from_u64(seed + 1000);
                (0..count * 24).for_each(|_| act(&mut speakers, random));
                // What is left, in turns.
                for speaker in &mut speakers {
                    speaker.settle(random);
                }
                while let Some(speaker) = speakers.iter_mut().filter(|s| !s.done()).min_by_key(|s| s.said.len()) {
                    let sampled = speaker.step().unwrap();
                    speaker.say(&sampled);
                }
                speakers.iter_mut().for_each(assert_as_alone);
            }
        }
        assert!(texts.len() * 4 > requests * 3, "{} texts of {requests} requests", texts.len());
    }
}

/// Two sequences and ten, of different plans, of which any number share a run and some run alone.
#[test]
fn sequences_that_share_runs_say_what_each_says_alone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    for open in int8_engines() {
        let lone = load(&folder, open, 1);
        assert!(lone.int8_activations());
        for count in [2, 10] {
            let model = load(&folder, open, count);
            let seed = u64::from(count);
            println!("{}, {count} sequences, seed {seed}", model.device().name);
            let random = &mut StdRng::seed_from_u64(seed);
            let speaker = |_| {
                let request = Request::random(random);
                let expected = request.alone(&lone);
                Speaker::new(&model, request, expected)
            };
            let mut speakers: Vec<Speaker> = (0..count).map(speaker).collect();
            let random = &mut StdRng::seed_from_u64(seed + 1000);
            while speakers.iter().any(|speaker| !speaker.done()) {
                step_together(&mut speakers, random);
            }
            speakers.iter_mut().for_each(assert_as_alone);
        }
    }
}

/// How many runs single tokens of so many sequences take, each of which says what it says alone: up to eight share one
/// where a token's activations are of int8s. On GPUs they share none with a cache in few bits.
#[test]
fn single_tokens_of_up_to_eight_sequences_are_one_run() {
    fn say_together(model: &Model, lone: &Model, bits: &[f32], runs: &dyn Fn() -> usize) -> Vec<usize> {
        let speaker = |at: u32| {
            let prompt = (0..=at).map(|i| 30 + 7 * at + i).collect();
            let (bits, seed) = (vec![(0, bits[at as usize % bits.len()])], (at % 4 == 3).then_some(at));
            let request = Request { prompt, bits, seed };
            let mut speaker = Speaker::new(model, request.clone(), request.alone(lone));
            let sampled = speaker.step().unwrap();
            speaker.say(&sampled);
            speaker
        };
        let mut speakers: Vec<Speaker> = (0..model.sequences()).map(speaker).collect();
        let mut counts = Vec::new();
        while !speakers[0].done() {
            let before = runs();
            let mut step = Step::new();
            for speaker in &mut speakers {
                speaker.follow_plan();
                let ids = speaker.next_ids();
                step.add(&mut speaker.sequence, &ids);
            }
            let sampled = step.run();
            counts.push(runs() - before);
            speakers.iter_mut().zip(sampled).for_each(|(speaker, sampled)| speaker.say(&sampled.unwrap()));
        }
        speakers.iter_mut().for_each(assert_as_alone);
        counts
    }
    let dir = tempfile::tempdir().unwrap();
    // Heads whose numbers fill groups of a cache in few bits.
    let folder = folder_of(dir.path(), LlamaShape { head_dim: 32, ..common::tiny_shape(false) });
    let plain = || cpu::open_with(Activations::F32);
    for (at, open) in int8_engines().into_iter().chain([plain as Open]).enumerate() {
        for cache_type in [CacheType::F16, CacheType::Q8] {
            let load = |sequences| {
                let (engine, refuses) = refusing(open());
                let cache = CacheOptions { sequences, cache_type, ..CacheOptions::from(CONTEXT) };
                (Model::load(&folder, engine, cache, &mut |_, _| ()).unwrap(), refuses)
            };
            let (lone, _) = load(1);
            let shares = lone.int8_activations() && (at == 0 || cache_type == CacheType::F16);
            let counts: &[u32] = if at == 0 { &[2, 3, 4, 5, 6, 7, 8, 9] } else { &[3] };
            for count in counts {
                let (model, refuses) = load(*count);
                for bits in [&[8.0, 2.0, 4.0][..], &[3.3, 5.0, 2.6]] {
                    let runs = say_together(&model, &lone, bits, &|| refuses.submitted());
                    let expected = if shares { count.div_ceil(8) } else { *count } as usize;
                    println!("{}, {cache_type:?}, {count} sequences: {runs:?}", model.device().name);
                    assert!(runs.iter().all(|runs| *runs == expected), "{runs:?} and not {expected}");
                }
            }
        }
    }
}

/// One that is stopped, one that is full and one with a bias, beside two that share a run.
#[test]
fn a_sequence_that_cannot_share_a_run_fails_or_runs_alone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    for open in int8_engines() {
        let model = load(&folder, open, 5);
        let open = |id: u32| {
            let mut sequence = model.sequence(&plan(4.0)).unwrap();
            sequence.fill(&[id, id + 1]).unwrap();
            sequence
        };
        let mut all: Vec<Sequence> = (0..5).map(|at| open(20 + 9 * at)).collect();
        let likeliest = |sequence: &mut Sequence| {
            let step = sequence.begin(&[7]).unwrap();
            sequence.finish(step).unwrap()
        };
        all.iter_mut().for_each(|sequence| sequence.set_sampler(sampling(None)).unwrap());
        let expected: Vec<SampledToken> = all
            .iter_mut()
            .map(|sequence| {
                let sampled = likeliest(sequence);
                sequence.truncate(2);
                sampled
            })
            .collect();
        all[1].cancel_token().cancel();
        let bias = edge_run::internals::sampling::LogitBias::new([(expected[2].id, f32::NEG_INFINITY)]).unwrap();
        all[2].set_logit_bias(bias).unwrap();
        let full: Vec<u32> = vec![9; CONTEXT as usize - 2];
        all[3].fill(&full).unwrap();
        let mut step = Step::new();
        all.iter_mut().for_each(|sequence| step.add(sequence, &[7]));
        let found = step.run();
        assert_eq!(found[0].as_ref().unwrap(), &expected[0]);
        assert!(matches!(found[1], Err(Error::Stopped(_))), "{:?}", found[1]);
        assert_ne!(found[2].as_ref().unwrap().id, expected[2].id, "the bias forbids it");
        assert!(matches!(found[3], Err(Error::PromptTooLong { .. })), "{:?}", found[3]);
        assert_eq!(found[4].as_ref().unwrap(), &expected[4]);
        assert_eq!([all[1].tokens().len(), all[3].tokens().len()], [2, CONTEXT as usize]);
    }
}

/// What the comparison above rests on.
#[test]
fn another_prompt_another_plan_and_another_seed_give_other_texts() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    for open in engines() {
        let model = load(&folder, open, 1);
        let text = |prompt: &[u32], bits: &[(usize, f32)], seed| {
            Request { prompt: prompt.to_vec(), bits: bits.to_vec(), seed }.alone(&model).ids()
        };
        let plain = text(&[70, 80, 90], &[(0, 8.0)], None);
        assert_eq!(text(&[70, 80, 90], &[(0, 8.0)], None), plain);
        assert_ne!(text(&[70, 80, 91], &[(0, 8.0)], None), plain);
        let coarse = text(&[70, 80, 90], &[(0, 2.0)], None);
        assert!(coarse != plain && text(&[70, 80, 90], &[(0, 3.3)], None) != plain);
        let changed = text(&[70, 80, 90], &[(0, 8.0), (4, 2.0)], None);
        assert_eq!(changed[..4], plain[..4]);
        assert_ne!(changed, plain);
        let drawn = |seed| text(&[70, 80, 90], &[(0, 8.0)], Some(seed));
        assert_eq!(drawn(1), drawn(1));
        assert!(drawn(1) != drawn(2) && drawn(1) != plain);
    }
}

fn session(model: &Model, text: &Arc<TextModel>, at: usize) -> Session {
    // Every other one draws its tokens.
    let settings = sampling((at % 2 == 1).then_some(at as u32));
    Session::new(model, Arc::clone(text), settings, plan([8.0, 3.3, 2.0, 6.0][at % 4])).unwrap()
}

/// The ids of an answer, and why it ended; `shown` sees how many tokens there are.
fn answer(session: &mut Session, at: usize, most: usize, shown: &dyn Fn(usize)) -> (Vec<u32>, StopReason) {
    let mut ids = Vec::new();
    let prompt: Vec<u32> = (0..7).map(|i| 50 + 11 * at as u32 + 3 * i).collect();
    let summary = session.generate(&prompt, Some(most), &mut |token| {
        ids.push(token.id);
        shown(ids.len());
        Ok(Next::Go)
    });
    (ids, summary.unwrap().stop)
}

#[test]
fn sessions_on_threads_of_their_own_say_what_they_say_alone() {
    fn sent<T: Send>() {}
    fn shared<T: Send + Sync + Clone>() {}
    shared::<Model>();
    sent::<Session>();
    sent::<Sequence>();
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    let text = Arc::new(TextModel::open(&folder).unwrap());
    for open in engines() {
        let (lone, model) = (load(&folder, open, 1), load(&folder, open, 4));
        let alone: Vec<_> = (0..4).map(|at| answer(&mut session(&lone, &text, at), at, 30, &|_| ())).collect();
        assert!((1..4).all(|at| alone[at].0 != alone[0].0), "{alone:?}");
        for runs_ahead in [false, true] {
            let together: Vec<_> = std::thread::scope(|scope| {
                let speak = |at| {
                    let mut session = session(&model, &text, at);
                    session.run_ahead(runs_ahead);
                    scope.spawn(move || answer(&mut session, at, 30, &|_| ()))
                };
                let threads: Vec<_> = (0..4).map(speak).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(together, alone, "on {}", model.device().name);
        }
    }
}

/// Four sessions on threads, of which the `waiting` ones wait at their third token until a stop is asked for, by
/// `cancel`, which gets the sessions' tokens.
fn stopped(
    model: &Model,
    text: &Arc<TextModel>,
    waiting: usize,
    cancel: &dyn Fn(&[CancelToken]),
) -> Vec<(Vec<u32>, StopReason)> {
    let sessions: Vec<Session> = (0..4).map(|at| session(model, text, at)).collect();
    let tokens: Vec<_> = sessions.iter().map(|session| session.cancel_token().clone()).collect();
    let (tell, told) = mpsc::channel();
    std::thread::scope(|scope| {
        let speak = |(at, mut session): (usize, Session)| {
            let (token, tell) = (tokens[at].clone(), tell.clone());
            let shown = move |count: usize| {
                if count == 3 && at < waiting {
                    tell.send(()).unwrap();
                    while !token.is_cancelled() {
                        std::thread::yield_now();
                    }
                }
            };
            scope.spawn(move || answer(&mut session, at, 30, &shown))
        };
        let threads: Vec<_> = sessions.into_iter().enumerate().map(speak).collect();
        let all_told = (0..waiting).all(|_| told.recv_timeout(Duration::from_secs(120)).is_ok());
        cancel(&tokens);
        assert!(all_told, "they come to their third tokens");
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn a_stop_of_one_session_stops_that_one_and_a_stop_of_the_model_all() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    let text = Arc::new(TextModel::open(&folder).unwrap());
    for open in engines() {
        let (lone, model) = (load(&folder, open, 1), load(&folder, open, 4));
        let alone: Vec<_> = (0..4).map(|at| answer(&mut session(&lone, &text, at), at, 30, &|_| ())).collect();
        let early = |(ids, stop): &(Vec<u32>, StopReason), at: usize| {
            // A step that was whole before may still be told.
            assert!(*stop == StopReason::Stopped && (3..=4).contains(&ids.len()), "{at}: {ids:?}, {stop:?}");
            assert_eq!(ids[..], alone[at].0[..ids.len()]);
        };
        let one = stopped(&model, &text, 1, &|tokens| tokens[0].cancel());
        early(&one[0], 0);
        assert_eq!(one[1..], alone[1..], "the others go on");

        let all = stopped(&model, &text, 4, &|_| model.cancel_token().cancel());
        all.iter().enumerate().for_each(|(at, answer)| early(answer, at));
        let mut session = session(&model, &text, 0);
        let refused = session.generate(&[70], Some(2), &mut |_| Ok(Next::Go));
        assert!(matches!(refused, Err(Error::Stopped(_))), "{refused:?}");
        session.cancel_token().reset();
        assert!(session.cancel_token().is_cancelled(), "a session cannot take back what was asked of the model");
        model.cancel_token().reset();
        assert_eq!(answer(&mut session, 0, 30, &|_| ()), alone[0]);
    }
}

#[test]
fn slices_are_there_for_the_sequence_that_wants_most_and_each_reads_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    let prompt = [70, 80, 90, 100, 110, 120, 130];
    for open in engines() {
        let load = |sequences| {
            let cache = CacheOptions { sequences, ..CacheOptions::from(CONTEXT) };
            Model::load_base(&folder, open(), cache, None, &mut |_, _| ()).unwrap()
        };
        let resident = |model: &Model| model.slices().unwrap().resident_bytes;
        let read = |sequence: &mut Sequence| {
            sequence.truncate(0);
            let found = sequence.next_logits(&prompt).unwrap();
            let mut read = BitsRead::new(sequence.model().shape());
            read.add(&found.depths);
            (found.logits, read.mean())
        };
        let alone = [2.0, 8.0].map(|bits| {
            let model = load(1);
            let mut sequence = model.sequence(&plan(bits)).unwrap();
            sequence.settle(None).unwrap();
            (read(&mut sequence), resident(&model))
        });
        assert_eq!(alone.each_ref().map(|((_, bits), _)| *bits), [2.0, 8.0]);
        assert!(alone[0].0.0 != alone[1].0.0 && alone[0].1 < alone[1].1);

        let model = load(2);
        let [mut low, mut high] = [2.0, 8.0].map(|bits| model.sequence(&plan(bits)).unwrap());
        model.settle(None).unwrap();
        assert!(model.is_settled());
        for _ in 0..2 {
            assert!(read(&mut low) == alone[0].0, "two bits, whatever is there");
            assert!(read(&mut high) == alone[1].0);
        }
        assert_eq!(resident(&model), alone[1].1);
        let before = model.allocated_bytes();
        drop(high);
        low.set_plan(&plan(2.0)).unwrap();
        model.settle(None).unwrap();
        assert_eq!(resident(&model), alone[0].1, "what nobody wants goes");
        assert!(read(&mut low) == alone[0].0);
        assert!(model.allocated_bytes() < before);
    }
}

#[test]
fn one_sequence_too_many_is_refused_until_another_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    for open in engines() {
        let model = load(&folder, open, 3);
        assert_eq!(model.sequences(), 3);
        let mut sequences: Vec<Sequence> = (0..3).map(|_| model.sequence(&plan(4.0)).unwrap()).collect();
        for sequence in &mut sequences {
            sequence.fill(&[5, 6, 7]).unwrap();
        }
        for refused in [model.sequence(&plan(4.0)), sequences[0].fork()] {
            let message = refused.err().expect("there are three").to_string();
            assert!(message.contains("at most 3"), "{message}");
        }
        sequences.remove(1);
        let mut again = model.clone().sequence(&plan(4.0)).expect("a place is free again");
        assert!(model.sequence(&plan(4.0)).is_err());
        // It begins without tokens, in cells that another one filled.
        assert!(again.tokens().is_empty());
        let logits = again.next_logits(&[70, 80]).unwrap().logits;
        sequences[0].reset();
        assert_eq!(sequences[0].next_logits(&[70, 80]).unwrap().logits, logits);
    }
}

/// The text of an answer to a conversation, and the tokens of its prompt that were run.
fn chat(session: &mut Session, messages: &[Message]) -> (String, usize) {
    let (mut text, mut prompt_tokens) = (String::new(), None);
    for event in session.chat(messages, Some(10)).unwrap() {
        match event.unwrap() {
            Event::Token(token) => text += &token.text,
            Event::Done(summary) => {
                text += &summary.text_left;
                prompt_tokens = Some(summary.prompt_tokens);
            }
            other => panic!("{other:?}"),
        }
    }
    (text, prompt_tokens.expect("an answer ends with its summary"))
}

#[test]
fn a_conversation_goes_on_from_what_it_has_in_common_with_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    let text = Arc::new(TextModel::open(&folder).unwrap());
    for open in engines() {
        let cache = CacheOptions { sequences: 2, ..CacheOptions::from(256) };
        let model = Model::load(&folder, open(), cache, &mut |_, _| ()).unwrap();
        // A token computes the same however many run after one another, only if each is a step.
        model.set_step_tokens(1).unwrap();
        let start = || Session::new(&model, Arc::clone(&text), sampling(None), plan(8.0)).unwrap();
        let whole = |messages: &[Message]| text.encode_chat(messages).unwrap().unwrap().len();
        let mut session = start();
        let mut messages = vec![Message::new(Role::User, "the thin inn")];
        let (_, ran) = chat(&mut session, &messages);
        assert_eq!(ran, whole(&messages), "nothing ran before");
        // Not what the model said: of that a session keeps the tokens that the model wrote.
        messages.push(Message::new(Role::Assistant, "an inn"));
        messages.push(Message::new(Role::User, "in the thing?"));
        let (second, ran) = chat(&mut session, &messages);
        // All of the first message at least.
        assert!(ran > 0 && ran <= whole(&messages) - whole(&messages[..1]), "{ran} of {}", whole(&messages));
        assert_eq!(chat(&mut start(), &messages), (second.clone(), whole(&messages)));
        // The same again: the last token of the prompt runs in any case.
        assert_eq!(chat(&mut session, &messages), (second.clone(), 1));

        messages[0] = Message::new(Role::User, "the thing inn");
        let (changed, ran) = chat(&mut session, &messages);
        assert!(ran < whole(&messages), "the beginning of the first message is the same");
        assert_eq!(chat(&mut start(), &messages), (changed.clone(), whole(&messages)));
        assert_ne!(changed, second, "another conversation has another answer");
    }
}

#[test]
fn a_session_forks_and_forgets() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    let text = Arc::new(TextModel::open(&folder).unwrap());
    for open in engines() {
        let model = load(&folder, open, 2);
        for at in [0, 1] {
            let mut one = session(&model, &text, at);
            let first = answer(&mut one, at, 6, &|_| ());
            let mut other = one.fork().unwrap();
            let rest = answer(&mut one, 2, 6, &|_| ());
            assert_eq!(answer(&mut other, 2, 6, &|_| ()), rest, "a fork goes on as its parent does");
            drop(other);
            one.reset();
            assert!(one.sequence().tokens().is_empty());
            assert_eq!(answer(&mut one, at, 6, &|_| ()), first);
            // All but the prompt is forgotten, and the answer's first token with it.
            one.truncate(7);
            assert_eq!((one.sequence().tokens().len(), one.sequence().sampled()), (7, None));
        }
    }
}
