//! What is found out about a device when it is opened.

use crate::buffers;
use crate::gpu;
use edge_run::internals::cpu;
use edge_run::internals::engine::{Engine, USUAL_PROCESSORS};
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::kernels::probe::{processors, subgroups};

/// On Metal, and where Vulkan drivers do not tell, the size was taken to be four.
#[test]
fn subgroups_are_as_large_as_a_kernel_sees_them() {
    let Some(gpu) = gpu::gpu() else { return };
    let (name, subgroup) = (gpu.info().name.clone(), gpu.traits().subgroup);
    println!("{name}: subgroups of {subgroup}");
    for (words, size) in [("llvmpipe", 8), ("128 bits", 4), ("NVIDIA", 32), ("Apple", 32)] {
        // Mesa's vectors are as wide as its name says.
        if name.contains(words) && (words != "llvmpipe" || name.contains("256 bits")) {
            assert_eq!(subgroup, size, "{name}");
        }
    }
}

#[test]
fn a_kernel_sees_subgroups_at_every_size_of_workgroup() {
    let Some(mut gpu) = gpu::gpu() else { return };
    if gpu.traits().subgroup == 1 {
        return;
    }
    let look = |engine: &mut dyn Engine, workgroup: u32| {
        let words = &buffers::run(engine, &|_, recording| {
            let seen = recording.transient(u64::from(workgroup) * 8).all();
            recording.clear(seen);
            subgroups::record(recording, workgroup, seen);
            vec![seen]
        })[0];
        let seen: Vec<[u32; 2]> = words.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect();
        subgroups::size(workgroup, &seen)
    };
    for workgroup in [32, 64, 128, 256, 512, 1024] {
        if workgroup <= gpu.traits().workgroup_invocations {
            let seen = look(gpu.as_mut(), workgroup);
            println!("workgroups of {workgroup}: {seen:?}");
            assert!(seen.is_some_and(|seen| seen >= gpu.traits().subgroup), "{workgroup}: {seen:?}");
        }
        assert_eq!(look(cpu::open().as_mut(), workgroup), Some(1), "the processor has none");
    }
}

#[test]
fn the_work_that_processors_are_counted_by_is_done() {
    let work = |engine: &mut dyn Engine, rounds: u32| {
        buffers::run(engine, &|_, recording| {
            let y = recording.transient(5 * 64 * 4).all();
            processors::record(recording, 5, 64, rounds, y);
            vec![y]
        })
    };
    let Some(mut gpu) = gpu::gpu() else { return };
    let expected = work(cpu::open().as_mut(), 300);
    assert_eq!(work(gpu.as_mut(), 300), expected);
    assert_ne!(work(gpu.as_mut(), 299), expected, "another number of rounds is noticed");
}

/// What is counted is remembered, and is the usual number where nothing can be counted.
#[test]
fn processors_are_counted_where_there_is_a_folder_to_remember_them_in() {
    let Some(gpu) = gpu::gpu() else { return };
    let dir = tempfile::tempdir().unwrap();
    let open = || edge_run::internals::gpu::open_cached(0, GpuOptions::default(), dir.path()).unwrap();
    let start = std::time::Instant::now();
    let processors = open().traits().processors;
    println!("{}: {processors} processors, opened in {:?}", gpu.info().name, start.elapsed());
    let file = std::fs::read_to_string(dir.path().join("processors.json"));
    println!("{file:?}");
    let start = std::time::Instant::now();
    assert_eq!(open().traits().processors, processors, "the same each time");
    println!("opened again in {:?}", start.elapsed());
    if gpu.info().name.contains("llvmpipe") {
        assert_eq!(processors, USUAL_PROCESSORS);
        assert!(file.is_err(), "nothing is counted on processor cores");
    }
    assert_eq!(edge_run::internals::gpu::open(0, GpuOptions::default()).unwrap().traits().processors, USUAL_PROCESSORS);
}
