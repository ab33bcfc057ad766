//! An engine that refuses new buffers, is lost, or is stopped by another thread, when it is told to.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use edge_run::internals::engine::{DeviceInfo, Engine, KernelTime, Traits};
use edge_run::internals::format::MappedTensor;
use edge_run::internals::recording::{Buffer, Prepared, Recording, Span, Ticket};
use edge_run::{CancelToken, Error, Result};

/// Says what the engine does not do.
#[derive(Clone)]
pub struct Refuses {
    /// New buffers that there still are.
    buffers: Arc<AtomicUsize>,
    lost: Arc<AtomicBool>,
    /// New buffers until it is stopped, with the one that stops it; 0 for none.
    buffers_to_stop: Arc<AtomicUsize>,
    /// The submission at which it is stopped, counted from 1; 0 for none.
    stops_at: Arc<AtomicUsize>,
    submitted: Arc<AtomicUsize>,
}

impl Refuses {
    fn nothing() -> Refuses {
        Refuses {
            buffers: Arc::new(AtomicUsize::new(usize::MAX)),
            lost: Arc::default(),
            buffers_to_stop: Arc::default(),
            stops_at: Arc::default(),
            submitted: Arc::default(),
        }
    }

    /// No new buffers.
    pub fn set(&self, refuses: bool) {
        self.set_after(if refuses { 0 } else { usize::MAX });
    }

    /// No new buffers after so many.
    pub fn set_after(&self, buffers: usize) {
        self.buffers.store(buffers, Ordering::Relaxed);
    }

    /// No results any more.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Results again.
    pub fn find(&self) {
        self.lost.store(false, Ordering::Relaxed);
    }

    /// From the `count`th new buffer from now on, nothing until the stop is reset.
    pub fn stop_at_buffer(&self, count: usize) {
        self.buffers_to_stop.store(count, Ordering::Relaxed);
    }

    /// From the `count`th submission from now on, nothing until the stop is reset; 0 for no stop.
    pub fn stop_at(&self, count: usize) {
        self.stops_at.store(count, Ordering::Relaxed);
        self.submitted.store(0, Ordering::Relaxed);
    }

    /// Submissions since [`Refuses::stop_at`].
    pub fn submitted(&self) -> usize {
        self.submitted.load(Ordering::Relaxed)
    }
}

/// The engine, and what makes it refuse.
pub fn refusing(engine: Box<dyn Engine>) -> (Box<dyn Engine>, Refuses) {
    let traits = engine.traits();
    refusing_as(engine, traits)
}

/// The engine with other traits, and what makes it refuse.
pub fn refusing_as(engine: Box<dyn Engine>, traits: Traits) -> (Box<dyn Engine>, Refuses) {
    let refuses = Refuses::nothing();
    (Box::new(Refusing { engine, traits, refuses: refuses.clone() }), refuses)
}

struct Refusing {
    engine: Box<dyn Engine>,
    traits: Traits,
    refuses: Refuses,
}

impl Refusing {
    fn fault(&self, message: String) -> Error {
        Error::Device { device: self.engine.info().name.clone(), message }
    }

    fn stop_from_a_thread(&self) {
        let token = self.engine.cancel_token().clone();
        std::thread::spawn(move || token.cancel()).join().expect("the thread ends");
    }
}

impl Engine for Refusing {
    fn info(&self) -> &DeviceInfo {
        self.engine.info()
    }

    fn traits(&self) -> Traits {
        self.traits
    }

    fn cancel_token(&self) -> &CancelToken {
        self.engine.cancel_token()
    }

    fn set_cancel(&mut self, cancel: CancelToken) {
        self.engine.set_cancel(cancel);
    }

    fn create(&mut self, label: &str, bytes: u64) -> Result<Buffer> {
        let take = |left: usize| (left > 0).then(|| if left == usize::MAX { left } else { left - 1 });
        if self.refuses.buffers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
            return Err(self.fault(format!("no room for {label}")));
        }
        let left = self.refuses.buffers_to_stop.load(Ordering::Relaxed);
        self.refuses.buffers_to_stop.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 1 {
            self.stop_from_a_thread();
        }
        self.engine.create(label, bytes)
    }

    fn load(&mut self, label: &str, tensor: &MappedTensor) -> Result<Buffer> {
        self.engine.load(label, tensor)
    }

    fn destroy(&mut self, buffer: Buffer) {
        self.engine.destroy(buffer);
    }

    fn retiring_bytes(&mut self) -> Result<u64> {
        self.engine.retiring_bytes()
    }

    fn wait(&mut self) -> Result<()> {
        self.engine.wait()
    }

    fn write(&mut self, to: Span, bytes: &[u8]) {
        self.engine.write(to, bytes);
    }

    fn upload(&mut self, to: Span, bytes: &[u8]) -> Result<()> {
        self.engine.upload(to, bytes)
    }

    fn prepare(&mut self, recording: Recording) -> Result<Prepared> {
        self.engine.prepare(recording)
    }

    fn overlaps(&self) -> bool {
        self.engine.overlaps()
    }

    fn submit(&mut self, prepared: &mut Prepared) -> Result<Ticket> {
        let submitted = self.refuses.submitted.fetch_add(1, Ordering::Relaxed) + 1;
        if submitted == self.refuses.stops_at.load(Ordering::Relaxed) {
            self.stop_from_a_thread();
        }
        self.engine.submit(prepared)
    }

    fn finish(&mut self, ticket: Ticket) -> Result<Vec<Vec<u8>>> {
        if self.refuses.lost.load(Ordering::Relaxed) {
            return Err(self.fault("the device was lost".to_string()));
        }
        self.engine.finish(ticket)
    }

    fn profile(&mut self, prepared: &mut Prepared) -> Result<Vec<KernelTime>> {
        self.engine.profile(prepared)
    }

    fn allocated_bytes(&self) -> u64 {
        self.engine.allocated_bytes()
    }
}
