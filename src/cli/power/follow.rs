//! The bits of an answer as it goes on: asked for once and for all, or by the power state, real or simulated.

use std::path::Path;
use std::time::{Duration, Instant};

use super::PowerArgs;
use crate::cli::output::note;
use crate::cli::paths;
use crate::cli::settings::plan_for_bits;
use edge_run::internals::error::{Error, Result};
use edge_run::internals::power::{
    Change, Decision, Governor, Policy, PowerConfig, PowerFollower, PowerMode, PowerSource, Reading, Trace,
    system_source,
};
use edge_run::internals::precision::{PrecisionPlan, PromptBits};

/// What decides about bits.
#[derive(Debug, Clone, PartialEq)]
pub enum Steering {
    /// These bits, for this reason.
    Fixed(f32, String),
    /// The power state.
    Auto,
}

/// What the configuration says, its table with what the command line says otherwise.
pub fn config(args: &PowerArgs) -> Result<PowerConfig> {
    let default = paths::config_file().ok().filter(|file| args.config.is_none() && file.exists());
    let mut config = match args.config.as_deref().or(default.as_deref()) {
        Some(file) => PowerConfig::read(file)?,
        None => PowerConfig::default(),
    };
    let policy = &mut config.policy;
    policy.min_bits = args.min_bits.unwrap_or(policy.min_bits);
    policy.max_bits = args.max_bits.unwrap_or(policy.max_bits);
    Ok(config)
}

/// Fails where the limits leave nothing to a model that `has_routers` or not, and names their flags.
pub fn check_limits(policy: &Policy, has_routers: bool) -> Result<()> {
    policy.check_limits(has_routers).map_err(|error| match error {
        Error::InvalidArgument { expected, got, .. } => Error::argument("--min-bits and --max-bits", expected, got),
        other => other,
    })
}

/// What decides: a flag, a simulation, the configuration, or else the power state of a device that has one to follow.
pub fn steering(args: &PowerArgs, configured: Option<PowerMode>, follows: bool) -> Steering {
    if let Some(bits) = args.bits {
        return Steering::Fixed(bits, format!("--bits {bits}"));
    }
    let simulated = args.power_sim.as_ref().map(|_| PowerMode::Auto);
    match args.power_mode.or(simulated).or(configured) {
        Some(PowerMode::Auto) => Steering::Auto,
        Some(mode) => Steering::Fixed(mode.bits(), format!("power mode {}", mode.name())),
        None if follows => Steering::Auto,
        // Nothing asks for thrift, so quality decides.
        None => Steering::Fixed(PowerMode::High.bits(), "power mode high (the default)".into()),
    }
}

/// The trace at `file`, and the policy for it: time does not pass in a trace of tokens.
pub fn trace(file: &Path, policy: &mut Policy) -> Result<Trace> {
    let trace = Trace::read(file)?;
    if trace.by_tokens() {
        policy.dwell_s = 0.0;
    }
    Ok(trace)
}

/// The plan of an answer, and its changes.
pub struct Follower {
    feed: Feed,
    has_routers: bool,
    /// What the configuration says of prompts.
    prompt_bits: Option<PromptBits>,
    /// When the first token of a trace came.
    begin: Option<Instant>,
}

/// Where states come from.
enum Feed {
    Fixed(Decision),
    Watched(PowerFollower),
    Simulated(Governor, Trace),
}

impl Follower {
    /// Reads all that the arguments name, and begins, for a model that `has_routers` or not, with the plan for now.
    pub fn start(args: &PowerArgs, has_routers: bool) -> Result<Follower> {
        Follower::of(config(args)?, args, has_routers, &mut system_source)
    }

    fn of(
        PowerConfig { policy, mode, prompt_bits }: PowerConfig,
        args: &PowerArgs,
        has_routers: bool,
        source: &mut dyn FnMut() -> Box<dyn PowerSource>,
    ) -> Result<Follower> {
        let feed = feed((policy, mode), args, has_routers, source)?;
        Ok(Follower { feed, has_routers, prompt_bits, begin: None })
    }

    /// What is read for the prompt: what is `asked` for, else what the configuration says, else the deepest.
    pub fn prompt_bits(&self, asked: Option<PromptBits>) -> PromptBits {
        asked.or(self.prompt_bits).unwrap_or_default()
    }

    /// The decision in force.
    pub fn decision(&self) -> &Decision {
        match &self.feed {
            Feed::Fixed(decision) => decision,
            Feed::Watched(follower) => follower.decision(),
            Feed::Simulated(governor, _) => governor.decision(),
        }
    }

    /// The plan in force.
    pub fn plan(&self) -> Result<PrecisionPlan> {
        self.decision().plan(self.has_routers)
    }

    /// Whether the bits follow a device's own state, which nobody waits for.
    pub fn is_live(&self) -> bool {
        matches!(self.feed, Feed::Watched(..))
    }

    /// Whether the bits follow a trace by tokens, which does the same each time.
    pub fn is_repeatable(&self) -> bool {
        matches!(&self.feed, Feed::Simulated(_, trace) if trace.by_tokens())
    }

