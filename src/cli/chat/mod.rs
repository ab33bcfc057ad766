//! `edge-run chat`: a conversation at a terminal, or one that a pipe brings line by line.

mod args;
mod input;
mod lines;
mod talk;
mod thinking;

use std::time::Instant;

pub use args::ChatArgs;

use super::exit::{self, Exit};
use super::output::{self, note};
use super::power::Follower;
use super::{Done, generate, load, paths, resident, sampling, settings, stop};
use edge_run::internals::error::{Error, Result};
use edge_run::internals::session::Session;
use edge_run::internals::text::TextModel;
use input::{ChatInput, HELP, TypedText};
use lines::{Lines, NextInput};
use talk::{AnswerEnd, Talk};

/// What comes of an input.
enum AfterInput {
    /// The next one.
    Next,
    /// The conversation is over.
    Over,
}

/// Holds a conversation.
pub fn run(args: &ChatArgs) -> Done {
    let folder = settings::open_model(&args.model)?;
    let follower = Follower::start(&args.power, folder.thresholds().is_some())?;
    let mut text = TextModel::open(&folder)?;
    output::warn(text.warnings());
    if let Some(choice) = &args.chat_template {
        text.choose_chat_template(choice)?;
    }
    if !text.has_chat_template() {
        return Err(Error::argument("chat", "a model with a chat template", "a model without one"));
    }
    let sampling = sampling::sampling(&args.sampling, text.defaults())?;
    let context = settings::context(args.ctx_size, folder.shape().max_context)?;
    stop::watch();
    let begin = Instant::now();
    let budget = args.resident.memory_budget.map(|size| size.as_u64());
    let open = || {
        let model = load::load_base(&args.model, &folder, context, budget)?;
        model.unload_after(args.keep_alive)?;
        Ok(model)
    };
    let model = open()?;
    if args.verbose {
        generate::tell(&folder, &model, begin.elapsed().as_secs_f64());
    }
    let mut session = Session::new(&model, text, sampling, follower.plan()?)?;
    session.set_prompt_bits(follower.prompt_bits(args.prompt_bits));
    generate::warn(&resident::begin(&args.resident, &follower, &mut session)?);
    let mut talk = Talk::new(args, &open, session, follower);
    if let Some(file) = &args.load {
        talk.load(file)?;
    }
    let history = if args.no_history { None } else { paths::history_file().ok() };
    let mut lines = Lines::open(history)?;
    if lines.are_typed() {
        stop::watch_typed();
        let name = &folder.manifest().source.name;
        note(format_args!("{name} on {}; /help lists the commands, Ctrl-D ends", model.device().name));
    }
    if args.verbose {
        talk.tell_plan();
    }
    converse(&mut talk, &mut lines)
}

/// Takes one input after the other until the last.
fn converse(talk: &mut Talk<'_>, lines: &mut Lines) -> Done {
    loop {
        let typed = match lines.next()? {
            NextInput::Typed(typed) => typed,
            NextInput::Interrupted => continue,
            NextInput::End => return Ok(Exit::Done),
        };
        if lines.are_typed() {
            // What was asked of the answer before is over.
            stop::reset();
        }
        match follow(talk, &typed) {
            Ok(AfterInput::Over) => return Ok(Exit::Done),
            Ok(AfterInput::Next) => (),
            // Somebody who types can do something about it; a script is to know.
            Err(error) if lines.are_typed() && !stop::leaving() => {
                note(format_args!("error: {}", exit::sentence(&error)));
                exit::advice(&error).into_iter().for_each(note);
            }
            Err(error) => return Err(error),
        }
        if stop::leaving() || (stop::asked() && !lines.are_typed()) {
            return Ok(Exit::Stopped);
        }
    }
}

/// Does what an input says.
fn follow(talk: &mut Talk<'_>, typed: &TypedText) -> Result<AfterInput> {
    let input = match input::parse(typed) {
        Ok(Some(input)) => input,
        Ok(None) => return Ok(AfterInput::Next),
        Err(fault) => {
            note(fault);
            return Ok(AfterInput::Next);
        }
    };
    let end = match input {
        ChatInput::Say(question) => talk.ask(question)?,
        ChatInput::Retry => talk.retry()?,
        ChatInput::Exit => return Ok(AfterInput::Over),
        command => obey(talk, command).map(|()| AnswerEnd::Told)?,
    };
    Ok(if end == AnswerEnd::Closed { AfterInput::Over } else { AfterInput::Next })
}

/// Does what a command says that is no question.
fn obey(talk: &mut Talk<'_>, command: ChatInput) -> Result<()> {
    match command {
        ChatInput::Bits(bits) => talk.set_bits(bits)?,
        ChatInput::Power(mode) => talk.set_mode(mode)?,
        ChatInput::Save { file, keys } => talk.save(&file, keys)?,
        ChatInput::Load(file) => talk.load(&file)?,
        ChatInput::System(system) => talk.set_up(system),
        ChatInput::Clear => talk.clear(),
        ChatInput::Stats => talk.stats(),
        ChatInput::Help => HELP.lines().for_each(note),
        ChatInput::Say(_) | ChatInput::Retry | ChatInput::Exit => unreachable!("these are no commands of their own"),
    }
    Ok(())
}
