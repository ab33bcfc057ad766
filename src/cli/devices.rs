//! Which device runs the model, and `edge-run devices`, which lists them.

use std::fmt::Write as _;

use serde::Serialize;

use super::args::{DevicesArgs, ModelArgs};
use super::exit::Exit;
use super::output::{note, print_json, print_line};
use super::paths::pipelines_dir;
use super::{Done, stop, terminal};
use edge_run::internals::cpu;
use edge_run::internals::devices::{best_gpu, devices, preference};
use edge_run::internals::engine::{DeviceInfo, Engine};
use edge_run::internals::error::{Error, Result};
use edge_run::internals::gpu::{self, GpuOptions};

/// A device that answers to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DeviceChoice {
    /// Device of `gpu::devices()`, by its index.
    Gpu(usize),
    /// The CPU engine.
    Cpu,
}

/// A device for `--json`.
#[derive(Serialize)]
struct DeviceLine<'a> {
    #[serde(flatten)]
    device: &'a DeviceInfo,
    /// Whether it runs where none is named.
    default: bool,
}

/// Lists the devices.
pub fn run(args: &DevicesArgs) -> Done {
    let devices = devices();
    let default = default(&devices);
    if args.json {
        for device in &devices {
            print_json(&DeviceLine { device, default: choice(device) == default })?;
        }
    } else {
        print_line(table(&devices, default))?;
    }
    Ok(Exit::Done)
}

/// Opens the device asked for, which signals then stop; without a request the fastest there is, with a word where that
/// is no GPU at all.
pub fn open(args: &ModelArgs) -> Result<Box<dyn Engine>> {
    let mut engine = open_chosen(args)?;
    engine.set_cancel(stop::token());
    Ok(engine)
}

fn open_chosen(args: &ModelArgs) -> Result<Box<dyn Engine>> {
    let asked = args.device.as_deref();
    // Asked for the CPU, even a broken driver must not get in the way.
    let gpus = if asked.is_some_and(is_cpu) { Vec::new() } else { gpu::devices() };
    let (choice, word) = choose(asked, &gpus, &cpu::device())?;
    if let Some(word) = word {
        note(format_args!("note: {word}"));
    }
    match choice {
        DeviceChoice::Gpu(index) => {
            let options = GpuOptions {
                checks: args.gpu_checks,
                activations: args.activations,
                cooperative_matrix: !args.no_cooperative_matrix,
                ..GpuOptions::default()
            };
            match pipelines_dir() {
                Ok(dir) => gpu::open_cached(index, options, &dir),
                // Without a home folder pipelines are not kept.
                Err(_) => gpu::open(index, options),
            }
        }
        DeviceChoice::Cpu => Ok(cpu::open_with(args.activations)),
    }
}

/// The device that `asked` means, and the list it is from. Without a request the best GPU, or the processor where there
/// is none but in software.
#[cfg(feature = "calibrate")]
pub fn find(asked: Option<&str>) -> Result<(DeviceInfo, Vec<DeviceInfo>)> {
    let gpus = if asked.is_some_and(is_cpu) { Vec::new() } else { gpu::devices() };
    let (choice, word) = choose(asked, &gpus, &cpu::device())?;
    // Without a request the word is of the CPU engine, which does not train.
    if let Some(word) = word.filter(|_| asked.is_some()) {
        note(format_args!("note: {word}"));
    }
    let chosen = match choice {
        DeviceChoice::Gpu(index) => gpus.iter().find(|gpu| gpu.index == Some(index)).cloned(),
        DeviceChoice::Cpu => None,
    };
    Ok((chosen.unwrap_or_else(cpu::device), gpus))
}

/// The device that runs where none is named: the best GPU, or the processor where there is none but in software.
fn default(gpus: &[DeviceInfo]) -> DeviceChoice {
    best_gpu(gpus).map_or(DeviceChoice::Cpu, choice)
}

/// The best device of a list, software renderers included.
fn best<'a>(gpus: impl IntoIterator<Item = &'a DeviceInfo>) -> Option<&'a DeviceInfo> {
    gpus.into_iter().min_by_key(|gpu| preference(gpu))
}

fn choice(device: &DeviceInfo) -> DeviceChoice {
    device.index.map_or(DeviceChoice::Cpu, DeviceChoice::Gpu)
}

