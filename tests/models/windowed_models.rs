//! Models whose layers have windows: the layers keep no more than a ring of cells, and nobody sees a difference but in
//! memory and time.

use std::collections::VecDeque;
use std::path::Path;

use crate::common;
use crate::gpu;
use crate::logits::logits_at;
use crate::refusing::{Refuses, refusing_as};
use edge_run::internals::arch::{LayerSpec, ModelSpec};
use edge_run::internals::cpu;
use edge_run::internals::engine::{Activations, Engine, Traits};
use edge_run::internals::format::ModelFolder;
use edge_run::internals::format::layout::TensorSpec;
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::model::{CacheOptions, Model, PendingStep, Sequence, Step, WeightSource};
use edge_run::internals::precision::CacheType;
use edge_run::internals::recording::{Buffer, Span};
use edge_run::internals::routing::Thresholds;
use edge_run::internals::shape::LlamaShape;
use edge_run::internals::text::SamplerSettings;
use edge_run::{Error, PrecisionPlan, Result};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use safetensors::Dtype;

const CONTEXT: u32 = 480;
const WINDOW: u32 = 20;
/// Cells of a ring, which has the window and a step of [`ROOM`] bytes of activations: 64 tokens.
const RING: usize = 128;
/// Bytes that a binding has on an engine whose steps are short.
const ROOM: u64 = 2 * FFN as u64 * 4 * 64;
const FFN: u32 = 384;
/// Tokens of a step.
const STEP: u32 = 16;

type Open = fn() -> Box<dyn Engine>;

/// The CPU engine with f32 and int8 activations, and where there is a GPU that as it is, and as hardware both ways.
fn engines() -> Vec<Open> {
    fn open(as_hardware: bool, activations: Activations) -> Box<dyn Engine> {
        edge_run::internals::gpu::open(0, GpuOptions { as_hardware, activations, ..gpu::options() }).unwrap()
    }
    let cpus: [Open; 2] = [|| cpu::open_with(Activations::F32), || cpu::open_with(Activations::Int8)];
    let gpus: [Open; 3] =
        [|| open(false, Activations::F32), || open(true, Activations::F32), || open(true, Activations::Int8)];
    let there = gpu::gpu().is_some();
    cpus.into_iter().chain(gpus.into_iter().filter(|_| there)).collect()
}

/// A folder's weights in a model of another spec.
struct Respecified<'a> {
    folder: &'a ModelFolder,
    spec: ModelSpec,
}

impl WeightSource for Respecified<'_> {
    fn shape(&self) -> &LlamaShape {
        self.folder.shape()
    }

    fn spec(&self) -> ModelSpec {
        self.spec.clone()
    }

    fn group_size(&self) -> u32 {
        self.folder.group_size()
    }

    fn thresholds(&self) -> Option<&Thresholds> {
        None
    }

    fn load(&self, engine: &mut dyn Engine, slice: usize, spec: &TensorSpec) -> Result<Buffer> {
        WeightSource::load(self.folder, engine, slice, spec)
    }

    fn write_vector(&self, engine: &mut dyn Engine, spec: &TensorSpec, to: Span) -> Result<()> {
        self.folder.write_vector(engine, spec, to)
    }
}

fn folder(dir: &Path, layers: u32, head_dim: u32) -> ModelFolder {
    let shape = LlamaShape { layers, ffn_dim: FFN, head_dim, max_context: 1 << 20, ..common::tiny_shape(false) };
    common::TinyModel::new(shape, 7).write_hf(&dir.join("source"), Dtype::F32, 1);
    common::quantize_tiny(&dir.join("source"), &dir.join("model")).unwrap();
    ModelFolder::open(&dir.join("model")).unwrap()
}

/// Kinds of layers with these windows; the scores of all are bounded.
fn windows(windows: &[Option<u32>]) -> ModelSpec {
    let layer = |window: &Option<u32>| {
        let mut layer = LayerSpec::default();
        (layer.attention.window, layer.attention.score_cap) = (*window, Some(3.0));
        layer
    };
    ModelSpec { layers: windows.iter().map(layer).collect(), ..ModelSpec::default() }
}

