//! Energy that the machine says it took while something was measured, and what of the machine says so.
//!
//! A gauge is read again and again on a thread of its own, as counters begin anew and powers have to be added up over
//! time. What is measured runs on the caller's thread and never waits for a gauge.

mod gauges;
mod sysfs;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::engine::{DeviceInfo, DeviceKind};
use gauges::EnergyGauge;

/// How often a gauge is read.
const EVERY: Duration = Duration::from_millis(200);

/// What tells the energy that a device takes, if anything does.
pub struct EnergyMeter {
    gauge: Option<Box<dyn EnergyGauge>>,
    unreadable: Option<PathBuf>,
}

impl EnergyMeter {
    /// The best gauge for `device` among the files below `root`, which is `/` for the machine itself. Only Linux has
    /// these files.
    ///
    /// For the processor, and for GPUs in its package, these are the counters of the package (RAPL); for other GPUs
    /// those of their driver. Where there is none, it is the battery, as long as the machine runs on it: that is the
    /// energy of the whole machine.
    pub fn of(device: &DeviceInfo, root: &Path) -> EnergyMeter {
        let mut unreadable = None;
        let mut rapl = || {
            sysfs::rapl(root).unwrap_or_else(|file| {
                unreadable = Some(file);
                None
            })
        };
        let own = match device.kind {
            DeviceKind::Processor | DeviceKind::SoftwareRenderer => rapl(),
            DeviceKind::IntegratedGpu => sysfs::gpu(root, device).or_else(rapl),
            DeviceKind::DiscreteGpu | DeviceKind::VirtualGpu | DeviceKind::Other => sysfs::gpu(root, device),
        };
        EnergyMeter { gauge: own.or_else(|| sysfs::battery(root)), unreadable }
    }

    /// A meter that tells nothing.
    pub fn none() -> EnergyMeter {
        EnergyMeter { gauge: None, unreadable: None }
    }

    /// What tells the energy, its kind first: `RAPL package-0, dram`.
    pub fn source(&self) -> Option<&str> {
        self.gauge.as_ref().map(|gauge| gauge.name())
    }

    /// A file that would tell the energy if it could be read. Most systems let only root read RAPL.
    pub fn unreadable(&self) -> Option<&Path> {
        self.unreadable.as_deref()
    }

    /// Does the work: what it returned, and the energy in joules that was taken meanwhile. None is told where there is
    /// no gauge, where it could not be read at some time or stood still, and where the work took less time than the
    /// gauge needs.
    pub fn around<T>(&mut self, work: impl FnOnce() -> T) -> (T, Option<f64>) {
        let Some(gauge) = &mut self.gauge else { return (work(), None) };
        std::thread::scope(|scope| {
            let ((begun, is_begun), (stop, stopped)) = (channel(), channel());
            let watching = scope.spawn(move || watch(gauge.as_mut(), &begun, &stopped));
            // This fails where the thread is gone, and then there is no energy to tell.
            let _ = is_begun.recv();
            let done = work();
            drop(stop);
            (done, watching.join().ok().flatten())
        })
    }
}

/// Reads the gauge until nobody holds the other end of `stopped`: the joules since it said that it has begun.
fn watch(gauge: &mut dyn EnergyGauge, begun: &Sender<()>, stopped: &Receiver<()>) -> Option<f64> {
    gauge.begin();
    let start = Instant::now();
    let _ = begun.send(());
    loop {
        let stopped = stopped.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout);
        gauge.read(start.elapsed());
        if stopped {
            return gauge.joules();
        }
    }
}

#[cfg(test)]
mod tests;
