//! Batteries of Linux's `power_supply` class: which of them the device runs on, what they hold, whether they are being
//! run down, and what they give.

use std::path::Path;

use super::Supply;
use super::policy::PERCENT;
use super::sysfs::{entries, name, number, text};

/// What the kernel's drivers of mice, keyboards, headsets, pens and game controllers call their batteries.
const PERIPHERALS: [&str; 13] = [
    "hid",
    "wacom",
    "wiimote",
    "sony_controller",
    "ps-controller",
    "nintendo",
    "steam",
    "xpad",
    "gip",
    "magic",
    "razer",
    "corsair",
    "logitech",
];
/// Words in the name of such a battery, or in that of its model.
const PERIPHERAL_WORDS: [&str; 12] = [
    "mouse",
    "keyboard",
    "trackball",
    "trackpad",
    "touchpad",
    "headset",
    "headphone",
    "earbud",
    "controller",
    "gamepad",
    "joystick",
    "stylus",
];
/// What the battery of a device measures, and that of a mouse does not.
const MEASURED: [&str; 9] = [
    "energy_full",
    "energy_full_design",
    "energy_now",
    "charge_full",
    "charge_full_design",
    "charge_now",
    "power_now",
    "current_now",
    "voltage_now",
];

/// Whether the battery or charger in `dir` is a mouse's or a headset's: by its `scope`; where a driver tells none, by
/// its name, and by how little it tells.
pub fn is_of_another_device(dir: &Path) -> bool {
    match text(&dir.join("scope")).as_deref() {
        Some("Device") => return true,
        Some("System") => return false,
        _ => {}
    }
    let name = name(dir).to_lowercase();
    if text(&dir.join("type")).as_deref() != Some("Battery") || name.starts_with("bat") {
        return false;
    }
    let measures = MEASURED.iter().any(|file| dir.join(file).exists());
    let model = text(&dir.join("model_name")).unwrap_or_default().to_lowercase();
    PERIPHERALS.iter().any(|start| name.starts_with(start))
        || PERIPHERAL_WORDS.iter().any(|word| name.contains(word) || model.contains(word))
        // Whether it is switched on is asked of another device only.
        || (!measures && dir.join("online").exists())
}

/// A battery, as far as its files could be read.
pub struct Battery {
    percent: Option<f32>,
    /// What it holds when it is full, in uWh.
    energy: Option<f32>,
    /// The same in uAh, which compares with batteries of the same voltage.
    charge: Option<f32>,
    /// The voltage, of its design where it tells that.
    volts: Option<f32>,
    status: Option<String>,
}

impl Battery {
    /// Reads the battery in `dir`.
    pub fn read(dir: &Path) -> Battery {
        let number = |name: &str| number(&dir.join(name));
        let positive = |name: &str| number(name).filter(|number| *number > 0.0);
        let full = |names: [&str; 2]| names.into_iter().find_map(positive);
        let energy = full(["energy_full", "energy_full_design"]);
        let charge = full(["charge_full", "charge_full_design"]);
        let part = |now: &str, full: Option<f32>| Some(100.0 * number(now)? / full?);
        let parts = || part("energy_now", energy).or_else(|| part("charge_now", charge));
        // Some drivers tell -1 or 255 where they do not know, and a battery may hold more than it says when it is full.
        let known = number("capacity").filter(|percent| PERCENT.contains(percent));
        let percent = known.or_else(|| parts().filter(|percent| *percent >= 0.0).map(|percent| percent.min(100.0)));
        let microvolts = ["voltage_min_design", "voltage_now", "voltage_max_design"].into_iter().find_map(positive);
        let volts = microvolts.map(|microvolts| microvolts / 1e6);
        Battery { percent, energy, charge, volts, status: text(&dir.join("status")) }
    }

    fn is(&self, status: &str) -> bool {
        self.status.as_deref() == Some(status)
    }

    /// Neither charged nor run down.
    fn rests(&self) -> bool {
        self.is("Full") || self.is("Not charging")
    }

    /// Charge and status for people.
    pub fn words(&self) -> String {
        let charge = self.percent.map_or("charge unreadable".to_string(), |percent| format!("{percent:.0}%"));
        format!("battery {charge}, {}", self.status.as_deref().unwrap_or("status unreadable"))
    }
}