/// Two layers with a window, and one without.
fn mixed() -> ModelSpec {
    windows(&[Some(WINDOW), Some(WINDOW - 7), None])
}

fn load(folder: &ModelFolder, spec: &ModelSpec, engine: Box<dyn Engine>, options: CacheOptions) -> Model {
    let source = Respecified { folder, spec: spec.clone() };
    let model = Model::load(&source, engine, options, &mut |_, _| ()).unwrap();
    model.set_step_tokens(STEP).unwrap();
    model
}

/// An engine on which a model's layers with a window have rings, and what counts its submissions.
fn short_steps(engine: Box<dyn Engine>) -> (Box<dyn Engine>, Refuses) {
    let traits = Traits { binding_bytes: ROOM, ..engine.traits() };
    refusing_as(engine, traits)
}

/// A model with rings and one without, but for that alike.
fn pair(folder: &ModelFolder, spec: &ModelSpec, open: Open, options: CacheOptions) -> [Model; 2] {
    let ringed = load(folder, spec, short_steps(open()).0, options);
    let plain = load(folder, spec, open(), options);
    let token_bytes = ringed.allocated_bytes() < plain.allocated_bytes();
    assert!(token_bytes, "rings are shorter: {} and {}", ringed.allocated_bytes(), plain.allocated_bytes());
    [ringed, plain]
}

fn options(sequences: u32, cache_type: CacheType) -> CacheOptions {
    CacheOptions { sequences, cache_type, ..CacheOptions::from(CONTEXT) }
}

fn plan() -> PrecisionPlan {
    PrecisionPlan::for_bits(8.0, false, "test").unwrap()
}

fn greedy(model: &Model) -> Sequence {
    let mut sequence = model.sequence(&plan()).unwrap();
    sequence.set_sampler(SamplerSettings { temperature: 0.0, ..SamplerSettings::default() }).unwrap();
    sequence
}

fn ids(count: usize, seed: usize) -> Vec<u32> {
    (0..count).map(|i| 3 + ((i * i * 7 + i * 13 + seed * 31) % 250) as u32).collect()
}

/// Logits at many places of a text, after steps of many tokens and of one.
fn all_logits(sequence: &mut Sequence, seed: usize) -> Vec<f32> {
    let mut all = Vec::new();
    for (at, count) in [1, 17, 1, 1, 90, 1, 40, 1, 1, 60, 3, 1, 1].into_iter().enumerate() {
        all.extend(sequence.next_logits(&ids(count, seed + at)).unwrap().logits);
    }
    all
}

#[test]
fn rings_change_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), 3, 32);
    let few_bits = [CacheType::Q8, CacheType::Q6, CacheType::Q4];
    for (way, open) in engines().into_iter().enumerate() {
        // All on the CPU engine, and one kind of few bits in each other way.
        let few_bits = if way == 0 { &few_bits[..] } else { &few_bits[way % 3..][..1] };
        let mut seen = Vec::new();
        for cache_type in [&[CacheType::F16], few_bits].concat() {
            let [ringed, plain] = pair(&folder, &mixed(), open, options(2, cache_type));
            // The second of two sequences, beside another one.
            let [mut first, mut other] = [&ringed, &plain].map(greedy);
            first.fill(&ids(150, 9)).unwrap();
            other.fill(&ids(150, 9)).unwrap();
            let [mut second, mut reference] = [&ringed, &plain].map(greedy);
            let found = all_logits(&mut second, 0);
            assert!(found == all_logits(&mut reference, 0), "{cache_type} on {}", plain.device().name);
            let end = ids(1, 3);
            assert_eq!(first.next_logits(&end).unwrap().logits, other.next_logits(&end).unwrap().logits);
            seen.push(found);
        }
        let whole = load(&folder, &windows(&[None]), open(), options(1, CacheType::F16));
        let narrow =
            load(&folder, &windows(&[Some(WINDOW - 1), Some(WINDOW - 7), None]), open(), options(1, CacheType::F16));
        for other in [whole, narrow] {
            assert_ne!(all_logits(&mut greedy(&other), 0), seen[0], "a window counts");
        }
    }
}

