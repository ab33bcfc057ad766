//! Elastic residency: residual slices come to the device and leave it while the model runs.
//!
//! [`Store`] decides, without I/O; [`SliceStream`] reads files on a thread of its own; [`Residency`] does what the
//! store says with the stream and an engine, at token boundaries, on the model's thread. What the buffers are for is
//! the model's matter.

mod store;
mod stream;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::Serialize;

pub use store::{SliceState, SliceUnit, Store};
pub use stream::{Delivery, RING_BYTES, SliceStream};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::TensorPlace;
use crate::precision::Depth;
use crate::recording::Buffer;

/// Units that are on their way at one time, where nobody waits for them: the next one is read while one is taken.
const UNITS_AT_ONCE: usize = 2;
/// Bytes handed to the device at one token boundary, where nobody waits for them, so that tokens go on.
pub const BOUNDARY_BYTES: u64 = 16 << 20;

/// A part of the model whose slices come and go together.
#[derive(Debug, Clone)]
pub struct PartFiles {
    /// Its name, for messages.
    pub name: String,
    /// The tensors of slices 1 to 3, in the order in which their buffers are handed out.
    pub slices: [Vec<TensorPlace>; 3],
}

/// How slices land.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    /// As they come; a token boundary takes what is ready and waits for nothing.
    #[default]
    AsReady,
    /// So many units at every token boundary, each waited for: the same plans at the same tokens then read the same
    /// slices.
    Units(usize),
}

/// What changed on the device.
#[derive(Debug, Default)]
pub struct SliceChanges {
    /// Units that can be read from here on, each with its buffers.
    pub loaded: Vec<(SliceUnit, Vec<Buffer>)>,
    /// Units that must not be read any more, and whose buffers are to be destroyed.
    pub freed: Vec<SliceUnit>,
}

/// Where the slices are, and what was done to get them there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SliceReport {
    /// Bytes of the residual slices that can be read.
    pub resident_bytes: u64,
    /// Units that were loaded.
    pub loaded_units: u64,
    /// Bytes of the units that were loaded.
    pub loaded_bytes: u64,
    /// Units that were freed.
    pub freed_units: u64,
    /// Bytes of the units that were freed.
    pub freed_bytes: u64,
    /// Bytes read from the slice files.
    pub read_bytes: u64,
    /// Failures that began a wait.
    pub faults: u64,
}

/// A unit on its way.
struct Arrival {
    unit: SliceUnit,
    buffers: Vec<Buffer>,
}

/// The residual slices of a model on an engine.
pub struct Residency {
    store: Store,
    parts: Vec<PartFiles>,
    /// None after its thread ended, until something is asked for again.
    stream: Option<SliceStream>,
    /// Bytes that streams before this one read.
    read_before: u64,
    /// By the numbers of their requests. Of a request that is not here, what still comes is dropped.
    arrivals: HashMap<u64, Arrival>,
    /// Freed units whose memory the device has not let go of.
    retiring: Vec<SliceUnit>,
    /// Token boundaries so far.
    now: u64,
    report: SliceReport,
    faults: Vec<String>,
}

impl Residency {
    /// No slice is there and none is wanted; all together may take `budget_bytes`. Fails where no thread can be had.
    pub fn new(parts: Vec<PartFiles>, budget_bytes: Option<u64>) -> Result<Residency> {
        let bytes = |part: &PartFiles| part.slices[0].iter().map(|tensor| tensor.bytes).sum();
        let unit_bytes: Vec<u64> = parts.iter().map(bytes).collect();
        Ok(Residency {
            store: Store::new(&unit_bytes, budget_bytes),
            parts,
            stream: Some(SliceStream::start()?),
            read_before: 0,
            arrivals: HashMap::new(),
            retiring: Vec::new(),
            now: 0,
            report: SliceReport::default(),
            faults: Vec::new(),
        })
    }

    /// Takes so many bytes from the budget, where there is one, for something else; what is on its way is given up.
    /// What is wanted is to be said anew after it. `Err(lacking)` where the budget has so many fewer; nothing changes
    /// then.
    ///
    /// Fails where the device fails.
    pub fn reserve(&mut self, engine: &mut dyn Engine, bytes: u64) -> Result<std::result::Result<(), u64>> {
        if let Err(lacking) = self.store.reserve(bytes) {
            return Ok(Err(lacking));
        }
        self.give_up_arrivals(engine);
        engine.wait()?;
        Ok(Ok(()))
    }

    fn give_up_arrivals(&mut self, engine: &mut dyn Engine) {
        for (_, Arrival { unit, buffers }) in self.arrivals.drain() {
            buffers.into_iter().for_each(|buffer| engine.destroy(buffer));
            self.store.given_up(unit);
        }
    }

