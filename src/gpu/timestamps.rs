//! When each dispatch of a run began and ended, by the device's own clock.

use std::time::Duration;

use super::context::Context;
use super::engine::Launch;
use crate::engine::KernelTime;
use crate::error::Result;

/// Bytes of a timestamp.
const STAMP_BYTES: u64 = wgpu::QUERY_SIZE as u64;
/// Dispatches whose two stamps each fit in one query set.
const SET_LAUNCHES: usize = wgpu::QUERY_SET_MAX_QUERIES as usize / 2;

/// Runs the launches in order, each in a pass with a stamp at its begin and one at its end; fails where the device has
/// no timestamps.
///
/// A stamp is written when all work before it is done, so what it costs to start a kernel counts as the kernel's.
pub(super) fn profile(context: &Context, launches: &[&Launch]) -> Result<Vec<KernelTime>> {
    let Context { device, queue, .. } = context;
    if !device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
        return Err(context.fault("has no timestamps, so that its kernels cannot be timed"));
    }
    let bytes = launches.len() as u64 * 2 * STAMP_BYTES;
    let buffer = |usage| {
        let descriptor =
            wgpu::BufferDescriptor { label: Some("stamps"), size: bytes, usage, mapped_at_creation: false };
        device.create_buffer(&descriptor)
    };
    let resolved = buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC);
    let read_back = buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST);
    let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    for (at, launches) in launches.chunks(SET_LAUNCHES).enumerate() {
        let count = launches.len() as u32 * 2;
        let (label, ty) = (Some("stamps"), wgpu::QueryType::Timestamp);
        let set = device.create_query_set(&wgpu::QuerySetDescriptor { label, ty, count });
        for (launch, begin) in launches.iter().zip((0..).step_by(2)) {
            let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
                query_set: &set,
                beginning_of_pass_write_index: Some(begin),
                end_of_pass_write_index: Some(begin + 1),
            });
            let descriptor = wgpu::ComputePassDescriptor { label: Some(launch.kernel), timestamp_writes };
            launch.encode(&mut encoder.begin_compute_pass(&descriptor));
        }
        let offset = (at * SET_LAUNCHES * 2) as u64 * STAMP_BYTES;
        encoder.resolve_query_set(&set, 0..count, &resolved, offset);
    }
    encoder.copy_buffer_to_buffer(&resolved, 0, &read_back, 0, bytes);
    queue.submit([encoder.finish()]);
    read_back.map_async(wgpu::MapMode::Read, .., |_| ());
    context.wait()?;
    let mapped = read_back.get_mapped_range(..).map_err(|e| context.fault(e.to_string()))?;
    let stamps: Vec<u64> = bytemuck::pod_collect_to_vec(&mapped);
    let first = stamps.first().copied().unwrap_or(0);
    let since_first = |stamp: u64| {
        Duration::from_nanos((stamp.saturating_sub(first) as f64 * f64::from(queue.get_timestamp_period())) as u64)
    };
    let time = |(launch, stamps): (&&Launch, &[u64])| KernelTime {
        kernel: launch.kernel,
        start: since_first(stamps[0]),
        end: since_first(stamps[1]),
    };
    Ok(launches.iter().zip(stamps.chunks_exact(2)).map(time).collect())
}