#[test]
fn a_text_that_is_cut_back_goes_on_as_if_it_had_ended_there() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), 3, 16);
    for open in engines() {
        let (engine, counter) = short_steps(open());
        let ringed = load(&folder, &mixed(), engine, options(2, CacheType::F16));
        let plain = load(&folder, &mixed(), open(), options(1, CacheType::F16));
        // The longest cut that leaves the longest window, one more, and others; whether all is computed again.
        let most = RING - WINDOW as usize + 1;
        for (length, cut, again) in [(300, most, false), (300, most + 1, true), (300, 250, true), (128, 127, false)] {
            let [mut sequence, mut reference] = [&ringed, &plain].map(greedy);
            for sequence in [&mut sequence, &mut reference] {
                sequence.fill(&ids(length, 1)).unwrap();
                sequence.truncate(length - cut);
            }
            counter.stop_at(0);
            let mut logits = sequence.next_logits(&[70]).unwrap().logits;
            let steps = 1 + if again { (length - cut).div_ceil(STEP as usize) } else { 0 };
            assert_eq!(counter.submitted(), steps, "{length} - {cut} on {}", plain.device().name);
            let mut expected = reference.next_logits(&[70]).unwrap().logits;
            // Steps are the same as before, as they begin at the text's beginning.
            assert!(logits == expected || again, "{length} - {cut}");
            assert!(close(&logits, &expected), "{length} - {cut}");
            assert_eq!(sequence.tokens(), reference.tokens());

            // Cut back once more, which counts from where the text was at its longest.
            for sequence in [&mut sequence, &mut reference] {
                sequence.truncate(length - cut);
            }
            logits = logits_at(&mut sequence, &[71, 72], length - cut).logits;
            expected = logits_at(&mut reference, &[71, 72], length - cut).logits;
            assert!(close(&logits, &expected));
            assert!(!close(&logits, &reference.next_logits(&[9]).unwrap().logits), "other logits are told apart");
        }
    }
}

#[test]
fn cells_that_were_read_back_go_on_in_another_sequence() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), 3, 32);
    // The CPU engine, and the GPU as it is: cells are copied alike in every other way.
    for (open, cache_types) in
        engines().into_iter().step_by(2).zip([&[CacheType::F16, CacheType::Q4][..], &[CacheType::F16]])
    {
        for cache_type in cache_types.iter().copied() {
            let [ringed, plain] = pair(&folder, &mixed(), open, options(2, cache_type));
            for (length, cut) in [(50, 0), (300, 100)] {
                let mut first = greedy(&ringed);
                first.fill(&ids(length, 1)).unwrap();
                first.truncate(length - cut);
                let layout = first.cells().unwrap();
                assert_eq!(layout.tensors.len(), if cache_type == CacheType::F16 { 6 } else { 3 });
                let mut cells = vec![Vec::new(); layout.tensors.len()];
                let mut keep = |at: usize, bytes: &[u8]| {
                    cells[at].extend_from_slice(bytes);
                    Ok(())
                };
                first.read_cells(&mut keep).unwrap();
                assert_eq!(cells.iter().map(Vec::len).sum::<usize>() as u64, layout.bytes());
                // Behind other tokens, in the other slot.
                let mut second = greedy(&ringed);
                second.fill(&ids(200, 5)).unwrap();
                let tokens = first.tokens().to_vec();
                assert_eq!(second.replace_cells(&tokens, None, &layout, &|at| &cells[at]).unwrap(), None);
                let expected = first.next_logits(&[70]).unwrap().logits;
                assert!(second.next_logits(&[70]).unwrap().logits == expected, "{cache_type}, {length} - {cut}");
                // The control: values in the place of keys are told apart.
                if cache_type == CacheType::F16 {
                    second.replace_cells(&tokens, None, &layout, &|at| &cells[at ^ 1]).unwrap();
                    assert!(second.next_logits(&[70]).unwrap().logits != expected);
                }
                // Without rings, these cells are of no use, and the tokens are computed again.
                let mut third = greedy(&plain);
                let why = third.replace_cells(&tokens, None, &layout, &|at| &cells[at]).unwrap();
                assert!(why.unwrap().contains("other parts of the context"));
                assert!(close(&third.next_logits(&[70]).unwrap().logits, &expected));
            }
        }
    }
}

