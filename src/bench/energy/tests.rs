//! The gauges on made-up trees of files, and on readings at chosen times.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

use super::gauges::{Counter, CounterGauge, PowerGauge};
use super::*;

/// A tree of (file below `sys/class`, content).
fn tree(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    files.iter().for_each(|(file, content)| write(&root, file, content));
    root
}

fn write(root: &TempDir, file: &str, content: &str) {
    let path = root.path().join("sys/class").join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, format!("{content}\n")).unwrap();
}

fn device(kind: DeviceKind, name: &str) -> DeviceInfo {
    let (name, backend, driver) = (name.to_string(), String::new(), String::new());
    DeviceInfo { index: Some(0), name, kind, backend, driver, features: Vec::new() }
}

fn meter(root: &TempDir, kind: DeviceKind, name: &str) -> EnergyMeter {
    EnergyMeter::of(&device(kind, name), root.path())
}

/// The packages of a machine with two of them, one with its memory told apart.
const TWO_PACKAGES: [(&str, &str); 12] = [
    ("powercap/intel-rapl:0/name", "package-0"),
    ("powercap/intel-rapl:0/energy_uj", "1000000"),
    ("powercap/intel-rapl:0/max_energy_range_uj", "262143328850"),
    ("powercap/intel-rapl:0:0/name", "core"),
    ("powercap/intel-rapl:0:0/energy_uj", "5"),
    ("powercap/intel-rapl:0:1/name", "dram"),
    ("powercap/intel-rapl:0:1/energy_uj", "65000000000"),
    ("powercap/intel-rapl:0:1/max_energy_range_uj", "65712999613"),
    ("powercap/intel-rapl:1/name", "package-1"),
    ("powercap/intel-rapl:1/energy_uj", "262143000000"),
    ("powercap/intel-rapl:1/max_energy_range_uj", "262143328850"),
    ("powercap/intel-rapl:2/name", "psys"),
];
const DISCHARGING: [(&str, &str); 3] = [
    ("power_supply/BAT0/type", "Battery"),
    ("power_supply/BAT0/status", "Discharging"),
    ("power_supply/BAT0/power_now", "9500000"),
];

#[test]
fn packages_and_their_memory_are_added_up_over_the_ends_of_their_ranges() {
    let root = tree(&TWO_PACKAGES);
    let mut meter = meter(&root, DeviceKind::Processor, "processor");
    assert_eq!((meter.source(), meter.unreadable()), (Some("RAPL package-0, dram, package-1"), None));
    let (done, joules) = meter.around(|| {
        write(&root, "powercap/intel-rapl:0/energy_uj", "3500000");
        write(&root, "powercap/intel-rapl:0:0/energy_uj", "999999999");
        write(&root, "powercap/intel-rapl:0:1/energy_uj", "65250000000");
        // Its range ended: 328850 up to there, and 671150 more.
        write(&root, "powercap/intel-rapl:1/energy_uj", "671150");
        7
    });
    assert_eq!(done, 7);
    assert!((joules.unwrap() - 253.5).abs() < 1e-9, "{joules:?}");
    // What was taken before the work began does not count.
    write(&root, "powercap/intel-rapl:0/energy_uj", "9000000");
    let joules = meter.around(|| write(&root, "powercap/intel-rapl:0/energy_uj", "9250000")).1;
    assert!((joules.unwrap() - 0.25).abs() < 1e-9, "{joules:?}");
    assert_eq!(meter.around(|| ()).1, None, "a counter that stands still tells nothing");
    let spoilt = meter.around(|| write(&root, "powercap/intel-rapl:1/energy_uj", "what")).1;
    assert_eq!(spoilt, None);
}

#[test]
fn a_counter_that_cannot_be_read_is_named_and_the_battery_takes_its_place() {
    // No file can be read that is a folder, whoever asks.
    let locked = [("powercap/intel-rapl:0/name", "package-0"), ("powercap/intel-rapl:0/energy_uj/x", "")];
    let root = tree(&locked);
    let meter = |root: &TempDir| meter(root, DeviceKind::Processor, "processor");
    let mut nothing = meter(&root);
    assert_eq!(nothing.source(), None);
    assert!(nothing.unreadable().unwrap().ends_with("intel-rapl:0/energy_uj"));
    assert_eq!(nothing.around(|| 3), (3, None));
    let root = tree(&[&locked[..], &DISCHARGING].concat());
    assert_eq!(meter(&root).source(), Some("battery, of the whole machine"));
    // Control: a machine that tells nothing.
    let nothing = meter(&tree(&[]));
    assert_eq!((nothing.source(), nothing.unreadable()), (None, None));
    assert_eq!(EnergyMeter::none().source(), None);
}