/// The device that `asked` means, and what is to be said of the choice.
fn choose(asked: Option<&str>, gpus: &[DeviceInfo], cpu: &DeviceInfo) -> Result<(DeviceChoice, Option<String>)> {
    let Some(asked) = asked else {
        let choice = default(gpus);
        return Ok((choice, (choice == DeviceChoice::Cpu).then(|| why_cpu(gpus))));
    };
    let none = || Error::NoSuchDevice { asked: asked.to_string(), available: available(gpus, cpu) };
    if is_cpu(asked) {
        return Ok((DeviceChoice::Cpu, None));
    }
    if asked.eq_ignore_ascii_case("gpu") {
        return best(gpus).map(|gpu| (choice(gpu), None)).ok_or_else(none);
    }
    if let Ok(index) = asked.parse::<usize>() {
        return gpus.iter().find(|gpu| gpu.index == Some(index)).map(|gpu| (choice(gpu), None)).ok_or_else(none);
    }
    let named = named(asked, gpus);
    let Some(first) = best(named.iter().copied()) else {
        return if has_name(cpu, asked) { Ok((DeviceChoice::Cpu, None)) } else { Err(none()) };
    };
    if named.iter().any(|gpu| gpu.name != first.name) {
        return Err(Error::argument(
            "--device",
            "the name of one device, or its number",
            format!("`{asked}`, which names {}", list(&named)),
        ));
    }
    // One GPU through several backends is one; two cards of one name are told apart by their numbers only.
    let alike = named.iter().filter(|gpu| gpu.backend == first.backend);
    let others: Vec<String> = alike.filter(|gpu| gpu.index != first.index).map(|gpu| label(gpu)).collect();
    let word = (!others.is_empty()).then(|| {
        let (name, backend, first) = (&first.name, &first.backend, label(first));
        format!(
            "{name} ({backend}) is there more than once; device {first} runs, and --device takes {} too",
            others.join(", ")
        )
    });
    Ok((choice(first), word))
}

/// The GPUs that `asked` names: by their whole name where it is one's, else by a part of it; with a backend after it,
/// as in `NAME (Vulkan)` or `NAME, Vulkan`, only those.
fn named<'a>(asked: &str, gpus: &'a [DeviceInfo]) -> Vec<&'a DeviceInfo> {
    let of = |name: &str, backend: Option<&str>| {
        let on = |gpu: &&DeviceInfo| backend.is_none_or(|backend| gpu.backend.eq_ignore_ascii_case(backend));
        let whole: Vec<&DeviceInfo> =
            gpus.iter().filter(on).filter(|gpu| gpu.name.trim().to_lowercase() == name.trim().to_lowercase()).collect();
        let part = || gpus.iter().filter(on).filter(|gpu| has_name(gpu, name)).collect();
        if whole.is_empty() { part() } else { whole }
    };
    let plain = of(asked, None);
    if !plain.is_empty() {
        return plain;
    }
    match with_backend(asked) {
        Some((name, backend)) => of(name, Some(backend)),
        None => Vec::new(),
    }
}

/// Whether `asked` is a part of the device's name.
fn has_name(device: &DeviceInfo, asked: &str) -> bool {
    let asked = asked.trim().to_lowercase();
    !asked.is_empty() && device.name.to_lowercase().contains(&asked)
}

/// A name and the backend after it, in brackets or behind a comma.
fn with_backend(asked: &str) -> Option<(&str, &str)> {
    let asked = asked.trim();
    let (name, backend) = match asked.strip_suffix(')') {
        Some(rest) => rest.rsplit_once('(')?,
        None => asked.rsplit_once(',')?,
    };
    Some((name.trim(), backend.trim()))
}

/// Why the CPU engine runs where no device was asked for.
fn why_cpu(gpus: &[DeviceInfo]) -> String {
    match best(gpus) {
        None => "there is no Vulkan, Metal or DX12 driver on this machine, so the CPU engine runs".into(),
        Some(gpu) => format!(
            "there is no GPU here but in software ({}, {}), which is slower than the CPU engine, so that runs; \
             --device gpu takes the software renderer",
            gpu.name, gpu.backend
        ),
    }
}

fn is_cpu(asked: &str) -> bool {
    asked.eq_ignore_ascii_case("cpu")
}

/// What there is, in words.
fn available(gpus: &[DeviceInfo], cpu: &DeviceInfo) -> String {
    let all: Vec<&DeviceInfo> = gpus.iter().chain([cpu]).collect();
    let none = if gpus.is_empty() { "there is no Vulkan, Metal or DX12 driver; " } else { "" };
    format!("{none}there is {}", list(&all))
}

fn list(devices: &[&DeviceInfo]) -> String {
    let word = |device: &&DeviceInfo| format!("{} ({}, {})", label(device), device.name, device.backend);
    devices.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// What to write after --device.
fn label(device: &DeviceInfo) -> String {
    device.index.map_or("cpu".to_string(), |index| index.to_string())
}

/// Devices in columns, one a line.
fn table(devices: &[DeviceInfo], default: DeviceChoice) -> String {
    let header = ["device", "default", "name", "kind", "backend", "driver", "features"].map(String::from);
    let rows: Vec<[String; 7]> = devices.iter().map(|device| row(device, choice(device) == default)).collect();
    let all: Vec<&[String; 7]> = [&header].into_iter().chain(&rows).collect();
    let mut text = String::new();
    for row in &all {
        for (column, cell) in row.iter().enumerate() {
            let width = all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            let _ = write!(text, "{cell:width$}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text.trim_end().to_string()
}

fn row(device: &DeviceInfo, is_default: bool) -> [String; 7] {
    let features: Vec<&str> = device.features.iter().filter(|(_, has)| *has).map(|(name, _)| name.as_str()).collect();
    let or_dash = |text: &str| if text.is_empty() { "-".to_string() } else { terminal::in_a_line(text) };
    [
        label(device),
        or_dash(if is_default { "yes" } else { "" }),
        or_dash(&device.name),
        device.kind.to_string(),
        device.backend.clone(),
        or_dash(&device.driver),
        or_dash(&features.join(", ")),
    ]
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
