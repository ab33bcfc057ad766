//! The main command: a prompt in, an answer out.

use std::io::IsTerminal;
use std::time::Instant;

use clap::ColorChoice;
use serde::Serialize;

use super::args::GenerateArgs;
use super::exit::Exit;
use super::output::{self, TokenOutput, note, note_styled};
use super::power::Follower;
use super::show_bits::BitsStyle;
use super::{Done, load, progress, resident, sampling, settings, stop};
use edge_run::internals::engine::{DeviceInfo, DeviceKind, Traits};
use edge_run::internals::error::{Error, Result};
use edge_run::internals::format::{ModelFolder, TokenBytes};
use edge_run::internals::model::Model;
use edge_run::internals::precision::{Depth, Precision, PrecisionPlan, PromptBits};
use edge_run::internals::session::{Next, Session, StopReason, Summary};
use edge_run::internals::text::{Message, Role, TextModel};

/// The summary's line of JSON.
#[derive(Serialize)]
struct SummaryLine<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    summary: &'a Summary,
    prompt_tokens_per_s: Option<f64>,
    tokens_per_s: Option<f64>,
    context: u32,
    seed: u32,
    plan: &'a str,
    plan_changes: usize,
    /// Read for a generated token, by the bits of the answer's tokens and the last plan; keys and values not counted.
    token_bytes: TokenBytes,
    device: &'a DeviceInfo,
}

/// By how many bits an answer may miss what was asked for because its routers did.
const ROUTERS_MISS: f32 = 0.5;

/// Answers the prompt.
pub fn run(args: &GenerateArgs) -> Done {
    // All that can be found wrong without touching the weights is found before they are read.
    let prompt = settings::prompt(args)?;
    let folder = settings::open_model(&args.model)?;
    let has_routers = folder.thresholds().is_some();
    let mut follower = Follower::start(&args.power, has_routers)?;
    let mut text = TextModel::open(&folder)?;
    output::warn(text.warnings());
    if let Some(choice) = &args.chat_template {
        text.choose_chat_template(choice)?;
    }
    let choices = args.choice.read()?;
    let mut sampling = sampling::sampling(&args.sampling, text.defaults())?;
    let seed = *sampling.seed.get_or_insert_with(rand::random);
    let trained = folder.shape().max_context;
    let context = settings::context(args.ctx_size, trained)?;
    let ids = prompt_ids(args, &text, prompt)?;
    if ids.len() > context as usize {
        return Err(Error::PromptTooLong { tokens: ids.len(), context: context as usize, trained: trained as usize });
    }
    // From here on there is something to end in order; while the prompt is read, a signal ends the program.
    stop::watch();
    let begin = Instant::now();
    let budget = args.resident.memory_budget.map(|size| size.as_u64());
    let model = load::load_base(&args.model, &folder, context, budget)?;
    let plan = follower.plan()?;
    let prompt_bits = follower.prompt_bits(args.prompt_bits);
    if args.verbose {
        tell(&folder, &model, begin.elapsed().as_secs_f64());
        note(format_args!("plan:   {}", plan_in_words(&plan, prompt_bits, model.outer_depth(&plan))));
        note(format_args!("seed:   {seed}"));
    }
    let mut session = Session::new(&model, text, sampling, plan)?;
    session.set_prompt_bits(prompt_bits);
    choices.apply(&mut session)?;
    warn(&resident::begin(&args.resident, &follower, &mut session)?);
    let mut output = TokenOutput::stdout(args.json, bits_style(args.show_bits, args.color));
    let (mut tokens, mut plan_changes) = (0, 0);
    let answer = session.generate(&ids, settings::max_new(args), &mut |token| {
        output.token(token)?;
        warn(&token.faults);
        if stop::asked() || output.is_closed() {
            return Ok(Next::Stop);
        }
        tokens += 1;
        let Some(change) = follower.before(tokens) else { return Ok(Next::Go) };
        plan_changes += 1;
        output.change(tokens, &change)?;
        Ok(Next::Replan(change.decision.plan(has_routers)?))
    });
    let summary = answer.or_else(|error| output.end_line().and(Err(choices.told(error))))?;
    output.rest(&summary.text_left)?;
    let (model, plan) = (session.model(), follower.decision().reason.as_str());
    let token_bytes = token_bytes(&session, summary.answer_bits.unwrap_or(summary.bits));
    output.finish(&SummaryLine {
        r#type: "summary",
        summary: &summary,
        prompt_tokens_per_s: rate(summary.prompt_tokens, summary.prompt_s),
        tokens_per_s: rate(tokens_after_first(&summary), summary.generate_s),
        context: model.context(),
        seed,
        plan,
        plan_changes,
        token_bytes,
        device: model.device(),
    })?;
    if output.is_closed() {
        return Ok(Exit::Done);
    }
    if args.verbose {
        note(format_args!("bits:   {}", by_site(&summary)));
        note(format_args!("bytes:  {}", by_part(&token_bytes)));
    }
    note(sentence(&summary, model.device()));
    if budget.is_some() && plan_changes == 0 {
        tell_what_fits(summary.bits, follower.decision().bits);
    }
    Ok(if stop::asked() { Exit::Stopped } else { Exit::Done })
}

