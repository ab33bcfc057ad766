//! Executes recordings: one compute pass and one submit a run, or several of them where it takes long.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::cache::PipelineCache;
use super::context::Context;
use super::pace::Clock;
use super::pipelines::{Pipeline, Pipelines};
use super::pool::{Loan, Pool, retire};
use super::run::{GpuRun, Mapping, Pending, STEP, SharedPace};
use super::timestamps;
use crate::cancel::CancelToken;
use crate::engine::{DeviceInfo, DeviceKind, Engine, KernelTime, Traits};
use crate::error::Result;
use crate::format::MappedTensor;
use crate::recording::{Buffer, Command, Prepared, Recording, Span, Ticket};

/// Bytes written since the last submit at which loading waits, so that the driver's staging copies stay few.
const STAGING_BYTES: u64 = 32 << 20;
/// Steps of the first submit of a recording that has not run: on a software renderer one may take seconds.
const FIRST_STEPS: usize = 8;
const FIRST_STEPS_IN_SOFTWARE: usize = 1;

pub(super) struct GpuEngine {
    pub(super) context: Context,
    pipelines: Pipelines,
    buffers: HashMap<Buffer, wgpu::Buffer>,
    buffer_bytes: u64,
    /// Bytes of buffers that were destroyed or that pools dropped, and that submitted work may still use.
    retiring_bytes: Arc<AtomicU64>,
    pool: Pool,
    /// The run that is not submitted as a whole. It comes before all that is written or submitted after it.
    pub(super) pending: Option<Pending>,
    /// When the device was done with what was waited for.
    pub(super) clock: Clock,
    pub(super) cancel: CancelToken,
    /// Where read-backs go until the host has read them: a buffer for each run under way.
    read_backs: Pool,
    staged_bytes: u64,
}

/// One step of a run, resolved to wgpu's objects.
pub(super) enum GpuCommand {
    Dispatch(Launch),
    Clear {
        place: BufferOffset,
        bytes: u64,
    },
    /// To the run's read-back buffer.
    ReadBack {
        from: BufferOffset,
        offset: u64,
        bytes: u64,
    },
}

/// A dispatch, resolved to wgpu's objects.
pub(super) struct Launch {
    pub kernel: &'static str,
    pipeline: Arc<Pipeline>,
    group: wgpu::BindGroup,
    params: Vec<u8>,
    workgroups: [u32; 3],
}

impl Launch {
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        let [x, y, z] = self.workgroups;
        pass.set_pipeline(&self.pipeline.compute);
        pass.set_bind_group(0, &self.group, &[]);
        pass.set_immediates(0, &self.params);
        pass.dispatch_workgroups(x, y, z);
    }
}

/// A position in a buffer.
pub(super) struct BufferOffset {
    buffer: wgpu::Buffer,
    offset: u64,
}

struct GpuPrepared {
    steps: Arc<[GpuCommand]>,
    pace: SharedPace,
    /// The length of each read-back, which lies at the sum of the lengths before it.
    read_back_lengths: Vec<u64>,
    /// They go back to the pool with the recording. A run that is still under way then comes first on the queue, before
    /// whatever takes them next.
    _transients: Vec<Loan>,
}

impl GpuEngine {
    /// An engine of the device; with a folder, one that keeps compiled pipelines there.
    pub fn new(context: Context, cache: Option<&Path>) -> GpuEngine {
        let storage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let cache =
            cache.and_then(|folder| PipelineCache::open(&context.device, &context.device.adapter_info(), folder));
        let read_back = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let retiring_bytes: Arc<AtomicU64> = Arc::default();
        GpuEngine {
            context,
            pipelines: Pipelines::new(cache),
            buffers: HashMap::new(),
            buffer_bytes: 0,
            retiring_bytes: Arc::clone(&retiring_bytes),
            pool: Pool::new("transient", storage, Arc::clone(&retiring_bytes)),
            pending: None,
            clock: Clock::new(Instant::now()),
            cancel: CancelToken::new(),
            read_backs: Pool::new("read back", read_back, retiring_bytes),
            staged_bytes: 0,
        }
    }

    /// The open device, for what is measured after it was opened.
    pub fn context_mut(&mut self) -> &mut Context {
        &mut self.context
    }

    pub(super) fn is_software(&self) -> bool {
        self.context.info.kind == DeviceKind::SoftwareRenderer
    }

