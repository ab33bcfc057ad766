//! The power state on macOS: batteries from IOKit, low power mode and heat from `NSProcessInfo`. It is built by
//! continuous integration, and was not run on a Mac. Memory pressure is left out: it would take `unsafe` calls.

use objc2_foundation::{NSProcessInfo, NSProcessInfoThermalState};
use starship_battery::State;
use starship_battery::units::ratio::percent;

use super::{PowerSource, PowerState, Reading, Signal, Supply, Thermal};
use crate::error::Result;

/// The power state that macOS tells.
pub struct MacosSource;

impl PowerSource for MacosSource {
    fn read(&mut self) -> Result<Reading> {
        let mut signals = Vec::new();
        let (supply, has_battery) = supply(&mut signals);
        let process = NSProcessInfo::processInfo();
        let saver = process.isLowPowerModeEnabled();
        signals.push(Signal::new("saver", if saver { "on" } else { "off" }, "NSProcessInfo.lowPowerModeEnabled"));
        let thermal = match process.thermalState() {
            NSProcessInfoThermalState::Fair => Thermal::Fair,
            NSProcessInfoThermalState::Serious => Thermal::Serious,
            NSProcessInfoThermalState::Critical => Thermal::Critical,
            _ => Thermal::Nominal,
        };
        signals.push(Signal::new("thermal", thermal.name(), "NSProcessInfo.thermalState"));
        let state = PowerState { supply, saver, thermal, memory_pressure: 0.0 };
        Ok(Reading { state, signals, follows: has_battery || saver })
    }
}

/// Where the energy comes from, and whether there is a battery.
fn supply(signals: &mut Vec<Signal>) -> (Supply, bool) {
    const FROM: &str = "IOKit, AppleSmartBattery";
    let manager = starship_battery::Manager::new();
    let batteries = manager.and_then(|manager| manager.batteries()?.collect::<std::result::Result<Vec<_>, _>>());
    let batteries = match batteries {
        Ok(batteries) => batteries,
        Err(error) => {
            signals.push(Signal::new("supply", format_args!("unreadable: {error}"), FROM));
            return (Supply::Ac, false);
        }
    };
    let mut supply = Supply::Ac;
    for battery in &batteries {
        let (charge, state) = (battery.state_of_charge().get::<percent>(), battery.state());
        signals.push(Signal::new("supply", format_args!("battery {charge:.0}%, {state}"), FROM));
        if state == State::Discharging {
            supply = Supply::Battery { percent: Some(charge) };
        }
    }
    if batteries.is_empty() {
        signals.push(Signal::new("supply", "no battery", FROM));
    }
    (supply, !batteries.is_empty())
}
