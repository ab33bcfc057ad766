//! Conversations with a tiny model, on both engines: precision, stops, and what a failure leaves.

mod common;
#[path = "common/gpu.rs"]
mod gpu;

use edge_run::internals::cpu;
use edge_run::internals::engine::{Activations, Engine};
use edge_run::internals::format::ModelFolder;
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::model::Model;
use edge_run::internals::session::{Next, StopReason};
use edge_run::internals::text::{SamplerSettings, TextModel};
use edge_run::{Error, PrecisionPlan, Session};

/// Engines are compared, of which the processor's has f32 activations.
const F32: GpuOptions =
    GpuOptions { checks: false, activations: Activations::F32, cooperative_matrix: false, as_hardware: false };
const CONTEXT: u32 = 32;
const PROMPT: [u32; 5] = [70, 80, 90, 100, 110];

fn plan(bits: u32) -> PrecisionPlan {
    PrecisionPlan::for_bits(bits as f32, false, "test").unwrap()
}

/// Runs `test` on a session at `bits`, greedy, on every engine there is.
fn on_every_engine(bits: u32, test: impl Fn(&mut Session)) {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("model"));
    common::tiny_hf_folder(&source, 11, true);
    common::quantize_tiny(&source, &out).unwrap();
    let folder = ModelFolder::open(&out).unwrap();
    let gpu = gpu::gpu().map(|_| edge_run::internals::gpu::open(0, F32).unwrap());
    let engines: Vec<Box<dyn Engine>> = [cpu::open()].into_iter().chain(gpu).collect();
    for engine in engines {
        let model = Model::load(&folder, engine, CONTEXT, &mut |_, _| ()).unwrap();
        let greedy = SamplerSettings { temperature: 0.0, ..SamplerSettings::default() };
        test(&mut Session::new(&model, TextModel::open(&folder).unwrap(), greedy, plan(bits)).unwrap());
    }
}

/// Generates without a wish; the ids.
fn ids(session: &mut Session, prompt: &[u32], most: usize) -> Vec<u32> {
    let mut ids = Vec::new();
    let summary = session.generate(prompt, Some(most), &mut |token| {
        ids.push(token.id);
        Ok(Next::Go)
    });
    assert_eq!(summary.unwrap().stop, StopReason::Length, "the seed is one whose text goes on");
    ids
}

#[test]
fn precision_changes_between_two_tokens_of_an_answer() {
    on_every_engine(8, |session| {
        let mut bits = Vec::new();
        let summary = session.generate(&PROMPT, Some(6), &mut |token| {
            bits.push(token.bits);
            Ok(if bits.len() == 2 { Next::Replan(plan(4)) } else { Next::Go })
        });
        assert_eq!(bits, [8.0, 8.0, 4.0, 4.0, 4.0, 4.0]);
        // The prompt's five tokens and the first of the answer ran at 8 bits, the next four at 4; the last never ran.
        assert_eq!(summary.unwrap().bits, (6.0 * 8.0 + 4.0 * 4.0) / 10.0);
        assert_eq!(session.plan(), &plan(4));
    });
}

#[test]
fn an_answer_in_two_parts_is_the_answer() {
    on_every_engine(6, |session| {
        let whole = ids(session, &PROMPT, 8);
        on_every_engine(6, |session| {
            let first = ids(session, &PROMPT, 3);
            // A part's last token runs before the next prompt, which here is the token that would have come.
            let rest = ids(session, &whole[3..4], 4);
            assert_eq!((&first[..], &rest[..]), (&whole[..3], &whole[4..]));
        });
    });
}

#[test]
fn a_full_context_and_a_wish_end_the_answer() {
    on_every_engine(8, |session| {
        let stopped = session.generate(&PROMPT, None, &mut |_| Ok(Next::Stop)).unwrap();
        assert_eq!((stopped.stop, stopped.generated_tokens), (StopReason::Stopped, 1));
        let full = session.generate(&PROMPT, None, &mut |_| Ok(Next::Go)).unwrap();
        // 5 tokens, the one that was stopped after, 5 more; the context's last place is taken by the token before last.
        assert_eq!((full.stop, full.generated_tokens), (StopReason::ContextFull, CONTEXT as usize - 11 + 1));
    });
}

#[test]
fn a_prompt_that_does_not_fit_costs_the_conversation_nothing() {
    on_every_engine(8, |session| {
        let first = ids(session, &PROMPT, 3);
        let long = [70; CONTEXT as usize];
        let refused = session.generate(&long, None, &mut |_| Ok(Next::Go));
        assert!(matches!(refused, Err(Error::PromptTooLong { .. })));
        assert!(session.generate(&[], None, &mut |_| Ok(Next::Go)).is_err());
        let after = ids(session, &[120], 3);
        on_every_engine(8, |session| {
            assert_eq!(ids(session, &PROMPT, 3), first);
            assert_eq!(ids(session, &[120], 3), after);
        });
    });
}