    pub(super) fn encode(&self, steps: &[GpuCommand], read_back: Option<&Mapping>) -> wgpu::CommandBuffer {
        let mut encoder = self.context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        // All else ends a pass; dispatches between share one.
        for steps in steps.chunk_by(|a, b| matches!((a, b), (GpuCommand::Dispatch(_), GpuCommand::Dispatch(_)))) {
            match steps {
                [GpuCommand::ReadBack { from, offset, bytes }] => {
                    let to = read_back.expect("a buffer where there is a read-back").buffer();
                    encoder.copy_buffer_to_buffer(&from.buffer, from.offset, to, *offset, *bytes);
                }
                [GpuCommand::Clear { place, bytes }] => encoder.clear_buffer(&place.buffer, place.offset, Some(*bytes)),
                launched => {
                    let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                    launches(launched).for_each(|launch| launch.encode(&mut pass));
                }
            }
        }
        encoder.finish()
    }
}

impl Engine for GpuEngine {
    fn info(&self) -> &DeviceInfo {
        &self.context.info
    }

    fn traits(&self) -> Traits {
        self.context.traits
    }

    fn cancel_token(&self) -> &CancelToken {
        &self.cancel
    }

    fn set_cancel(&mut self, cancel: CancelToken) {
        self.cancel = cancel;
    }

