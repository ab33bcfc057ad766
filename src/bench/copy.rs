//! The bandwidth that a plain copy reaches on a device, which no kernel can read faster than by much.

use std::time::Instant;

use super::measure::BENCH;
use crate::engine::Engine;
use crate::error::Result;
use crate::kernels::copy;
use crate::recording::{Buffer, Recording};

/// How much is copied: (bytes of a buffer, copies of one submit). So many that the wait for the submit does not count,
/// in buffers that no cache holds.
const GPU: (u64, u64) = (256 << 20, 32);
/// The same where processor cores copy, which have less to do at a time.
const SOFTWARE: (u64, u64) = (64 << 20, 4);
/// Measurements, of which the best counts: nothing makes a copy faster than the memory is.
const TRIES: u32 = 5;

/// Bytes read and written a second by a copy on the device.
///
/// Fails where the device has no room for two buffers of 256 MiB, or 64 MiB on processor cores.
pub fn copy_bandwidth(engine: &mut dyn Engine) -> Result<f64> {
    let traits = engine.traits();
    let (bytes, copies) = if traits.software { SOFTWARE } else { GPU };
    let bytes = bytes.min(traits.binding_bytes / 16 * 16);
    let (a, b) = (engine.create("copied", bytes)?, engine.create("copy", bytes)?);
    let seconds = best_seconds(engine, a, b, copies);
    engine.destroy(a);
    engine.destroy(b);
    Ok((2 * bytes * copies) as f64 / seconds.map_err(|e| e.within(BENCH))?)
}

fn best_seconds(engine: &mut dyn Engine, a: Buffer, b: Buffer, copies: u64) -> Result<f64> {
    let mut recording = Recording::new();
    for at in 0..copies {
        let (from, to) = if at % 2 == 0 { (a, b) } else { (b, a) };
        copy::record(&mut recording, from.all(), to.all());
    }
    // Four bytes read back make the run wait for the copies.
    recording.read_back(a.span(0, 4));
    let mut prepared = engine.prepare(recording)?;
    engine.run(&mut prepared)?;
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        let start = Instant::now();
        engine.run(&mut prepared)?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}
