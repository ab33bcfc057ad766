//! What every engine promises of runs that are under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::gpu;
use edge_run::host_gpu::{self, HostDevice, wgpu};
use edge_run::internals::arch::ActivationFunction;
use edge_run::internals::cpu;
use edge_run::internals::engine::Engine;
use edge_run::internals::gpu::open_on;
use edge_run::internals::kernels::{copy, gate};
use edge_run::internals::recording::{Buffer, Prepared, Recording};

const WIDTH: u32 = 64;

/// A recording of y = silu(gate) * up with all of gate and up one number, of which two words are read back.
fn doubling(engine: &mut dyn Engine) -> (Buffer, Prepared) {
    let gate_up = engine.create("gate_up", u64::from(WIDTH) * 8).unwrap();
    let y = engine.create("y", u64::from(WIDTH) * 4).unwrap();
    let mut recording = Recording::new();
    gate::record(&mut recording, ActivationFunction::Silu, 1, WIDTH, gate_up.all(), y.all());
    recording.read_back(y.span(0, 4));
    recording.read_back(gate_up.span(4, 4));
    (gate_up, engine.prepare(recording).unwrap())
}

fn write(engine: &mut dyn Engine, buffer: Buffer, number: f32) {
    engine.write(buffer.all(), bytemuck::cast_slice(&[number; 2 * WIDTH as usize]));
}

fn numbers(read: Vec<Vec<u8>>) -> [f32; 2] {
    assert_eq!(read.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4]);
    [0, 1].map(|at| bytemuck::pod_read_unaligned(&read[at]))
}

fn on_every_engine(test: impl Fn(&mut dyn Engine)) {
    test(cpu::open().as_mut());
    if let Some(mut gpu) = gpu::gpu() {
        test(gpu.as_mut());
        test(open_on(host(true), None).unwrap().as_mut());
    }
}

/// A device that is opened as an application opens its own, with what models need or with what wgpu gives unasked.
fn host(suits_models: bool) -> HostDevice {
    let descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    let adapters = pollster::block_on(wgpu::Instance::new(descriptor).enumerate_adapters(wgpu::Backends::PRIMARY));
    let adapter = adapters.into_iter().next().expect("a GPU is there");
    let wanted = if suits_models { host_gpu::device_descriptor(&adapter).unwrap() } else { Default::default() };
    let (device, queue) = pollster::block_on(adapter.request_device(&wanted)).unwrap();
    HostDevice { adapter, device, queue }
}

#[test]
fn a_device_of_an_application_stays_its_own() {
    if gpu::gpu().is_none() {
        return;
    }
    let (host, faults) = (host(true), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&faults);
    host.device.on_uncaptured_error(Arc::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    }));
    let mut engine = open_on(host.clone(), None).unwrap();
    let (input, mut prepared) = doubling(engine.as_mut());
    write(engine.as_mut(), input, 3.0);
    assert_eq!(numbers(engine.run(&mut prepared).unwrap())[1], 3.0);
    drop((prepared, engine));
    let bad = |usage| wgpu::BufferDescriptor { label: None, size: 4, usage, mapped_at_creation: false };
    let _ = host.device.create_buffer(&bad(wgpu::BufferUsages::STORAGE));
    assert_eq!(faults.load(Ordering::Relaxed), 0);
    // No buffer may be mapped for both.
    let _ = host.device.create_buffer(&bad(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::MAP_WRITE));
    assert_eq!(faults.load(Ordering::Relaxed), 1, "the application's own handler hears of its own faults");
}

#[test]
fn a_device_of_an_application_that_lacks_what_models_need_is_refused() {
    if gpu::gpu().is_some() {
        let message = open_on(host(false), None).err().expect("a plain device does not do").to_string();
        assert!(message.contains("IMMEDIATES"), "{message}");
    }
}

#[test]
fn runs_under_way_see_what_was_written_before_them() {
    on_every_engine(|engine| {
        let (input, mut prepared) = doubling(engine);
        let expected: Vec<[f32; 2]> = [50.0f32, 60.0, 70.0].map(|x| [x * x / (1.0 + (-x).exp()), x]).into();
        let begin = |engine: &mut dyn Engine, prepared: &mut Prepared, number| {
            write(engine, input, number);
            engine.submit(prepared).unwrap()
        };
        let [first, second, third] = [50.0, 60.0, 70.0].map(|number| begin(engine, &mut prepared, number));
        // A write after them all is seen by none of them; they may be finished in any order.
        write(engine, input, 80.0);
        let second = numbers(engine.finish(second).unwrap());
        let third = numbers(engine.finish(third).unwrap());
        let first = numbers(engine.finish(first).unwrap());
        for (got, expected) in [first, second, third].iter().zip(&expected) {
            assert_eq!(got[1], expected[1]);
            assert!((got[0] - expected[0]).abs() < 1e-4 * expected[0], "{got:?} instead of {expected:?}");
        }
        assert_eq!(numbers(engine.run(&mut prepared).unwrap())[1], 80.0);
    });
}

#[test]
fn a_dropped_ticket_leaves_the_next_run_as_it_was() {
    on_every_engine(|engine| {
        let (input, mut prepared) = doubling(engine);
        let mut allocated = 0;
        for round in 0..20 {
            write(engine, input, 10.0);
            drop(engine.submit(&mut prepared).unwrap());
            write(engine, input, 20.0 + round as f32);
            let kept = engine.submit(&mut prepared).unwrap();
            write(engine, input, 30.0);
            drop(engine.submit(&mut prepared).unwrap());
            assert_eq!(numbers(engine.finish(kept).unwrap())[1], 20.0 + round as f32);
            if round == 1 {
                allocated = engine.allocated_bytes();
            }
        }
        assert_eq!(engine.allocated_bytes(), allocated, "read-back buffers are used again");
    });
}

/// More steps than go into one submit of an engine that has timed none.
#[test]
fn a_long_recording_takes_effect_in_order() {
    on_every_engine(|engine| {
        let buffers: Vec<Buffer> = (0..131).map(|_| engine.create("test", 16).unwrap()).collect();
        let mut recording = Recording::new();
        for pair in buffers.windows(2) {
            copy::record(&mut recording, pair[0].all(), pair[1].all());
        }
        recording.read_back(buffers[130].all());
        let mut prepared = engine.prepare(recording).unwrap();
        for number in [7u32, 8, 9] {
            engine.write(buffers[0].all(), bytemuck::cast_slice(&[number; 4]));
            let read: Vec<u32> = bytemuck::pod_collect_to_vec(&engine.run(&mut prepared).unwrap()[0]);
            assert_eq!(read, [number; 4]);
        }
    });
}
