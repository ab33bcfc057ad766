//! Which device runs the model, and `edge-run devices`, which lists them.

use std::fmt::Write as _;

use super::Done;
use super::args::{DevicesArgs, ModelArgs};
use super::exit::Exit;
use super::output::{note, print_json, print_line};
use super::paths::pipelines_dir;
use super::stop;
use crate::cpu;
use crate::engine::{DeviceInfo, Engine};
use crate::error::{Error, Result};
use crate::gpu::{self, GpuOptions};

/// A device that answers to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// Device of `gpu::devices()`, by its index.
    Gpu(usize),
    /// The CPU engine.
    Cpu,
}

/// Lists the devices.
pub fn run(args: &DevicesArgs) -> Done {
    let mut devices = gpu::devices();
    devices.push(cpu::device());
    if args.json {
        for device in &devices {
            print_json(device)?;
        }
    } else {
        print_line(table(&devices))?;
    }
    Ok(Exit::Done)
}

/// Opens the device asked for, which signals then stop; without a request the best there is, with a word where that is
/// no GPU at all.
pub fn open(args: &ModelArgs) -> Result<Box<dyn Engine>> {
    let mut engine = open_chosen(args)?;
    engine.set_cancel(stop::token());
    Ok(engine)
}

fn open_chosen(args: &ModelArgs) -> Result<Box<dyn Engine>> {
    let asked = args.device.as_deref();
    // Asked for the CPU, even a broken driver must not get in the way.
    let gpus = if asked.is_some_and(is_cpu) { Vec::new() } else { gpu::devices() };
    match choose(asked, &gpus, &cpu::device())? {
        Choice::Gpu(index) => {
            let options = GpuOptions {
                checks: args.gpu_checks,
                activations: args.activations,
                cooperative_matrix: !args.no_cooperative_matrix,
                ..GpuOptions::default()
            };
            gpu::open_cached(index, options, &pipelines_dir()?)
        }
        Choice::Cpu => {
            if asked.is_none() {
                note("note: there is no Vulkan, Metal or DX12 driver on this machine, so the CPU engine runs");
            }
            Ok(cpu::open_with(args.activations))
        }
    }
}

/// The device that `asked` means, and the list it is from. Without a request the best GPU, or the processor where there
/// is none but in software.
#[cfg(feature = "calibrate")]
pub fn find(asked: Option<&str>) -> Result<(DeviceInfo, Vec<DeviceInfo>)> {
    let gpus = if asked.is_some_and(is_cpu) { Vec::new() } else { gpu::devices() };
    let chosen = match choose(asked, &gpus, &cpu::device())? {
        Choice::Gpu(index) => gpus.iter().find(|gpu| gpu.index == Some(index)).cloned(),
        Choice::Cpu => None,
    };
    let hard = |gpu: &DeviceInfo| asked.is_some() || gpu.kind != crate::engine::DeviceKind::SoftwareRenderer;
    Ok((chosen.filter(hard).unwrap_or_else(cpu::device), gpus))
}

