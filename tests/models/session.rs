//! Conversations with a tiny model, on both engines: precision, stops, and what a failure leaves.

use std::path::Path;

use crate::common;
use crate::common::TinyModel;
use crate::gpu;
use crate::refusing::refusing;
use edge_run::internals::cpu;
use edge_run::internals::engine::{Activations, Engine};
use edge_run::internals::format::{ModelFolder, SavedDraws, SavedSession, SavedSessionWriter};
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::model::{CacheOptions, Model};
use edge_run::internals::precision::CacheType;
use edge_run::internals::session::{Next, StopReason};
use edge_run::internals::shape::LlamaShape;
use edge_run::internals::text::{SamplerSettings, TextModel};
use edge_run::{Error, Event, Message, PrecisionPlan, SavedContext, Session};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use safetensors::Dtype;

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

#[test]
fn no_turn_leaves_for_a_message_that_is_too_long_by_itself() {
    on_every_engine(8, |session| {
        let long = "a b ".repeat(CONTEXT as usize);
        let before = vec![Message::user("Hi"), Message::assistant("Hello"), Message::user(long)];
        let mut messages = before.clone();
        let refused = session.drop_old_turns(&mut messages, 4);
        assert!(matches!(refused, Err(Error::PromptTooLong { .. })), "{refused:?}");
        assert_eq!(messages, before);
        // Where the last turn fits, those before it leave.
        messages[1] = Message::assistant("c ".repeat(CONTEXT as usize));
        messages[2] = Message::user("And?");
        assert_eq!(session.drop_old_turns(&mut messages, 4).unwrap(), 2);
    });
}

#[test]
fn a_session_that_is_reset_repeats_its_answers_by_a_seed_alone() {
    on_every_engine(8, |session| {
        let mut answers = |seed| {
            session.set_sampling(SamplerSettings { temperature: 9.0, seed, ..SamplerSettings::default() }).unwrap();
            [(), ()].map(|()| {
                session.reset();
                ids(session, &PROMPT, 12)
            })
        };
        let [first, second] = answers(Some(7));
        assert_eq!(first, second);
        let [first, second] = answers(None);
        assert_ne!(first, second);
    });
}

/// The folder of a tiny model whose heads may be stored in few bits.
fn model_folder(dir: &Path, seed: u64) -> ModelFolder {
    let (source, out) = (dir.join(format!("source-{seed}")), dir.join(format!("model-{seed}")));
    let shape = LlamaShape { heads: 2, kv_heads: 2, head_dim: 32, ..common::tiny_shape(true) };
    TinyModel::new(shape, seed).write_hf(&source, Dtype::F32, 1);
    common::quantize_tiny(&source, &out).unwrap();
    ModelFolder::open(&out).unwrap()
}

/// The CPU engine, and the GPU where there is one.
fn engines() -> Vec<Box<dyn Engine>> {
    let gpu = gpu::gpu().map(|_| edge_run::internals::gpu::open(0, F32).unwrap());
    [cpu::open()].into_iter().chain(gpu).collect()
}

fn cached(context: u32, cache_type: CacheType) -> CacheOptions {
    CacheOptions { sequences: 3, cache_type, ..CacheOptions::from(context) }
}

/// A session that draws by a seed, or takes the likeliest token without one.
fn session(folder: &ModelFolder, model: &Model, seed: Option<u32>) -> Session {
    let temperature = if seed.is_some() { 1.0 } else { 0.0 };
    let settings = SamplerSettings { temperature, seed, ..SamplerSettings::default() };
    Session::new(model, TextModel::open(folder).unwrap(), settings, plan(6)).unwrap()
}

