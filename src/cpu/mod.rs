//! The engine that runs recordings on the processor: by code of its own for the kernels that take most of the time, and
//! by the kernels' references for the others.
//!
//! The engine of references alone is the oracle of the tests.

mod attention;
mod codes;
mod exponential;
mod halves;
mod memory;
mod own;
mod pairs;
mod pointwise;
mod products;
mod projections;
mod rows;
mod work_space;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::cancel::{CancelToken, Watch};
use crate::engine::{Activations, DeviceInfo, DeviceKind, Engine, KernelTime, Traits, USUAL_PROCESSORS};
use crate::error::{Error, Result};
use crate::format::MappedTensor;
use crate::recording::{
    Access, Arguments, Bound, Buffer, Command, Dispatch, Kernel, Prepared, Recording, Span, Ticket,
};
use memory::{CpuMemory, Owned, no_room};
use own::Run;
use work_space::WorkSpace;

/// The processor as a device.
pub fn device() -> DeviceInfo {
    DeviceInfo {
        index: None,
        name: "processor".to_string(),
        kind: DeviceKind::Processor,
        backend: "CPU".to_string(),
        driver: format!("{}, {} threads", std::env::consts::ARCH, rayon::current_num_threads()),
        features: Vec::new(),
    }
}

/// Opens the CPU engine.
pub fn open() -> Box<dyn Engine> {
    open_with(Activations::Auto)
}

/// Opens the CPU engine, for products of these. Int8s are faster here, and what is taken where there is a choice. With
/// them, the products of several tokens are of int8s too.
pub fn open_with(activations: Activations) -> Box<dyn Engine> {
    match activations {
        Activations::F32 => engine(Activations::F32, |kernel| kernel.reference),
        Activations::Auto | Activations::Int8 => engine(Activations::Int8, own::fastest),
    }
}

/// Opens an engine that runs every kernel by its reference, for products of these: slow, and what other engines and the
/// processor's own code are compared with.
pub fn open_reference(activations: Activations) -> Box<dyn Engine> {
    engine(activations, |kernel| kernel.reference)
}

