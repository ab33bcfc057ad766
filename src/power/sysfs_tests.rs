//! Tests of the Linux probe on made-up trees of files, one for each kind of device.

use tempfile::TempDir;

use super::*;

/// A tree of (file, content).
fn tree(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (file, content) in files {
        let path = root.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("{content}\n")).unwrap();
    }
    root
}

fn read(root: &TempDir) -> Reading {
    SysfsSource::new(root.path()).read().unwrap()
}

/// The supply by the files of `sys/class/power_supply`, and whether there is anything to follow.
fn supply_of(files: &[(&str, &str)]) -> (Supply, bool) {
    let files: Vec<(String, &str)> =
        files.iter().map(|(file, content)| (format!("sys/class/power_supply/{file}"), *content)).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(file, content)| (file.as_str(), *content)).collect();
    let reading = read(&tree(&files));
    (reading.state.supply, reading.follows)
}

fn battery(percent: f32) -> Supply {
    Supply::Battery { percent: Some(percent) }
}

const AC_ON: [(&str, &str); 2] = [("AC/type", "Mains"), ("AC/online", "1")];
const AC_OFF: [(&str, &str); 2] = [("AC/type", "Mains"), ("AC/online", "0")];

#[test]
fn a_desktop_is_on_ac_and_there_is_nothing_to_follow() {
    assert_eq!(supply_of(&[]), (Supply::Ac, false));
    assert_eq!(supply_of(&AC_ON), (Supply::Ac, false));
    let reading = read(&tree(&[]));
    assert_eq!(reading.state, PowerState::AC);
    let told: Vec<(&str, &str)> = reading.signals.iter().map(|s| (s.name, s.value.as_str())).collect();
    assert_eq!(
        told,
        [
            ("supply", "no battery"),
            ("saver", "unknown"),
            ("saver", "unknown"),
            ("thermal", "unknown"),
            ("memory", "unknown")
        ]
    );
}

/// These counted as an empty battery and as a full one.
#[test]
fn a_charge_that_cannot_be_is_unknown() {
    let drained = [("BAT0/type", "Battery"), ("BAT0/status", "Discharging")];
    for capacity in ["-1", "255", "NaN", ""] {
        let files = [&drained[..], &[("BAT0/capacity", capacity)]].concat();
        assert_eq!(supply_of(&files), (Supply::Battery { percent: None }, true), "{capacity}");
        // What it holds tells more.
        let files = [&files[..], &[("BAT0/energy_now", "30"), ("BAT0/energy_full", "40")]].concat();
        assert_eq!(supply_of(&files), (battery(75.0), true), "{capacity}");
    }
    let worn = [&drained[..], &[("BAT0/energy_now", "41"), ("BAT0/energy_full", "40")]].concat();
    assert_eq!(supply_of(&worn).0, battery(100.0));
    let broken = [&drained[..], &[("BAT0/energy_now", "-1"), ("BAT0/energy_full", "40")]].concat();
    assert_eq!(supply_of(&broken).0, Supply::Battery { percent: None });
}

#[test]
fn a_laptop_is_on_ac_or_on_its_battery() {
    let laptop = |status, ac: [_; 2]| {
        supply_of(&[&ac[..], &[("BAT0/type", "Battery"), ("BAT0/status", status), ("BAT0/capacity", "63")]].concat())
    };
    for status in ["Charging", "Full", "Not charging", "Unknown"] {
        assert_eq!(laptop(status, AC_ON), (Supply::Ac, true), "{status}");
    }
    for (status, ac) in [("Discharging", AC_OFF), ("Unknown", AC_OFF), ("Discharging", AC_ON)] {
        assert_eq!(laptop(status, ac), (battery(63.0), true), "{status}");
    }
}

#[test]
fn a_battery_that_is_not_run_down_is_on_ac_whatever_the_charger_says() {
    let usb = |online| [("ucsi/type", "USB"), ("ucsi/online", online)];
    for status in ["Charging", "Full", "Not charging"] {
        let bat = [("BAT0/type", "Battery"), ("BAT0/status", status), ("BAT0/capacity", "63")];
        for chargers in [&AC_OFF[..], &[&AC_OFF[..], &usb("0")].concat(), &[&AC_OFF[..], &usb("1")].concat(), &[]] {
            assert_eq!(supply_of(&[&bat[..], chargers].concat()), (Supply::Ac, true), "{status} {chargers:?}");
        }
    }
    // Control: what is discharged is run down, and of what says nothing the charger decides.
    let of = |statuses: [&'static str; 2], ac: [(&'static str, &'static str); 2]| {
        let two = [
            ("BAT0/type", "Battery"),
            ("BAT0/status", statuses[0]),
            ("BAT0/capacity", "80"),
            ("BAT1/type", "Battery"),
            ("BAT1/status", statuses[1]),
            ("BAT1/capacity", "40"),
        ];
        supply_of(&[&two[..], &ac].concat()).0
    };
    assert_eq!(of(["Charging", "Unknown"], AC_OFF), Supply::Ac);
    assert_eq!(of(["Full", "Not charging"], AC_OFF), Supply::Ac);
    assert_eq!(of(["Full", "Discharging"], AC_OFF), battery(60.0));
    assert_eq!(of(["Full", "Unknown"], AC_OFF), battery(60.0));
    assert_eq!(of(["Full", "Unknown"], AC_ON), Supply::Ac);
    // One battery that charges another.
    assert_eq!(of(["Charging", "Discharging"], AC_OFF), battery(60.0));
    assert_eq!(of(["Charging", "Discharging"], AC_ON), Supply::Ac);
}

