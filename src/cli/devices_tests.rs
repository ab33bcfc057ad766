//! Tests of the choice of a device, on made-up machines.

use edge_run::internals::engine::DeviceKind;

use super::*;

fn gpu(index: usize, name: &str, kind: DeviceKind) -> DeviceInfo {
    let features = vec![("f16".to_string(), true), ("timestamps".to_string(), kind != DeviceKind::SoftwareRenderer)];
    let (backend, driver) = ("Vulkan".into(), "Mesa 25".into());
    DeviceInfo { index: Some(index), name: name.into(), kind, backend, driver, features }
}

fn through(backend: &str, device: DeviceInfo) -> DeviceInfo {
    DeviceInfo { backend: backend.into(), ..device }
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

/// One Arc as Windows lists it, beside a processor's graphics and Windows' own renderer.
fn windows() -> Vec<DeviceInfo> {
    vec![
        gpu(0, "Intel(R) Arc(TM) A750 Graphics", DeviceKind::DiscreteGpu),
        gpu(1, "Intel(R) UHD Graphics 770", DeviceKind::IntegratedGpu),
        through("DX12", gpu(2, "Intel(R) Arc(TM) A750 Graphics", DeviceKind::DiscreteGpu)),
        through("DX12", gpu(3, "Intel(R) UHD Graphics 770", DeviceKind::IntegratedGpu)),
        through("DX12", gpu(4, "Microsoft Basic Render Driver", DeviceKind::SoftwareRenderer)),
    ]
}

fn chosen(asked: Option<&str>, gpus: &[DeviceInfo]) -> (DeviceChoice, Option<String>) {
    choose(asked, gpus, &processor()).unwrap()
}

fn error(asked: &str, gpus: &[DeviceInfo]) -> String {
    choose(Some(asked), gpus, &processor()).unwrap_err().to_string()
}

#[test]
fn the_best_gpu_runs_where_none_is_named() {
    for (gpus, best) in [(&machine()[..], 2), (&machine()[..2], 1), (&windows(), 0), (&windows()[1..], 2)] {
        assert_eq!(chosen(None, gpus), (DeviceChoice::Gpu(best), None));
        assert_eq!(chosen(Some("GPU"), gpus), (DeviceChoice::Gpu(best), None));
    }
}

#[test]
fn a_software_renderer_runs_only_where_it_is_asked_for() {
    let posing = gpu(0, "Virtio-GPU Venus (llvmpipe)", DeviceKind::VirtualGpu);
    for gpus in [&machine()[..1], &windows()[4..], &[posing][..]] {
        let (choice, word) = chosen(None, gpus);
        let word = word.unwrap();
        assert_eq!(choice, DeviceChoice::Cpu);
        assert!(word.contains(&gpus[0].name) && word.contains("--device gpu"), "{word}");
        let software = DeviceChoice::Gpu(gpus[0].index.unwrap());
        assert_eq!(chosen(Some("gpu"), gpus), (software, None));
        assert_eq!(chosen(Some(&gpus[0].name), gpus), (software, None));
    }
    let (choice, word) = chosen(None, &[]);
    assert_eq!(choice, DeviceChoice::Cpu);
    assert!(word.unwrap().starts_with("there is no Vulkan, Metal or DX12 driver"));
}

#[test]
fn a_device_is_named_by_number_or_part_of_its_name() {
    let of = |asked| chosen(Some(asked), &machine());
    assert_eq!([of("cpu"), of("epyc")], [(DeviceChoice::Cpu, None), (DeviceChoice::Cpu, None)]);
    let named = [of("0"), of("LLVMPIPE"), of("amd"), of(" rtx b ")].map(|(choice, _)| choice);
    assert_eq!(named, [0, 0, 1, 3].map(DeviceChoice::Gpu));
}

#[test]
fn one_gpu_under_two_backends_is_one_name() {
    let of = |asked| chosen(Some(asked), &windows());
    for asked in ["arc", "A750", "Intel(R) Arc(TM) A750 Graphics", "arc (vulkan)", "A750, Vulkan"] {
        assert_eq!(of(asked), (DeviceChoice::Gpu(0), None), "{asked}");
    }
    for asked in ["arc (DX12)", "A750,dx12", "Intel(R) Arc(TM) A750 Graphics (DX12)"] {
        assert_eq!(of(asked), (DeviceChoice::Gpu(2), None), "{asked}");
    }
    // Whatever the order of the list is.
    let mut turned = windows();
    turned.reverse();
    assert_eq!(chosen(Some("uhd"), &turned), (DeviceChoice::Gpu(1), None));
    assert_eq!(chosen(None, &turned), (DeviceChoice::Gpu(0), None));
    assert!(error("arc (Metal)", &windows()).starts_with("no device `arc (Metal)`; there is 0 ("));
    // Two GPUs are two, whatever backend is named.
    let message = error("graphics", &windows());
    assert!(message.contains("`graphics`, which names 0 (") && message.contains(", 3 (Intel(R) UHD"), "{message}");
    let message = error("graphics (DX12)", &windows());
    assert!(!message.contains("0 (") && message.contains("2 (") && message.contains("3 ("), "{message}");
}

#[test]
fn cards_of_one_name_are_told_apart_by_their_numbers() {
    let cards = [
        gpu(0, "NVIDIA H100", DeviceKind::DiscreteGpu),
        gpu(1, "NVIDIA H100", DeviceKind::DiscreteGpu),
        through("DX12", gpu(2, "NVIDIA H100", DeviceKind::DiscreteGpu)),
    ];
    let (choice, word) = chosen(Some("h100"), &cards);
    let expected = "NVIDIA H100 (Vulkan) is there more than once; device 0 runs, and --device takes 1 too";
    assert_eq!((choice, word.as_deref()), (DeviceChoice::Gpu(0), Some(expected)));
    assert_eq!(chosen(Some("1"), &cards), (DeviceChoice::Gpu(1), None));
    assert_eq!(chosen(Some("h100 (dx12)"), &cards), (DeviceChoice::Gpu(2), None));
}

#[test]
fn a_whole_name_stands_above_a_part_of_another() {
    let cards = [gpu(0, "RTX 4070 Ti", DeviceKind::DiscreteGpu), gpu(1, "RTX 4070", DeviceKind::DiscreteGpu)];
    assert_eq!(chosen(Some("rtx 4070"), &cards), (DeviceChoice::Gpu(1), None));
    assert_eq!(chosen(Some("rtx 4070 (vulkan)"), &cards), (DeviceChoice::Gpu(1), None));
    assert!(error("rtx", &cards).contains("which names 0 (RTX 4070 Ti, Vulkan), 1 (RTX 4070, Vulkan)"));
}

#[test]
fn what_is_not_there_or_is_there_twice_is_told_with_what_there_is() {
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
    for asked in ["", " ", "()", "(Vulkan", ",", "-1", "(Vulkan)"] {
        assert!(error(asked, &machine()).starts_with(&format!("no device `{asked}`")), "{asked}");
    }
}

#[test]
fn the_table_has_a_line_for_each_and_marks_the_default() {
    let devices = [gpu(0, "llvm\x1b[31mpipe", DeviceKind::SoftwareRenderer), processor()];
    insta::assert_snapshot!(table(&devices, default(&devices[..1])), @r"
    device  default  name              kind               backend  driver   features
    0       -        llvm\x1b[31mpipe  software renderer  Vulkan   Mesa 25  f16
    cpu     yes      AMD EPYC          processor          CPU      -        -
    ");
    let devices = [gpu(0, "RTX A", DeviceKind::DiscreteGpu), processor()];
    assert!(table(&devices, default(&devices[..1])).contains("\n0       yes      RTX A"));
    let line = serde_json::to_value(DeviceLine { device: &devices[0], default: true }).unwrap();
    assert_eq!((&line["name"], &line["default"]), (&"RTX A".into(), &true.into()));
}
