//! Compiled pipelines that are kept on disk.

use std::path::Path;

use crate::gpu;
use edge_run::internals::arch::ActivationFunction;
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::kernels::gate;
use edge_run::internals::recording::Recording;

const WIDTH: u32 = 64;

/// silu(1) * 1, by an engine that keeps its pipelines in `folder`.
fn gated(folder: &Path) -> f32 {
    let mut engine = edge_run::internals::gpu::open_cached(0, GpuOptions::default(), folder).unwrap();
    let gate_up = engine.create("gate_up", u64::from(WIDTH) * 8).unwrap();
    engine.write(gate_up.all(), bytemuck::cast_slice(&[1f32; 2 * WIDTH as usize]));
    let mut recording = Recording::new();
    let y = recording.transient(u64::from(WIDTH) * 4);
    gate::record(&mut recording, ActivationFunction::Silu, 1, WIDTH, gate_up.all(), y.all());
    recording.read_back(y.span(0, 4));
    let mut prepared = engine.prepare(recording).unwrap();
    bytemuck::pod_read_unaligned(&engine.run(&mut prepared).unwrap()[0])
}

/// The files of compiled pipelines in a folder, each with its bytes. What was found about the device lies beside them.
fn files(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let pipelines = entries.filter(|path| path.extension().is_none_or(|extension| extension != "json"));
    pipelines.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn pipelines_are_kept_read_again_and_replaced_where_they_are_spoilt() {
    drop(gpu::gpu());
    if edge_run::internals::gpu::devices().first().is_none_or(|device| device.backend != "Vulkan") {
        println!("skipped: no Vulkan device, and other drivers hand out no pipelines");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("made/here");
    let expected = 1.0 / (1.0 + (-1f32).exp());
    let is_right = |folder: &Path| assert!((gated(folder) - expected).abs() < 1e-6);
    is_right(&folder);
    let kept = files(&folder);
    assert!(
        kept.len() == 1 && !kept[0].1.is_empty(),
        "one file: {:?}",
        kept.iter().map(|(p, _)| p).collect::<Vec<_>>()
    );
    let written = std::fs::metadata(&kept[0].0).unwrap().modified().unwrap();
    is_right(&folder);
    let again = files(&folder);
    assert_eq!(again, kept, "nothing new was compiled");
    assert_eq!(std::fs::metadata(&kept[0].0).unwrap().modified().unwrap(), written, "and nothing written");

    let whole = &kept[0].1;
    for spoilt in [b"not pipelines".to_vec(), whole[..whole.len() / 2].to_vec(), vec![0; whole.len()]] {
        std::fs::write(&kept[0].0, &spoilt).unwrap();
        is_right(&folder);
        assert_ne!(files(&folder)[0].1, spoilt, "what is no cache is replaced");
    }
    // A file where the folder should be: everything works, and nothing is kept.
    let file = dir.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    is_right(&file);
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
}