    fn create(&mut self, label: &str, bytes: u64) -> Result<Buffer> {
        let most = self.context.device.limits().max_buffer_size;
        if bytes > most {
            return Err(self.context.fault(format!("{label} needs a buffer of {bytes} bytes; {most} is the most")));
        }
        let descriptor = wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes.next_multiple_of(4),
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        };
        let gpu_buffer = self.context.make(|device| device.create_buffer(&descriptor))?;
        let buffer = Buffer::new(bytes);
        self.buffers.insert(buffer, gpu_buffer);
        self.buffer_bytes += bytes;
        Ok(buffer)
    }

    fn load(&mut self, label: &str, tensor: &MappedTensor) -> Result<Buffer> {
        let bytes = tensor.bytes();
        let buffer = self.create(label, bytes.len() as u64)?;
        self.upload(buffer.all(), bytes)?;
        Ok(buffer)
    }

    fn destroy(&mut self, buffer: Buffer) {
        if self.buffers.remove(&buffer).is_none() {
            return;
        }
        // A failure is reported to the caller that waits for that run.
        let _ = self.flush();
        // wgpu keeps the memory until the submissions that use it are done, and frees it by itself.
        let bytes = buffer.bytes();
        self.buffer_bytes -= bytes;
        retire(&self.context, &self.retiring_bytes, bytes);
    }

    fn retiring_bytes(&mut self) -> Result<u64> {
        self.context.device.poll(wgpu::PollType::Poll).map_err(|e| self.context.fault(e.to_string()))?;
        self.context.check()?;
        Ok(self.retiring_bytes.load(Ordering::Relaxed))
    }

    fn wait(&mut self) -> Result<()> {
        let flushed = self.flush();
        self.context.wait().and(flushed)
    }

    fn write(&mut self, to: Span, bytes: &[u8]) {
        assert_eq!(to.bytes, bytes.len() as u64, "a write fills its span");
        // A failure is reported to the caller that waits for that run.
        let _ = self.flush();
        self.context.queue.write_buffer(&self.buffers[&to.buffer], to.offset, bytes);
    }

    fn upload(&mut self, to: Span, bytes: &[u8]) -> Result<()> {
        for (at, piece) in bytes.chunks(STAGING_BYTES as usize).enumerate() {
            if at > 0 {
                self.cancel.check("loading")?;
            }
            self.write(to.buffer.span(to.offset + at as u64 * STAGING_BYTES, piece.len() as u64), piece);
            self.staged_bytes += piece.len() as u64;
            if self.staged_bytes >= STAGING_BYTES {
                self.context.queue.submit([]);
                self.context.wait()?;
                self.staged_bytes = 0;
            }
        }
        Ok(())
    }

    fn prepare(&mut self, recording: Recording) -> Result<Prepared> {
        let wanted: Vec<u64> = recording.transients().iter().map(|buffer| buffer.bytes()).collect();
        let loans = self.pool.lend_all(&self.context, &wanted)?;
        let lent = recording.transients().iter().zip(&loans);
        let transients: HashMap<Buffer, wgpu::Buffer> =
            lent.map(|(buffer, loan)| (*buffer, loan.buffer().clone())).collect();
        let lengths: Vec<u64> = recording
            .commands()
            .iter()
            .filter_map(|c| if let Command::ReadBack(span) = c { Some(span.bytes) } else { None })
            .collect();
        let find = |buffer: &Buffer| transients.get(buffer).unwrap_or_else(|| &self.buffers[buffer]);
        let mut steps = Vec::with_capacity(recording.commands().len());
        let mut read_back_offset = 0;
        for command in recording.commands() {
            // A pipeline that is compiled may take long.
            self.cancel.check(STEP)?;
            steps.push(match command {
                Command::Dispatch(dispatch) => {
                    let pipeline = self.pipelines.get(&self.context, dispatch)?;
                    let group = bind(&self.context, &pipeline, &dispatch.bindings, &find);
                    let (kernel, workgroups) = (dispatch.kernel.name, dispatch.workgroups);
                    GpuCommand::Dispatch(Launch {
                        kernel,
                        pipeline,
                        group,
                        params: dispatch.params.clone(),
                        workgroups,
                    })
                }
                Command::Clear(span) => {
                    let place = BufferOffset { buffer: find(&span.buffer).clone(), offset: span.offset };
                    GpuCommand::Clear { place, bytes: span.bytes }
                }
                Command::ReadBack(from) => {
                    let offset = read_back_offset;
                    read_back_offset += from.bytes;
                    let source = BufferOffset { buffer: find(&from.buffer).clone(), offset: from.offset };
                    GpuCommand::ReadBack { from: source, offset, bytes: from.bytes }
                }
            });
        }
        self.context.check()?;
        Ok(Prepared(Box::new(GpuPrepared {
            steps: steps.into(),
            pace: SharedPace::default(),
            read_back_lengths: lengths,
            _transients: loans,
        })))
    }

    fn overlaps(&self) -> bool {
        !self.is_software()
    }

    fn submit(&mut self, prepared: &mut Prepared) -> Result<Ticket> {
        self.cancel.check(STEP)?;
        self.flush()?;
        let prepared: &mut GpuPrepared = prepared.0.downcast_mut().expect("prepared by this engine");
        let lengths = prepared.read_back_lengths.clone();
        let read_back = match lengths.is_empty() {
            true => None,
            false => Some(Mapping::of(self.read_backs.lend(&self.context, lengths.iter().sum())?)),
        };
        let first = if self.is_software() { FIRST_STEPS_IN_SOFTWARE } else { FIRST_STEPS };
        let submits = (self.context.most_submit, first);
        let pending = GpuRun::begin(&prepared.steps, (read_back, lengths), &prepared.pace, submits, &self.cancel);
        let run = pending.run();
        self.start(pending)?;
        self.context.check()?;
        Ok(Ticket(Box::new(run)))
    }

    fn finish(&mut self, ticket: Ticket) -> Result<Vec<Vec<u8>>> {
        let run: Arc<GpuRun> = *ticket.0.downcast().expect("a ticket of this engine");
        self.wait_for_run(&run)?;
        let Some(mapping) = &run.read_back else { return Ok(Vec::new()) };
        let mapped = mapping.buffer().get_mapped_range(..).map_err(|e| self.context.fault(e.to_string()))?;
        let mut rest: &[u8] = &mapped;
        let mut results = Vec::new();
        for bytes in &run.lengths {
            let (result, after) = rest.split_at(*bytes as usize);
            results.push(result.to_vec());
            rest = after;
        }
        Ok(results)
    }

    fn profile(&mut self, prepared: &mut Prepared) -> Result<Vec<KernelTime>> {
        self.cancel.check(STEP)?;
        self.flush()?;
        let prepared: &mut GpuPrepared = prepared.0.downcast_mut().expect("prepared by this engine");
        let mut clears = self.context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for step in prepared.steps.iter() {
            if let GpuCommand::Clear { place, bytes } = step {
                clears.clear_buffer(&place.buffer, place.offset, Some(*bytes));
            }
        }
        self.context.queue.submit([clears.finish()]);
        timestamps::profile(&self.context, &launches(&prepared.steps).collect::<Vec<_>>())
    }

    fn allocated_bytes(&self) -> u64 {
        let retiring = self.retiring_bytes.load(Ordering::Relaxed);
        self.buffer_bytes + retiring + self.pool.bytes() + self.read_backs.bytes()
    }
}

fn launches(steps: &[GpuCommand]) -> impl Iterator<Item = &Launch> {
    steps.iter().filter_map(|step| if let GpuCommand::Dispatch(launch) = step { Some(launch) } else { None })
}

/// The spans as the bindings of a pipeline, each in the buffer that `find` knows.
fn bind<'a>(
    context: &Context,
    pipeline: &Pipeline,
    spans: &[Span],
    find: &dyn Fn(&Buffer) -> &'a wgpu::Buffer,
) -> wgpu::BindGroup {
    let entry = |(binding, span): (usize, &Span)| wgpu::BindGroupEntry {
        binding: binding as u32,
        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: find(&span.buffer),
            offset: span.offset,
            size: wgpu::BufferSize::new(span.bytes),
        }),
    };
    let entries: Vec<_> = spans.iter().enumerate().map(entry).collect();
    let descriptor = wgpu::BindGroupDescriptor { label: None, layout: &pipeline.bindings, entries: &entries };
    context.device.create_bind_group(&descriptor)
}