#[test]
fn what_a_window_has_lost_is_not_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let ringed = load(&folder(dir.path(), 3, 16), &mixed(), short_steps(cpu::open()).0, options(1, CacheType::F16));
    let mut sequence = greedy(&ringed);
    assert_eq!(sequence.cells(), None, "there are no tokens");
    sequence.fill(&ids(300, 1)).unwrap();
    sequence.truncate(100);
    assert_eq!(sequence.cells(), None);
    sequence.next_logits(&[70]).unwrap();
    assert!(sequence.cells().is_some(), "all is computed again");
}

/// Steps of other lengths add up in another order.
fn close(a: &[f32], b: &[f32]) -> bool {
    let largest = b.iter().fold(0f32, |largest, logit| largest.max(logit.abs()));
    a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-2 * largest)
}

#[test]
fn a_step_that_fails_costs_nothing_but_time() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), 3, 16);
    for open in engines() {
        let (engine, stops) = short_steps(open());
        let ringed = load(&folder, &mixed(), engine, options(2, CacheType::F16));
        let plain = load(&folder, &mixed(), open(), options(2, CacheType::F16));
        let [mut sequence, mut reference] = [&ringed, &plain].map(greedy);
        for sequence in [&mut sequence, &mut reference] {
            sequence.fill(&ids(100, 1)).unwrap();
        }
        // Twelve steps write over what the next token looks at, and the thirteenth is stopped.
        stops.stop_at(13);
        assert!(matches!(sequence.fill(&ids(300, 2)), Err(Error::Stopped(_))));
        assert_eq!(sequence.tokens(), ids(100, 1));
        sequence.cancel_token().reset();
        // So is the second step of those that compute the text again.
        stops.stop_at(2);
        assert!(matches!(sequence.next_logits(&[70]), Err(Error::Stopped(_))));
        assert_eq!(sequence.tokens(), ids(100, 1));
        sequence.cancel_token().reset();
        // A fork has to do the same.
        let mut fork = sequence.fork().unwrap();
        stops.stop_at(0);
        let expected = reference.next_logits(&[70]).unwrap().logits;
        for (sequence, steps) in [(&mut sequence, 8), (&mut fork, 16)] {
            assert!(close(&sequence.next_logits(&[70]).unwrap().logits, &expected));
            assert_eq!(stops.submitted(), steps, "seven steps of the text, and the token");
        }
        let expected = reference.next_logits(&ids(30, 3)).unwrap().logits;
        assert!(close(&sequence.next_logits(&ids(30, 3)).unwrap().logits, &expected));
        assert_eq!(stops.submitted(), 18, "all is there now");
    }
}

#[test]
fn a_fork_has_the_window_of_its_parent() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), 3, 32);
    for open in engines() {
        for cache_type in [CacheType::F16, CacheType::Q6] {
            let (engine, counter) = short_steps(open());
            let model = load(&folder, &mixed(), engine, options(3, cache_type));
            let mut parent = greedy(&model);
            parent.fill(&ids(300, 1)).unwrap();
            let (mut fork, mut late) = (parent.fork().unwrap(), parent.fork().unwrap());
            let expected = all_logits_short(&mut parent);
            assert!(all_logits_short(&mut fork) == expected, "{cache_type} on {}", model.device().name);
            // What the parent lost, its fork never had.
            late.truncate(100);
            counter.stop_at(0);
            late.next_logits(&[70]).unwrap();
            assert_eq!(counter.submitted(), 8);
        }
    }
}

fn all_logits_short(sequence: &mut Sequence) -> Vec<f32> {
    [1, 30, 1, 1].into_iter().flat_map(|count| sequence.next_logits(&ids(count, 5)).unwrap().logits).collect()
}