    /// Sets the depth that is to be resident of each part, in the order of the parts; what lies deeper is freed.
    pub fn want(&mut self, depths: &[Depth]) -> SliceChanges {
        self.store.want(depths);
        let freed = self.store.take_freed();
        freed.iter().for_each(|unit| self.count_freed(*unit));
        SliceChanges { loaded: Vec::new(), freed }
    }

    /// How deep the budget lets all parts become that are to have these depths.
    pub fn fitting(&self, depths: &[Depth]) -> Depth {
        self.store.fitting(depths)
    }

    /// A token boundary: takes slices that came, and asks for the next ones.
    ///
    /// Where the engine's token asks for a stop, nothing is waited for.
    ///
    /// A slice that cannot be had is no failure here, but a word in [`Residency::take_faults`]; it is tried again.
    /// Fails where the device fails.
    pub fn advance(&mut self, engine: &mut dyn Engine, pace: Pace) -> Result<SliceChanges> {
        self.now += 1;
        let mut changes = SliceChanges::default();
        match pace {
            Pace::AsReady => {
                self.retire(engine)?;
                self.ask(engine);
                let mut taken = 0;
                while taken < BOUNDARY_BYTES
                    && let Some(delivery) = self.try_next(engine)
                {
                    taken += self.take(engine, delivery, &mut changes);
                    self.ask(engine);
                }
            }
            Pace::Units(units) => {
                self.wait_for_memory(engine)?;
                for _ in 0..units {
                    let Some(number) = self.ask_one(engine) else { break };
                    while self.arrivals.contains_key(&number) {
                        if engine.cancel_token().is_cancelled() {
                            return Ok(changes);
                        }
                        self.take_next(engine, &mut changes);
                    }
                }
            }
        }
        Ok(changes)
    }

    /// Waits until all that is wanted is there, or until nothing more can be had for now, or for as long as `patience`,
    /// or until the engine's token asks for a stop.
    ///
    /// Fails where the device fails; else as [`Residency::advance`].
    pub fn settle(&mut self, engine: &mut dyn Engine, patience: Option<Duration>) -> Result<SliceChanges> {
        let begin = Instant::now();
        self.now += 1;
        let mut changes = SliceChanges::default();
        self.wait_for_memory(engine)?;
        loop {
            self.ask(engine);
            let enough =
                engine.cancel_token().is_cancelled() || patience.is_some_and(|patience| begin.elapsed() >= patience);
            if self.arrivals.is_empty() || enough {
                return Ok(changes);
            }
            self.take_next(engine, &mut changes);
            self.wait_for_memory(engine)?;
        }
    }

    /// How many slices may be read of a part.
    pub fn clamp(&self, part: usize) -> Depth {
        self.store.clamp(part)
    }

    /// Frees all slices, those on their way too, and the memory between files and device. They come again when they are
    /// wanted.
    pub fn release(&mut self, engine: &mut dyn Engine) -> SliceChanges {
        self.read_before += self.stream.take().map_or(0, |stream| stream.read_bytes());
        self.give_up_arrivals(engine);
        self.want(&vec![Depth::ALL[0]; self.parts.len()])
    }

    /// Whether all that is wanted is there and nothing is on its way.
    pub fn is_settled(&self) -> bool {
        self.store.is_settled()
    }

    /// Whether slices are on their way.
    pub fn is_loading(&self) -> bool {
        !self.arrivals.is_empty()
    }

    /// Where the slices are, and what was done so far.
    pub fn report(&self) -> SliceReport {
        let read_bytes = self.read_before + self.stream.as_ref().map_or(0, SliceStream::read_bytes);
        SliceReport { resident_bytes: self.store.resident_bytes(), read_bytes, ..self.report }
    }

    /// What could not be had since the last call, in words: one for each time that loading pauses for it.
    pub fn take_faults(&mut self) -> Vec<String> {
        std::mem::take(&mut self.faults)
    }

    /// Asks for units until enough are on their way.
    fn ask(&mut self, engine: &mut dyn Engine) {
        while self.arrivals.len() < UNITS_AT_ONCE && self.ask_one(engine).is_some() {}
    }

    /// Asks for the next unit, if there is one and memory for it; the number of the request.
    fn ask_one(&mut self, engine: &mut dyn Engine) -> Option<u64> {
        let unit = self.store.next(self.now)?;
        let tensors = self.parts[unit.part].slices[unit.slice - 1].clone();
        let mut buffers = Vec::with_capacity(tensors.len());
        for tensor in &tensors {
            match engine.create(&tensor.name, tensor.bytes) {
                Ok(buffer) => buffers.push(buffer),
                Err(fault) => {
                    buffers.into_iter().for_each(|buffer| engine.destroy(buffer));
                    self.fail(unit, &fault);
                    return None;
                }
            }
        }
        match self.request(tensors) {
            Ok(number) => {
                self.arrivals.insert(number, Arrival { unit, buffers });
                Some(number)
            }
            Err(fault) => {
                buffers.into_iter().for_each(|buffer| engine.destroy(buffer));
                self.fail(unit, &fault);
                self.lose_stream(engine, &fault);
                None
            }
        }
    }