#[test]
fn the_battery_of_a_mouse_is_left_out() {
    let mouse = [
        ("hidpp_battery_0/type", "Battery"),
        ("hidpp_battery_0/scope", "Device"),
        ("hidpp_battery_0/status", "Discharging"),
        ("hidpp_battery_0/capacity", "5"),
    ];
    assert_eq!(supply_of(&mouse), (Supply::Ac, false));
    // Control: a battery of the device's own, as told by its scope, counts.
    let scoped = |scope| mouse.map(|(file, content)| (file, if file.ends_with("scope") { scope } else { content }));
    assert_eq!(supply_of(&scoped("System")), (battery(5.0), true));
}

#[test]
fn a_mouse_that_does_not_tell_its_scope_is_left_out() {
    let laptop = [("BAT0/type", "Battery"), ("BAT0/status", "Discharging"), ("BAT0/capacity", "90")];
    let other = |name: &str, more: &[(&str, &str)]| {
        let files = [("type", "Battery"), ("status", "Discharging"), ("capacity", "5")];
        let files: Vec<(String, String)> =
            files.iter().chain(more).map(|(file, content)| (format!("{name}/{file}"), content.to_string())).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(file, content)| (file.as_str(), content.as_str())).collect();
        [supply_of(&files), supply_of(&[&laptop[..], &files].concat())]
    };
    let left_out = [(Supply::Ac, false), (battery(90.0), true)];
    for (name, more) in [
        ("hidpp_battery_0", &[("model_name", "MX Master"), ("voltage_now", "3900000")][..]),
        ("hid-00:1f:20:aa:bb:cc-battery", &[]),
        ("hid-0005:05AC:0256.0001-battery", &[("present", "1")]),
        ("wacom_battery_1", &[]),
        ("sony_controller_battery_aa:bb", &[]),
        ("ps-controller-battery-aa:bb", &[]),
        ("nintendo_switch_controller_battery_0", &[]),
        ("dongle", &[("model_name", "Wireless Mouse")]),
        ("dongle", &[("model_name", "Surface Keyboard")]),
        ("dongle", &[("online", "1")]),
        ("dongle", &[("scope", "Unknown"), ("online", "1")]),
        ("corsair-void-battery", &[]),
    ] {
        assert_eq!(other(name, more), left_out, "{name} {more:?}");
    }
    // Control: what measures itself is the device's own, and so is what is called as one.
    for (name, more) in [
        ("sbs-9-000b", &[("charge_now", "1000"), ("online", "1")][..]),
        ("max17040", &[("voltage_now", "3900000"), ("online", "1")]),
        ("BAT1", &[("online", "1")]),
        ("battery", &[("online", "1")]),
        ("CMB0", &[]),
        ("hid-sensor", &[("scope", "System")]),
    ] {
        assert_eq!(other(name, more), [(battery(5.0), true), (battery(47.5), true)], "{name} {more:?}");
    }
}

#[test]
fn two_batteries_are_one_by_what_they_hold() {
    let two = |status: [&'static str; 2], full: [&'static str; 2], ac: [(&'static str, &'static str); 2]| {
        let files = [
            ("BAT0/type", "Battery"),
            ("BAT0/status", status[0]),
            ("BAT0/capacity", "100"),
            ("BAT0/energy_full", full[0]),
            ("BAT1/type", "Battery"),
            ("BAT1/status", status[1]),
            ("BAT1/capacity", "20"),
            ("BAT1/energy_full", full[1]),
        ];
        supply_of(&[&ac[..], &files].concat()).0
    };
    let full = ["10000000", "30000000"];
    assert_eq!(two(["Not charging", "Discharging"], full, AC_OFF), battery(40.0));
    // Where one does not tell, they weigh the same.
    assert_eq!(two(["Not charging", "Discharging"], ["10000000", ""], AC_OFF), battery(60.0));
    assert_eq!(two(["Unknown", "Charging"], full, AC_ON), Supply::Ac);
    assert_eq!(two(["Discharging", "Charging"], full, AC_ON), Supply::Ac);
}