/// The power in watts that the batteries below `root` give, which is `/` for the device itself. None where none of them
/// is being run down, where one charges, and where one does not tell what it gives.
pub fn discharge_watts(root: &Path) -> Option<f64> {
    let mut watts = 0.0;
    for dir in entries(&root.join("sys/class/power_supply")) {
        let is_battery = matches!(text(&dir.join("type")).as_deref(), Some("Battery" | "UPS"));
        if !is_battery || is_of_another_device(&dir) {
            continue;
        }
        match text(&dir.join("status")).as_deref() {
            Some("Charging") => return None,
            Some("Discharging") => watts += given_watts(&dir)?,
            _ => {}
        }
    }
    (watts > 0.0).then_some(watts)
}

/// The power of the battery in `dir`. Some drivers tell what is given as less than nothing.
fn given_watts(dir: &Path) -> Option<f64> {
    let size = |name: &str| number(&dir.join(name)).map(|number| f64::from(number).abs());
    let power = size("power_now").map(|microwatts| microwatts / 1e6);
    power.or_else(|| Some(size("current_now")? * size("voltage_now")? / 1e12))
}

/// Where the energy comes from, by what batteries say, and chargers, which are online or not.
///
/// What a battery says of itself counts more than a charger: the charger of a laptop's own socket is offline while it
/// charges through USB-C, and one that is too weak is online while the battery runs down.
pub fn supply_of(batteries: &[Battery], chargers: &[bool]) -> Supply {
    let (charges, online) = (batteries.iter().any(|battery| battery.is("Charging")), chargers.contains(&true));
    let drained = if batteries.iter().any(|battery| battery.is("Discharging")) {
        // With a charger, one of two batteries may do so while the other charges; without, one charges the other.
        !charges || (!online && !chargers.is_empty())
    } else if charges || batteries.iter().all(Battery::rests) {
        false
    } else if chargers.is_empty() {
        // No charger tells; a battery that says nothing is taken to be in use.
        !batteries.iter().any(Battery::rests)
    } else {
        !online
    };
    if batteries.is_empty() || !drained { Supply::Ac } else { Supply::Battery { percent: charge(batteries) } }
}

/// The charge of all batteries together, weighted by what they hold.
fn charge(batteries: &[Battery]) -> Option<f32> {
    let known: Vec<&Battery> = batteries.iter().filter(|battery| battery.percent.is_some()).collect();
    let weights = weights(&known);
    let charged: f32 = known.iter().zip(&weights).filter_map(|(battery, weight)| Some(battery.percent? * weight)).sum();
    (!known.is_empty()).then(|| charged / weights.iter().sum::<f32>())
}

/// What each battery holds when it is full, in the unit that most of them tell it in. A charge becomes energy by the
/// battery's own voltage, or else by that of another battery of the device. One whose unit is still another counts like
/// the average of the others, and all alike where none tells anything. One that tells nothing and is at 0% beside
/// others that do is a slot without a battery, or a dead one, and holds nothing.
fn weights(batteries: &[&Battery]) -> Vec<f32> {
    let volts = batteries.iter().find_map(|battery| battery.volts);
    let energy = |battery: &&Battery| battery.energy.or_else(|| Some(battery.charge? * battery.volts.or(volts)?));
    let energies: Vec<Option<f32>> = batteries.iter().map(energy).collect();
    let charges: Vec<Option<f32>> = batteries.iter().map(|battery| battery.charge).collect();
    let count = |told: &[Option<f32>]| told.iter().flatten().count();
    let told = if count(&charges) > count(&energies) { charges } else { energies };
    let average = match count(&told) {
        0 => return vec![1.0; batteries.len()],
        count => told.iter().flatten().sum::<f32>() / count as f32,
    };
    let is_nothing = |battery: &Battery| battery.percent == Some(0.0) && battery.energy.or(battery.charge).is_none();
    let weight =
        |(battery, told): (&&Battery, &Option<f32>)| told.unwrap_or(if is_nothing(battery) { 0.0 } else { average });
    batteries.iter().zip(&told).map(weight).collect()
}