    /// Asks the stream, which is started again where its thread has ended.
    fn request(&mut self, tensors: Vec<TensorPlace>) -> Result<u64> {
        if self.stream.is_none() {
            self.stream = Some(SliceStream::start()?);
        }
        self.stream.as_mut().expect("it was started").request(tensors)
    }

    fn take_next(&mut self, engine: &mut dyn Engine, changes: &mut SliceChanges) {
        match self.stream.as_mut().map(SliceStream::wait_next) {
            Some(Ok(delivery)) => {
                self.take(engine, delivery, changes);
            }
            Some(Err(fault)) => self.lose_stream(engine, &fault),
            None => {}
        }
    }

    fn try_next(&mut self, engine: &mut dyn Engine) -> Option<Delivery> {
        match self.stream.as_mut()?.try_next() {
            Ok(delivery) => delivery,
            Err(fault) => {
                self.lose_stream(engine, &fault);
                None
            }
        }
    }

    /// The thread that reads has ended: what was on its way does not come, and is tried again like any other fault.
    fn lose_stream(&mut self, engine: &mut dyn Engine, fault: &Error) {
        self.read_before += self.stream.take().map_or(0, |stream| stream.read_bytes());
        let mut numbers: Vec<u64> = self.arrivals.keys().copied().collect();
        numbers.sort_unstable();
        numbers.into_iter().for_each(|number| self.drop_arrival(engine, number, fault));
    }

    /// Takes a delivery; the bytes handed to the device.
    fn take(&mut self, engine: &mut dyn Engine, delivery: Delivery, changes: &mut SliceChanges) -> u64 {
        match delivery {
            Delivery::Chunk { number, tensor, offset, bytes } => {
                let length = bytes.len() as u64;
                let to = self.arrivals.get(&number).map(|arrival| arrival.buffers[tensor].span(offset, length));
                let uploaded = to.map(|to| engine.upload(to, &bytes));
                if let Some(stream) = &mut self.stream {
                    stream.give_back(bytes);
                }
                if let Some(Err(fault)) = uploaded {
                    self.drop_arrival(engine, number, &fault);
                }
                length
            }
            Delivery::Whole(number) => {
                if let Some(arrival) = self.arrivals.remove(&number) {
                    self.land(engine, arrival, changes);
                }
                0
            }
            Delivery::Failed(number, fault) => {
                self.drop_arrival(engine, number, &fault);
                0
            }
        }
    }

    fn land(&mut self, engine: &mut dyn Engine, Arrival { unit, buffers }: Arrival, changes: &mut SliceChanges) {
        self.report.loaded_units += 1;
        self.report.loaded_bytes += self.store.unit_bytes(unit);
        self.store.loaded(unit);
        let unwanted = self.store.take_freed();
        if unwanted.is_empty() {
            changes.loaded.push((unit, buffers));
            return;
        }
        // Nobody has seen it, so that nobody else can end its buffers.
        buffers.into_iter().for_each(|buffer| engine.destroy(buffer));
        unwanted.into_iter().for_each(|unit| self.count_freed(unit));
    }

    fn drop_arrival(&mut self, engine: &mut dyn Engine, number: u64, fault: &Error) {
        if let Some(Arrival { unit, buffers }) = self.arrivals.remove(&number) {
            buffers.into_iter().for_each(|buffer| engine.destroy(buffer));
            self.fail(unit, fault);
        }
    }

    fn fail(&mut self, unit: SliceUnit, fault: &Error) {
        if self.store.failed(unit, self.now) {
            self.report.faults += 1;
            self.faults.push(format!("slice {} of {}: {fault}", unit.slice, self.parts[unit.part].name));
        }
    }

    fn count_freed(&mut self, unit: SliceUnit) {
        self.report.freed_units += 1;
        self.report.freed_bytes += self.store.unit_bytes(unit);
        self.retiring.push(unit);
    }

    /// Tells the store of memory that the device has let go of.
    fn retire(&mut self, engine: &mut dyn Engine) -> Result<()> {
        if !self.retiring.is_empty() && engine.retiring_bytes()? == 0 {
            self.retiring.drain(..).for_each(|unit| self.store.retired(unit));
        }
        Ok(())
    }

    /// Waits until the device has let go of what was freed.
    pub fn wait_for_memory(&mut self, engine: &mut dyn Engine) -> Result<()> {
        if !self.retiring.is_empty() {
            engine.wait()?;
            self.retire(engine)?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "residency_tests.rs"]
mod tests;
