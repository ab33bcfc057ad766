//! Conversations whose next step is begun before the token of this one is read, against the plain loop that runs,
//! samples on the host, and runs again: the same tokens, bits and ends, on both engines.

use crate::common;
use crate::gpu;
use crate::routed;
use edge_run::internals::cpu;
use edge_run::internals::engine::{Activations, Engine};
use edge_run::internals::format::ModelFolder;
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::model::{BitsRead, CacheOptions, Model, NextLogits, Sequence};
use edge_run::internals::session::{Next, StopReason};
use edge_run::internals::text::{Sampler, SamplerSettings, TextModel};
use edge_run::{Error, PrecisionPlan, PromptBits, Result, Session};

const CONTEXT: u32 = 64;

/// What a caller does in a conversation.
#[derive(Debug, Clone)]
struct Turn {
    prompt: Vec<u32>,
    most: Option<usize>,
    /// What is wanted after the tokens that have a place here; after all others, the next.
    wishes: Vec<(usize, Wish)>,
}

#[derive(Debug, Clone, Copy)]
enum Wish {
    Replan(f32),
    Stop,
    Fail,
}

/// What came of a turn: tokens with the bits read for each, and why it ended with the bits over all, where it did not
/// fail.
type Outcome = (Vec<(u32, f32)>, Option<(StopReason, f32)>);

/// The plan of the same slices everywhere, where `bits` are whole slices, or else a routed one.
fn plan(bits: f32) -> PrecisionPlan {
    let whole = [2.0, 4.0, 6.0, 8.0].contains(&bits);
    PrecisionPlan::for_bits(bits, !whole, "test").unwrap()
}

impl Turn {
    fn next(&self, tokens: usize) -> Result<Next> {
        match self.wishes.iter().find(|(at, _)| *at == tokens) {
            None => Ok(Next::Go),
            Some((_, Wish::Replan(bits))) => Ok(Next::Replan(plan(*bits))),
            Some((_, Wish::Stop)) => Ok(Next::Stop),
            Some((_, Wish::Fail)) => Err(Error::argument("wish", "another", "failure")),
        }
    }

    fn ahead(&self, session: &mut Session) -> Outcome {
        let mut tokens = Vec::new();
        let summary = session.generate(&self.prompt, self.most, &mut |token| {
            tokens.push((token.id, token.bits));
            self.next(tokens.len())
        });
        (tokens, summary.ok().map(|summary| (summary.stop, summary.bits)))
    }
}

/// The plain loop.
struct Plain {
    sequence: Sequence,
    text: TextModel,
    sampler: Sampler,
    pending: Option<u32>,
    prompt_bits: PromptBits,
}

impl Plain {
    fn run(&mut self, ids: &[u32], read: &mut BitsRead) -> Result<NextLogits> {
        let step = self.sequence.next_logits(ids)?;
        self.pending = None;
        read.add(&step.depths);
        Ok(step)
    }

    fn turn(&mut self, turn: &Turn) -> Outcome {
        let mut tokens = Vec::new();
        let end = self.generate(turn, &mut tokens).ok();
        (tokens, end)
    }

    fn generate(&mut self, turn: &Turn, tokens: &mut Vec<(u32, f32)>) -> Result<(StopReason, f32)> {
        let mut read = BitsRead::new(self.sequence.model().shape());
        let unheard: Vec<u32> = self.pending.iter().chain(&turn.prompt).copied().collect();
        self.sequence.set_prompt_bits(self.prompt_bits);
        let mut step = self.run(&unheard, &mut read)?;
        // What is sampled here is no prompt.
        self.sequence.set_prompt_bits(PromptBits::Plan);
        let stop = loop {
            if turn.most.is_some_and(|most| tokens.len() >= most) {
                break StopReason::Length;
            }
            let id = self.sampler.sample(&step.logits, self.sequence.tokens());
            self.pending = Some(id);
            if self.text.is_end(id) {
                break StopReason::EndOfTurn;
            }
            tokens.push((id, step.depths.token_bits(self.sequence.model().shape(), step.depths.tokens() - 1)));
            match turn.next(tokens.len())? {
                Next::Go => (),
                Next::Replan(plan) => self.sequence.set_plan(&plan)?,
                Next::Stop => break StopReason::Stopped,
            }
            if self.sequence.tokens().len() == CONTEXT as usize {
                break StopReason::ContextFull;
            }
            if turn.most.is_some_and(|most| tokens.len() >= most) {
                break StopReason::Length;
            }
            step = self.run(&[id], &mut read)?;
        };
        Ok((stop, read.mean()))
    }
}

fn folder(dir: &std::path::Path, routers: bool) -> ModelFolder {
    let (source, out) = (dir.join("source"), dir.join("model"));
    common::tiny_hf_folder(&source, 11, true);
    common::quantize_tiny(&source, &out).unwrap();
    if routers {
        routed::add_routers(&out, 5);
    }
    ModelFolder::open(&out).unwrap()
}

fn open_gpu(activations: Activations) -> Box<dyn Engine> {
    edge_run::internals::gpu::open(0, GpuOptions { activations, ..GpuOptions::default() }).unwrap()
}

/// Every engine, with either activations.
fn engines() -> Vec<impl Fn() -> Box<dyn Engine>> {
    let gpu = gpu::gpu().map(|_| open_gpu as fn(_) -> _);
    let opens = [cpu::open_with as fn(_) -> _].into_iter().chain(gpu);
    opens.flat_map(|open| [Activations::F32, Activations::Int8].map(|a| move || open(a))).collect()
}