#[test]
fn a_restored_session_goes_on_as_the_one_that_was_saved() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, file) = (model_folder(dir.path(), 11), dir.path().join("saved"));
    let said = [Message::user("Hi"), Message::assistant("Ho")];
    for cache_type in [CacheType::F16, CacheType::Q8, CacheType::Q4] {
        for engine in engines() {
            let model = Model::load(&folder, engine, cached(64, cache_type), &mut |_, _| ()).unwrap();
            for seed in [None, Some(5)] {
                // Not in the first cells, and restored to others.
                let mut first = session(&folder, &model, seed);
                ids(&mut first, &PROMPT, 7);
                first.save(&file, &said, SavedContext::KeysAndValues).unwrap();
                let mut second = session(&folder, &model, seed);
                ids(&mut second, &[99; 3], 2);
                let restored = second.restore(&file).unwrap();
                assert_eq!((&restored.messages[..], restored.computed_again), (&said[..], None));
                assert_eq!(restored.tokens, first.sequence().tokens().len());
                let went_on = ids(&mut first, &[120, 70], 6);
                assert_eq!(ids(&mut second, &[120, 70], 6), went_on, "{cache_type} {seed:?}");
                // The control: without the context, the answer is another one.
                second.reset();
                assert_ne!(ids(&mut second, &[120, 70], 6), went_on);
            }
        }
    }
}

#[test]
fn without_keys_and_values_the_tokens_are_computed_again() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, file) = (model_folder(dir.path(), 11), dir.path().join("saved"));
    for engine in engines() {
        let model = Model::load(&folder, engine, cached(64, CacheType::F16), &mut |_, _| ()).unwrap();
        let mut first = session(&folder, &model, None);
        ids(&mut first, &PROMPT, 7);
        first.save(&file, &[], SavedContext::Tokens).unwrap();
        assert!(std::fs::metadata(&file).unwrap().len() < 2000);
        // A session that read all tokens as a prompt.
        let mut read = session(&folder, &model, None);
        let said: Vec<u32> = first.sequence().tokens().iter().copied().chain(first.sequence().sampled()).collect();
        read.answer(&said[..said.len() - 1], Some(0)).unwrap().for_each(|event| drop(event.unwrap()));
        let expected = ids(&mut read, &[said[said.len() - 1], 120, 70], 6);
        let mut second = session(&folder, &model, None);
        let restored = second.restore(&file).unwrap();
        assert_eq!(restored.computed_again.as_deref(), Some("it has no keys and values"));
        assert_eq!(ids(&mut second, &[120, 70], 6), expected);
    }
}

#[test]
fn another_cache_computes_again_and_a_smaller_one_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, file) = (model_folder(dir.path(), 11), dir.path().join("saved"));
    let load = |options| Model::load(&folder, cpu::open(), options, &mut |_, _| ()).unwrap();
    let mut first = session(&folder, &load(cached(64, CacheType::F16)), None);
    ids(&mut first, &PROMPT, 20);
    let said = [Message::user("Hi")];
    first.save(&file, &said, SavedContext::KeysAndValues).unwrap();
    let restore = |context, cache_type| {
        let mut session = session(&folder, &load(cached(context, cache_type)), None);
        let restored = session.restore(&file).unwrap();
        assert_eq!((session.sequence().tokens().len(), &restored.messages[..]), (restored.tokens, &said[..]));
        ids(&mut session, &PROMPT, 3);
        (restored.tokens, restored.computed_again.unwrap_or_default())
    };
    assert_eq!(restore(40, CacheType::F16), (24, String::new()));
    assert_eq!(restore(64, CacheType::Q8), (24, "its keys and values are in f16 and this cache's in q8".into()));
    assert_eq!(restore(20, CacheType::F16), (0, "its 24 tokens are more than this context of 20 holds".into()));
    first.save(&file, &[], SavedContext::Tokens).unwrap();
    let mut small = session(&folder, &load(cached(20, CacheType::F16)), None);
    ids(&mut small, &PROMPT, 3);
    assert!(matches!(small.restore(&file), Err(Error::PromptTooLong { tokens: 24, context: 20, .. })));
    assert_eq!(small.sequence().tokens().len(), 7, "it is as it was");
}

