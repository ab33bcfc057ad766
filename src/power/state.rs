//! The power state of a device, each signal with the place where it was read, and the trait of what reads it.

use serde::Serialize;

use crate::error::Result;

/// What reads the power state. An application whose device knows more than the operating system brings its own.
pub trait PowerSource: Send {
    /// Reads the state as it is now. What cannot be read is left at its best value, and told as a signal.
    fn read(&mut self) -> Result<Reading>;
}

/// Where the energy comes from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum Supply {
    /// The mains, whether a battery is being charged or not.
    Ac,
    /// A battery that is being discharged.
    Battery {
        /// Its charge, 0 to 100, of all batteries together; where it is known.
        percent: Option<f32>,
    },
}

/// How hot the device is, in the steps that operating systems tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Thermal {
    /// Nothing is limited.
    #[default]
    Nominal,
    /// Warm: still nothing is limited.
    Fair,
    /// Hot: the device slows itself down.
    Serious,
    /// So hot that the device must cool down.
    Critical,
}

impl Thermal {
    /// Every step, by its name.
    pub const NAMES: [(&'static str, Thermal); 4] = [
        ("nominal", Thermal::Nominal),
        ("fair", Thermal::Fair),
        ("serious", Thermal::Serious),
        ("critical", Thermal::Critical),
    ];

    /// The step's name.
    pub fn name(self) -> &'static str {
        Thermal::NAMES.iter().find(|(_, thermal)| *thermal == self).expect("every step has a name").0
    }
}

/// The power state of a device.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct PowerState {
    /// Where the energy comes from.
    #[serde(flatten)]
    pub supply: Supply,
    /// Whether the operating system's energy saver is on.
    pub saver: bool,
    /// How hot the device is.
    pub thermal: Thermal,
    /// Part of the time in which some task waits for memory, in percent.
    pub memory_pressure: f32,
}

impl PowerState {
    /// A device on the mains about which nothing is to be said.
    pub const AC: PowerState =
        PowerState { supply: Supply::Ac, saver: false, thermal: Thermal::Nominal, memory_pressure: 0.0 };

    /// The state in a few words, such as `battery 18%, saver on`.
    pub fn words(&self) -> String {
        let mut words = match self.supply {
            Supply::Ac => "AC".to_string(),
            Supply::Battery { percent: Some(percent) } => format!("battery {percent:.0}%"),
            Supply::Battery { percent: None } => "battery, charge unknown".to_string(),
        };
        if self.saver {
            words += ", saver on";
        }
        if self.thermal > Thermal::Fair {
            words = words + ", thermal " + self.thermal.name();
        }
        words
    }
}

/// One signal as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Signal {
    /// What it tells: `supply`, `saver`, `thermal` or `memory`.
    pub name: &'static str,
    /// What was read, in words.
    pub value: String,
    /// The file or interface that was read.
    pub from: String,
}

impl Signal {
    /// The signal `name`, read as `value` from `from`.
    pub fn new(name: &'static str, value: impl ToString, from: impl ToString) -> Signal {
        Signal { name, value: value.to_string(), from: from.to_string() }
    }
}

/// A state with the signals that make it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The state.
    pub state: PowerState,
    /// What was read for it, and where.
    pub signals: Vec<Signal>,
    /// Whether there is a battery or an energy saver, so that following the state means anything.
    pub follows: bool,
}
