//! Runs under way: a recording's steps, cut into submits of which few are in flight at a time.
//!
//! A run that fits in one submit is handed to the device whole. Of a longer one, the next submit follows when the one
//! before the last is done, so that between two of them a stop can be heeded; what follows waits in [`Pending`] until
//! somebody waits for the run, or hands the device something that must come after it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::engine::{GpuCommand, GpuEngine};
use super::pace::{Clock, Plan, Spent, SubmitPace};
use super::pool::Loan;
use crate::cancel::CancelToken;
use crate::error::{Error, Result};

/// Submits of a long run that the device has at a time: one that runs, and one more, so that it never waits for the
/// host. A software renderer computes on the host's cores, and one at a time is stopped sooner.
const IN_FLIGHT: usize = 2;
const IN_FLIGHT_IN_SOFTWARE: usize = 1;

/// The part of a run that is submitted first, where the device would wait for the host to encode all of it.
const EARLY_SHARE: usize = 4;

/// What a run is called where it is stopped.
pub(super) const STEP: &str = "the step";

/// The pace of a recording's last run, which is noted when that is waited for.
pub(super) type SharedPace = Arc<Mutex<Option<SubmitPace>>>;

/// A run, for whoever waits for it.
pub(super) struct GpuRun {
    /// None where nothing is read back.
    pub read_back: Option<Mapping>,
    /// The length of each read-back, which lies at the sum of the lengths before it.
    pub lengths: Vec<u64>,
    pace: SharedPace,
    state: Mutex<RunState>,
    /// What stops this run, whoever's run the engine works on when it is looked at.
    cancel: CancelToken,
}

/// How far a run has come.
enum RunState {
    /// Some steps are not submitted.
    Pending,
    /// All steps are submitted; the last of them so, and not all of them waited for.
    Submitted(InFlight, Plan),
    /// A stop was asked for before all steps were submitted.
    Stopped,
    /// The device failed before all steps were submitted.
    Failed(String),
}

/// Steps that the device has, by the last of their submits.
struct InFlight {
    submission: wgpu::SubmissionIndex,
    steps: usize,
    submitted: Instant,
}

/// A run whose steps are not all submitted.
pub(super) struct Pending {
    run: Arc<GpuRun>,
    steps: Arc<[GpuCommand]>,
    /// The first step that is not submitted.
    next: usize,
    in_flight: VecDeque<InFlight>,
    plan: Plan,
}

/// A read-back buffer, which is mapped once all of its run is submitted. It goes back unmapped.
pub(super) struct Mapping {
    loan: Loan,
    mapped: AtomicBool,
}

impl Mapping {
    /// A buffer that is not mapped yet.
    pub fn of(loan: Loan) -> Mapping {
        Mapping { loan, mapped: AtomicBool::new(false) }
    }

    /// The buffer.
    pub fn buffer(&self) -> &wgpu::Buffer {
        self.loan.buffer()
    }

    /// Begins to map the buffer, which no later submit may write.
    fn map(&self) {
        self.buffer().map_async(wgpu::MapMode::Read, .., |_| ());
        self.mapped.store(true, Ordering::Relaxed);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // That of a run that was stopped is not mapped.
        if self.mapped.load(Ordering::Relaxed) {
            self.buffer().unmap();
        }
    }
}

impl GpuRun {
    /// A run that begins now, with all steps before it.
    pub fn begin(
        steps: &Arc<[GpuCommand]>,
        (read_back, lengths): (Option<Mapping>, Vec<u64>),
        pace: &SharedPace,
        (most_submit, first): (Duration, usize),
        cancel: &CancelToken,
    ) -> Pending {
        let known = *pace.lock().expect("no panic while held");
        let (state, pace) = (Mutex::new(RunState::Pending), Arc::clone(pace));
        let run = GpuRun { read_back, lengths, pace, state, cancel: cancel.clone() };
        let (steps, plan) = (Arc::clone(steps), Plan::new(most_submit, known, first));
        Pending { run: Arc::new(run), steps, next: 0, in_flight: VecDeque::new(), plan }
    }

    fn set(&self, state: RunState) {
        *self.state.lock().expect("no panic while held") = state;
    }
}

impl Pending {
    /// The run.
    pub fn run(&self) -> Arc<GpuRun> {
        Arc::clone(&self.run)
    }

    /// Whether it is this run.
    pub fn is(&self, run: &Arc<GpuRun>) -> bool {
        Arc::ptr_eq(&self.run, run)
    }
}

impl GpuEngine {
    /// Submits as much of a run as may be submitted without a wait. The rest stays pending.
    pub(super) fn start(&mut self, pending: Pending) -> Result<()> {
        debug_assert!(self.pending.is_none(), "what came before is submitted first");
        self.pending = Some(pending);
        self.submit_steps(false)
    }

    /// Submits the rest of the pending run, waiting for the device as often as it takes. Where that run is stopped
    /// meanwhile, the caller that waits for it gets the error, and no run is pending. Fails where the device fails.
    pub(super) fn flush(&mut self) -> Result<()> {
        match self.submit_steps(true) {
            Err(Error::Stopped(_)) => Ok(()),
            other => other,
        }
    }