#[test]
fn a_file_that_cannot_be_used_is_refused_and_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, other) = (model_folder(dir.path(), 11), model_folder(dir.path(), 12));
    let file = dir.path().join("saved");
    let [model, foreign] =
        [&folder, &other].map(|f| Model::load(f, cpu::open(), cached(64, CacheType::F16), &mut |_, _| ()).unwrap());
    let mut first = session(&folder, &model, None);
    ids(&mut first, &PROMPT, 7);
    let bytes = first.save(&file, &[Message::user("Hi")], SavedContext::KeysAndValues).unwrap();
    let tokens = first.sequence().tokens().to_vec();
    let message = session(&other, &foreign, None).restore(&file).unwrap_err().to_string();
    assert!(message.starts_with("model of the saved session `") && message.contains("SHA-256"), "{message}");

    let sound = std::fs::read(&file).unwrap();
    assert_eq!(sound.len() as u64, bytes);
    println!("mutations of seed 3");
    let mut random = StdRng::seed_from_u64(3);
    let mut harmless = 0;
    for round in 0..400 {
        let mut mutated = sound.clone();
        match round % 4 {
            0 => mutated.truncate(random.random_range(0..sound.len())),
            1 => mutated.extend((0..random.random_range(1..9)).map(|_| random.random::<u8>())),
            _ => (0..random.random_range(1..4)).for_each(|_| {
                // The header is what is read as anything.
                let end = if round % 4 == 2 { 800 } else { sound.len() };
                mutated[random.random_range(0..end)] ^= 1 << random.random_range(0..8);
            }),
        }
        std::fs::write(&file, &mutated).unwrap();
        match first.restore(&file) {
            Ok(restored) => {
                harmless += 1;
                assert_eq!((restored.tokens, &restored.messages[..]), (tokens.len(), &[Message::user("Hi")][..]));
            }
            Err(error) => assert!(error.to_string().contains("saved"), "{error}"),
        }
        assert_eq!(first.sequence().tokens(), tokens);
    }
    assert!(harmless < 40, "{harmless}");
    // Over a file that is no saved session, nothing is written.
    std::fs::write(&file, "notes").unwrap();
    assert!(first.save(&file, &[], SavedContext::Tokens).is_err());
    assert_eq!(std::fs::read(&file).unwrap(), b"notes");
    ids(&mut first, &[120], 3);
}

#[test]
fn a_lost_device_leaves_the_tokens_and_another_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let folder = model_folder(dir.path(), 11);
    let load = |engine| Model::load(&folder, engine, cached(64, CacheType::F16), &mut |_, _| ()).unwrap();
    let (engine, refuses) = refusing(cpu::open());
    let mut lost = session(&folder, &load(engine), Some(5));
    ids(&mut lost, &PROMPT, 7);
    let said: Vec<u32> = lost.sequence().tokens().to_vec();
    refuses.lose();
    assert!(matches!(lost.generate(&[120], None, &mut |_| Ok(Next::Go)), Err(Error::Device { .. })));
    assert!(lost.fork().is_err() || lost.sequence().tokens() == said);
    assert_eq!(lost.sequence().tokens(), said);
    let model = load(cpu::open());
    let mut again = lost.resume_on(&model).unwrap();
    assert_eq!((again.sequence().tokens(), again.sequence().seed()), (&said[..], 5));
    refuses.find();
    drop(refuses);
    assert_eq!(ids(&mut again, &[120], 6), ids(&mut lost, &[120], 6), "all is computed alike on the processor");
    // Another model has no use for these tokens.
    let other = model_folder(dir.path(), 12);
    let other = Model::load(&other, cpu::open(), 64, &mut |_, _| ()).unwrap();
    assert!(lost.resume_on(&other).err().unwrap().to_string().starts_with("model: expected "));
}

