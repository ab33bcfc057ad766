//! What a device's driver reports of its own accord, where wgpu would panic.

use std::sync::{Arc, Mutex};

/// The faults of a device, shared with its handlers.
#[derive(Clone, Default)]
pub(super) struct Faults(Arc<Mutex<Reported>>);

#[derive(Default)]
struct Reported {
    /// The first fault that nobody was told yet.
    first: Option<String>,
    /// Why the device is lost. It stays so.
    lost: Option<String>,
}

impl Faults {
    /// Those of a device from now on.
    pub fn of(device: &wgpu::Device) -> Faults {
        let faults = Faults::default();
        let noted = faults.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| noted.note(error.to_string())));
        let lost = faults.clone();
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                lost.lose(format!("the device was lost: {message}"));
            }
        });
        faults
    }

    /// A fault, which one caller is told.
    pub fn note(&self, fault: String) {
        self.0.lock().expect("no panic while held").first.get_or_insert(fault);
    }

    /// The loss of the device, which every caller is told from now on.
    fn lose(&self, fault: String) {
        self.0.lock().expect("no panic while held").lost.get_or_insert(fault);
    }

    /// The first fault since the last call, or else why the device is lost.
    pub fn take(&self) -> Option<String> {
        let mut reported = self.0.lock().expect("no panic while held");
        reported.first.take().or_else(|| reported.lost.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_told_once_and_a_loss_always() {
        let faults = Faults::default();
        assert_eq!(faults.take(), None);
        faults.note("one".to_string());
        faults.note("two".to_string());
        assert_eq!([faults.take(), faults.take()], [Some("one".to_string()), None]);
        faults.lose("gone".to_string());
        faults.note("three".to_string());
        assert_eq!([faults.take(), faults.take(), faults.take()].map(Option::unwrap), ["three", "gone", "gone"]);
    }
}