/// Both loops in the same conversations, one for each seed, every other one with prompts at the deepest, and with
/// sessions that run ahead or not; the ends that were seen. Both are sequences of one model, as pipelines take longer to
/// compile than conversations to run.
fn compare(routers: bool, bits: f32, settings: &SamplerSettings, seeds: u32, turns: &[Turn]) -> Vec<StopReason> {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), routers);
    let mut ends = Vec::new();
    for engine in engines() {
        let model = Model::load(&folder, engine(), two_sequences(), &mut |_, _| ()).unwrap();
        for seed in 0..seeds {
            let settings = SamplerSettings { seed: Some(seed), ..settings.clone() };
            let text = || TextModel::open(&folder).unwrap();
            let prompt_bits = PromptBits::ALL[seed as usize % 2];
            let sampler = Sampler::new(settings.clone()).unwrap();
            let sequence = model.sequence(&plan(bits)).unwrap();
            let mut plain = Plain { sequence, text: text(), sampler, pending: None, prompt_bits };
            let expected: Vec<Outcome> = turns.iter().map(|turn| plain.turn(turn)).collect();
            for runs_ahead in [true, false] {
                let mut ahead = Session::new(&model, text(), settings.clone(), plan(bits)).unwrap();
                ahead.run_ahead(runs_ahead);
                ahead.set_prompt_bits(prompt_bits);
                for (at, (turn, expected)) in turns.iter().zip(&expected).enumerate() {
                    let got = turn.ahead(&mut ahead);
                    assert_eq!(got, *expected, "seed {seed}, turn {at}, {runs_ahead}, on {}", model.device().name);
                    ends.extend(got.1.map(|(stop, _)| stop));
                }
            }
        }
    }
    ends
}

fn two_sequences() -> CacheOptions {
    CacheOptions { sequences: 2, ..CacheOptions::from(CONTEXT) }
}

fn turn(prompt: &[u32], most: Option<usize>, wishes: &[(usize, Wish)]) -> Turn {
    Turn { prompt: prompt.to_vec(), most, wishes: wishes.to_vec() }
}

/// A conversation with every wish, none of which moves what is drawn after it.
fn conversation() -> Vec<Turn> {
    vec![
        turn(&[70, 80, 90], Some(5), &[(2, Wish::Replan(4.0)), (4, Wish::Replan(8.0))]),
        turn(&[100], Some(0), &[]),
        turn(&[101], None, &[(4, Wish::Stop)]),
        turn(&[102, 103], Some(6), &[(3, Wish::Fail)]),
        turn(&[70; 99], None, &[]),
        turn(&[104], Some(1), &[(1, Wish::Replan(6.0))]),
        turn(&[105], None, &[]),
    ]
}

fn drawn() -> SamplerSettings {
    SamplerSettings { temperature: 1.2, repeat_penalty: 1.3, repeat_last_n: 8, ..SamplerSettings::default() }
}

#[test]
fn greedy_conversations_are_those_of_the_plain_loop() {
    for repeat_penalty in [1.0, 1.5] {
        let greedy = SamplerSettings { temperature: 0.0, repeat_penalty, ..SamplerSettings::default() };
        let mut turns = conversation();
        turns[0].prompt = vec![70, 80, 90, 100, 110];
        let ends = compare(false, 8.0, &greedy, 1, &turns);
        // Unless the first turn goes on, its plans do not change.
        assert!(repeat_penalty != 1.0 || ends[0] == StopReason::Length, "{ends:?}");
    }
}

#[test]
fn drawn_conversations_are_those_of_the_plain_loop() {
    let ends = compare(false, 8.0, &drawn(), 12, &conversation());
    for end in [StopReason::EndOfTurn, StopReason::Length, StopReason::ContextFull, StopReason::Stopped] {
        assert!(ends.contains(&end), "{end:?} is not among {ends:?}");
    }
    let wide = SamplerSettings { top_k: 0, top_p: 1.0, min_p: 0.0, ..drawn() };
    compare(false, 8.0, &wide, 4, &conversation());
}

#[test]
fn routed_conversations_are_those_of_the_plain_loop() {
    let mut turns = conversation();
    turns[0].wishes[0].1 = Wish::Replan(3.0);
    compare(true, 5.0, &drawn(), 4, &turns);
}

#[test]
fn a_plan_that_is_refused_costs_no_draw() {
    let turns = [turn(&[70, 80], Some(9), &[(3, Wish::Replan(3.5))]), turn(&[90], Some(9), &[])];
    compare(false, 8.0, &drawn(), 3, &turns);
}

#[test]
fn another_seed_and_a_forgotten_plan_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let folder = folder(dir.path(), false);
    for engine in engines() {
        let model = Model::load(&folder, engine(), two_sequences(), &mut |_, _| ()).unwrap();
        let outcome = |seed, turn: &Turn| {
            let settings = SamplerSettings { seed: Some(seed), ..drawn() };
            let mut session = Session::new(&model, TextModel::open(&folder).unwrap(), settings, plan(8.0)).unwrap();
            session.run_ahead(true);
            turn.ahead(&mut session)
        };
        let plain = turn(&[70, 80], Some(9), &[]);
        let replanned = turn(&[70, 80], Some(9), &[(2, Wish::Replan(2.0))]);
        assert_eq!(outcome(3, &plain), outcome(3, &plain));
        assert_ne!(outcome(3, &plain), outcome(4, &plain));
        assert_eq!(outcome(3, &plain).0[..2], outcome(3, &replanned).0[..2]);
        let bits = Vec::from_iter(outcome(3, &replanned).0.iter().map(|(_, bits)| *bits));
        assert!(bits.len() > 3 && bits[..2] == [8.0; 2] && bits[2..].iter().all(|bits| *bits == 2.0), "{bits:?}");
    }
}