/// Tells that a memory budget left room for less than was asked for, where it did; whether that was told.
pub fn tell_what_fits(bits: f32, asked: f32) -> bool {
    let is_less = bits < asked - ROUTERS_MISS;
    if is_less {
        note(format_args!(
            "the memory budget left room for {bits:.2} of the {asked} bits; a smaller context (`-c`) and shorter steps \
             (`--ubatch-size`) leave more"
        ));
    }
    is_less
}

/// Tells which slices could not be had.
pub fn warn(faults: &[String]) {
    faults.iter().for_each(|words| note(resident::fault(words)));
}

/// The prompt as the model takes it: through the chat template, or as it is.
fn prompt_ids(args: &GenerateArgs, text: &TextModel, prompt: String) -> Result<Vec<u32>> {
    if args.raw {
        return text.encode(&prompt, true);
    }
    if !text.has_chat_template() && args.system.is_some() {
        return Err(Error::argument("--system", "a model with a chat template", "a model without one"));
    }
    let system = args.system.iter().map(|system| Message::new(Role::System, system));
    let messages: Vec<Message> = system.chain([Message::new(Role::User, &prompt)]).collect();
    match text.encode_chat(&messages)? {
        Some(ids) => Ok(ids),
        None => {
            note("note: this model has no chat template, so it goes on from the prompt as it is");
            text.encode(&prompt, true)
        }
    }
}

/// How the text shows the bits of each token, if it is to; with a legend.
pub fn bits_style(shows: bool, color: ColorChoice) -> Option<BitsStyle> {
    shows.then(|| {
        let style = BitsStyle::choose(color, std::io::stdout().is_terminal(), &|name| std::env::var(name).ok());
        note_styled(style.legend());
        style
    })
}

/// Device, model and memory, for -v.
pub fn tell(folder: &ModelFolder, model: &Model, load_s: f64) {
    let DeviceInfo { name, kind, backend, driver, .. } = model.device();
    let (source, shape) = (&folder.manifest().source, model.shape());
    let activations = if model.int8_activations() { "int8" } else { "f32" };
    let trial = model.activations_trial().map_or(String::new(), |trial| {
        format!(" (a token took {} us in f32 and {} in int8)", trial.f32_us, trial.int8_us)
    });
    let Traits { subgroup, processors, .. } = model.traits();
    let found = match kind {
        DeviceKind::Processor => String::new(),
        DeviceKind::SoftwareRenderer => format!("; subgroups of {subgroup}"),
        _ => format!("; subgroups of {subgroup}, work for {processors} processors"),
    };
    note(format_args!(
        "device: {name}, {kind}, {backend} {driver}; {activations} activations for a single token{trial}{found}"
    ));
    note(format_args!(
        "model:  {} ({}), {} layers of {}, {} weights and {} in embedding and head",
        source.name,
        folder.dir().display(),
        shape.layers,
        shape.model_dim,
        shape.linear_params(),
        shape.embedding_params()
    ));
    let memory = progress::bytes(model.allocated_bytes());
    let (context, cache_type) = (model.context(), model.cache_type());
    note(format_args!("memory: {memory}, context of {context} tokens in {cache_type}, loaded in {load_s:.2} s"));
}

/// What is to be read, and why, for -v.
pub fn plan_in_words(plan: &PrecisionPlan, prompt_bits: PromptBits, outer: Depth) -> String {
    let deepest = plan.deepest().bits();
    let prompt = match (plan.precision, prompt_bits) {
        (Precision::Routed(_), PromptBits::Deepest) => format!(", up to {deepest} for the prompt"),
        _ => String::new(),
    };
    let (bits, outer, reason) = (plan.bits(), outer.bits(), &plan.reason);
    format!("{bits} bits of each weight{prompt}, at most {outer} of embedding and head: {reason}")
}

/// The bits that were read, of the prompt and of the answer where they differ.
fn bits_in_words(summary: &Summary) -> String {
    let (prompt, all) = (format!("{:.2}", summary.prompt_bits), format!("{:.2}", summary.bits));
    match summary.answer_bits.map(|bits| format!("{bits:.2}")) {
        Some(answer) if answer != prompt => {
            format!("{answer} bits of each weight and {prompt} for the prompt")
        }
        _ => format!("{all} bits of each weight"),
    }
}

/// The line at the end, for people.
pub fn sentence(summary: &Summary, device: &DeviceInfo) -> String {
    let at = |tokens, seconds| rate(tokens, seconds).map_or(String::new(), |rate| format!(" at {rate:.1} tokens/s"));
    let stop = summary.stop;
    let forced = match summary.forced_tokens {
        0 => String::new(),
        forced => format!(", {forced} without a choice"),
    };
    let guessed = match summary.guessed_tokens {
        0 => String::new(),
        guessed => format!(", {} of {guessed} guesses right", summary.accepted_tokens),
    };
    format!(
        "[{} prompt tokens{}, {} generated{}{forced}{guessed}, {}, {}, {} ({}), {stop}]",
        summary.prompt_tokens,
        at(summary.prompt_tokens, summary.prompt_s),
        summary.generated_tokens,
        at(tokens_after_first(summary), summary.generate_s),
        bits_in_words(summary),
        resident::words(summary.device_bytes, summary.slices),
        device.name,
        device.backend
    )
}

