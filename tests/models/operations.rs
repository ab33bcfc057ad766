//! Thousands of random operations on sessions that share a tiny model: each says what it says alone, on a model of its
//! own, and nothing is left behind.

use std::path::Path;
use std::sync::Arc;

use crate::common;
use crate::routed;
use edge_run::internals::cpu;
use edge_run::internals::format::ModelFolder;
use edge_run::internals::model::{CacheOptions, Model};
use edge_run::internals::text::{SamplerSettings, TextModel};
use edge_run::{Depth, Event, Message, PrecisionPlan, Role, SavedContext, Session, StopReason};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Sessions that are open at one time.
const SESSIONS: usize = 3;
/// Tokens of a context: a few turns.
const CONTEXT: u32 = 160;
/// Tokens of an answer at most.
const ANSWER: usize = 5;

/// What is done in the middle of an answer.
#[derive(Debug, Clone)]
enum Wish {
    Nothing,
    Replan(PrecisionPlan),
    /// Asks for a stop, as another thread would.
    Cancel,
}

/// A session beside others, and the same one alone on its model.
struct Pair {
    beside: Session,
    alone: Session,
    /// What the lone session's model is opened with.
    _keeper: Session,
    messages: Vec<Message>,
}

/// A folder, and how its models are opened.
struct Lab<'a> {
    folder: &'a ModelFolder,
    text: Arc<TextModel>,
    dir: &'a Path,
}

impl Lab<'_> {
    /// A model for so many sessions, and one more that wants all slices: so that they are there for every plan, and the
    /// same ones are read beside others and alone.
    fn model(&self, sessions: usize) -> (Model, Session) {
        let cache = CacheOptions { sequences: sessions as u32 + 1, ..CacheOptions::from(CONTEXT) };
        let model = Model::load_base(self.folder, cpu::open(), cache, None, &mut |_, _| ()).unwrap();
        let keeper = self.session(&model, 0);
        (model, keeper)
    }

    fn session(&self, model: &Model, seed: u32) -> Session {
        let sampling = SamplerSettings { seed: Some(seed), temperature: 1.1, ..SamplerSettings::default() };
        Session::new(model, Arc::clone(&self.text), sampling, plan(8.0)).unwrap()
    }

    fn pair(&self, shared: &Model, seed: u32) -> Pair {
        let (model, keeper) = self.model(1);
        let (beside, alone) = (self.session(shared, seed), self.session(&model, seed));
        Pair { beside, alone, _keeper: keeper, messages: Vec::new() }
    }

    /// Puts the saved session of one pair into another one's place.
    fn carry(&self, pairs: &mut [Pair], from: usize, to: usize, context: SavedContext) {
        let [beside, alone] = ["beside", "alone"].map(|name| self.dir.join(name));
        let messages = &pairs[from].messages;
        pairs[from].beside.save(&beside, messages, context).unwrap();
        pairs[from].alone.save(&alone, messages, context).unwrap();
        let pair = &mut pairs[to];
        let restored = pair.beside.restore(&beside).unwrap();
        assert_eq!(restored, pair.alone.restore(&alone).unwrap());
        // Keys and values are saved where they are there: what was restored from tokens has none before it runs again.
        assert!(context == SavedContext::KeysAndValues || restored.tokens == 0 || restored.computed_again.is_some());
        pair.messages = restored.messages;
    }
}

fn plan(bits: f32) -> PrecisionPlan {
    PrecisionPlan::for_bits(bits, true, "test").unwrap()
}

fn any_plan(rng: &mut StdRng) -> PrecisionPlan {
    let plan = plan(rng.random_range(4..=16) as f32 / 2.0);
    plan.at_most(Depth::ALL[rng.random_range(0..4)])
}

/// What came of an answer: its tokens with the bits read for each, and how it ended.
type Said = (Vec<(u32, f32)>, Result<StopReason, String>);

fn answer(session: &mut Session, messages: &[Message], most: usize, (at, wish): (usize, &Wish)) -> (Said, String) {
    let cancel = session.cancel_token().clone();
    let (mut said, mut text) = (Vec::new(), String::new());
    let mut run = || {
        let mut answer = session.chat(messages, Some(most))?;
        while let Some(event) = answer.next() {
            match event? {
                Event::Token(token) => {
                    said.push((token.id, token.bits));
                    text += &token.text;
                    match wish {
                        Wish::Replan(plan) if said.len() == at => answer.set_plan(plan.clone())?,
                        Wish::Cancel if said.len() == at => cancel.cancel(),
                        _ => (),
                    }
                }
                Event::Done(summary) => return Ok(summary.stop),
                _ => (),
            }
        }
        unreachable!("an answer ends with its summary or a failure")
    };
    let end = run().map_err(|error: edge_run::Error| error.to_string());
    cancel.reset();
    ((said, end), text)
}

