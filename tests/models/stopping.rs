//! Work that another thread stops: where it ends, what it says, and that it can begin again as if nothing had been.

use std::ops::ControlFlow;

use crate::common;
use crate::gpu;
use crate::refusing::{Refuses, refusing};
use edge_run::internals::bench::{EnergyMeter, Synthetic, Test, TestKind, copy_bandwidth, measure};
use edge_run::internals::cpu;
use edge_run::internals::engine::Engine;
use edge_run::internals::eval::perplexity;
use edge_run::internals::format::ModelFolder;
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::kernels::copy;
use edge_run::internals::model::Model;
use edge_run::internals::model::Sequence;
use edge_run::internals::recording::Recording;
use edge_run::internals::residency::Pace;
use edge_run::internals::session::{Next, StopReason};
use edge_run::internals::text::{SamplerSettings, TextModel};
use edge_run::{CancelToken, Error, PrecisionPlan, Session};

const CONTEXT: u32 = 128;
const PROMPT: [u32; 40] = [70; 40];
/// Steps of the prompt: of four tokens each.
const STEPS: usize = PROMPT.len() / 4;

fn plan() -> PrecisionPlan {
    PrecisionPlan::for_bits(8.0, false, "test").unwrap()
}

fn folder(dir: &std::path::Path) -> ModelFolder {
    let (source, out) = (dir.join("source"), dir.join("model"));
    common::tiny_hf_folder(&source, 11, true);
    common::quantize_tiny(&source, &out).unwrap();
    ModelFolder::open(&out).unwrap()
}

fn engines() -> Vec<Box<dyn Engine>> {
    let gpu = gpu::gpu().map(|_| edge_run::internals::gpu::open(0, GpuOptions::default()).unwrap());
    [cpu::open()].into_iter().chain(gpu).collect()
}

/// Runs `test` on a session that draws tokens, on every engine there is and with or without steps ahead.
fn on_every_engine(test: impl Fn(&mut Session, &Refuses)) {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    for runs_ahead in [false, true] {
        for engine in engines() {
            let (model, refuses) = in_steps_of_four(&folder, engine);
            let drawn = SamplerSettings { temperature: 1.5, seed: Some(3), ..SamplerSettings::default() };
            let mut session = Session::new(&model, TextModel::open(&folder).unwrap(), drawn, plan()).unwrap();
            session.run_ahead(runs_ahead);
            test(&mut session, &refuses);
        }
    }
}

/// The ids of an answer, and why it ended.
fn answer(session: &mut Session, prompt: &[u32], most: usize) -> (Vec<u32>, Result<StopReason, Error>) {
    let mut ids = Vec::new();
    let summary = session.generate(prompt, Some(most), &mut |token| {
        ids.push(token.id);
        Ok(Next::Go)
    });
    (ids, summary.map(|summary| summary.stop))
}

/// The model on an engine that may refuse, with steps of four tokens at most.
fn in_steps_of_four(folder: &ModelFolder, engine: Box<dyn Engine>) -> (Model, Refuses) {
    let (engine, refuses) = refusing(engine);
    let model = Model::load(folder, engine, CONTEXT, &mut |_, _| ()).unwrap();
    model.set_step_tokens(4).unwrap();
    (model, refuses)
}

#[test]
fn sessions_go_to_other_threads_and_their_tokens_are_shared() {
    fn sent<T: Send>() {}
    fn shared<T: Send + Sync + Clone>() {}
    sent::<Session>();
    sent::<Model>();
    shared::<CancelToken>();
}

#[test]
fn a_prompt_is_stopped_between_its_steps_and_then_gives_what_it_would_have_given() {
    on_every_engine(|session, refuses| {
        refuses.stop_at(3);
        let (ids, stopped) = answer(session, &PROMPT, 8);
        assert!(ids.is_empty() && matches!(stopped, Err(Error::Stopped("the prompt"))), "{stopped:?}");
        assert_eq!(refuses.submitted(), 3, "of {STEPS} steps");
        // As long as the request stands, nothing runs.
        let again = answer(session, &PROMPT, 8).1;
        assert!(matches!(again, Err(Error::Stopped("the prompt"))) && refuses.submitted() == 4, "{again:?}");
        session.cancel_token().reset();
        let after = answer(session, &PROMPT, 8);
        on_every_engine(|session, _| {
            let never = answer(session, &PROMPT, 8);
            assert_eq!((&after.0, after.1.as_ref().unwrap()), (&never.0, never.1.as_ref().unwrap()));
        });
    });
}

#[test]
fn what_was_generated_before_a_stop_stands_and_the_conversation_goes_on_from_it() {
    on_every_engine(|session, refuses| {
        // The prompt's steps, and some of one token.
        session.set_prompt_lookup(false);
        refuses.stop_at(STEPS + 5);
        let (ids, stopped) = answer(session, &PROMPT, 30);
        assert_eq!(stopped.unwrap(), StopReason::Stopped);
        assert!((3..=5).contains(&ids.len()) && refuses.submitted() == STEPS + 5, "{ids:?}");
        session.cancel_token().reset();
        let rest = answer(session, &[90, 91], 6).0;
        on_every_engine(|session, _| {
            // A caller that stops by its own word after the same token.
            let mut seen = 0;
            let plain = session.generate(&PROMPT, Some(30), &mut |_| {
                seen += 1;
                Ok(if seen == ids.len() { Next::Stop } else { Next::Go })
            });
            assert_eq!(plain.unwrap().stop, StopReason::Stopped);
            assert_eq!(answer(session, &[90, 91], 6).0, rest);
        });
    });
}