fn engine(activations: Activations, kernels: fn(&'static Kernel) -> Run) -> Box<dyn Engine> {
    let owned_bytes: Arc<AtomicU64> = Arc::default();
    Box::new(CpuEngine {
        info: device(),
        activations,
        kernels,
        buffers: HashMap::new(),
        work_space: WorkSpace::new(Arc::clone(&owned_bytes)),
        owned_bytes,
        mapped_bytes: 0,
        cancel: CancelToken::new(),
    })
}

struct CpuEngine {
    info: DeviceInfo,
    activations: Activations,
    /// What runs a kernel.
    kernels: fn(&'static Kernel) -> Run,
    buffers: HashMap<Buffer, CpuMemory>,
    work_space: WorkSpace,
    /// Bytes of all [`CpuMemory::Owned`], transients included.
    owned_bytes: Arc<AtomicU64>,
    mapped_bytes: u64,
    cancel: CancelToken,
}

/// Fails where there is no room for what kernels take for themselves while they run: a few copies of what they write at
/// most. What they take, they give back.
fn check_scratch(recording: &Recording) -> Result<()> {
    const COPIES: u64 = 2;
    const LEAST_BYTES: u64 = 4 << 20;
    let most = recording.transients().iter().map(|buffer| buffer.bytes()).max().unwrap_or(0);
    let bytes = most.saturating_mul(COPIES).max(LEAST_BYTES);
    Owned::zeros("the work of a step", bytes, &Arc::default()).map(|_| ())
}

struct CpuPrepared {
    recording: Recording,
    /// The transients, the longest first.
    transients: Vec<Buffer>,
    /// Their lengths, for which the work space has room as long as this is there.
    _lengths: Arc<[u64]>,
}

impl Engine for CpuEngine {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn traits(&self) -> Traits {
        Traits {
            software: true,
            packed_dot: self.activations == Activations::Int8,
            activations: self.activations,
            subgroup: 1,
            cooperative_matrix: false,
            workgroup_invocations: u32::MAX,
            workgroup_bytes: u32::MAX,
            processors: USUAL_PROCESSORS,
            binding_bytes: u64::MAX,
            buffer_bytes: u64::MAX,
            loop_rounds: u32::MAX,
        }
    }

    fn cancel_token(&self) -> &CancelToken {
        &self.cancel
    }

    fn set_cancel(&mut self, cancel: CancelToken) {
        self.cancel = cancel;
    }

    fn create(&mut self, label: &str, bytes: u64) -> Result<Buffer> {
        let owned = Owned::zeros(label, bytes, &self.owned_bytes)?;
        let buffer = Buffer::new(bytes);
        self.buffers.insert(buffer, CpuMemory::Owned(owned));
        Ok(buffer)
    }

    fn load(&mut self, _label: &str, tensor: &MappedTensor) -> Result<Buffer> {
        let buffer = Buffer::new(tensor.bytes().len() as u64);
        self.mapped_bytes += buffer.bytes();
        self.buffers.insert(buffer, CpuMemory::Mapped(tensor.clone()));
        Ok(buffer)
    }

    fn destroy(&mut self, buffer: Buffer) {
        if let Some(CpuMemory::Mapped(_)) = self.buffers.remove(&buffer) {
            self.mapped_bytes -= buffer.bytes();
        }
    }

    fn retiring_bytes(&mut self) -> Result<u64> {
        Ok(0)
    }

    fn wait(&mut self) -> Result<()> {
        Ok(())
    }

    fn write(&mut self, to: Span, bytes: &[u8]) {
        let memory = self.buffers.get_mut(&to.buffer).expect("a buffer of this engine");
        memory.bytes_mut()[range(to)].copy_from_slice(bytes);
    }

    fn upload(&mut self, to: Span, bytes: &[u8]) -> Result<()> {
        self.write(to, bytes);
        Ok(())
    }

    fn prepare(&mut self, recording: Recording) -> Result<Prepared> {
        let mut transients = recording.transients().to_vec();
        transients.sort_by_key(|buffer| std::cmp::Reverse(buffer.bytes()));
        let lengths = self.work_space.reserve(transients.iter().map(|buffer| buffer.bytes()).collect())?;
        check_scratch(&recording)?;
        Ok(Prepared(Box::new(CpuPrepared { recording, transients, _lengths: lengths })))
    }

    fn overlaps(&self) -> bool {
        false
    }

    fn allocates_exactly(&self) -> bool {
        true
    }

    fn submit(&mut self, prepared: &mut Prepared) -> Result<Ticket> {
        let mut results: Vec<Result<Vec<u8>>> = Vec::new();
        self.execute(prepared, &mut |engine, command, watch| match command {
            Command::Dispatch(dispatch) => engine.dispatch(dispatch, watch),
            Command::Clear(span) => engine.clear(*span),
            Command::ReadBack(from) => results.push(copied(&engine.buffers[&from.buffer].bytes()[range(*from)])),
        })?;
        let results = results.into_iter().collect::<Result<Vec<Vec<u8>>>>()?;
        Ok(Ticket(Box::new(results)))
    }

    fn finish(&mut self, ticket: Ticket) -> Result<Vec<Vec<u8>>> {
        Ok(*ticket.0.downcast().expect("a ticket of this engine"))
    }

    fn profile(&mut self, prepared: &mut Prepared) -> Result<Vec<KernelTime>> {
        let mut times = Vec::new();
        let first = Instant::now();
        self.execute(prepared, &mut |engine, command, watch| match command {
            Command::Dispatch(dispatch) => {
                let start = first.elapsed();
                engine.dispatch(dispatch, watch);
                times.push(KernelTime { kernel: dispatch.kernel.name, start, end: first.elapsed() });
            }
            Command::Clear(span) => engine.clear(*span),
            Command::ReadBack(_) => (),
        })?;
        Ok(times)
    }

    fn allocated_bytes(&self) -> u64 {
        self.owned_bytes.load(Ordering::Relaxed) + self.mapped_bytes
    }
}

impl CpuEngine {
    /// Takes the commands in order, with the transients among the buffers, until a stop is asked for.
    fn execute(
        &mut self,
        prepared: &mut Prepared,
        take: &mut (dyn FnMut(&mut CpuEngine, &Command, &Watch) + Send),
    ) -> Result<()> {
        let prepared: &mut CpuPrepared = prepared.0.downcast_mut().expect("prepared by this engine");
        let lent = prepared.transients.iter().copied().zip(self.work_space.lend(prepared.transients.len())?);
        self.buffers.extend(lent.map(|(buffer, owned)| (buffer, CpuMemory::Owned(owned))));
        let watch = Watch::new(&self.cancel);
        // On a thread of the pool, which has a share of the work itself and need not be woken after each dispatch.
        rayon::scope(|_| {
            // Short kernels do not look, so that it is looked before each. What has a hole is not gone on with.
            for command in prepared.recording.commands() {
                if watch.stops() {
                    break;
                }
                take(self, command, &watch);
            }
        });
        let lent = prepared.transients.iter().filter_map(|buffer| self.buffers.remove(buffer)?.into_owned());
        self.work_space.give_back(lent.collect());
        if watch.was_seen() { Err(Error::Stopped("the step")) } else { Ok(()) }
    }

    fn clear(&mut self, span: Span) {
        let memory = self.buffers.get_mut(&span.buffer).expect("a buffer of this engine");
        memory.bytes_mut()[range(span)].fill(0);
    }

    fn dispatch(&mut self, dispatch: &Dispatch, watch: &Watch) {
        let spans = dispatch.bindings.iter().zip(dispatch.kernel.bindings);
        // Written buffers leave the table for the call, so that they can be borrowed beside those that are read.
        let mut written: Vec<(Buffer, CpuMemory)> = spans
            .clone()
            .filter(|(_, access)| **access == Access::Write)
            .map(|(span, _)| self.buffers.remove_entry(&span.buffer).expect("a buffer of this engine"))
            .collect();
        let mut writes = written.iter_mut();
        let bindings = spans.map(|(span, access)| match access {
            Access::Read => Bound::Read(&self.buffers[&span.buffer].bytes()[range(*span)]),
            Access::Write => {
                let (_, memory) = writes.next().expect("one entry for each written binding");
                Bound::Write(&mut memory.bytes_mut()[range(*span)])
            }
        });
        let bindings = bindings.collect();
        let Dispatch { params, constants, workgroups, .. } = dispatch;
        let mut arguments = Arguments { params, constants, workgroups: *workgroups, bindings, watch };
        (self.kernels)(dispatch.kernel)(&mut arguments);
        drop(arguments);
        self.buffers.extend(written);
    }
}

/// A copy for the caller. Fails where there is no room for it.
fn copied(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut copy = Vec::new();
    copy.try_reserve_exact(bytes.len()).map_err(|_| no_room("what a step reads back", bytes.len() as u64))?;
    copy.extend_from_slice(bytes);
    Ok(copy)
}

fn range(span: Span) -> std::ops::Range<usize> {
    span.offset as usize..(span.offset + span.bytes) as usize
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::kernels::declare::each_row;

    /// Rows of a dispatch that would take long.
    const ROWS: usize = 1 << 20;
    static TOKEN: LazyLock<CancelToken> = LazyLock::new(CancelToken::new);
    static DONE: AtomicUsize = AtomicUsize::new(0);

    fn stopped_on_the_way(args: &mut Arguments<'_>) {
        let rows: &mut [u32] = args.write(0);
        each_row(args.watch, rows, 1, |_, row| {
            row[0] = 1;
            if DONE.fetch_add(1, Ordering::Relaxed) == 100 {
                TOKEN.cancel();
            }
        });
    }

    static KERNEL: Kernel = Kernel {
        name: "stopped_on_the_way",
        wgsl: "",
        params: &[],
        bindings: &[Access::Write],
        reference: stopped_on_the_way,
    };

    #[test]
    fn a_stop_is_heeded_within_a_dispatch_and_nothing_comes_after_it() {
        let mut engine = open();
        engine.set_cancel(TOKEN.clone());
        let [a, b] = ["a", "b"].map(|label| engine.create(label, ROWS as u64 * 4).unwrap());
        let mut recording = Recording::new();
        let transient = recording.transient(4);
        for buffer in [a, b, transient] {
            let (constants, params, bindings) = (vec![], vec![], vec![buffer.all()]);
            recording.dispatch(Dispatch { kernel: &KERNEL, constants, params, bindings, workgroups: [1; 3] });
        }
        recording.read_back(b.all());
        let mut prepared = engine.prepare(recording).unwrap();
        let bytes = engine.allocated_bytes();
        assert!(matches!(engine.run(&mut prepared), Err(Error::Stopped(_))));
        // Every thread may have been in a row when the stop came.
        let done = DONE.load(Ordering::Relaxed);
        assert!((101..=101 + rayon::current_num_threads()).contains(&done), "{done} rows of {ROWS}");
        assert!(matches!(engine.run(&mut prepared), Err(Error::Stopped(_))), "as long as it is asked for");
        assert_eq!((DONE.load(Ordering::Relaxed), engine.allocated_bytes()), (done, bytes));

        TOKEN.reset();
        let mut recording = Recording::new();
        recording.read_back(b.all());
        let mut look = engine.prepare(recording).unwrap();
        assert!(engine.run(&mut look).unwrap()[0].iter().all(|byte| *byte == 0), "the second dispatch did not begin");
        let whole = engine.run(&mut prepared).unwrap().remove(0);
        assert!(bytemuck::pod_collect_to_vec::<u8, u32>(&whole).iter().all(|row| *row == 1));
    }
}