#[test]
fn batteries_in_different_units_are_added_in_one() {
    let two = |first: &[(&'static str, &'static str)], second: &[(&'static str, &'static str)]| {
        let of = |name: &str, capacity: &str, more: &[(&'static str, &'static str)]| {
            let files = [("type", "Battery"), ("status", "Discharging"), ("capacity", capacity)];
            let named = |(file, content): &(&str, &str)| (format!("{name}/{file}"), content.to_string());
            files.iter().chain(more).map(named).collect::<Vec<_>>()
        };
        let files = [of("BAT0", "90", first), of("BAT1", "10", second)].concat();
        let files: Vec<(&str, &str)> = files.iter().map(|(file, content)| (file.as_str(), content.as_str())).collect();
        supply_of(&files).0
    };
    let (energy, charge) = (("energy_full", "30000000"), ("charge_full", "1000000"));
    // 1 Ah at 10 V are 10 Wh, beside 30 Wh.
    for volts in ["voltage_min_design", "voltage_now"] {
        assert_eq!(two(&[energy], &[charge, (volts, "10000000")]), battery(70.0), "{volts}");
    }
    // The design's voltage is that of an average; the one of now is not.
    let both = [charge, ("voltage_min_design", "10000000"), ("voltage_now", "12000000")];
    assert_eq!(two(&[energy], &both), battery(70.0));
    // Without a voltage there is no common unit; with none at all there is.
    assert_eq!(two(&[energy], &[charge]), battery(50.0));
    assert_eq!(two(&[("charge_full", "3000000")], &[charge]), battery(70.0));
    assert_eq!(two(&[("charge_full", "3000000")], &both), battery(70.0));
    // Batteries of one device have about one voltage, so that of another one will do.
    assert_eq!(two(&[energy, ("voltage_min_design", "10000000")], &[charge]), battery(70.0));
    // A full charge of 0 is none.
    assert_eq!(two(&[("energy_full", "0"), ("energy_full_design", "30000000")], &both), battery(70.0));
    assert_eq!(two(&[("energy_full", "0")], &both), battery(50.0));
}

/// The charge was halved, and a third battery that tells nothing made all of them count alike.
#[test]
fn a_battery_of_which_nothing_is_known_leaves_the_weights_of_the_others() {
    let of = |name: &str, percent: &str, more: &[(&str, &str)]| {
        let files = [("type", "Battery"), ("status", "Discharging"), ("capacity", percent)];
        let named = |(file, content): &(&str, &str)| (format!("{name}/{file}"), content.to_string());
        files.iter().chain(more).map(named).collect::<Vec<_>>()
    };
    let supply = |batteries: &[Vec<(String, String)>]| {
        let files = batteries.concat();
        supply_of(&files.iter().map(|(file, content)| (file.as_str(), content.as_str())).collect::<Vec<_>>()).0
    };
    let large = of("BAT0", "80", &[("energy_full", "30000000")]);
    for nothing in [&[][..], &[("energy_full", "0"), ("energy_now", "0")], &[("energy_full_design", "0")]] {
        assert_eq!(supply(&[large.clone(), of("BAT1", "0", nothing)]), battery(80.0), "{nothing:?}");
    }
    // Control: one that is empty and tells what it could hold counts.
    for told in [("energy_full", "10000000"), ("energy_full_design", "10000000")] {
        assert_eq!(supply(&[large.clone(), of("BAT1", "0", &[told])]), battery(60.0), "{told:?}");
    }
    // 80% of 30 and 20% of 10, and one of 35% that counts like 20.
    let small = of("BAT1", "20", &[("energy_full", "10000000")]);
    assert_eq!(supply(&[large.clone(), small, of("BAT2", "35", &[])]), battery((2400.0 + 200.0 + 700.0) / 60.0));
    // Where none tells anything, an empty one counts like another.
    assert_eq!(supply(&[of("BAT0", "80", &[]), of("BAT1", "0", &[])]), battery(40.0));
}

#[test]
fn a_battery_that_is_not_there_does_not_count() {
    let slot = [("BAT1/type", "Battery"), ("BAT1/present", "0"), ("BAT1/status", "Discharging")];
    assert_eq!(supply_of(&slot), (Supply::Ac, false));
}

