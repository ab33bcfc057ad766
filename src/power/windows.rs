//! The power state on Windows, from the WinRT class `PowerManager`. It is built by continuous integration, and was not
//! run on Windows. Effective power mode, heat and memory pressure are left out: they would take `unsafe` calls.

use ::windows::System::Power::{BatteryStatus, EnergySaverStatus, PowerManager, PowerSupplyStatus};

use super::{PowerSource, PowerState, Reading, Signal, Supply, Thermal};
use crate::error::Result;

/// The power state that Windows tells.
pub struct WindowsSource;

impl PowerSource for WindowsSource {
    fn read(&mut self) -> Result<Reading> {
        let mut signals = Vec::new();
        let battery = note(&mut signals, "BatteryStatus", PowerManager::BatteryStatus(), |status| match *status {
            BatteryStatus::NotPresent => "no battery".into(),
            BatteryStatus::Discharging => "discharging".into(),
            BatteryStatus::Charging => "charging".into(),
            _ => "idle".into(),
        });
        let mains =
            note(&mut signals, "PowerSupplyStatus", PowerManager::PowerSupplyStatus(), |status| match *status {
                PowerSupplyStatus::NotPresent => "no mains".into(),
                PowerSupplyStatus::Inadequate => "mains, inadequate".into(),
                _ => "mains".into(),
            });
        let percent = PowerManager::RemainingChargePercent();
        let percent = note(&mut signals, "RemainingChargePercent", percent, |percent| format!("{percent}%"));
        let saver = PowerManager::EnergySaverStatus();
        let saver = note(&mut signals, "EnergySaverStatus", saver, |status| match *status {
            EnergySaverStatus::On => "on".into(),
            EnergySaverStatus::Off => "off".into(),
            _ => "disabled".into(),
        });
        let has_battery = battery.is_some_and(|status| status != BatteryStatus::NotPresent);
        // A supply that does not keep up lets the battery run down; one that charges it is there, whatever it says.
        let drains = match battery {
            Some(BatteryStatus::Discharging) => true,
            Some(BatteryStatus::Charging | BatteryStatus::Idle) => false,
            _ => mains == Some(PowerSupplyStatus::NotPresent),
        };
        let supply = match has_battery && drains {
            true => Supply::Battery { percent: percent.map(|percent| percent as f32) },
            false => Supply::Ac,
        };
        let saver = saver == Some(EnergySaverStatus::On);
        let state = PowerState { supply, saver, thermal: Thermal::Nominal, memory_pressure: 0.0 };
        Ok(Reading { state, signals, follows: has_battery || saver })
    }
}

/// Notes what was read, and hands it on where it was readable.
fn note<T>(
    signals: &mut Vec<Signal>,
    what: &str,
    read: ::windows::core::Result<T>,
    words: impl Fn(&T) -> String,
) -> Option<T> {
    let name = if what == "EnergySaverStatus" { "saver" } else { "supply" };
    let value = read.as_ref().map_or_else(|error| format!("unreadable: {error}"), words);
    signals.push(Signal::new(name, value, format_args!("Windows.System.Power.PowerManager.{what}")));
    read.ok()
}