    fn submit_steps(&mut self, waits: bool) -> Result<()> {
        let Some(mut pending) = self.pending.take() else { return Ok(()) };
        let most = if self.is_software() { IN_FLIGHT_IN_SOFTWARE } else { IN_FLIGHT };
        while pending.next < pending.steps.len() {
            if pending.in_flight.len() == most {
                if !waits {
                    self.pending = Some(pending);
                    return Ok(());
                }
                let first = pending.in_flight.pop_front().expect("there are some");
                match self.wait_for_steps(first) {
                    Ok(spent) => pending.plan.note(spent),
                    Err(error) => {
                        let message = match &error {
                            Error::Device { message, .. } => message.clone(),
                            other => other.to_string(),
                        };
                        pending.run.set(RunState::Failed(message));
                        return Err(error);
                    }
                }
            }
            if pending.run.cancel.is_cancelled() {
                pending.run.set(RunState::Stopped);
                return Err(Error::Stopped(STEP));
            }
            self.submit_next(&mut pending);
        }
        self.end(pending);
        Ok(())
    }

    fn submit_next(&mut self, pending: &mut Pending) {
        let rest = pending.steps.len() - pending.next;
        let mut count = pending.plan.steps().min(rest);
        // The device works on the first of a run while the host encodes the rest.
        if pending.next == 0 && count == rest && self.is_idle() {
            count = rest.div_ceil(EARLY_SHARE);
        }
        let steps = &pending.steps[pending.next..pending.next + count];
        let submitted = Instant::now();
        let submission = self.context.queue.submit([self.encode(steps, pending.run.read_back.as_ref())]);
        pending.next += count;
        pending.in_flight.push_back(InFlight { submission, steps: count, submitted });
    }

    /// Whether the device waits for work, and not for the host's cores.
    fn is_idle(&self) -> bool {
        !self.is_software()
            && self.context.device.poll(wgpu::PollType::Poll).is_ok_and(|status| status.is_queue_empty())
    }

    /// All steps of a run are submitted.
    fn end(&mut self, mut pending: Pending) {
        let first = pending.in_flight.pop_front().unwrap_or_else(|| {
            let submitted = Instant::now();
            InFlight { submission: self.context.queue.submit([]), steps: 0, submitted }
        });
        // Waited for together.
        let last = pending.in_flight.into_iter().fold(first, |before, last| InFlight {
            submission: last.submission,
            steps: before.steps + last.steps,
            submitted: before.submitted,
        });
        if let Some(mapping) = &pending.run.read_back {
            mapping.map();
        }
        pending.run.set(RunState::Submitted(last, pending.plan));
    }

    fn wait_for_steps(&mut self, InFlight { submission, steps, submitted }: InFlight) -> Result<Spent> {
        let wait = Instant::now();
        self.context.wait_for(submission)?;
        let clock: &mut Clock = &mut self.clock;
        Ok(clock.time(steps, submitted, wait, Instant::now()))
    }

    /// Waits for a run; one from which nothing is read back only until all of it is submitted. Fails where the device
    /// fails, and where the run was stopped before all of it was submitted.
    pub(super) fn wait_for_run(&mut self, run: &Arc<GpuRun>) -> Result<()> {
        if self.pending.as_ref().is_some_and(|pending| pending.is(run)) {
            self.flush()?;
        }
        match std::mem::replace(&mut *run.state.lock().expect("no panic while held"), RunState::Stopped) {
            RunState::Submitted(..) if run.read_back.is_none() => self.context.check(),
            RunState::Submitted(last, mut plan) => {
                plan.note(self.wait_for_steps(last)?);
                *run.pace.lock().expect("no panic while held") = Some(plan.pace());
                Ok(())
            }
            RunState::Failed(message) => Err(self.context.fault(message)),
            RunState::Pending | RunState::Stopped => Err(Error::Stopped(STEP)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::context::{GpuOptions, devices};
    use super::super::open_with;
    use super::*;
    use crate::engine::Engine;
    use crate::kernels::copy;
    use crate::recording::{Buffer, Recording};

    #[test]
    fn a_fault_between_two_submits_is_that_of_the_run() {
        if devices().is_empty() {
            let _ = writeln!(std::io::stderr(), "skipped: no GPU and no software renderer");
            return;
        }
        let mut engine = open_with(0, GpuOptions::default(), None).unwrap();
        let buffers: Vec<Buffer> = (0..131).map(|_| engine.create("test", 16).unwrap()).collect();
        let mut recording = Recording::new();
        for pair in buffers.windows(2) {
            copy::record(&mut recording, pair[0].all(), pair[1].all());
        }
        recording.read_back(buffers[130].all());
        let mut prepared = engine.prepare(recording).unwrap();
        let ticket = engine.submit(&mut prepared).unwrap();
        assert!(engine.pending.is_some(), "there is more to submit");
        engine.context.faults.as_ref().expect("the device is the engine's").note("it is made up".to_string());
        // What is written comes after the run, of which this submits the rest.
        engine.write(buffers[0].all(), &[0; 16]);
        let fault = engine.finish(ticket).unwrap_err();
        assert!(matches!(&fault, Error::Device { message, .. } if message == "it is made up"), "{fault}");
        assert_eq!(engine.run(&mut prepared).unwrap(), [[0; 16]]);
    }
}