#[test]
fn files_that_cannot_be_read_leave_what_the_others_say() {
    let capacity = [("BAT0/type", "Battery"), ("BAT0/status", "Discharging"), ("BAT0/capacity", "?")];
    assert_eq!(supply_of(&capacity), (Supply::Battery { percent: None }, true));
    let by_energy = [("BAT0/energy_full", "50"), ("BAT0/energy_now", "20")];
    assert_eq!(supply_of(&[&capacity[..], &by_energy].concat()).0, battery(40.0));
    let by_charge = [("BAT0/charge_full", "50"), ("BAT0/charge_now", "10")];
    assert_eq!(supply_of(&[&capacity[..], &by_charge].concat()).0, battery(20.0));

    let no_status = [("BAT0/type", "Battery"), ("BAT0/capacity", "30")];
    assert_eq!(supply_of(&[&no_status[..], &AC_ON].concat()).0, Supply::Ac);
    assert_eq!(supply_of(&[&no_status[..], &AC_OFF].concat()).0, battery(30.0));
    // Nothing says that it is not in use.
    let silent = [&no_status[..], &[("AC/type", "Mains"), ("AC/online", "?")]].concat();
    assert_eq!(supply_of(&silent).0, battery(30.0));

    // A folder in the place of a file.
    let reading = read(&tree(&[
        ("sys/class/power_supply/BAT0/type/x", ""),
        ("sys/firmware/acpi/platform_profile/x", ""),
        ("sys/class/thermal/thermal_zone0/temp/x", ""),
        ("proc/pressure/memory/x", ""),
    ]));
    assert_eq!((reading.state, reading.follows), (PowerState::AC, false));
    assert!(reading.signals[0].value == "type unreadable" && reading.signals[0].from.ends_with("BAT0"));
}

#[test]
fn a_profile_that_saves_is_the_saver() {
    const FIRMWARE: &str = "sys/firmware/acpi/platform_profile";
    const PROCESSOR: &str = "sys/devices/system/cpu/cpufreq/policy0/energy_performance_preference";
    for (firmware, processor, saver) in [
        ("low-power", "performance", true),
        ("balanced", "power", true),
        ("balanced", "balance_power", false),
        ("performance", "performance", false),
        ("", "", false),
    ] {
        let reading = read(&tree(&[(FIRMWARE, firmware), (PROCESSOR, processor)]));
        assert_eq!((reading.state.saver, reading.follows), (saver, saver), "{firmware} {processor}");
    }
}

#[test]
fn the_hottest_zone_counts_by_its_own_trip_points() {
    let at = |temp: &str, mode: &str| {
        let zone = |file: &str| format!("sys/class/thermal/thermal_zone1/{file}");
        let files = [
            ("sys/class/thermal/thermal_zone0/temp".to_string(), "20000"),
            ("sys/class/thermal/cooling_device0/temp".to_string(), "500000"),
            (zone("temp"), temp),
            (zone("mode"), mode),
            (zone("trip_point_0_type"), "passive"),
            (zone("trip_point_0_temp"), "-274000"),
            (zone("trip_point_1_type"), "critical"),
            (zone("trip_point_1_temp"), "105000"),
            (zone("trip_point_2_type"), "passive"),
            (zone("trip_point_2_temp"), "90000"),
            (zone("trip_point_3_type"), "active"),
            (zone("trip_point_3_temp"), "40000"),
        ];
        let files: Vec<(&str, &str)> = files.iter().map(|(file, content)| (file.as_str(), *content)).collect();
        read(&tree(&files)).state.thermal
    };
    for (temp, thermal) in [
        ("50000", Thermal::Nominal),
        ("84900", Thermal::Nominal),
        ("85000", Thermal::Fair),
        ("90000", Thermal::Serious),
        ("99900", Thermal::Serious),
        ("100000", Thermal::Critical),
        ("?", Thermal::Nominal),
    ] {
        assert_eq!(at(temp, "enabled"), thermal, "{temp}");
    }
    assert_eq!(at("100000", "disabled"), Thermal::Nominal);
}

#[test]
fn memory_pressure_is_that_of_some_tasks() {
    let text = "some avg10=12.34 avg60=1.00 avg300=0.50 total=5\nfull avg10=2.00 avg60=0.00 avg300=0.00 total=1";
    let reading = read(&tree(&[("proc/pressure/memory", text)]));
    assert_eq!(reading.state.memory_pressure, 12.34);
    for text in ["some avg10=nan avg60=0", "some", "full avg10=2.00", "some avg10=101"] {
        assert_eq!(read(&tree(&[("proc/pressure/memory", text)])).state.memory_pressure, 0.0, "{text}");
    }
}

#[test]
fn every_signal_names_the_file_it_is_from() {
    let root = tree(&[("sys/class/power_supply/BAT0/type", "Battery"), ("proc/pressure/memory", "some avg10=0.00")]);
    let reading = read(&root);
    assert!(reading.signals.iter().all(|signal| signal.from.starts_with(root.path().to_str().unwrap())));
}
