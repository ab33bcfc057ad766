//! An engine that counts what it is asked to run, and is stopped by another thread at one of these.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use edge_run::engine::{DeviceInfo, Engine, KernelTime, Traits};
use edge_run::format::MappedTensor;
use edge_run::recording::{Buffer, Prepared, Recording, Span, Ticket};
use edge_run::{CancelToken, Result};

/// Says when the engine is stopped, and how much it was asked for.
#[derive(Clone, Default)]
pub struct Stops {
    /// The submission at which it is stopped, counted from 1; 0 for none.
    at: Arc<AtomicUsize>,
    submitted: Arc<AtomicUsize>,
}

impl Stops {
    /// Stops at the `count`th submission from now on.
    pub fn at(&self, count: usize) {
        self.at.store(count, Ordering::Relaxed);
        self.submitted.store(0, Ordering::Relaxed);
    }

    /// Submissions since [`Stops::at`].
    pub fn submitted(&self) -> usize {
        self.submitted.load(Ordering::Relaxed)
    }
}

/// The engine, and what stops it.
pub fn stopping(engine: Box<dyn Engine>) -> (Box<dyn Engine>, Stops) {
    let stops = Stops::default();
    (Box::new(Stopping { engine, stops: stops.clone() }), stops)
}

struct Stopping {
    engine: Box<dyn Engine>,
    stops: Stops,
}

impl Engine for Stopping {
    fn info(&self) -> &DeviceInfo {
        self.engine.info()
    }

    fn traits(&self) -> Traits {
        self.engine.traits()
    }

    fn cancel_token(&self) -> &CancelToken {
        self.engine.cancel_token()
    }

    fn set_cancel(&mut self, cancel: CancelToken) {
        self.engine.set_cancel(cancel);
    }

    fn create(&mut self, label: &str, bytes: u64) -> Result<Buffer> {
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
        let submitted = self.stops.submitted.fetch_add(1, Ordering::Relaxed) + 1;
        if submitted == self.stops.at.load(Ordering::Relaxed) {
            let token = self.engine.cancel_token().clone();
            std::thread::spawn(move || token.cancel()).join().expect("the thread ends");
        }
        self.engine.submit(prepared)
    }

    fn finish(&mut self, ticket: Ticket) -> Result<Vec<Vec<u8>>> {
        self.engine.finish(ticket)
    }

    fn profile(&mut self, prepared: &mut Prepared) -> Result<Vec<KernelTime>> {
        self.engine.profile(prepared)
    }

    fn allocated_bytes(&self) -> u64 {
        self.engine.allocated_bytes()
    }
}