    /// Before the token `token` is generated, the first being 0: what changes with it. It asks no operating system.
    /// That the state could not be read is said on standard error.
    pub fn before(&mut self, token: usize) -> Option<Change> {
        let time = self.begin.get_or_insert_with(Instant::now).elapsed();
        match &mut self.feed {
            Feed::Fixed(_) => None,
            Feed::Watched(follower) => {
                if let Some(fault) = follower.take_fault() {
                    note(format_args!("warning: the power state cannot be read: {fault}"));
                }
                follower.poll()
            }
            Feed::Simulated(governor, trace) => governor.observe(&trace.state(token, time), time),
        }
    }
}

fn feed(
    (mut policy, configured): (Policy, Option<PowerMode>),
    args: &PowerArgs,
    has_routers: bool,
    source: &mut dyn FnMut() -> Box<dyn PowerSource>,
) -> Result<Feed> {
    check_limits(&policy, has_routers)?;
    if let Some(bits) = args.bits {
        plan_for_bits(bits, has_routers)?;
    }
    let trace = args.power_sim.as_deref().map(|file| trace(file, &mut policy)).transpose()?;
    // Whether the device has a state to follow is asked only where the answer counts.
    let asks = |follows| steering(args, configured, follows) == Steering::Auto;
    let probe = if trace.is_none() && asks(true) { Some(source()) } else { None };
    let probe = probe.map(|mut source| source.read().map(|reading| (source, reading))).transpose()?;
    let follows = probe.as_ref().is_some_and(|(_, reading): &(_, Reading)| reading.follows);
    Ok(match (steering(args, configured, follows), trace, probe) {
        (Steering::Fixed(bits, reason), ..) => Feed::Fixed(policy.fixed(bits, reason, has_routers)),
        (Steering::Auto, Some(trace), _) => {
            let first = trace.state(0, Duration::ZERO);
            Feed::Simulated(Governor::new(policy, has_routers, &first)?, trace)
        }
        (Steering::Auto, None, Some((source, reading))) => {
            Feed::Watched(PowerFollower::after(reading, policy, source, has_routers)?)
        }
        (Steering::Auto, None, None) => unreachable!("a state that is followed was read"),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::Cli;
    use edge_run::internals::power::{PowerState, Signal, Supply};
    use edge_run::internals::precision::{Depth, Precision};

    /// A device in one state.
    struct Device(Supply, bool);

    impl PowerSource for Device {
        fn read(&mut self) -> Result<Reading> {
            let state = PowerState { supply: self.0, ..PowerState::AC };
            Ok(Reading { state, signals: Vec::<Signal>::new(), follows: self.1 })
        }
    }

    /// The follower on a device, with an empty configuration beside whatever this machine's user has.
    fn follower(words: &[&str], has_routers: bool, device: (Supply, bool)) -> Result<Follower> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let given = ["edge-run", "--config", file.path().to_str().unwrap()];
        let args = Cli::parse_from(given.iter().chain(words).chain(&["x"])).generate.power;
        Follower::of(config(&args)?, &args, has_routers, &mut || Box::new(Device(device.0, device.1)))
    }

    const DESKTOP: (Supply, bool) = (Supply::Ac, false);
    const UNPLUGGED: (Supply, bool) = (Supply::Battery { percent: Some(30.0) }, true);

    fn bits(words: &[&str], has_routers: bool, device: (Supply, bool)) -> (f32, String) {
        let decision = follower(words, has_routers, device).unwrap().decision().clone();
        (decision.bits, decision.reason)
    }

    #[test]
    fn flags_stand_above_the_state_and_bits_above_the_mode() {
        for device in [DESKTOP, UNPLUGGED] {
            assert_eq!(bits(&["--bits", "2", "--power-mode", "high"], false, device).0, 2.0);
            assert_eq!(bits(&["--power-mode", "low"], false, device).0, 4.0);
            assert_eq!(bits(&["--power-mode", "low", "--min-bits", "5"], false, device).0, 6.0);
        }
    }

    #[test]
    fn the_state_is_followed_by_default_only_where_there_is_one() {
        assert_eq!(bits(&[], true, DESKTOP), (8.0, "power mode high (the default)".into()));
        assert_eq!(bits(&["--power-mode", "auto"], true, DESKTOP), (8.0, "AC".into()));
        assert_eq!(bits(&[], true, UNPLUGGED), (4.5, "battery 30%".into()));
        assert_eq!(bits(&[], false, UNPLUGGED).0, 4.0);
        assert_eq!(bits(&["--power-mode", "high"], true, UNPLUGGED), (8.0, "power mode high".into()));
    }

    #[test]
    fn routers_serve_what_slices_alone_cannot() {
        let message = follower(&["--bits", "3.5"], false, DESKTOP).err().unwrap().to_string();
        assert_eq!(message, "--bits: expected 2, 4, 6 or 8 for a model without routers, got 3.5");
        let plan = |words: &[&str]| follower(words, true, DESKTOP).unwrap().plan().unwrap().precision;
        assert_eq!(plan(&["--bits", "3.5"]), Precision::Routed(3.5));
        assert_eq!(plan(&["--power-mode", "low"]), Precision::Routed(4.0));
        assert_eq!(plan(&["--power-mode", "high"]), Precision::Uniform(Depth::FULL));
    }

    #[test]
    fn limits_that_leave_nothing_are_named_by_their_flags() {
        let message = follower(&["--min-bits", "4.5", "--max-bits", "5"], false, DESKTOP).err().unwrap().to_string();
        assert!(message.starts_with("--min-bits and --max-bits: expected 2, 4, 6 or 8 between them"), "{message}");
    }
}
