//! The second turn of a long conversation with the default model: its time beside that of its new tokens alone, and how
//! often the tokenizer cuts an answer otherwise than the model wrote it.
//!
//! `cargo bench --bench turns -- FOLDER [DEVICE]` times the turn, with the model in a folder, on the processor or on a
//! device by its number; `FOLDER DEVICE tokens` counts the answers.

use std::path::Path;
use std::time::Instant;

use edge_run::{Device, Event, LanguageModel, Message, OpenOptions, PowerMode, Result, SamplerSettings, Session};

/// Tokens of the conversation before the second turn.
const TOKENS: usize = 2000;
/// Turns that are timed, each way.
const RUNS: usize = 5;
/// Times that what comes before the first step is timed.
const PREPARATIONS: usize = 300;
/// Answers whose tokens are looked at.
const ANSWERS: u32 = 36;
/// Tokens of such an answer at most.
const ANSWER_TOKENS: usize = 40;

const QUESTIONS: [&str; 6] = [
    "Why is the sky blue?",
    "Write a short poem about the sea.",
    "Write a Python function that reverses a list.",
    "Name three fruits, each with its colour.",
    "Wie heißt die Hauptstadt von Österreich?",
    "Explain in two sentences what a battery does.",
];

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let Some(folder) = words.first().cloned().or_else(|| std::env::var("EDGE_RUN_TEST_MODEL").ok()) else {
        println!("skipped: no folder of a model is named");
        return Ok(());
    };
    let device = match words.get(1).map(String::as_str) {
        None | Some("cpu") => Device::Cpu,
        Some(index) => Device::Gpu(index.parse().expect("a device by its number")),
    };
    let mut options = OpenOptions::default();
    (options.device, options.sessions) = (device, 2);
    let model = LanguageModel::open_with(Path::new(&folder), options, &mut |_, _| ())?;
    println!("{}", model.model().device().name);
    match words.get(2).map(String::as_str) {
        Some("tokens") => own_tokens(&model),
        _ => second_turn(&model),
    }
}

/// Times the second turn.
fn second_turn(model: &LanguageModel) -> Result<()> {
    let greedy = SamplerSettings { temperature: 0.0, ..SamplerSettings::default() };
    let mut session = model.session_with(model.plan(PowerMode::High), greedy)?;
    let sentence = "The quick brown fox jumps over the lazy dog, and the dog, who was asleep, does not mind at all. ";
    let mut question = String::new();
    while model.text().encode(&question, false)?.len() < TOKENS - 60 {
        question += sentence;
    }
    let mut chat = vec![Message::user(question + "What does the dog do?")];
    chat.push(Message::assistant(said(&mut session, &chat, 16)?));
    chat.push(Message::user("And what does the fox do? Answer in one short sentence, please."));
    let ids = model.text().encode_chat(&chat)?.expect("the model has a chat template");
    let before = session.sequence().tokens().len();
    let mut first_tokens = [Vec::new(), Vec::new()];
    let mut encoding = Vec::new();
    let mut new = 0;
    for run in 0..RUNS + 1 {
        let mut turn = session.fork()?;
        let begin = Instant::now();
        let mut answer = turn.chat(&chat, None)?;
        answer.next().transpose()?;
        let all = begin.elapsed();
        new = answer.stop().prompt_tokens;
        drop(turn);
        let mut alone = session.fork()?;
        let (kept, begin) = (ids.len() - new, Instant::now());
        alone.truncate(kept.min(before));
        alone.answer(&ids[kept..], None)?.next().transpose()?;
        let tokens = begin.elapsed();
        drop(alone);
        let begin = Instant::now();
        model.text().encode_chat(&chat)?;
        // The first run warms up.
        if run > 0 {
            first_tokens[0].push(all.as_secs_f64() * 1e3);
            first_tokens[1].push(tokens.as_secs_f64() * 1e3);
            encoding.push(begin.elapsed().as_secs_f64() * 1e3);
        }
    }
    let [turn, alone] = first_tokens.map(least);
    println!("second turn after {before} tokens, {new} new ones: {turn:.2} ms to the first token");
    println!("its new tokens alone: {alone:.2} ms; ratio {:.3}; encoding {:.2} ms", turn / alone, least(encoding));
    let mut preparing = [Vec::new(), Vec::new()];
    for _ in 0..PREPARATIONS {
        let mut turn = session.fork()?;
        let begin = Instant::now();
        let answer = turn.chat(&chat, None)?;
        preparing[0].push(begin.elapsed().as_secs_f64() * 1e6);
        drop(answer);
        let begin = Instant::now();
        let answer = turn.answer(&ids[ids.len() - new..], None)?;
        preparing[1].push(begin.elapsed().as_secs_f64() * 1e6);
        drop(answer);
    }
    let [turn, alone] = preparing.map(median);
    println!(
        "before its first step, medians: {turn:.0} us in the second turn, {alone:.0} us with its new tokens alone"
    );
    Ok(())
}

/// Counts answers that the tokenizer would cut otherwise.
fn own_tokens(model: &LanguageModel) -> Result<()> {
    let (mut others, mut run_again, mut run_again_by_text) = (0, 0, 0);
    for seed in 0..ANSWERS {
        let sampling = SamplerSettings { seed: Some(seed), ..model.recommended_sampling() };
        let mut session = model.session_with(model.plan(PowerMode::High), sampling)?;
        let mut chat = vec![Message::user(QUESTIONS[seed as usize % QUESTIONS.len()])];
        chat.push(Message::assistant(said(&mut session, &chat, ANSWER_TOKENS)?));
        chat.push(Message::user("Go on."));
        let ids = model.text().encode_chat(&chat)?.expect("the model has a chat template");
        let (tokens, sampled) = (session.sequence().tokens(), session.sequence().sampled());
        let all: Vec<u32> = tokens.iter().copied().chain(sampled.filter(|id| !model.text().is_end(*id))).collect();
        let same = ids.iter().zip(&all).take_while(|(a, b)| a == b).count();
        others += u32::from(same < all.len());
        run_again_by_text += tokens.len().saturating_sub(same);
        let before = tokens.len();
        let mut turn = session.chat(&chat, Some(1))?;
        run_again += before - turn.session().sequence().tokens().len();
    }
    println!("{others} of {ANSWERS} answers would be cut otherwise by the tokenizer");
    println!("tokens that would run again: {run_again_by_text} by the text, {run_again} by the session");
    Ok(())
}

/// The text of an answer of so many tokens at most.
fn said(session: &mut Session, chat: &[Message], most: usize) -> Result<String> {
    let mut said = String::new();
    for event in session.chat(chat, Some(most))? {
        match event? {
            Event::Token(token) => said += &token.text,
            Event::Done(summary) => said += &summary.text_left,
            _ => (),
        }
    }
    Ok(said)
}

/// The least of some times, which is disturbed least.
fn least(times: Vec<f64>) -> f64 {
    times.into_iter().fold(f64::INFINITY, f64::min)
}

/// The time in the middle of some.
fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
