//! `edge-run power`: the power state, where it was read, and what it decides.

mod args;
mod follow;

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

pub use args::{PowerArgs, PowerCommandArgs, average_bits};
pub use follow::Follower;

use super::exit::Exit;
use super::output::{json, print_json_line, print_line_if_open};
use super::{Done, stop, terminal};
use edge_run::internals::error::Result;
use edge_run::internals::power::{
    At, Decision, Governor, Policy, PowerConfig, PowerState, READ_EVERY, Reading, Signal, Trace, system_source,
};
use follow::Steering;

/// How often a wait looks whether it was stopped.
const STOP_CHECK: Duration = Duration::from_millis(100);

/// A reading, or a step of a trace, with what it decides.
#[derive(Serialize)]
struct PowerReport<'a> {
    r#type: &'static str,
    #[serde(flatten)]
    at: Option<ReportAt>,
    state: &'a PowerState,
    signals: &'a [Signal],
    decision: &'a Decision,
    /// What a model without routers reads; nothing where the limits leave it nothing.
    bits_without_routers: Option<f32>,
}

/// When a step of a trace begins.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum ReportAt {
    Token(usize),
    TimeS(f32),
}

/// What decides, for models with routers and for those without.
struct Deciders {
    policy: Policy,
    steering: Steering,
    routed: Governor,
    unrouted: Governor,
}

/// Shows the power state and the decision.
pub fn run(args: &PowerCommandArgs) -> Done {
    let PowerConfig { mut policy, mode: configured, .. } = follow::config(&args.power)?;
    follow::check_limits(&policy, true)?;
    if let Some(file) = &args.power.power_sim {
        let trace = follow::trace(file, &mut policy)?;
        let steering = follow::steering(&args.power, configured, false);
        return replay(file, &trace, Deciders::new(policy, steering, &trace.state(0, Duration::ZERO))?, args.json);
    }
    let mut source = system_source();
    let mut reading = source.read()?;
    let steering = follow::steering(&args.power, configured, reading.follows);
    let mut deciders = Deciders::new(policy, steering, &reading.state)?;
    let mut open = show(&reading, &deciders, args.json)?;
    if !args.watch {
        return Ok(Exit::Done);
    }
    stop::watch();
    let begin = Instant::now();
    while open {
        let next = Instant::now() + READ_EVERY;
        while Instant::now() < next {
            if stop::asked() {
                return Ok(Exit::Stopped);
            }
            std::thread::sleep(STOP_CHECK);
        }
        let before = (reading.state.words(), deciders.decisions());
        reading = source.read()?;
        deciders.observe(&reading.state, begin.elapsed());
        if args.json || before != (reading.state.words(), deciders.decisions()) {
            open = show(&reading, &deciders, args.json)?;
        }
    }
    Ok(Exit::Done)
}

/// Shows each step of a trace, and each rise that comes when a dwell is over.
fn replay(file: &Path, trace: &Trace, mut deciders: Deciders, as_json: bool) -> Done {
    let steps = trace.steps();
    for (index, step) in steps.iter().enumerate() {
        let next = steps.get(index + 1);
        let (mut at, mut time) = match step.at {
            At::Token(token) => (ReportAt::Token(token), Duration::ZERO),
            At::Time(time) => (ReportAt::TimeS(time.as_secs_f32()), time),
        };
        loop {
            deciders.observe(&step.state, time);
            if !show_step(file, at, &step.state, &deciders, as_json)? {
                return Ok(Exit::Done);
            }
            let due = [&deciders.routed, &deciders.unrouted].into_iter().filter_map(Governor::rises_at).min();
            match (due, next.map(|next| next.at)) {
                (Some(due), Some(At::Time(end))) if due >= end => break,
                (Some(due), _) => (at, time) = (ReportAt::TimeS(due.as_secs_f32()), due),
                (None, _) => break,
            }
        }
    }
    Ok(Exit::Done)
}

impl Deciders {
    fn new(policy: Policy, steering: Steering, state: &PowerState) -> Result<Deciders> {
        let governor = |has_routers| Governor::new(policy.clone(), has_routers, state);
        Ok(Deciders { routed: governor(true)?, unrouted: governor(false)?, policy, steering })
    }

    fn observe(&mut self, state: &PowerState, time: Duration) {
        self.routed.observe(state, time);
        self.unrouted.observe(state, time);
    }

    /// The decision for a model with routers, and the bits of one without.
    fn decisions(&self) -> (Decision, Option<f32>) {
        let decide = |has_routers| match (&self.steering, has_routers) {
            (Steering::Fixed(bits, reason), _) => self.policy.fixed(*bits, reason, has_routers),
            (Steering::Auto, true) => self.routed.decision().clone(),
            (Steering::Auto, false) => self.unrouted.decision().clone(),
        };
        let unrouted = self.policy.check_limits(false).is_ok().then(|| decide(false).bits);
        (decide(true), unrouted)
    }
}

/// Shows a reading; whether the reader is still there.
fn show(reading: &Reading, deciders: &Deciders, as_json: bool) -> Result<bool> {
    let (decision, unrouted) = deciders.decisions();
    let (state, signals) = (&reading.state, reading.signals.as_slice());
    if as_json {
        return print_json_line(&json(&report(None, state, signals, &decision, unrouted)));
    }
    let shown = |signal: &Signal| [&signal.value, &signal.from].map(terminal::in_a_line);
    let shown: Vec<[String; 2]> = signals.iter().map(shown).collect();
    let width = shown.iter().map(|[value, _]| value.chars().count()).max().unwrap_or(0);
    let line =
        |(signal, [value, from]): (&Signal, &[String; 2])| format!("{:<9} {value:<width$}  {from}\n", signal.name);
    let lines: String = signals.iter().zip(&shown).map(line).collect();
    print_line_if_open(format_args!("{lines}{:<9} {}", "decision", words(&decision, unrouted)))
}

/// Shows a step of a trace; whether the reader is still there.
fn show_step(file: &Path, at: ReportAt, state: &PowerState, deciders: &Deciders, as_json: bool) -> Result<bool> {
    let (decision, unrouted) = deciders.decisions();
    let when = match at {
        ReportAt::Token(token) => format!("token {token}"),
        ReportAt::TimeS(seconds) => format!("{seconds} s"),
    };
    if as_json {
        let signals = [Signal::new("trace", state.words(), format_args!("{}, {when}", file.display()))];
        return print_json_line(&json(&report(Some(at), state, &signals, &decision, unrouted)));
    }
    print_line_if_open(format_args!("{when}: {}", words(&decision, unrouted)))
}

fn report<'a>(
    at: Option<ReportAt>,
    state: &'a PowerState,
    signals: &'a [Signal],
    decision: &'a Decision,
    bits_without_routers: Option<f32>,
) -> PowerReport<'a> {
    PowerReport { r#type: "power", at, state, signals, decision, bits_without_routers }
}

/// A decision for people.
fn words(decision: &Decision, unrouted: Option<f32>) -> String {
    let unrouted = match unrouted {
        Some(bits) if bits == decision.bits => String::new(),
        Some(bits) => format!(" ({bits:?} without routers)"),
        None => " (none without routers)".into(),
    };
    format!("{:?} bits{unrouted}: {}", decision.bits, decision.reason)
}
