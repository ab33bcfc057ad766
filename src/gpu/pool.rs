//! Pools of buffers of one kind, such as transients: a buffer that is no longer used is lent again.
//!
//! What is free stays only until buffers are wanted that it does not fit: then it goes, before new ones are made. So a
//! pool never holds much more than what is lent now, whatever lengths were asked for before.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::context::Context;
use crate::error::Result;

/// Buffers of one usage, lent and free.
#[derive(Clone)]
pub(super) struct Pool {
    label: &'static str,
    usage: wgpu::BufferUsages,
    shared: Arc<Mutex<PoolState>>,
    /// Bytes of buffers that were dropped and that submitted work may still use.
    retiring_bytes: Arc<AtomicU64>,
}

#[derive(Default)]
struct PoolState {
    free: Vec<wgpu::Buffer>,
    /// Bytes of all buffers made here, free or lent.
    bytes: u64,
}

/// A buffer on loan; it goes back when dropped.
pub(super) struct Loan {
    buffer: wgpu::Buffer,
    pool: Pool,
}

impl Pool {
    /// An empty pool of buffers of this usage; what it drops counts as retiring until the device is done with it.
    pub fn new(label: &'static str, usage: wgpu::BufferUsages, retiring_bytes: Arc<AtomicU64>) -> Pool {
        Pool { label, usage, shared: Arc::default(), retiring_bytes }
    }

    /// A buffer of at least `bytes` bytes and undefined contents.
    pub fn lend(&self, context: &Context, bytes: u64) -> Result<Loan> {
        let free = self.take(bytes);
        if free.is_none() {
            self.trim(context);
        }
        free.map_or_else(|| self.make(context, bytes), Ok)
    }

    /// A buffer of at least so many bytes for each of `lengths`, in their order. Free buffers that none of them takes
    /// are dropped.
    pub fn lend_all(&self, context: &Context, lengths: &[u64]) -> Result<Vec<Loan>> {
        // The longest first, as these have the fewest that fit.
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|at| std::cmp::Reverse(lengths[*at]));
        let mut loans: Vec<Option<Loan>> = lengths.iter().map(|_| None).collect();
        for at in order {
            loans[at] = self.take(lengths[at]);
        }
        self.trim(context);
        let made = |(loan, bytes): (Option<Loan>, &u64)| loan.map_or_else(|| self.make(context, *bytes), Ok);
        loans.into_iter().zip(lengths).map(made).collect()
    }

    /// Bytes of all buffers made here and not dropped.
    pub fn bytes(&self) -> u64 {
        self.shared.lock().expect("no panic while held").bytes
    }

    /// The free buffer that fits best, if any does.
    fn take(&self, bytes: u64) -> Option<Loan> {
        let mut shared = self.shared.lock().expect("no panic while held");
        let at = best_fit(shared.free.iter().map(wgpu::Buffer::size), bytes)?;
        Some(Loan { buffer: shared.free.swap_remove(at), pool: self.clone() })
    }

    fn make(&self, context: &Context, bytes: u64) -> Result<Loan> {
        let most = context.device.limits().max_buffer_size;
        if bytes > most {
            let what = self.label;
            return Err(context.fault(format!("a {what} buffer needs {bytes} bytes; {most} is the most")));
        }
        let size = made_bytes(bytes).min(most);
        let (label, usage) = (Some(self.label), self.usage);
        let descriptor = wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false };
        let buffer = context.make(|device| device.create_buffer(&descriptor))?;
        self.shared.lock().expect("no panic while held").bytes += size;
        Ok(Loan { buffer, pool: self.clone() })
    }

    /// Drops all free buffers.
    fn trim(&self, context: &Context) {
        let mut shared = self.shared.lock().expect("no panic while held");
        let bytes: u64 = shared.free.drain(..).map(|buffer| buffer.size()).sum();
        shared.bytes -= bytes;
        drop(shared);
        retire(context, &self.retiring_bytes, bytes);
    }
}

/// Counts bytes of buffers that were dropped as retiring until all that was submitted is done: wgpu keeps them so long.
pub(super) fn retire(context: &Context, retiring_bytes: &Arc<AtomicU64>, bytes: u64) {
    if bytes == 0 {
        return;
    }
    retiring_bytes.fetch_add(bytes, Ordering::Relaxed);
    let retiring_bytes = Arc::clone(retiring_bytes);
    context.queue.on_submitted_work_done(move || {
        retiring_bytes.fetch_sub(bytes, Ordering::Relaxed);
    });
}

/// The length that a buffer for `bytes` bytes is made with, up to an eighth longer, so that it fits again.
fn made_bytes(bytes: u64) -> u64 {
    const LEAST: u64 = 256;
    let eighth = (1u64 << bytes.max(1).ilog2()) / 8;
    // What is longer than any buffer is refused when it is to be made.
    bytes.max(1).checked_next_multiple_of(eighth.max(LEAST)).unwrap_or(bytes)
}

/// Which of the free buffers to take for `bytes` bytes: the shortest that is no shorter, and no more than a quarter
/// longer than one that were made for them.
fn best_fit(free: impl Iterator<Item = u64>, bytes: u64) -> Option<usize> {
    let made = made_bytes(bytes);
    let most = made.saturating_add(made / 4);
    let fitting = free.enumerate().filter(|(_, size)| (bytes..=most).contains(size));
    fitting.min_by_key(|(_, size)| *size).map(|(at, _)| at)
}

impl Loan {
    /// The buffer.
    pub fn buffer(&self) -> &wgpu::Buffer {
        &self.buffer
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.pool.shared.lock().expect("no panic while held").free.push(self.buffer.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_buffer_is_taken_that_is_not_much_too_long() {
        let free = [4096u64, 1024, 1280, 5120, 512];
        let fit = |bytes| best_fit(free.into_iter(), bytes).map(|at| free[at]);
        assert_eq!([fit(1000), fit(1024), fit(1025)], [Some(1024), Some(1024), Some(1280)]);
        assert_eq!([fit(4000), fit(4097), fit(2048), fit(5121)], [Some(4096), Some(5120), None, None]);
        assert_eq!([fit(1), fit(257)], [None, Some(512)], "what is twice as long as it must be is left");
    }

    #[test]
    fn buffers_are_made_little_longer_than_asked_for() {
        for bytes in (1..5000).chain([100_000, 1 << 20, (1 << 20) + 1, 500 << 20, u64::from(u32::MAX)]) {
            let made = made_bytes(bytes);
            assert!(made >= bytes && made - bytes <= (bytes / 8).max(255), "{bytes}: {made}");
            assert!(made.is_multiple_of(4) && made_bytes(made) == made, "{bytes}: {made}");
        }
    }
}