/// The device that `asked` means.
fn choose(asked: Option<&str>, gpus: &[DeviceInfo], cpu: &DeviceInfo) -> Result<Choice> {
    let best = gpus.iter().min_by_key(|gpu| gpu.kind).and_then(|gpu| gpu.index).map(Choice::Gpu);
    let Some(asked) = asked else { return Ok(best.unwrap_or(Choice::Cpu)) };
    let none = || Error::NoSuchDevice { asked: asked.to_string(), available: available(gpus, cpu) };
    if is_cpu(asked) {
        return Ok(Choice::Cpu);
    }
    if asked.eq_ignore_ascii_case("gpu") {
        return best.ok_or_else(none);
    }
    if let Ok(index) = asked.parse::<usize>() {
        return if gpus.iter().any(|gpu| gpu.index == Some(index)) { Ok(Choice::Gpu(index)) } else { Err(none()) };
    }
    let names =
        |device: &DeviceInfo| !asked.trim().is_empty() && device.name.to_lowercase().contains(&asked.to_lowercase());
    let named: Vec<&DeviceInfo> = gpus.iter().filter(|gpu| names(gpu)).collect();
    match named[..] {
        [] if names(cpu) => Ok(Choice::Cpu),
        [] => Err(none()),
        [one] => Ok(one.index.map_or(Choice::Cpu, Choice::Gpu)),
        _ => Err(Error::argument(
            "--device",
            "the name of one device, or its number",
            format!("`{asked}`, which names {}", list(&named)),
        )),
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
fn table(devices: &[DeviceInfo]) -> String {
    let header = ["device", "name", "kind", "backend", "driver", "features"].map(String::from);
    let rows: Vec<[String; 6]> = devices.iter().map(row).collect();
    let all: Vec<&[String; 6]> = [&header].into_iter().chain(&rows).collect();
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

fn row(device: &DeviceInfo) -> [String; 6] {
    let features: Vec<&str> = device.features.iter().filter(|(_, has)| *has).map(|(name, _)| name.as_str()).collect();
    let or_dash = |text: &str| if text.is_empty() { "-".to_string() } else { text.to_string() };
    [
        label(device),
        device.name.clone(),
        device.kind.to_string(),
        device.backend.clone(),
        or_dash(&device.driver),
        or_dash(&features.join(", ")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::DeviceKind;

    fn gpu(index: usize, name: &str, kind: DeviceKind) -> DeviceInfo {
        let features =
            vec![("f16".to_string(), true), ("timestamps".to_string(), kind != DeviceKind::SoftwareRenderer)];
        let (backend, driver) = ("Vulkan".into(), "Mesa 25".into());
        DeviceInfo { index: Some(index), name: name.into(), kind, backend, driver, features }
    }

    fn processor() -> DeviceInfo {
        DeviceInfo {
            index: None,
            name: "AMD EPYC".into(),
            kind: DeviceKind::Processor,
            backend: "CPU".into(),
            driver: String::new(),
            features: Vec::new(),
        }
    }

    fn machine() -> Vec<DeviceInfo> {
        vec![
            gpu(0, "llvmpipe (LLVM 19)", DeviceKind::SoftwareRenderer),
            gpu(1, "AMD Radeon 780M", DeviceKind::IntegratedGpu),
            gpu(2, "NVIDIA RTX A", DeviceKind::DiscreteGpu),
            gpu(3, "NVIDIA RTX B", DeviceKind::DiscreteGpu),
        ]
    }

    #[test]
    fn the_best_gpu_runs_where_none_is_named() {
        let best = |gpus: &[DeviceInfo]| {
            assert_eq!(choose(None, gpus, &processor()).ok(), choose(Some("GPU"), gpus, &processor()).ok());
            choose(None, gpus, &processor()).unwrap()
        };
        assert_eq!(best(&machine()), Choice::Gpu(2));
        assert_eq!(best(&machine()[..2]), Choice::Gpu(1));
        assert_eq!(best(&machine()[..1]), Choice::Gpu(0));
        assert_eq!(choose(None, &[], &processor()).unwrap(), Choice::Cpu);
    }

    #[test]
    fn a_device_is_named_by_number_or_part_of_its_name() {
        let chosen = |asked| choose(Some(asked), &machine(), &processor()).unwrap();
        assert_eq!([chosen("cpu"), chosen("epyc")], [Choice::Cpu; 2]);
        assert_eq!([chosen("0"), chosen("LLVMPIPE"), chosen("amd"), chosen("rtx b")], [0, 0, 1, 3].map(Choice::Gpu));
    }

    #[test]
    fn what_is_not_there_or_is_there_twice_is_told_with_what_there_is() {
        let error = |asked, gpus: &[DeviceInfo]| choose(Some(asked), gpus, &processor()).unwrap_err().to_string();
        assert_eq!(
            error("gpu", &[]),
            "no device `gpu`; there is no Vulkan, Metal or DX12 driver; there is cpu (AMD EPYC, CPU)"
        );
        assert_eq!(
            error("7", &machine()[..1]),
            "no device `7`; there is 0 (llvmpipe (LLVM 19), Vulkan), cpu (AMD EPYC, CPU)"
        );
        assert_eq!(
            error("nvidia", &machine()),
            "--device: expected the name of one device, or its number, got `nvidia`, which names \
             2 (NVIDIA RTX A, Vulkan), 3 (NVIDIA RTX B, Vulkan)"
        );
        assert!(error("", &machine()).starts_with("no device ``"));
    }

    #[test]
    fn the_table_has_a_line_for_each() {
        let devices = [gpu(0, "llvmpipe", DeviceKind::SoftwareRenderer), processor()];
        insta::assert_snapshot!(table(&devices), @r"
        device  name      kind               backend  driver   features
        0       llvmpipe  software renderer  Vulkan   Mesa 25  f16
        cpu     AMD EPYC  processor          CPU      -        -
        ");
    }
}
