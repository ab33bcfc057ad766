//! From a power state to bits: a pure function over a table that the user may override.

use std::ops::RangeInclusive;

use serde::Serialize;

use super::{PowerState, Supply, Thermal};
use crate::error::{Error, Result};
use crate::precision::{BITS, Depth, PrecisionPlan};

/// A share in percent.
pub(super) const PERCENT: RangeInclusive<f32> = 0.0..=100.0;
/// Times that a [`Duration`](std::time::Duration) holds with room to spare, in seconds.
const DWELL_S: RangeInclusive<f32> = 0.0..=1e9;

/// Below this a model without routers is of no use, so the table does not ask it for less.
const UNROUTED_FLOOR: Depth = Depth::ALL[1];

/// A step of the battery's ladder.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rung {
    /// Charge from which on it counts, in percent.
    pub from: f32,
    /// Bits read of each weight.
    pub bits: f32,
}

/// What decided, by falling precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// What was asked for: a number of bits, or a power mode other than auto.
    Flag,
    /// The operating system's energy saver.
    Saver,
    /// The device is so hot that it must cool down.
    ThermalCritical,
    /// Memory is short.
    MemoryPressure,
    /// The device is hot.
    ThermalSerious,
    /// The battery's charge.
    Battery,
    /// The mains.
    Ac,
}

/// The table of bits, with the limits and the margins that go with it.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Bits on AC.
    pub ac: f32,
    /// Bits by the battery's charge: falling, the last from 0.
    pub battery: Vec<Rung>,
    /// Bits while the energy saver is on.
    pub saver: f32,
    /// Most bits while the device is hot.
    pub thermal_serious: f32,
    /// Bits while the device must cool down.
    pub thermal_critical: f32,
    /// Most bits while memory is short.
    pub memory_pressure: f32,
    /// Memory is short from this pressure on, in percent.
    pub memory_from: f32,
    /// Memory is short until the pressure lies this much below, or is 0, in percent.
    pub memory_margin: f32,
    /// A higher rung of the ladder counts when the charge lies this much above its foot, in percent.
    pub battery_margin: f32,
    /// Bits rise when what speaks for more has lasted this long, in seconds, 0 to 10^9.
    pub dwell_s: f32,
    /// Fewest bits, whatever the rest says.
    pub min_bits: f32,
    /// Most bits, whatever the rest says.
    pub max_bits: f32,
}

impl Default for Policy {
    fn default() -> Policy {
        let rung = |from, bits| Rung { from, bits };
        Policy {
            ac: 8.0,
            battery: vec![rung(50.0, 6.0), rung(20.0, 4.5), rung(0.0, 3.3)],
            saver: 3.3,
            thermal_serious: 4.0,
            thermal_critical: 3.0,
            memory_pressure: 4.0,
            memory_from: 10.0,
            memory_margin: 5.0,
            battery_margin: 3.0,
            dwell_s: 10.0,
            min_bits: *BITS.start(),
            max_bits: *BITS.end(),
        }
    }
}

/// What hysteresis remembers of the decision before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Rung of the ladder that counted; none on AC.
    rung: Option<usize>,
    /// Whether memory was short.
    pressed: bool,
}

/// A decision, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Decision {
    /// Bits to read of each weight: a whole number of slices for a model without routers.
    pub bits: f32,
    /// What decided.
    pub rule: Rule,
    /// The most slices that may be read, where the bits are an average.
    #[serde(skip)]
    pub depth_max: Depth,
    /// Why, in words.
    pub reason: String,
    /// What the next decision has to know of this one.
    #[serde(skip)]
    pub held: Held,
}

impl Decision {
    /// The decision as a plan, for a model that `has_routers` or not, as it was made for.
    pub fn plan(&self, has_routers: bool) -> Result<PrecisionPlan> {
        let plan = PrecisionPlan::for_bits(self.bits, has_routers, self.reason.clone())?;
        Ok(plan.at_most(self.depth_max))
    }
}

impl Policy {
    /// Fails where a number lies outside of its range or is none, where the ladder does not fall from rung to rung down
    /// to 0, and where the fewest bits are above the most; the error names the field. A [`Governor`](super::Governor)
    /// checks the policy that it is given.
    pub fn check(&self) -> Result<()> {
        let within = |field: &str, number: f32, range: RangeInclusive<f32>| match range.contains(&number) {
            true => Ok(()),
            false => {
                let expected = format!("{} to {}", range.start(), range.end());
                Err(Error::argument(format!("policy, field `{field}`"), expected, number))
            }
        };
        for (field, bits) in [
            ("ac", self.ac),
            ("saver", self.saver),
            ("thermal_serious", self.thermal_serious),
            ("thermal_critical", self.thermal_critical),
            ("memory_pressure", self.memory_pressure),
            ("min_bits", self.min_bits),
            ("max_bits", self.max_bits),
        ] {
            within(field, bits, BITS)?;
        }
        for (field, percent) in [
            ("memory_from", self.memory_from),
            ("memory_margin", self.memory_margin),
            ("battery_margin", self.battery_margin),
        ] {
            within(field, percent, PERCENT)?;
        }
        within("dwell_s", self.dwell_s, DWELL_S)?;
        for (at, rung) in self.battery.iter().enumerate() {
            within(&format!("battery[{at}].from"), rung.from, PERCENT)?;
            within(&format!("battery[{at}].bits"), rung.bits, BITS)?;
        }
        let falls = self.battery.is_sorted_by(|above, below| above.from > below.from);
        if !falls || self.battery.last().is_none_or(|last| last.from != 0.0) {
            let from: Vec<f32> = self.battery.iter().map(|rung| rung.from).collect();
            return Err(Error::argument(
                "policy, field `battery`",
                "rungs from falling charges, the last from 0",
                format!("{from:?}"),
            ));
        }
        if self.min_bits > self.max_bits {
            let expected = format!("at most `max_bits`, {}", self.max_bits);
            return Err(Error::argument("policy, field `min_bits`", expected, self.min_bits));
        }
        Ok(())
    }