#[test]
fn a_battery_counts_while_it_runs_down() {
    let of = |files: &[(&str, &str)]| discharge(&tree(files));
    let laptop = |status, more: [(&'static str, &'static str); 2]| {
        let own = [("power_supply/BAT0/type", "Battery"), ("power_supply/BAT0/status", status)];
        of(&[&own[..], &more].concat())
    };
    let none = ("power_supply/AC/type", "Mains");
    let power = [("power_supply/BAT0/power_now", "9500000"), none];
    let current = [("power_supply/BAT0/current_now", "-800000"), ("power_supply/BAT0/voltage_now", "12000000")];
    assert_eq!(laptop("Discharging", power), Some(9.5));
    assert!((laptop("Discharging", current).unwrap() - 9.6).abs() < 1e-6);
    for status in ["Charging", "Full", "Not charging", "Unknown"] {
        assert_eq!(laptop(status, power), None, "{status}");
    }
    assert_eq!(laptop("Discharging", [none, none]), None, "it tells no power");
    let second = |status| [("power_supply/BAT1/type", "Battery"), ("power_supply/BAT1/status", status)];
    let of_two =
        |status, power| of(&[&DISCHARGING[..], &second(status), &[("power_supply/BAT1/power_now", power)]].concat());
    assert_eq!(of_two("Discharging", "500000"), Some(10.0));
    assert_eq!(of_two("Full", "0"), Some(9.5));
    assert_eq!(of_two("Charging", "500000"), None, "one charges the other");
    let mouse = [
        ("power_supply/hidpp_battery_0/type", "Battery"),
        ("power_supply/hidpp_battery_0/scope", "Device"),
        ("power_supply/hidpp_battery_0/status", "Discharging"),
        ("power_supply/hidpp_battery_0/power_now", "1000"),
    ];
    assert_eq!(of(&mouse), None);
}

fn discharge(root: &TempDir) -> Option<f64> {
    crate::power::discharge_watts(root.path())
}

#[test]
fn a_gpu_is_told_by_its_driver_and_no_other() {
    let amd = [("hwmon/hwmon3/name", "amdgpu"), ("hwmon/hwmon3/power1_average", "31000000")];
    let root = tree(&[&amd[..], &[("hwmon/hwmon0/name", "nvme"), ("hwmon/hwmon0/power1_average", "1")]].concat());
    let card = "AMD Radeon RX 6600 (RADV NAVI23)";
    let source = |root: &TempDir, kind, name| meter(root, kind, name).source().map(str::to_string);
    assert_eq!(source(&root, DeviceKind::DiscreteGpu, card).as_deref(), Some("amdgpu power1_average"));
    assert_eq!(source(&root, DeviceKind::DiscreteGpu, "NVIDIA GeForce RTX 3060"), None);
    assert_eq!(source(&root, DeviceKind::Processor, "processor"), None);
    write(&root, "hwmon/hwmon4/name", "amdgpu");
    assert_eq!(source(&root, DeviceKind::DiscreteGpu, card), None, "either of two could be the device's");

    let arc = [("hwmon/hwmon1/name", "i915"), ("hwmon/hwmon1/energy1_input", "4000000")];
    let root = tree(&[&arc[..], &TWO_PACKAGES].concat());
    let mut meter = meter(&root, DeviceKind::DiscreteGpu, "Intel(R) Arc(tm) A380 Graphics (DG2)");
    assert_eq!(meter.source(), Some("i915 energy1_input"));
    let joules = meter.around(|| write(&root, "hwmon/hwmon1/energy1_input", "6500000")).1;
    assert_eq!(joules, Some(2.5));
    // A GPU in the processor's package that its driver does not tell of.
    let vega = source(&root, DeviceKind::IntegratedGpu, "AMD Radeon Vega 8");
    assert_eq!(vega.as_deref(), Some("RAPL package-0, dram, package-1"));
}

#[test]
fn powers_are_added_up_over_time_from_the_least_time_on() {
    let milliwatts = Arc::new(AtomicU64::new(4000));
    let shown = milliwatts.clone();
    let show = move || Some(shown.load(Ordering::Relaxed) as f64 / 1e3).filter(|watts| *watts > 0.0);
    let mut gauge = PowerGauge::of("a battery".to_string(), Duration::from_secs(5), Box::new(show));
    let read = |gauge: &mut PowerGauge, at: u64, now: u64| {
        milliwatts.store(now, Ordering::Relaxed);
        gauge.read(Duration::from_secs(at));
    };
    assert_eq!(gauge.joules(), None);
    gauge.begin();
    read(&mut gauge, 2, 4000);
    assert_eq!(gauge.joules(), None, "too soon");
    read(&mut gauge, 6, 8000);
    assert_eq!(gauge.joules(), Some(2.0 * 4.0 + 4.0 * 6.0));
    // It is charged for a while.
    read(&mut gauge, 7, 0);
    read(&mut gauge, 8, 4000);
    assert_eq!(gauge.joules(), None);
    gauge.begin();
    read(&mut gauge, 5, 4000);
    assert_eq!(gauge.joules(), Some(20.0));
}

#[test]
fn a_counter_without_a_range_that_falls_tells_nothing() {
    let value = Arc::new(AtomicU64::new(5_000_000));
    let of = |range| {
        let shown = value.clone();
        let show = move || Some(shown.load(Ordering::Relaxed));
        CounterGauge::of("a counter".to_string(), vec![Counter { show: Box::new(show), range, last: 0 }])
    };
    let falls = |range| {
        let mut gauge = of(range);
        value.store(5_000_000, Ordering::Relaxed);
        gauge.begin();
        value.store(1_000_000, Ordering::Relaxed);
        gauge.read(EVERY);
        gauge.joules()
    };
    assert_eq!((falls(None), falls(Some(6_000_000))), (None, Some(2.0)));
    assert_eq!(falls(Some(3_000_000)), None, "the range is less than what was shown");
}
