//! Answers whose tokens are guessed from the conversation: they are those without guesses, whatever happens on the way.

use crate::common;
use crate::gpu;
use edge_run::internals::cpu;
use edge_run::internals::engine::{Activations, Engine};
use edge_run::internals::format::ModelFolder;
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::model::{CacheOptions, Model};
use edge_run::internals::session::Next;
use edge_run::internals::text::{SamplerSettings, TextModel};
use edge_run::{Event, PrecisionPlan, Session, Summary};

const CONTEXT: u32 = 192;
/// A text that repeats itself, so that its continuation is guessed.
const PROMPT: [u32; 24] =
    [70, 71, 72, 40, 41, 52, 70, 71, 72, 40, 41, 53, 60, 61, 70, 71, 72, 40, 41, 52, 70, 71, 72, 40];

fn plan(bits: f32) -> PrecisionPlan {
    PrecisionPlan::for_bits(bits, false, "test").unwrap()
}

/// A tiny model on every engine, with the text of its folder.
struct Models {
    folder: ModelFolder,
    models: Vec<Model>,
    _dir: tempfile::TempDir,
}

impl Models {
    /// The first model whose likeliest text repeats itself soon.
    fn new() -> Models {
        let repeats = |models: &Models| {
            let (ids, _) = answer(&mut models.session(&models.models[0], greedy(), false), &PROMPT, 60);
            ids.len() == 60 && (1..12).any(|period| ids[30..].iter().zip(&ids[30 - period..]).all(|(a, b)| a == b))
        };
        (0..).map(Models::of_seed).find(repeats).expect("one of them repeats itself")
    }

    fn of_seed(seed: u64) -> Models {
        let dir = tempfile::tempdir().unwrap();
        let (source, out) = (dir.path().join("source"), dir.path().join("model"));
        common::tiny_hf_folder(&source, seed, true);
        common::quantize_tiny(&source, &out).unwrap();
        let folder = ModelFolder::open(&out).unwrap();
        let gpu = gpu::gpu().map(|_| edge_run::internals::gpu::open(0, GpuOptions::default()).unwrap());
        let engines: [Option<Box<dyn Engine>>; 3] = [Some(cpu::open()), Some(cpu::open_with(Activations::F32)), gpu];
        let options = || CacheOptions { sequences: 3, ..CacheOptions::from(CONTEXT) };
        let load = |engine| Model::load(&folder, engine, options(), &mut |_, _| ()).unwrap();
        let models = engines.into_iter().flatten().map(load).collect();
        Models { folder, models, _dir: dir }
    }

    fn session(&self, model: &Model, settings: SamplerSettings, looks_up: bool) -> Session {
        let text = TextModel::open(&self.folder).unwrap();
        let mut session = Session::new(model, text, settings, plan(8.0)).unwrap();
        session.set_prompt_lookup(looks_up);
        session
    }
}

fn greedy() -> SamplerSettings {
    SamplerSettings { temperature: 0.0, ..SamplerSettings::default() }
}

fn drawn(seed: u32) -> SamplerSettings {
    SamplerSettings { temperature: 0.9, repeat_penalty: 1.05, seed: Some(seed), ..SamplerSettings::default() }
}

/// The tokens of an answer, and its summary.
fn answer(session: &mut Session, prompt: &[u32], most: usize) -> (Vec<u32>, Summary) {
    let mut ids = Vec::new();
    let summary = session
        .generate(prompt, Some(most), &mut |token| {
            ids.push(token.id);
            Ok(Next::Go)
        })
        .unwrap();
    (ids, summary)
}

#[test]
fn an_answer_with_guesses_is_the_answer() {
    let models = Models::new();
    for model in &models.models {
        for most in [1, 2, 7, 60] {
            let (expected, without) = answer(&mut models.session(model, greedy(), false), &PROMPT, most);
            let mut guessing = models.session(model, greedy(), true);
            let (found, with) = answer(&mut guessing, &PROMPT, most);
            assert_eq!((found.len(), &found), (most, &expected), "{}", model.device().name);
            assert_eq!((without.guessed_tokens, with.stop), (0, without.stop));
            assert!(most < 60 || with.accepted_tokens > 10, "{with:?}");
            assert!(with.guessed_tokens >= with.accepted_tokens);
            // The conversation goes on as without guesses too.
            let mut plain = models.session(model, greedy(), false);
            answer(&mut plain, &PROMPT, most);
            assert_eq!(answer(&mut guessing, &[50, 51], 9).0, answer(&mut plain, &[50, 51], 9).0);
            assert_eq!(guessing.sequence().tokens(), plain.sequence().tokens());
        }
    }
}

/// Each token takes the random number that it takes without guesses. One in some hundred lies so close to the border of
/// two tokens that a sum in another order decides, and the answer is another one from there on.
#[test]
fn draws_are_the_same_with_guesses() {
    let models = Models::new();
    for model in &models.models {
        let (mut same, mut others, mut accepted, mut guessed) = (0, 0, 0, 0);
        const SEEDS: u32 = 40;
        for seed in 0..SEEDS {
            let (expected, _) = answer(&mut models.session(model, drawn(seed), false), &PROMPT, 24);
            let (found, summary) = answer(&mut models.session(model, drawn(seed), true), &PROMPT, 24);
            same += u32::from(found == expected);
            (accepted, guessed) = (accepted + summary.accepted_tokens, guessed + summary.guessed_tokens);
            let (other, _) = answer(&mut models.session(model, drawn(seed + 1000), true), &PROMPT, 24);
            others += u32::from(other != expected);
        }
        assert!(same * 10 >= SEEDS * 8, "{same} of {SEEDS} answers, {}", model.device().name);
        assert!(others > SEEDS / 2, "other seeds draw others: {others} of {SEEDS}");
        assert!(guessed >= accepted && accepted > 0, "guesses are right now and then: {accepted} of {guessed}");
    }
}

/// Wherever an answer is stopped, replanned or looked at, nothing of it shows that was not told.
#[test]
fn what_was_not_told_is_taken_back() {
    let models = Models::new();
    for model in &models.models {
        for told in 1..40 {
            let [with, without] = [true, false].map(|looks_up| {
                let mut session = models.session(model, greedy(), looks_up);
                let mut events = session.answer(&PROMPT, Some(60)).unwrap();
                for _ in 0..told {
                    assert!(matches!(events.next(), Some(Ok(Event::Token(_)))));
                }
                let seen = events.session().sequence().tokens().to_vec();
                if told % 3 == 0 {
                    events.set_plan(plan(4.0)).unwrap();
                }
                let more: Vec<u32> = events
                    .by_ref()
                    .take(6)
                    .filter_map(|event| if let Event::Token(token) = event.unwrap() { Some(token.id) } else { None })
                    .collect();
                events.stop();
                let (next, _) = answer(&mut session, &[50, 51, 52], 8);
                (seen, more, next, session.sequence().tokens().to_vec())
            });
            assert_eq!(with, without, "after {told} tokens on {}", model.device().name);
        }
    }
}
