//! The gauges of Linux, by files of the kernel; their root is a parameter, so that a tree of files stands in for a
//! machine.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::gauges::{Counter, CounterGauge, EnergyGauge, PowerGauge};
use crate::engine::DeviceInfo;
use crate::power::discharge_watts;

/// The drivers of GPUs that tell energy or power, and words in the names of the devices that are theirs.
const GPU_DRIVERS: [(&str, &[&str]); 3] = [("amdgpu", &["AMD", "Radeon"]), ("i915", &["Intel"]), ("xe", &["Intel"])];
/// What a GPU's driver tells is an average over less than this.
const GPU_LEAST: Duration = Duration::from_secs(1);
/// What a battery tells is of the last seconds.
const BATTERY_LEAST: Duration = Duration::from_secs(5);

/// The counters of the processor's packages and of the memory beside them; none where there are no counters. Fails
/// with the file that cannot be read.
pub fn rapl(root: &Path) -> Result<Option<Box<dyn EnergyGauge>>, PathBuf> {
    let (mut names, mut counters) = (Vec::new(), Vec::new());
    for zone in entries(&root.join("sys/class/powercap"), "intel-rapl:") {
        let name = text(&zone.join("name")).unwrap_or_default();
        // The other zones are parts of a package, or the whole board.
        if name.starts_with("package") || name == "dram" {
            counters.push(counter(zone.join("energy_uj"), number(&zone.join("max_energy_range_uj")))?);
            names.push(name);
        }
    }
    Ok(gauge_of("RAPL", &names, counters))
}

/// What the driver of a GPU tells of it. None where it tells nothing, and where there are several GPUs whose driver
/// could be the device's.
pub fn gpu(root: &Path, device: &DeviceInfo) -> Option<Box<dyn EnergyGauge>> {
    let driver_of = |dir: &PathBuf| {
        let name = text(&dir.join("name"))?;
        let (_, words) = GPU_DRIVERS.iter().find(|(driver, _)| *driver == name)?;
        words.iter().any(|word| device.name.contains(word)).then_some(name)
    };
    let mut all = entries(&root.join("sys/class/hwmon"), "hwmon");
    all.retain(|dir| driver_of(dir).is_some());
    let [dir] = &all[..] else { return None };
    let driver = driver_of(dir)?;
    if let Ok(counter) = counter(dir.join("energy1_input"), None) {
        return gauge_of(&driver, &["energy1_input".to_string()], vec![counter]);
    }
    let power = ["power1_average", "power1_input"].into_iter().find(|file| microwatts(&dir.join(file)).is_some())?;
    let file = dir.join(power);
    let show = move || microwatts(&file).map(|power| power / 1e6);
    Some(Box::new(PowerGauge::of(format!("{driver} {power}"), GPU_LEAST, Box::new(show))))
}

/// What the batteries give, where the machine runs on them.
pub fn battery(root: &Path) -> Option<Box<dyn EnergyGauge>> {
    discharge_watts(root)?;
    let root = root.to_path_buf();
    let show = move || discharge_watts(&root);
    Some(Box::new(PowerGauge::of("battery, of the whole machine".to_string(), BATTERY_LEAST, Box::new(show))))
}

/// A gauge of counters, if there are any.
fn gauge_of(kind: &str, names: &[String], counters: Vec<Counter>) -> Option<Box<dyn EnergyGauge>> {
    let gauge = CounterGauge::of(format!("{kind} {}", names.join(", ")), counters);
    (!names.is_empty()).then(|| Box::new(gauge) as Box<dyn EnergyGauge>)
}

/// The counter in a file, which begins at 0 again after `range`. Fails with the file where it cannot be read.
fn counter(file: PathBuf, range: Option<u64>) -> Result<Counter, PathBuf> {
    match number(&file) {
        Some(last) => Ok(Counter { show: Box::new(move || number(&file)), range, last }),
        None => Err(file),
    }
}

fn microwatts(file: &Path) -> Option<f64> {
    number::<u64>(file).map(|power| power as f64)
}

/// What is in a folder and has a name that begins so, by name; nothing where it cannot be read.
fn entries(dir: &Path, start: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(start));
    let mut paths: Vec<PathBuf> = named.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The text of a file, where it can be read.
fn text(file: &Path) -> Option<String> {
    std::fs::read_to_string(file).ok().map(|text| text.trim().to_string())
}

/// The number in a file, where there is one.
fn number<T: FromStr>(file: &Path) -> Option<T> {
    text(file)?.parse().ok()
}
