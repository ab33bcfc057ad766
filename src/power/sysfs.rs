//! The power state on Linux, from the files of the kernel; their root is a parameter, so that a tree of files stands in
//! for a device.

use std::path::{Path, PathBuf};

use super::battery::{Battery, is_of_another_device, supply_of};
use super::{PowerSource, PowerState, Reading, Signal, Supply, Thermal};
use crate::error::Result;

/// This far below the trip point at which the kernel turns the device off, it must cool down.
const BELOW_CRITICAL_C: f32 = 5.0;
/// This far below the trip point at which the kernel slows the device down, it is warm.
const BELOW_PASSIVE_C: f32 = 5.0;
/// Trip points that drivers leave unset are 0, negative or absurd.
const TRIPS_C: std::ops::Range<f32> = 1.0..200.0;

/// What `sys` and `proc` under a root tell.
#[derive(Debug, Clone)]
pub struct SysfsSource {
    root: PathBuf,
}

impl SysfsSource {
    /// The source under `root`, which is `/` for the device itself.
    pub fn new(root: impl Into<PathBuf>) -> SysfsSource {
        SysfsSource { root: root.into() }
    }
}

impl PowerSource for SysfsSource {
    fn read(&mut self) -> Result<Reading> {
        let mut signals = Vec::new();
        let (supply, has_battery) = supply(&self.root.join("sys/class/power_supply"), &mut signals);
        let saver = saver(&self.root, &mut signals);
        let thermal = thermal(&self.root.join("sys/class/thermal"), &mut signals);
        let memory_pressure = memory_pressure(&self.root.join("proc/pressure/memory"), &mut signals);
        let state = PowerState { supply, saver, thermal, memory_pressure };
        Ok(Reading { state, signals, follows: has_battery || saver })
    }
}

/// Where the energy comes from, and whether there is a battery that the device runs on.
fn supply(class: &Path, signals: &mut Vec<Signal>) -> (Supply, bool) {
    let mut batteries = Vec::new();
    // Whether each charger supplies, where that is readable.
    let mut chargers = Vec::new();
    for dir in entries(class) {
        if is_of_another_device(&dir) {
            signals.push(Signal::new("supply", "another device's, left out", dir.display()));
            continue;
        }
        let kind = text(&dir.join("type"));
        match kind.as_deref() {
            Some("Battery" | "UPS") if text(&dir.join("present")).as_deref() == Some("0") => {
                signals.push(Signal::new("supply", "battery, not present", dir.display()));
            }
            Some("Battery" | "UPS") => {
                let battery = Battery::read(&dir);
                signals.push(Signal::new("supply", battery.words(), dir.display()));
                batteries.push(battery);
            }
            Some(kind) => {
                let online = number(&dir.join("online")).map(|online| online > 0.0);
                let words = match online {
                    Some(true) => "online",
                    Some(false) => "offline",
                    None => "unreadable",
                };
                signals.push(Signal::new("supply", format_args!("{kind} {words}"), dir.display()));
                chargers.extend(online);
            }
            None => signals.push(Signal::new("supply", "type unreadable", dir.display())),
        }
    }
    if batteries.is_empty() {
        signals.push(Signal::new("supply", "no battery", class.display()));
    }
    (supply_of(&batteries, &chargers), !batteries.is_empty())
}

/// Whether the firmware or the processor was told to save, as power-profiles-daemon, tuned and TLP tell them.
fn saver(root: &Path, signals: &mut Vec<Signal>) -> bool {
    let mut says = |file: &str, saving: &str| {
        let file = root.join(file);
        let profile = text(&file);
        signals.push(Signal::new("saver", profile.as_deref().unwrap_or("unknown"), file.display()));
        profile.as_deref() == Some(saving)
    };
    let firmware = says("sys/firmware/acpi/platform_profile", "low-power");
    let processor = says("sys/devices/system/cpu/cpufreq/policy0/energy_performance_preference", "power");
    firmware || processor
}

/// How hot the hottest zone is, by its own trip points.
fn thermal(class: &Path, signals: &mut Vec<Signal>) -> Thermal {
    let zones = entries(class).into_iter().filter(|dir| name(dir).starts_with("thermal_zone"));
    let known = zones.filter_map(|dir| zone(&dir));
    match known.max_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))) {
        Some((thermal, temperature, from)) => {
            let words = format_args!("{}, {temperature:.0} °C", thermal.name());
            signals.push(Signal::new("thermal", words, from.display()));
            thermal
        }
        None => {
            signals.push(Signal::new("thermal", "unknown", class.display()));
            Thermal::Nominal
        }
    }
}

/// State and temperature of a zone that is in use.
fn zone(dir: &Path) -> Option<(Thermal, f32, PathBuf)> {
    if text(&dir.join("mode")).as_deref() == Some("disabled") {
        return None;
    }
    let degrees = |name: &str| number(&dir.join(name)).map(|milli| milli / 1000.0);
    let temperature = degrees("temp")?;
    let mut thermal = Thermal::Nominal;
    // Trip points are numbered without gaps.
    for at in 0.. {
        let Some(kind) = text(&dir.join(format!("trip_point_{at}_type"))) else { break };
        let Some(trip) = degrees(&format!("trip_point_{at}_temp")).filter(|trip| TRIPS_C.contains(trip)) else {
            continue;
        };
        thermal = thermal.max(match kind.as_str() {
            "critical" if temperature >= trip - BELOW_CRITICAL_C => Thermal::Critical,
            "hot" if temperature >= trip => Thermal::Critical,
            "passive" if temperature >= trip => Thermal::Serious,
            "passive" if temperature >= trip - BELOW_PASSIVE_C => Thermal::Fair,
            _ => Thermal::Nominal,
        });
    }
    Some((thermal, temperature, dir.join("temp")))
}

/// Part of the last ten seconds in which some task waited for memory, in percent.
fn memory_pressure(file: &Path, signals: &mut Vec<Signal>) -> f32 {
    let some = text(file).and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
        let value = line.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?;
        value.parse().ok().filter(|percent| (0.0..=100.0).contains(percent))
    });
    let value = some.map_or("unknown".to_string(), |percent: f32| format!("{percent:.1}% of the time"));
    signals.push(Signal::new("memory", value, file.display()));
    some.unwrap_or(0.0)
}

/// What is in a folder, by name; nothing where it cannot be read.
pub(super) fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The last part of a path.
pub(super) fn name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// The text of a file, where it can be read and is not empty.
pub(super) fn text(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_string())
}

/// The number in a file, where there is one.
pub(super) fn number(file: &Path) -> Option<f32> {
    text(file)?.parse().ok().filter(|number: &f32| number.is_finite())
}

#[cfg(test)]
#[path = "sysfs_tests.rs"]
mod tests;