/// Asks something, and compares what the two sessions say.
fn ask(pair: &mut Pair, rng: &mut StdRng) {
    let word: String = (0..rng.random_range(1..6)).map(|_| rng.random_range('a'..='z')).collect();
    pair.messages.push(Message::user(word));
    let dropped = pair.beside.drop_old_turns(&mut pair.messages, ANSWER).unwrap();
    assert!(dropped == 0 || pair.messages.last().is_some_and(|message| message.role == Role::User));
    let wish = match rng.random_range(0..6) {
        0 => Wish::Replan(any_plan(rng)),
        1 => Wish::Cancel,
        _ => Wish::Nothing,
    };
    both(pair, |session| assert!(session.settle(None).unwrap().is_empty()));
    let (most, at) = (rng.random_range(0..=ANSWER), rng.random_range(1..=ANSWER));
    let (expected, _) = answer(&mut pair.alone, &pair.messages, most, (at, &wish));
    let (said, text) = answer(&mut pair.beside, &pair.messages, most, (at, &wish));
    assert_eq!(said, expected, "{wish:?} at {at}");
    assert!(said.1.is_ok(), "{said:?}");
    pair.messages.push(Message::assistant(text));
}

fn both(pair: &mut Pair, change: impl Fn(&mut Session)) {
    change(&mut pair.beside);
    change(&mut pair.alone);
}

#[test]
fn operations_leave_every_session_as_if_it_were_alone() {
    operate(800, 41);
}

#[test]
#[ignore = "takes minutes"]
fn ten_thousand_operations_leave_every_session_as_if_it_were_alone() {
    operate(10_000, 42);
}

/// So many operations that follow from a seed.
fn operate(operations: usize, seed: u64) {
    println!("seed {seed}");
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("model"));
    common::tiny_hf_folder(&source, 11, true);
    common::quantize_tiny(&source, &out).unwrap();
    routed::add_routers(&out, 5);
    let folder = ModelFolder::open(&out).unwrap();
    let text = Arc::new(TextModel::open(&folder).unwrap());
    let lab = Lab { folder: &folder, text, dir: dir.path() };
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut shared, mut keeper) = lab.model(SESSIONS);
    let mut pairs: Vec<Pair> = (0..SESSIONS as u32).map(|seed| lab.pair(&shared, seed)).collect();
    for _ in 0..operations {
        let at = rng.random_range(0..SESSIONS);
        let other = rng.random_range(0..SESSIONS);
        match rng.random_range(0..1000) {
            0..700 => ask(&mut pairs[at], &mut rng),
            700..800 => {
                let plan = any_plan(&mut rng);
                both(&mut pairs[at], |session| session.set_plan(plan.clone()).unwrap());
            }
            800..860 => {
                let length = rng.random_range(0..=pairs[at].beside.sequence().tokens().len());
                both(&mut pairs[at], |session| session.truncate(length));
            }
            860..900 => {
                both(&mut pairs[at], Session::reset);
                pairs[at].messages.clear();
            }
            900..930 => lab.carry(&mut pairs, at, other, SavedContext::Tokens),
            930..960 => lab.carry(&mut pairs, at, other, SavedContext::KeysAndValues),
            960..990 if at != other => {
                // The fork takes the other session's place, and its twin goes on from the same file on its own model.
                let (file, messages) = (dir.path().join("fork"), pairs[at].messages.clone());
                pairs[at].alone.save(&file, &messages, SavedContext::KeysAndValues).unwrap();
                pairs.swap_remove(other);
                let at = if at == pairs.len() { other } else { at };
                let (model, keeper) = lab.model(1);
                let (beside, mut alone) = (pairs[at].beside.fork().unwrap(), lab.session(&model, seed_of(&pairs[at])));
                alone.restore(&file).unwrap();
                alone.set_plan(pairs[at].alone.plan().clone()).unwrap();
                pairs.push(Pair { beside, alone, _keeper: keeper, messages });
            }
            990..992 => {
                // The device is lost: sessions go on upon a model that is opened anew.
                (shared, keeper) = lab.model(SESSIONS);
                for pair in &mut pairs {
                    pair.beside = pair.beside.resume_on(&shared).unwrap();
                    let (model, alone_keeper) = lab.model(1);
                    pair.alone = pair.alone.resume_on(&model).unwrap();
                    pair._keeper = alone_keeper;
                }
            }
            992..1000 => shared.unload().unwrap(),
            _ => (),
        }
    }
    // Nothing is left behind: all contexts can be opened again, no more than those, and in the same memory.
    drop(pairs);
    let bytes = shared.allocated_bytes();
    let again: Vec<Session> = (0..SESSIONS as u32).map(|seed| lab.session(&shared, seed)).collect();
    let one_more = Session::new(&shared, Arc::clone(&lab.text), SamplerSettings::default(), plan(8.0));
    assert!(one_more.is_err() && shared.allocated_bytes() == bytes);
    drop((again, keeper));
}

fn seed_of(pair: &Pair) -> u32 {
    pair.alone.sequence().seed()
}