    /// Fails where the limits leave nothing to a model that `has_routers` or not.
    pub fn check_limits(&self, has_routers: bool) -> Result<()> {
        let got = || format!("{} and {}", self.min_bits, self.max_bits);
        if self.min_bits > self.max_bits {
            return Err(Error::argument("fewest and most bits", "the fewest not above the most", got()));
        }
        if !has_routers && whole_above(self.min_bits) > whole_below(self.max_bits) {
            let expected = "2, 4, 6 or 8 between them for a model without routers";
            return Err(Error::argument("fewest and most bits", expected, got()));
        }
        Ok(())
    }

    /// What to read in `state`, by a model that `has_routers` or not, after a decision that left `held`.
    ///
    /// The first rule that applies decides: energy saver, critical heat, short memory, heat, battery, AC. Short memory
    /// and heat are caps: they leave alone what a rule below them puts lower still. So is critical heat, where the
    /// energy saver is on too.
    pub fn decide(&self, state: &PowerState, has_routers: bool, held: Held) -> Decision {
        let held = self.hold(state, held);
        let supply = match held.rung {
            Some(rung) => (self.battery.get(rung).map_or(self.ac, |rung| rung.bits), Rule::Battery),
            None => (self.ac, Rule::Ac),
        };
        let cap = |bits: f32, rule, below: (f32, Rule)| if bits < below.0 { (bits, rule) } else { below };
        let hot = state.thermal >= Thermal::Serious;
        let below = if hot { cap(self.thermal_serious, Rule::ThermalSerious, supply) } else { supply };
        let saver = (self.saver, Rule::Saver);
        let (bits, rule) = match state.thermal == Thermal::Critical {
            true if state.saver => cap(self.thermal_critical, Rule::ThermalCritical, saver),
            true => (self.thermal_critical, Rule::ThermalCritical),
            false if state.saver => saver,
            false if held.pressed => cap(self.memory_pressure, Rule::MemoryPressure, below),
            false => below,
        };
        // Where memory or energy is to be saved, whichever rule decided.
        let saves = held.rung.is_some() || held.pressed || hot || state.saver;
        let mut reason = state.words();
        if held.pressed {
            reason += &format!(", memory pressure {:.0}%", state.memory_pressure);
        }
        // The floor is for what the table says, so that the limits, which come last, can still ask for less.
        let bits = if has_routers { bits } else { whole_below(bits).max(UNROUTED_FLOOR.bits() as f32) };
        let decision = self.limited(bits, rule, reason, has_routers);
        // One slice above the average is room enough for routers to choose.
        let depth_max = if saves { Depth::holding(decision.bits).deeper() } else { Depth::FULL };
        Decision { depth_max: depth_max.min(decision.depth_max), held, ..decision }
    }

    /// The decision for the `bits` that the user asked for, within the limits; without routers rounded down to a whole
    /// number of slices.
    pub fn fixed(&self, bits: f32, reason: impl Into<String>, has_routers: bool) -> Decision {
        let bits = if has_routers { bits } else { whole_below(bits) };
        self.limited(bits, Rule::Flag, reason.into(), has_routers)
    }

    /// The decision for these bits, within the limits.
    fn limited(&self, bits: f32, rule: Rule, mut reason: String, has_routers: bool) -> Decision {
        let (least, most) = match has_routers {
            true => (self.min_bits, self.max_bits),
            false => (whole_above(self.min_bits), whole_below(self.max_bits)),
        };
        if bits < least {
            reason += &format!(", at least {} bits", self.min_bits);
        } else if bits > most {
            reason += &format!(", at most {} bits", self.max_bits);
        }
        let bits = bits.max(least).min(most);
        Decision { bits, rule, depth_max: Depth::holding(self.max_bits), reason, held: Held::default() }
    }

    /// The rung and the shortness of memory that count, by hysteresis: the worse at once, the better past a margin.
    fn hold(&self, state: &PowerState, held: Held) -> Held {
        let rung_at = |percent: f32| {
            let last = self.battery.len().saturating_sub(1);
            self.battery.iter().position(|rung| percent >= rung.from).unwrap_or(last)
        };
        let rung = match state.supply {
            Supply::Ac => None,
            // Nothing is known, so neither the best nor the worst.
            Supply::Battery { percent: None } => Some(self.battery.len() / 2),
            Supply::Battery { percent: Some(percent) } => {
                let now = rung_at(percent);
                let sure = rung_at(percent - self.battery_margin);
                Some(held.rung.map_or(now, |before| if now < before { sure.min(before) } else { now }))
            }
        };
        let pressed = if held.pressed {
            state.memory_pressure > (self.memory_from - self.memory_margin).max(0.0)
        } else {
            state.memory_pressure >= self.memory_from
        };
        Held { rung, pressed }
    }
}

/// Bits of the deepest whole depth that does not read more than `bits`.
fn whole_below(bits: f32) -> f32 {
    let depth = Depth::ALL.into_iter().rev().find(|depth| depth.bits() as f32 <= bits);
    depth.unwrap_or(Depth::ALL[0]).bits() as f32
}

/// Bits of the shallowest whole depth that does not read less than `bits`.
fn whole_above(bits: f32) -> f32 {
    let depth = Depth::ALL.into_iter().find(|depth| depth.bits() as f32 >= bits);
    depth.unwrap_or(Depth::FULL).bits() as f32
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
