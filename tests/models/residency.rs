//! Slices that come and go while a tiny model speaks, on both engines: what is read and what is in memory, and what
//! faults leave.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::common;
use crate::gpu;
use crate::refusing;
use edge_run::internals::cpu;
use edge_run::internals::engine::{Activations, Engine};
use edge_run::internals::format::ModelFolder;
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::model::{Model, Presence, STEP_TOKENS};
use edge_run::internals::residency::{Pace, SliceReport};
use edge_run::internals::session::{Next, Token};
use edge_run::internals::text::{SamplerSettings, TextModel};
use edge_run::{Device, Event, LanguageModel, OpenOptions, PrecisionPlan, Session};
use safetensors::Dtype;

const CONTEXT: u32 = 128;
const PROMPT: [u32; 5] = [70, 80, 90, 100, 110];

/// A folder with a tiny model whose answers do not end.
struct Home {
    _dir: tempfile::TempDir,
    model: PathBuf,
}

impl Home {
    fn new() -> Home {
        Home::of_seed(7)
    }

    fn of_seed(seed: u64) -> Home {
        let dir = tempfile::tempdir().unwrap();
        let (source, model) = (dir.path().join("source"), dir.path().join("model"));
        common::TinyModel::new(common::tiny_shape(false), seed).write_hf(&source, Dtype::F32, 1);
        std::fs::write(source.join("generation_config.json"), r#"{"bos_token_id": 1, "eos_token_id": []}"#).unwrap();
        common::quantize_tiny(&source, &model).unwrap();
        Home { _dir: dir, model }
    }

    #[cfg(unix)]
    fn source(&self) -> PathBuf {
        self.model.with_file_name("source")
    }

    fn slice(&self, slice: usize) -> PathBuf {
        self.model.join(format!("slice-{slice}.safetensors"))
    }

    /// A session with only the base there, at `bits`.
    fn session(&self, engine: Box<dyn Engine>, bits: u32, budget: Option<u64>) -> edge_run::Result<Session> {
        let folder = ModelFolder::open(&self.model).unwrap();
        let model = Model::load_base(&folder, engine, CONTEXT, budget, &mut |_, _| ())?;
        let mut session = Session::new(&model, TextModel::open(&folder).unwrap(), greedy(), plan(bits))?;
        session.set_pace(Pace::Units(1));
        Ok(session)
    }
}

fn greedy() -> SamplerSettings {
    SamplerSettings { temperature: 0.0, ..SamplerSettings::default() }
}

fn plan(bits: u32) -> PrecisionPlan {
    PrecisionPlan::for_bits(bits as f32, false, "test").unwrap()
}

fn engines() -> Vec<Box<dyn Engine>> {
    let options = GpuOptions { activations: Activations::F32, ..GpuOptions::default() };
    let gpu = gpu::gpu().map(|_| edge_run::internals::gpu::open(0, options).unwrap());
    [cpu::open()].into_iter().chain(gpu).collect()
}

/// What a token tells.
#[derive(Debug, Clone)]
struct Told {
    id: u32,
    bits: f32,
    device_bytes: u64,
    slices: SliceReport,
    faults: Vec<String>,
}

/// An answer of `count` tokens; before token n, `at(n)` may change the plan or the files.
fn answer(session: &mut Session, count: usize, at: &mut dyn FnMut(usize) -> Option<PrecisionPlan>) -> Vec<Told> {
    let mut told: Vec<Told> = Vec::new();
    let summary = session.generate(&PROMPT, Some(count), &mut |token| {
        let (id, bits, device_bytes) = (token.id, token.bits, token.device_bytes);
        told.push(Told { id, bits, device_bytes, slices: token.slices.unwrap(), faults: token.faults.clone() });
        Ok(at(told.len()).map_or(Next::Go, Next::Replan))
    });
    assert_eq!(summary.unwrap().generated_tokens, count);
    told
}

/// A token after the prompt, or why there is none.
fn one_token(session: &mut Session) -> edge_run::Result<()> {
    session.generate(&PROMPT, Some(1), &mut |_| Ok(Next::Go)).map(|_| ())
}

fn ids(told: &[Told]) -> Vec<u32> {
    told.iter().map(|told| told.id).collect()
}

#[test]
fn slices_that_came_are_the_slices_of_a_model_loaded_whole() {
    let home = Home::new();
    for (streamed, whole) in engines().into_iter().zip(engines()) {
        let mut session = home.session(streamed, 8, None).unwrap();
        assert_eq!(session.settle(None).unwrap(), Vec::<String>::new());
        let slices = session.model().slices().unwrap();
        assert_eq!(slices.read_bytes, slices.loaded_bytes);
        assert_eq!(slices.resident_bytes, slices.loaded_bytes);
        let streamed = ids(&answer(&mut session, 12, &mut |_| None));

        let folder = ModelFolder::open(&home.model).unwrap();
        let model = Model::load(&folder, whole, CONTEXT, &mut |_, _| ()).unwrap();
        let mut session = Session::new(&model, TextModel::open(&folder).unwrap(), greedy(), plan(8)).unwrap();
        let mut expected = Vec::new();
        let push = &mut |token: &Token| {
            expected.push(token.id);
            Ok(Next::Go)
        };
        session.generate(&PROMPT, Some(12), push).unwrap();
        assert_eq!(streamed, expected);
    }
}

#[test]
fn without_patience_an_answer_begins_with_the_base() {
    let home = Home::new();
    for engine in engines() {
        let mut session = home.session(engine, 8, None).unwrap();
        session.settle(Some(std::time::Duration::ZERO)).unwrap();
        assert_eq!(answer(&mut session, 1, &mut |_| None)[0].bits, 2.0);
        session.settle(Some(std::time::Duration::MAX)).unwrap();
        assert!(session.model().is_settled());
    }
}

#[test]
fn bits_rise_as_slices_land_and_fall_at_once_and_memory_with_them() {
    let home = Home::new();
    let run = |engine| {
        let mut session = home.session(engine, 8, None).unwrap();
        let plans = &mut |token: usize| match token {
            30 => Some(plan(4)),
            40 => Some(plan(8)),
            _ => None,
        };
        answer(&mut session, 60, plans)
    };
    for (engine, again) in engines().into_iter().zip(engines()) {
        let told = run(engine);
        // The prompt and its first token are read with the base alone.
        assert_eq!(told[0].bits, 2.0);
        assert!(told[..30].is_sorted_by(|a, b| a.bits <= b.bits && a.slices.resident_bytes <= b.slices.resident_bytes));
        let steps: Vec<f32> = told[..30].iter().map(|told| told.bits).collect();
        assert!(steps.iter().any(|bits| *bits > 2.0 && *bits < 8.0), "layer by layer: {steps:?}");
        assert_eq!(told[29].bits, 8.0);
        assert!(told[30..33].iter().any(|told| told.bits == 4.0), "the fall is at once: {:?}", &told[29..33]);
        // The base is not counted: two slices of three went from the sites, one from embedding and head.
        let [high, low] = [&told[29], &told[38]].map(|told| told.slices.resident_bytes);
        assert!(low < high * 6 / 10, "{low} of {high}");
        let freed = told[38].slices.freed_bytes;
        assert_eq!(high - low, freed);
        // Memory falls by what was freed, and comes back.
        assert_eq!(told[29].device_bytes - told[38].device_bytes, freed);
        assert_eq!((told[59].bits, told[59].slices.resident_bytes), (8.0, high));
        assert_eq!(told[59].device_bytes, told[29].device_bytes);
        assert_eq!(told[59].slices.read_bytes, told[59].slices.loaded_bytes);
        assert_eq!(told[59].slices.loaded_bytes, high + freed);
        // Landings are at fixed tokens, so that it is the same each time.
        assert_eq!(ids(&told), ids(&run(again)));
    }
}

/// What a fault is called, and how it is made of a sound file.
type Fault<'a> = (&'a str, &'a dyn Fn(&Path));

/// An answer at 8 bits with a slice file that is broken before it begins and mended before token 30.
fn with_fault(home: &Home, engine: Box<dyn Engine>, break_it: &dyn Fn(&Path)) -> Vec<Told> {
    let (file, sound) = (home.slice(2), std::fs::read(home.slice(2)).unwrap());
    let mut session = home.session(engine, 8, None).unwrap();
    break_it(&file);
    let told = answer(&mut session, 90, &mut |token| {
        if token == 30 {
            std::fs::write(&file, &sound).unwrap();
        }
        None
    });
    assert!(told[..30].iter().all(|told| told.bits <= 4.0), "nothing is read that is not there");
    assert_eq!(told[89].bits, 8.0, "the next tries find it again");
    told
}

/// Writes into the file that is there, as `cp` does, where `std::fs::rename` would put another in its place.
fn overwrite(file: &Path, bytes: &[u8]) {
    std::fs::OpenOptions::new().write(true).open(file).unwrap().write_all(bytes).unwrap();
}

#[test]
fn a_slice_file_that_is_cut_or_written_to_leaves_the_answer_at_the_depth_it_has() {
    let faults: [Fault<'_>; 2] = [
        ("cut", &|file| {
            let length = std::fs::metadata(file).unwrap().len();
            std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(length / 2).unwrap();
        }),
        ("other weights of the same length", &|file| {
            let mut bytes = std::fs::read(file).unwrap();
            bytes.iter_mut().rev().take(1000).for_each(|byte| *byte ^= 0x5a);
            overwrite(file, &bytes);
        }),
    ];
    for (name, break_it) in faults {
        for engine in engines() {
            let home = Home::new();
            let told = with_fault(&home, engine, break_it);
            let words: Vec<&String> = told.iter().flat_map(|told| &told.faults).collect();
            assert!(!words.is_empty() && words.len() < 6, "{name}: a word for each try, and they grow rare: {words:?}");
            assert!(words.iter().all(|words| words.contains("slice-2.safetensors")), "{name}: {words:?}");
        }
    }
}

/// What a session could not have when it was opened was told to nobody.
#[test]
fn slices_that_a_new_session_cannot_have_are_told_with_its_first_token() {
    let home = Home::new();
    let mut options = OpenOptions::default();
    (options.device, options.sessions) = (Device::Cpu, 2);
    let model = LanguageModel::open_with(&home.model, options, &mut |_, _| ()).unwrap();
    overwrite(&home.slice(2), &[0x5a; 1000]);
    let mut session = model.session_with(plan(8), greedy()).unwrap();
    let told: Vec<Event> = session.answer(&PROMPT, Some(2)).unwrap().collect::<edge_run::Result<_>>().unwrap();
    let Event::Token(first) = &told[0] else { panic!("{told:?}") };
    assert!(first.faults.len() == 1 && first.faults[0].contains("slice-2.safetensors"), "{:?}", first.faults);
    let Event::Token(second) = &told[1] else { panic!("{told:?}") };
    assert!(second.faults.is_empty() && second.bits < 8.0, "{second:?}");
}

/// What happens to a folder while its model speaks.
#[cfg(unix)]
type Fate<'a> = (&'a str, &'a dyn Fn(&Home, &Home));

/// The files that were opened are read to the end. On Windows a folder with open files cannot be renamed.
#[cfg(unix)]
#[test]
fn another_model_in_the_folder_s_place_is_not_mixed_into_the_answer() {
    let fates: [Fate<'_>; 3] = [
        ("replaced", &|home, other| {
            std::fs::rename(&home.model, home.model.with_extension("aside")).unwrap();
            std::fs::rename(&other.model, &home.model).unwrap();
        }),
        ("quantized again", &|home, other| {
            let options = common::tiny_options(&home.model, true);
            common::quantize_tiny_with(&other.source(), &options).unwrap();
        }),
        ("deleted", &|home, _| std::fs::remove_dir_all(&home.model).unwrap()),
    ];
    let speak = |home: &Home, engine, at: &dyn Fn()| {
        let mut session = home.session(engine, 8, None).unwrap();
        let told = answer(&mut session, 40, &mut |token| {
            if token == 5 {
                at();
            }
            None
        });
        assert!(told[4].bits < 8.0, "slices are still to come when it happens");
        assert_eq!(told[39].bits, 8.0);
        assert!(told.iter().all(|told| told.faults.is_empty()));
        ids(&told)
    };
    for engine in 0..engines().len() {
        let engine = || engines().swap_remove(engine);
        let expected = speak(&Home::new(), engine(), &|| ());
        let others = speak(&Home::of_seed(8), engine(), &|| ());
        assert_ne!(others, expected, "the other model says something else");
        for (name, fate) in fates {
            let (home, other) = (Home::new(), Home::of_seed(8));
            for slice in 1..4 {
                let length = |home: &Home| std::fs::metadata(home.slice(slice)).unwrap().len();
                assert_eq!(length(&home), length(&other), "lengths alone cannot tell");
            }
            assert_eq!(speak(&home, engine(), &|| fate(&home, &other)), expected, "{name}");
        }
    }
}

#[test]
fn a_device_that_refuses_memory_leaves_the_answer_at_the_depth_it_has() {
    let home = Home::new();
    for engine in engines() {
        let (engine, refuses) = refusing::refusing(engine);
        let mut session = home.session(engine, 8, None).unwrap();
        refuses.set(true);
        let told = answer(&mut session, 60, &mut |token| {
            refuses.set(token < 20);
            None
        });
        assert!(told[..20].iter().all(|told| told.bits == 2.0));
        assert!(told[..20].iter().any(|told| told.faults.iter().any(|words| words.contains("no room"))));
        assert_eq!(told[59].bits, 8.0);
    }
}

#[test]
fn a_device_that_is_lost_ends_the_answer_and_the_tokens_before_stand() {
    let home = Home::new();
    for engine in engines() {
        let (engine, refuses) = refusing::refusing(engine);
        let mut session = home.session(engine, 8, None).unwrap();
        let mut tokens = 0;
        let fault = session.generate(&PROMPT, Some(60), &mut |_| {
            tokens += 1;
            if tokens == 5 {
                refuses.lose();
            }
            Ok(Next::Go)
        });
        assert!(fault.unwrap_err().to_string().contains("the device was lost"));
        assert_eq!(tokens, 5);
    }
}

/// An answer, another one, and a third: before the second and in the middle of the third, `away` takes what it will.
fn three_answers(session: &mut Session, away: &mut dyn FnMut(&Model)) -> [Vec<Told>; 3] {
    let model = session.model().clone();
    let first = answer(session, 12, &mut |_| None);
    away(&model);
    let second = answer(session, 12, &mut |_| None);
    let third = answer(session, 12, &mut |token| {
        if token == 6 {
            away(&model);
        }
        None
    });
    [first, second, third]
}

#[test]
fn weights_that_left_come_back_and_no_token_is_another_one() {
    let home = Home::new();
    for ((stays, leaves), alone) in engines().into_iter().zip(engines()).zip(engines()) {
        let run = |engine, away: &mut dyn FnMut(&Model)| {
            let mut session = home.session(engine, 8, None).unwrap();
            session.settle(None).unwrap();
            // A step is under way when they leave.
            session.run_ahead(true);
            (three_answers(&mut session, away), session)
        };
        let (expected, _) = run(stays, &mut |_| ());
        let mut times = 0;
        let (found, session) = run(leaves, &mut |model| {
            let (before, slices) = (model.allocated_bytes(), model.slices().unwrap());
            assert!(model.is_loaded() && slices.resident_bytes > 0);
            model.unload().unwrap();
            model.unload().unwrap();
            let (after, left) = (model.allocated_bytes(), model.slices().unwrap());
            assert_eq!((left.resident_bytes, model.is_loaded()), (0, false));
            // The base is about as large as a slice of three, and it went too.
            let freed = before - after;
            assert!(freed > slices.resident_bytes * 5 / 4, "{freed} with {} of slices", slices.resident_bytes);
            times += 1;
        });
        assert_eq!(times, 2);
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(ids(found), ids(expected));
            assert!(found.iter().all(|told| told.bits == 8.0 && told.faults.is_empty()), "all of it is there again");
        }
        // Work space of the prompts went too.
        assert!(found[2][11].device_bytes <= expected[2][11].device_bytes);
        assert!(session.model().is_loaded());
        // Control: without what was said before, another text follows.
        let mut session = home.session(alone, 8, None).unwrap();
        session.settle(None).unwrap();
        assert_ne!(ids(&answer(&mut session, 12, &mut |_| None)), ids(&expected[1]));
    }
}