#[test]
fn a_stop_asked_for_while_a_token_is_shown_is_the_last_of_the_answer() {
    on_every_engine(|session, _| {
        let token = session.cancel_token().clone();
        let mut seen = 0;
        let summary = session.generate(&PROMPT, Some(30), &mut |_| {
            seen += 1;
            if seen == 3 {
                let token = token.clone();
                std::thread::spawn(move || token.cancel()).join().unwrap();
            }
            Ok(Next::Go)
        });
        // A step that was whole before may still be told.
        let summary = summary.unwrap();
        assert_eq!((summary.stop, summary.generated_tokens), (StopReason::Stopped, seen));
        assert!((3..=4).contains(&seen), "{seen}");
    });
}

/// The token before the prompt would be left out of the next one.
#[test]
fn a_prompt_that_is_stopped_between_its_steps_leaves_what_was_sampled_before() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    for engine in engines() {
        let (model, refuses) = in_steps_of_four(&folder, engine);
        let mut sequence = model.sequence(&plan()).unwrap();
        let first = sequence.begin(&PROMPT[..3]).unwrap();
        let sampled = Some(sequence.finish(first).unwrap().id);
        let runs: [&dyn Fn(&mut Sequence) -> bool; 3] = [
            &|sequence| matches!(sequence.fill(&PROMPT[..12]), Err(Error::Stopped(_))),
            &|sequence| matches!(sequence.next_logits(&PROMPT[..12]), Err(Error::Stopped(_))),
            &|sequence| matches!(sequence.begin(&PROMPT[..12]), Err(Error::Stopped(_))),
        ];
        for (at, run) in runs.iter().enumerate() {
            refuses.stop_at(2);
            assert!(run(&mut sequence) && refuses.submitted() == 2, "run {at}");
            assert_eq!((sequence.tokens(), sequence.sampled()), (&PROMPT[..3], sampled), "run {at}");
            sequence.cancel_token().reset();
        }
        refuses.stop_at(0);
        sequence.fill(&PROMPT[..12]).unwrap();
        assert_eq!((sequence.tokens().len(), sequence.sampled()), (15, None));
    }
}

#[test]
fn the_callers_own_error_is_not_taken_for_a_stop() {
    on_every_engine(|session, _| {
        let failed = session.generate(&PROMPT, Some(9), &mut |_| Err(Error::Stopped("the caller's work")));
        assert!(matches!(failed, Err(Error::Stopped("the caller's work"))), "{failed:?}");
    });
}

#[test]
fn eval_is_stopped_within_a_window_and_bench_within_a_test() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    for engine in engines() {
        let (model, refuses) = in_steps_of_four(&folder, engine);
        let mut sequence = model.sequence(&plan()).unwrap();
        let eval =
            |sequence: &mut Sequence| perplexity(sequence, &PROMPT, 40, None, &mut |_, _, _| ControlFlow::Continue(()));
        refuses.stop_at(4);
        let stopped = eval(&mut sequence);
        assert!(matches!(stopped, Err(Error::Stopped("eval"))) && refuses.submitted() == 4, "{stopped:?}");
        sequence.cancel_token().reset();
        let after = eval(&mut sequence).unwrap();
        refuses.stop_at(0);
        assert_eq!(eval(&mut sequence).unwrap().perplexity, after.perplexity);
        for kind in [TestKind::Prompt, TestKind::Generation] {
            refuses.stop_at(12);
            let stopped = measure(&mut sequence, &Test { kind, tokens: 40, depth: 0 }, 5, &mut EnergyMeter::none());
            assert!(matches!(stopped, Err(Error::Stopped("bench"))) && refuses.submitted() == 12, "{stopped:?}");
            sequence.cancel_token().reset();
        }
    }
}

#[test]
fn loading_and_waiting_for_slices_are_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    for mut engine in engines() {
        engine.cancel_token().cancel();
        let copied = copy_bandwidth(engine.as_mut());
        assert!(matches!(copied, Err(Error::Stopped("bench"))), "{copied:?}");
        engine.cancel_token().reset();
        let token = CancelToken::new();
        engine.set_cancel(token.clone());
        let mut calls = 0;
        let loaded = Model::load(&folder, engine, CONTEXT, &mut |_, _| {
            calls += 1;
            token.cancel();
        });
        assert!(matches!(loaded, Err(Error::Stopped("loading"))) && calls == 1);
    }
    for engine in engines() {
        let model = Model::load_base(&folder, engine, CONTEXT, None, &mut |_, _| ()).unwrap();
        let greedy = SamplerSettings { temperature: 0.0, ..SamplerSettings::default() };
        let mut session = Session::new(&model, TextModel::open(&folder).unwrap(), greedy, plan()).unwrap();
        session.set_pace(Pace::Units(1));
        session.cancel_token().cancel();
        let stopped = session.settle(None);
        assert!(matches!(stopped, Err(Error::Stopped("loading"))), "{stopped:?}");
        assert!(!session.model().is_settled());
        session.cancel_token().reset();
        session.settle(None).unwrap();
        assert!(session.model().is_settled());
        assert_eq!(answer(&mut session, &PROMPT, 4).0.len(), 4);
    }
}