#[test]
fn the_second_turn_runs_no_token_of_the_first_again() {
    let dir = tempfile::tempdir().unwrap();
    let folder = model_folder(dir.path(), 11);
    let model = Model::load(&folder, cpu::open(), cached(160, CacheType::F16), &mut |_, _| ()).unwrap();
    let mut cut_otherwise = 0;
    for seed in 0..24 {
        let mut session = session(&folder, &model, Some(seed));
        let mut chat = vec![Message::user("Hi")];
        let mut said = String::new();
        for event in session.chat(&chat, Some(30)).unwrap() {
            match event.unwrap() {
                Event::Token(token) => said += &token.text,
                Event::Done(summary) => said += &summary.text_left,
                _ => (),
            }
        }
        let before = session.sequence().tokens().to_vec();
        chat.extend([Message::assistant(&said), Message::user("And now?")]);
        let ids = session.text().encode_chat(&chat).unwrap().unwrap();
        let differs = !ids.starts_with(&before);
        cut_otherwise += usize::from(differs);
        // What is no text at the end may be what it is, or the beginning of something.
        let expected = if said.ends_with('\u{fffd}') { 0 } else { before.len() };
        let mut turn = session.chat(&chat, Some(1)).unwrap();
        assert!(turn.session().sequence().tokens().len() >= expected, "seed {seed}: {said:?}");
        turn.last().unwrap().unwrap();
        // The control: an answer that was changed runs again.
        chat[1].content.insert(0, 'x');
        let mut turn = session.chat(&chat, Some(1)).unwrap();
        assert!(turn.session().sequence().tokens().len() < before.len(), "seed {seed}");
    }
    assert!(cut_otherwise > 3, "{cut_otherwise} of 24: the model is one whose answers are odd");
}

#[test]
fn whatever_a_sound_file_says_of_itself_ends_in_an_error_or_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (folder, file) = (model_folder(dir.path(), 11), dir.path().join("saved"));
    let model = Model::load(&folder, cpu::open(), cached(64, CacheType::F16), &mut |_, _| ()).unwrap();
    let mut first = session(&folder, &model, None);
    ids(&mut first, &PROMPT, 7);
    first.save(&file, &[Message::user("Hi")], SavedContext::KeysAndValues).unwrap();
    let sound = SavedSession::open(&file).unwrap().facts().clone();
    println!("facts of seed 4");
    let mut random = StdRng::seed_from_u64(4);
    let mut restored = 0;
    for _ in 0..150 {
        let mut facts = sound.clone();
        let tokens: Vec<u32> = (0..random.random_range(0..80)).map(|_| random.random_range(0..300)).collect();
        let number = |random: &mut StdRng| random.random::<u32>() >> random.random_range(0..32);
        for _ in 0..random.random_range(0..3) {
            let cells = facts.cells.as_mut().unwrap();
            match random.random_range(0..8) {
                0 => facts.sampled = Some(number(&mut random)),
                1 => facts.answers = vec![[number(&mut random), number(&mut random)]; 2],
                2 => facts.draws = Some(SavedDraws { seed: first.sequence().seed(), position: u64::MAX }),
                3 => facts.messages = vec![serde_json::json!({"role": "nobody", "content": 1})],
                4 => cells.end = random.random::<u64>() >> random.random_range(0..64),
                5 => cells.ring = Some([number(&mut random), number(&mut random)]),
                6 => cells.tensors.push([1, 2, 3]),
                _ => cells.cache_type = "\u{1b}[31m".into(),
            }
        }
        let keeps = random.random_bool(0.5);
        let tokens = if keeps { first.sequence().tokens().to_vec() } else { tokens };
        facts.tokens = tokens.len() as u32;
        let mut writer = SavedSessionWriter::create(&file, &facts, &tokens).unwrap();
        for (at, shape) in facts.cells.iter().flat_map(|cells| &cells.tensors).enumerate() {
            writer.write_cells(at, &vec![0; shape.iter().product::<u32>() as usize * 4]).unwrap();
        }
        writer.finish().unwrap();
        let mut second = session(&folder, &model, None);
        match second.restore(&file) {
            Ok(_) => {
                restored += 1;
                // Keys and values of zeros are numbers too.
                let _ = second.generate(&[70], Some(2), &mut |_| Ok(Next::Go));
                let turn = second.chat(&[Message::user("x")], Some(1)).map(|turn| turn.count());
                assert!(turn.unwrap() > 0);
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    assert!((20..140).contains(&restored), "{restored}");
}