#[test]
fn slices_leave_before_the_base_where_nobody_asks() {
    let home = Home::new();
    for (stays, engine) in engines().into_iter().zip(engines()) {
        let mut session = home.session(stays, 8, None).unwrap();
        session.settle(None).unwrap();
        let expected = [(), ()].map(|()| ids(&answer(&mut session, 8, &mut |_| None)));

        let mut session = home.session(engine, 8, None).unwrap();
        session.settle(None).unwrap();
        let model = session.model().clone();
        let first = ids(&answer(&mut session, 8, &mut |_| None));
        let all = model.allocated_bytes();
        let wait_until = |what: &str, is_so: &dyn Fn() -> bool| {
            let begin = std::time::Instant::now();
            while !is_so() {
                assert!(begin.elapsed().as_secs() < 60, "{what} after a minute");
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        };
        model.unload_after(Some(std::time::Duration::from_millis(300))).unwrap();
        wait_until("the slices are there", &|| model.slices().unwrap().resident_bytes == 0);
        let slices = model.slices().unwrap().freed_bytes;
        wait_until("the base is there", &|| model.allocated_bytes() + slices < all);
        assert_eq!([first, ids(&answer(&mut session, 8, &mut |_| None))], expected);
        model.unload_after(None).unwrap();
        assert!(model.unload_after(Some(std::time::Duration::ZERO)).is_err());
        // What opens a session is a use, and so is a wait for slices.
        session.settle(None).unwrap();
        let before = model.weights_report();
        assert!(before.departures > 0 && before.presence == Presence::All);
        model.unload().unwrap();
        let gone = model.weights_report();
        assert_eq!(
            (gone.presence, gone.departures, gone.returns),
            (Presence::Nothing, before.departures + 1, before.returns)
        );
        session.settle(None).unwrap();
        assert!(model.is_loaded() && model.is_settled());
        assert_eq!(model.weights_report().returns, before.returns + 1);
    }
    // A time that cannot be is told before anything is looked for.
    let mut options = OpenOptions::default();
    options.unload_after = Some(std::time::Duration::ZERO);
    let refused = LanguageModel::open_with("no folder", options, &mut |_, _| ()).err().unwrap().to_string();
    assert_eq!(refused, "unload after: expected a time of more than 0, or none, got 0");
}

#[test]
fn weights_that_cannot_come_back_are_an_error_and_leave_nothing_behind() {
    let home = Home::new();
    for engine in engines() {
        let (engine, refuses) = refusing::refusing(engine);
        let mut session = home.session(engine, 8, None).unwrap();
        session.settle(None).unwrap();
        let model = session.model().clone();
        let first = ids(&answer(&mut session, 8, &mut |_| None));
        model.unload().unwrap();
        let unloaded = model.allocated_bytes();

        // A stop ends the wait for them, and the next use waits again.
        session.cancel_token().cancel();
        assert!(matches!(one_token(&mut session), Err(edge_run::Error::Stopped(_))));
        session.cancel_token().reset();
        assert_eq!(model.allocated_bytes(), unloaded);

        // Slices that came before a stop leave with the base. At this buffer the first of them have come.
        refuses.stop_at_buffer(20);
        assert!(matches!(one_token(&mut session), Err(edge_run::Error::Stopped(_))));
        session.cancel_token().reset();
        assert!(model.slices().unwrap().resident_bytes > 0 && !model.is_loaded());
        model.unload().unwrap();
        assert_eq!((model.slices().unwrap().resident_bytes, model.allocated_bytes()), (0, unloaded));

        // Another model has the folder's place, and what was opened comes back.
        let aside = home.model.with_file_name("aside");
        std::fs::rename(&home.model, &aside).unwrap();
        session.truncate(0);
        assert_eq!(ids(&answer(&mut session, 8, &mut |_| None)), first);
        std::fs::rename(&aside, &home.model).unwrap();

        // A file that somebody wrote to is not read.
        model.unload().unwrap();
        let base = home.model.join("base.safetensors");
        let sound = std::fs::read(&base).unwrap();
        let mut odd = sound.clone();
        *odd.last_mut().unwrap() ^= 1;
        overwrite(&base, &odd);
        let message = one_token(&mut session).unwrap_err().to_string();
        assert!(message.contains("base.safetensors") && message.contains("written to since"), "{message}");
        assert_eq!(model.allocated_bytes(), unloaded);
        overwrite(&base, &sound);

        // Slices that the device has no room for are tried again, as ever.
        refuses.set(true);
        session.truncate(0);
        let told = answer(&mut session, 60, &mut |token| {
            refuses.set(token < 20);
            None
        });
        assert_eq!((told[0].bits, told[59].bits), (2.0, 8.0));
    }
    let folder = ModelFolder::open(&home.model).unwrap();
    let whole = Model::load(&folder, cpu::open(), CONTEXT, &mut |_, _| ()).unwrap();
    assert!(whole.unload().unwrap_err().to_string().contains("whose slices come and go"));
}

/// The budget was reckoned with steps as long as they are of themselves.
#[test]
fn a_budget_keeps_steps_from_becoming_longer() {
    let home = Home::new();
    let load = |budget| {
        let folder = ModelFolder::open(&home.model).unwrap();
        Model::load_base(&folder, cpu::open(), CONTEXT, budget, &mut |_, _| ()).unwrap()
    };
    let bounded = load(Some(1 << 30));
    let own = bounded.step_tokens();
    bounded.set_step_tokens(own).unwrap();
    let refused = bounded.set_step_tokens(own + 1).unwrap_err().to_string();
    assert!(refused.starts_with("step tokens: expected 1 to 512 with a memory budget"), "{refused}");
    assert_eq!(bounded.step_tokens(), own);
    load(None).set_step_tokens(STEP_TOKENS).unwrap();
}

#[test]
fn a_budget_holds_all_that_the_model_takes() {
    let home = Home::new();
    for ((engine, tight), least) in engines().into_iter().zip(engines()).zip(engines()) {
        let mut session = home.session(engine, 8, None).unwrap();
        session.settle(None).unwrap();
        let free = answer(&mut session, 10, &mut |_| None);
        assert_eq!(free[9].bits, 8.0);
        let message = home.session(least, 8, Some(1 << 16)).err().expect("too little").to_string();
        assert!(message.starts_with("memory budget: expected at least "), "{message}");

        // Between what the base takes and what all takes: some slices fit, and not all.
        let words: Vec<&str> = message.split_whitespace().collect();
        let at = words.iter().position(|word| *word == "MiB").unwrap();
        let base: u64 = words[at - 1].parse::<u64>().unwrap() << 20;
        let budget = base + free[9].slices.resident_bytes / 2;
        let mut session = home.session(tight, 8, Some(budget)).unwrap();
        session.settle(None).unwrap();
        let told = answer(&mut session, 10, &mut |_| None);
        assert!(told.iter().all(|told| told.device_bytes <= budget), "{budget}: {told:?}");
        assert!(told[9].bits >= 4.0 && told[9].slices.resident_bytes <= free[9].slices.resident_bytes, "{told:?}");
    }
}