/// A sequence in company, and the text that it has to say.
struct Speaker {
    sequence: Sequence,
    text: Vec<u32>,
    /// Steps under way, the first one first.
    pending: VecDeque<PendingStep>,
}

impl Speaker {
    fn at(&self) -> usize {
        self.sequence.tokens().len()
    }

    /// The tokens up to `end`, which have not run.
    fn next_ids(&self, end: usize) -> Vec<u32> {
        self.text[self.at()..end].to_vec()
    }

    fn begin(&mut self, prompt: usize) {
        let end = self.at() + self.pending.len() + 1;
        let step = match self.pending.back() {
            None => self.sequence.begin(&self.next_ids(end.max(prompt))),
            Some(last) if end < self.text.len() && self.at() >= prompt => self.sequence.begin_after(last),
            Some(_) => return,
        };
        self.pending.push_back(step.unwrap());
    }

    fn finish(&mut self) {
        if let Some(step) = self.pending.pop_front() {
            let id = self.sequence.finish(step).unwrap().id;
            assert_eq!(id, self.text[self.at()], "token {}", self.at());
        }
    }

    fn give_up(&mut self) {
        self.pending.drain(..).rev().for_each(|step| self.sequence.discard(step));
    }

    fn act(&mut self, prompt: usize, random: &mut StdRng) {
        let done = self.at() + self.pending.len() + 1 >= self.text.len();
        match random.random_range(0..12) {
            0..5 if !done && self.pending.len() < 3 => self.begin(prompt),
            0..8 => self.finish(),
            8 => self.give_up(),
            9 => {
                self.give_up();
                let length = random.random_range(0..=self.at());
                self.sequence.truncate(length);
            }
            10 => {
                self.give_up();
                let fork = self.sequence.fork().unwrap();
                self.sequence = fork;
            }
            _ if !done => {
                self.give_up();
                let mut step = Step::new();
                let ids = self.next_ids((self.at() + random.random_range(1..30)).max(prompt).min(self.text.len() - 1));
                if !ids.is_empty() {
                    step.add(&mut self.sequence, &ids);
                    let id = step.run().remove(0).unwrap().id;
                    assert_eq!(id, self.text[self.at()], "token {}", self.at());
                }
            }
            _ => (),
        }
    }
}

/// A prompt, and what a model says after it.
fn text(model: &Model, prompt: Vec<u32>, length: usize) -> Vec<u32> {
    let mut sequence = greedy(model);
    let mut text = prompt;
    while text.len() < length {
        let step = sequence.begin(&text[sequence.tokens().len()..]).unwrap();
        text.push(sequence.finish(step).unwrap().id);
    }
    text
}

/// Whatever is begun, given up, forgotten and copied beside it, a sequence says what it says alone.
#[test]
fn whatever_happens_in_company_each_sequence_says_what_it_says_alone() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), 3, 16);
    for (open, count) in engines().into_iter().zip([4, 1, 1, 1, 1]) {
        let plain = load(&folder, &mixed(), open(), options(1, CacheType::F16));
        let model = load(&folder, &mixed(), short_steps(open()).0, options(4, CacheType::F16));
        for seed in 0..u64::from(gpu::cases(count)) {
            println!("{}, seed {seed}", plain.device().name);
            let random = &mut StdRng::seed_from_u64(seed);
            let speaker = |_| {
                let prompt = random.random_range(1..250);
                let text = text(&plain, ids(prompt, random.random_range(0..99)), prompt + 60);
                (prompt, Speaker { sequence: greedy(&model), text, pending: VecDeque::new() })
            };
            let mut speakers: Vec<(usize, Speaker)> = (0..3).map(speaker).collect();
            for _ in 0..150 {
                let at = random.random_range(0..3);
                let (prompt, speaker) = &mut speakers[at];
                speaker.act(*prompt, random);
            }
            for (prompt, speaker) in &mut speakers {
                while !speaker.pending.is_empty() {
                    speaker.finish();
                }
                while speaker.at() + 1 < speaker.text.len() {
                    speaker.begin(*prompt);
                    speaker.finish();
                }
            }
        }
    }
}