/// What is read for a token at so many bits on average, with ranges.
fn token_bytes(session: &Session, bits: f32) -> TokenBytes {
    let (model, plan) = (session.model(), session.plan());
    let routed = matches!(plan.precision, Precision::Routed(_));
    let read = (bits, model.outer_depth(plan));
    TokenBytes::of((model.shape(), model.spec()), model.group_size(), read, routed)
}

/// Bytes read for a token, for -v.
fn by_part(read: &TokenBytes) -> String {
    let [all, body, head, embedding] =
        [read.total(), read.body, read.head, read.embedding].map(|bytes| progress::bytes(bytes as u64));
    format!("{all} a token: body {body}, head {head}, embedding {embedding}; and keys and values")
}

/// Bits read at each kind of site, for -v.
fn by_site(summary: &Summary) -> String {
    summary.bits_by_site.map(|(site, bits)| format!("{site} {bits:.2}")).join(", ")
}

/// Tokens that took [`Summary::generate_s`]: those that were chosen. The first of them came with the prompt, and the
/// one that ended the turn counts.
fn tokens_after_first(summary: &Summary) -> usize {
    let ended = usize::from(summary.stop == StopReason::EndOfTurn);
    (summary.generated_tokens + ended).saturating_sub(summary.forced_tokens + 1)
}

/// Tokens a second, where there were both.
fn rate(tokens: usize, seconds: f64) -> Option<f64> {
    (tokens > 0 && seconds > 0.0).then(|| tokens as f64 / seconds)
}

#[cfg(test)]
mod tests {
    use edge_run::internals::residency::SliceReport;

    use super::*;

    fn summary(stop: StopReason, generated_tokens: usize) -> Summary {
        let mut summary = Summary::default();
        (summary.stop, summary.prompt_tokens, summary.generated_tokens) = (stop, 37, generated_tokens);
        (summary.prompt_s, summary.generate_s, summary.bits) = (0.5, 0.25, 3.996);
        (summary.prompt_bits, summary.answer_bits) = (3.9961, Some(4.0));
        summary.bits_by_site = [("qkv", 6.0), ("o", 2.5), ("gate_up", 4.0), ("down", 3.875)];
        summary.device_bytes = 64 << 20;
        summary.slices = Some(SliceReport { read_bytes: 10 << 20, ..Default::default() });
        summary
    }

    #[test]
    fn only_tokens_after_the_first_make_the_rate() {
        assert_eq!(tokens_after_first(&summary(StopReason::EndOfTurn, 7)), 7);
        assert_eq!(tokens_after_first(&summary(StopReason::Length, 7)), 6);
        assert_eq!(tokens_after_first(&summary(StopReason::Length, 0)), 0);
        let mut answer = summary(StopReason::Complete, 7);
        let mut chosen = |forced_tokens| {
            answer.forced_tokens = forced_tokens;
            tokens_after_first(&answer)
        };
        assert_eq!([chosen(4), chosen(6), chosen(7)], [2, 0, 0]);
        assert_eq!([rate(6, 0.25), rate(0, 1.0), rate(6, 0.0)], [Some(24.0), None, None]);
    }

    #[test]
    fn the_last_line_says_it_all() {
        let device = DeviceInfo {
            index: Some(0),
            name: "llvmpipe".into(),
            kind: DeviceKind::SoftwareRenderer,
            backend: "Vulkan".into(),
            driver: String::new(),
            features: Vec::new(),
        };
        assert_eq!(
            sentence(&summary(StopReason::EndOfTurn, 7), &device),
            "[37 prompt tokens at 74.0 tokens/s, 7 generated at 28.0 tokens/s, 4.00 bits of each weight, \
             64.00 MiB of memory, 10.00 MiB read of slices, llvmpipe (Vulkan), end of turn]"
        );
        assert_eq!(
            sentence(&summary(StopReason::Stopped, 0), &device),
            "[37 prompt tokens at 74.0 tokens/s, 0 generated, 4.00 bits of each weight, \
             64.00 MiB of memory, 10.00 MiB read of slices, llvmpipe (Vulkan), stopped]"
        );
        let mut phases = Summary::default();
        (phases.bits, phases.prompt_bits, phases.answer_bits) = (7.5, 8.0, Some(3.316));
        assert_eq!(bits_in_words(&phases), "3.32 bits of each weight and 8.00 for the prompt");
        (phases.bits, phases.answer_bits) = (8.0, None);
        assert_eq!(bits_in_words(&phases), "8.00 bits of each weight");
        assert_eq!(by_site(&summary(StopReason::Stopped, 0)), "qkv 6.00, o 2.50, gate_up 4.00, down 3.88");
        let json = serde_json::to_value(summary(StopReason::Length, 7)).unwrap();
        assert_eq!(json["bits_by_site"]["o"], 2.5);
    }
}
