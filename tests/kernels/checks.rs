//! What `GpuOptions::checks` shows of a kernel that reads workgroup memory before it writes it.

use crate::gpu;
use edge_run::internals::gpu::GpuOptions;
use edge_run::internals::recording::{Access, Arguments, Dispatch, Kernel, Recording};

/// Reads every sort of workgroup memory that kernels have; the second half after it was written.
static CARELESS: Kernel = Kernel {
    name: "careless",
    wgsl: "
        struct Params { written: u32 }
        struct Pair { first: u32, second: f32 }
        override LENGTH: u32 = 64u;
        var<immediate> params: Params;
        @group(0) @binding(0) var<storage, read_write> y: array<u32>;
        var<workgroup> floats: array<f32, LENGTH>;
        var<workgroup> vectors: array<vec4<f32>, 40>;
        var<workgroup> counters: array<atomic<u32>, 40>;
        var<workgroup> pair: Pair;
        var<workgroup> word: u32;
        @compute @workgroup_size(32)
        fn main(@builtin(local_invocation_index) local: u32) {
            if params.written == 1u {
                floats[local] = 1.0;
                floats[local + 32u] = 1.0;
                vectors[local] = vec4<f32>(1.0);
                atomicStore(&counters[local], 1u);
                if local == 0u {
                    pair = Pair(1u, 1.0);
                    word = 1u;
                }
            }
            workgroupBarrier();
            y[local] = bitcast<u32>(floats[local]);
            y[32u + local] = bitcast<u32>(floats[LENGTH - 1u - local]);
            y[64u + local] = bitcast<u32>(vectors[31u - local].w);
            y[96u + local] = atomicLoad(&counters[local]);
            y[128u + local] = select(pair.first, bitcast<u32>(pair.second), local % 2u == 0u);
            y[160u + local] = word;
        }",
    params: &[],
    bindings: &[Access::Write],
    reference: |_: &mut Arguments<'_>| (),
};

fn run(checks: bool, written: u32) -> Option<Vec<u32>> {
    drop(gpu::gpu()?);
    let mut engine = edge_run::internals::gpu::open(0, GpuOptions { checks, ..GpuOptions::default() }).unwrap();
    let mut recording = Recording::new();
    let y = recording.transient(192 * 4);
    recording.dispatch(Dispatch {
        kernel: &CARELESS,
        constants: vec![("LENGTH", 64)],
        params: written.to_le_bytes().to_vec(),
        bindings: vec![y.all()],
        workgroups: [1, 1, 1],
    });
    recording.read_back(y.all());
    let mut prepared = engine.prepare(recording).unwrap();
    Some(bytemuck::pod_collect_to_vec(&engine.run(&mut prepared).unwrap()[0]))
}

#[test]
fn workgroup_memory_that_nothing_was_written_to_is_poison() {
    let Some(read) = run(true, 0) else { return };
    assert_eq!(read, [0x7fc0_0000; 192], "floats, vectors, counters and structs");
    assert!(f32::from_bits(read[0]).is_nan());
}

#[test]
fn what_was_written_is_there_with_checks_and_without() {
    for checks in [false, true] {
        let Some(read) = run(checks, 1) else { return };
        let one = 1f32.to_bits();
        assert_eq!(read[..96], [one; 96]);
        assert!(read[128..160].iter().all(|word| *word == 1 || *word == one) && read[96..128] == [1; 32]);
        assert_eq!(read[160..], [1; 32]);
    }
}

/// What the tests rely on: poison goes with the checks alone.
#[test]
fn without_checks_nothing_is_filled() {
    let Some(read) = run(false, 0) else { return };
    assert_ne!(read, [0x7fc0_0000; 192]);
}