#[test]
fn steps_without_end_that_are_given_up_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), 3, 16);
    let model = load(&folder, &mixed(), short_steps(cpu::open()).0, options(1, CacheType::F16));
    let mut sequence = greedy(&model);
    sequence.fill(&ids(100, 1)).unwrap();
    let first = sequence.begin(&[70]).unwrap();
    let end = 101;
    let most = RING - WINDOW as usize + 1;
    let mut steps = vec![first];
    for _ in 0..most {
        let step = sequence.begin_after(&steps[steps.len() - 1]).unwrap();
        steps.push(step);
    }
    // One behind the last is one too many for the token behind the first.
    let step = sequence.begin_after(&steps[most]).unwrap();
    steps.push(step);
    let first = steps.remove(0);
    steps.drain(..).rev().for_each(|step| sequence.discard(step));
    let message = sequence.begin_after(&first).err().expect("its window is lost").to_string();
    assert!(message.starts_with("steps given up: expected at most 109"), "{message}");
    let id = sequence.finish(first).unwrap().id;
    assert_eq!(sequence.tokens().len(), end);
    let step = sequence.begin(&[id]).unwrap();
    let found = sequence.finish(step).unwrap().id;
    // As it is said without all that.
    assert_eq!(text(&model_without_rings(&folder), [ids(100, 1), vec![70]].concat(), 103)[101..], [id, found]);
}

fn model_without_rings(folder: &ModelFolder) -> Model {
    load(folder, &mixed(), cpu::open(), options(1, CacheType::F16))
}

#[test]
fn a_context_of_many_windows_takes_little_memory() {
    const LONG: u32 = 1 << 16;
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), 6, 16);
    let bytes = |spec: &ModelSpec, sequences| {
        let options = CacheOptions { sequences, ..CacheOptions::from(LONG) };
        load(&folder, spec, cpu::open(), options).allocated_bytes()
    };
    // Keys and values of two heads of 16 numbers.
    let token = 2 * 2 * 16 * 2;
    // A ring has the window and the steps of the CPU engine, of 512 tokens.
    let ring = 576;
    for sequences in [1, 3] {
        let saved = |windowed: u64| windowed * u64::from(sequences) * (u64::from(LONG) - ring) * token;
        let whole = bytes(&windows(&[None]), sequences);
        assert_eq!(whole - bytes(&mixed(), sequences), saved(4));
        assert_eq!(whole - bytes(&windows(&[Some(WINDOW)]), sequences), saved(6));
    }
    // Far behind the ring's first turns, it computes as a model whose context is little more than the window.
    let model = load(&folder, &windows(&[Some(WINDOW)]), cpu::open(), CacheOptions::from(LONG));
    let mut sequence = greedy(&model);
    sequence.fill(&ids(3000, 1)).unwrap();
    assert!(sequence.next_logits(&[70]).unwrap().logits.iter().all(|logit| logit.is_finite()));
}

#[test]
fn steps_that_rings_have_no_room_for_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), 3, 16);
    let model = load(&folder, &mixed(), short_steps(cpu::open()).0, options(1, CacheType::F16));
    let most = RING as u32 - WINDOW + 1;
    // Activations of so many tokens are not bound here.
    let message = model.set_step_tokens(most).unwrap_err().to_string();
    assert!(message.contains("1 to 64"), "{message}");
    let options = CacheOptions::from(1 << 12);
    let model = load(&folder, &mixed(), cpu::open(), options);
    model.set_step_tokens(557).unwrap();
    let message = model.set_step_tokens(558).unwrap_err().to_string();
    assert_eq!(message, "step tokens: expected 1 to 557 for the windows of this model, got 558");
    // All tokens of such a step look at their own windows.
    let expected = load(&folder, &mixed(), cpu::open(), CacheOptions { context: 576, ..options });
    expected.set_step_tokens(557).unwrap();
    let [found, expected] = [model, expected].map(|model| greedy(&model).next_logits(&ids(557, 1)).unwrap().logits);
    assert!(found == expected);
}