#[test]
fn a_trial_of_activations_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path());
    if gpu::gpu().is_none() {
        return;
    }
    let options = GpuOptions { as_hardware: true, ..GpuOptions::default() };
    let (engine, refuses) = refusing(edge_run::internals::gpu::open(0, options).unwrap());
    let model = Model::load(&folder, engine, CONTEXT, &mut |_, _| ()).unwrap();
    refuses.stop_at(3);
    let tried = model.choose_activations(None);
    assert!(matches!(tried, Err(Error::Stopped("loading"))) && refuses.submitted() == 3, "{tried:?}");
}

#[test]
fn a_synthetic_model_is_stopped_too() {
    for engine in engines() {
        let (engine, refuses) = refusing(engine);
        let source = Synthetic::parse("128x256x2x4x2x300", 7).unwrap();
        let model = Model::load(&source, engine, CONTEXT, &mut |_, _| ()).unwrap();
        let mut sequence = model.sequence(&plan()).unwrap();
        refuses.stop_at(1);
        assert!(matches!(sequence.next_logits(&[1, 2]), Err(Error::Stopped(_))));
        sequence.cancel_token().reset();
        assert!(sequence.next_logits(&[1, 2]).unwrap().logits.iter().all(|logit| logit.is_finite()));
    }
}

/// A long run is handed to the device in pieces, so that what is not handed over yet can be left undone.
#[test]
fn a_run_of_the_gpu_is_stopped_between_its_submits() {
    if gpu::gpu().is_none() {
        return;
    }
    let mut engine = edge_run::internals::gpu::open(0, GpuOptions::default()).unwrap();
    let token = CancelToken::new();
    engine.set_cancel(token.clone());
    let [a, b] = ["a", "b"].map(|label| engine.create(label, 64 << 20).unwrap());
    let [marker, marked] = ["marker", "marked"].map(|label| engine.create(label, 16).unwrap());
    engine.write(marker.all(), &[7; 16]);
    let mark = |recording: &mut Recording| {
        copy::record(recording, marker.all(), marked.all());
        recording.read_back(marked.all());
    };
    // Copies for many seconds, on anything that computes, and a mark at their end.
    let mut long = Recording::new();
    (0..10_000).for_each(|_| copy::record(&mut long, a.all(), b.all()));
    mark(&mut long);
    let mut long = engine.prepare(long).unwrap();
    let asks = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        token.cancel();
    });
    let ran = engine.run(&mut long);
    assert!(matches!(ran, Err(Error::Stopped(_))), "{ran:?}");
    asks.join().unwrap();
    let refused = engine.run(&mut long);
    assert!(matches!(refused, Err(Error::Stopped(_))), "as long as it is asked for: {refused:?}");
    engine.cancel_token().reset();
    let mut look = Recording::new();
    look.read_back(marked.all());
    let mut look = engine.prepare(look).unwrap();
    assert_eq!(engine.run(&mut look).unwrap(), [[0; 16]], "its end was never handed to the device");
    let mut short = Recording::new();
    mark(&mut short);
    let mut short = engine.prepare(short).unwrap();
    assert_eq!(engine.run(&mut short).unwrap(), [[7; 16]], "and the device goes on");
}

/// What is written while a long run is under way comes after all of it, and before the next.
#[test]
fn what_is_written_during_a_run_in_pieces_comes_after_it() {
    if gpu::gpu().is_none() {
        return;
    }
    let mut engine = edge_run::internals::gpu::open(0, GpuOptions::default()).unwrap();
    let [from, to] = ["from", "to"].map(|label| engine.create(label, 1 << 20).unwrap());
    engine.write(from.all(), &[1; 1 << 20]);
    let mut recording = Recording::new();
    (0..50).for_each(|_| copy::record(&mut recording, from.all(), to.all()));
    recording.read_back(to.span(0, 16));
    let mut prepared = engine.prepare(recording).unwrap();
    for first in [1, 3] {
        let run = engine.submit(&mut prepared).unwrap();
        engine.write(from.all(), &[first + 1; 1 << 20]);
        let next = engine.submit(&mut prepared).unwrap();
        engine.write(from.all(), &[first + 2; 1 << 20]);
        drop(engine.submit(&mut prepared).unwrap());
        let results = [run, next].map(|ticket| engine.finish(ticket).unwrap().remove(0));
        assert_eq!(results, [[first; 16], [first + 1; 16]]);
        assert_eq!(engine.run(&mut prepared).unwrap(), [[first + 2; 16]]);
    }
}
