//! Weights that leave the device while nobody asks for them, and come back at the next use.
//!
//! What leaves is what a folder can give again: the slices, and then the base. The cache stays, so that sequences go on
//! as if nothing had been: no token is computed again, and none differs. The files stay open, so that what comes back
//! is what left, whatever has the folder's place by then.

use std::collections::HashMap;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::executor::Executor;
use super::{Model, Shared, WeightSource, weights};
use crate::arch::ModelSpec;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::layout::{self, TensorSpec};
use crate::format::{ModelFolder, TensorPlace};
use crate::recording::{Buffer, Recording, Span};
use crate::routing::Thresholds;
use crate::shape::LlamaShape;

/// The shortest time between two looks at a model's last use.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What is on the device, and when it was asked for last.
pub(super) struct IdleState {
    report: WeightsReport,
    last_use: Instant,
    /// Where the base comes from again; none of a model that stays.
    base: Option<FolderBase>,
}

/// How much of the weights is on the device, and how often they left it for want of use or by [`Model::unload`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WeightsReport {
    /// How much is there now.
    pub presence: Presence,
    /// How often slices left, alone or with the base.
    pub departures: u64,
    /// How often all was there again.
    pub returns: u64,
}

/// How much of the weights is on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// Neither base nor slices.
    Nothing,
    /// The base without slices.
    Base,
    /// The base, and the slices that plans want, or are on their way.
    All,
}

impl Default for IdleState {
    fn default() -> IdleState {
        let report = WeightsReport { presence: Presence::All, departures: 0, returns: 0 };
        IdleState { report, last_use: Instant::now(), base: None }
    }
}

impl IdleState {
    /// Takes note of a use.
    pub fn used(&mut self) {
        self.last_use = Instant::now();
    }

    fn presence(&self) -> Presence {
        self.report.presence
    }

    /// Takes note of what is there, and of what left or came back with it.
    fn set_presence(&mut self, presence: Presence) {
        let before = std::mem::replace(&mut self.report.presence, presence);
        self.report.departures += u64::from(before == Presence::All && presence != Presence::All);
        self.report.returns += u64::from(before != Presence::All && presence == Presence::All);
    }

    /// That of a model whose base is this folder's.
    pub fn of(folder: &ModelFolder) -> Result<IdleState> {
        Ok(IdleState { base: Some(FolderBase::of(folder)?), ..IdleState::default() })
    }
}

/// The base of a model folder, as places in files that stay open. Nothing of it is mapped while nobody loads it.
struct FolderBase {
    shape: LlamaShape,
    spec: ModelSpec,
    group_size: u32,
    thresholds: Option<Thresholds>,
    places: HashMap<String, TensorPlace>,
}

impl FolderBase {
    fn of(folder: &ModelFolder) -> Result<FolderBase> {
        let (shape, spec) = (folder.shape().clone(), WeightSource::spec(folder));
        let (group_size, thresholds) = (folder.group_size(), folder.thresholds().cloned());
        let tensors = layout::file_tensors(&shape, &spec, group_size, thresholds.is_some(), 0);
        let place = |tensor: TensorSpec| Ok((tensor.name.clone(), folder.place(0, &tensor.name)?));
        let places = tensors.into_iter().map(place).collect::<Result<_>>()?;
        Ok(FolderBase { shape, spec, group_size, thresholds, places })
    }

    fn place(&self, spec: &TensorSpec) -> &TensorPlace {
        self.places.get(&spec.name).expect("the base was loaded from these tensors before")
    }
}

impl WeightSource for FolderBase {
    fn shape(&self) -> &LlamaShape {
        &self.shape
    }

    fn spec(&self) -> ModelSpec {
        self.spec.clone()
    }

    fn group_size(&self) -> u32 {
        self.group_size
    }

    fn thresholds(&self) -> Option<&Thresholds> {
        self.thresholds.as_ref()
    }

    fn load(&self, engine: &mut dyn Engine, slice: usize, spec: &TensorSpec) -> Result<Buffer> {
        assert_eq!(slice, 0, "slices are the residency's matter");
        engine.load(&spec.name, &self.place(spec).map()?)
    }

    fn write_vector(&self, engine: &mut dyn Engine, spec: &TensorSpec, to: Span) -> Result<()> {
        engine.upload(to, self.place(spec).map()?.bytes())
    }
}

impl Model {
    /// Takes the weights off the device at once: slices and base, and the work space of steps. The cache stays. They
    /// come back at the next use, which waits for them, base and slices both.
    ///
    /// Fails where the model was not loaded by [`Model::load_base`], and where the device fails.
    pub fn unload(&self) -> Result<()> {
        let mut executor = self.executor();
        executor.check_leaves()?;
        executor.drop_slices_and_base()
    }

    /// Takes the slices off the device after this time without use, and the base after as long again; never with
    /// `None`, as at first. A thread of the model's waits for that.
    ///
    /// Fails where the time is zero, where the model was not loaded by [`Model::load_base`], and where no thread can be
    /// started.
    pub fn unload_after(&self, idle: Option<Duration>) -> Result<()> {
        Model::check_unload_after(idle)?;
        let Some(idle) = idle else {
            *self.0.idle_timer.lock() = None;
            return Ok(());
        };
        self.executor().check_leaves()?;
        let (end, ended) = channel::<()>();
        let shared = Arc::downgrade(&self.0);
        let wait = move || {
            let mut next = idle;
            while ended.recv_timeout(next) == Err(RecvTimeoutError::Timeout) {
                let Some(wait) = look(&shared, idle) else { return };
                next = wait.max(LOOK_AGAIN);
            }
        };
        let thread = std::thread::Builder::new().name("idle".into()).spawn(wait);
        thread.map_err(Error::io("start", "the thread that waits for the model to be idle"))?;
        // The one before ends with its sender.
        *self.0.idle_timer.lock() = Some(end);
        Ok(())
    }

    /// Fails where [`Model::unload_after`] would because the time is zero, before there is a model.
    pub fn check_unload_after(idle: Option<Duration>) -> Result<()> {
        match idle {
            Some(Duration::ZERO) => Err(Error::argument("unload after", "a time of more than 0, or none", "0")),
            _ => Ok(()),
        }
    }

    /// Whether the weights are on the device: the base, and what plans want of the slices, or on their way.
    pub fn is_loaded(&self) -> bool {
        self.weights_report().presence == Presence::All
    }

    /// How much of the weights is on the device, and how often they left it.
    pub fn weights_report(&self) -> WeightsReport {
        self.executor().idle.report
    }
}

/// Takes off the device what is due, and tells when to look again; `None` where the model is no more.
fn look(shared: &Weak<Shared>, idle: Duration) -> Option<Duration> {
    let model = Model(shared.upgrade()?);
    let mut executor = model.executor();
    let unused = executor.idle.last_use.elapsed();
    let both = idle.saturating_mul(2);
    // What fails here fails at the next use too, and is told there.
    if unused >= both && executor.idle.presence() > Presence::Nothing {
        let _ = executor.drop_slices_and_base();
    } else if unused >= idle && executor.idle.presence() > Presence::Base {
        let _ = executor.drop_slices();
    }
    Some(match executor.idle.presence() {
        Presence::Nothing => idle,
        Presence::Base => both.saturating_sub(unused),
        Presence::All => idle.saturating_sub(unused),
    })
}

impl Executor {
    /// Makes sure that the weights are there before a step is recorded or slices move. Where they had left, this waits
    /// for the base and for all slices that plans want, or for as many as can be had.
    ///
    /// Fails where the files were written to since, where the device has no room, and where a stop is asked for; the
    /// next use tries again.
    pub fn use_weights(&mut self) -> Result<()> {
        self.idle.used();
        if self.idle.presence() == Presence::All {
            return Ok(());
        }
        if let (Presence::Nothing, Some(base)) = (self.idle.presence(), &self.idle.base) {
            match weights::load(base, self.engine.as_mut(), 1, &mut |_, _| ()) {
                Ok(weights) => {
                    self.weights = weights;
                    self.idle.set_presence(Presence::Base);
                }
                Err(error) => {
                    // What was made is ended by now, and its memory is not to be waited for at the next try.
                    let _ = self.engine.wait();
                    return Err(error);
                }
            }
        }
        self.update_wanted_slices();
        if let Some(residency) = &mut self.residency {
            let changes = residency.settle(self.engine.as_mut(), None)?;
            self.apply_changes(changes);
        }
        self.engine.cancel_token().check("loading")?;
        self.update_all_limits();
        self.idle.set_presence(Presence::All);
        self.idle.used();
        Ok(())
    }

    fn check_leaves(&self) -> Result<()> {
        match self.idle.base {
            Some(_) => Ok(()),
            None => {
                Err(Error::argument("model to unload", "one whose slices come and go", "one that was loaded whole"))
            }
        }
    }

    fn drop_slices(&mut self) -> Result<()> {
        // Where a stop ended the wait for slices, some are there beside the base.
        let Some(residency) = &mut self.residency else { return Ok(()) };
        let changes = residency.release(self.engine.as_mut());
        self.idle.set_presence(self.idle.presence().min(Presence::Base));
        self.apply_changes(changes);
        self.residency.as_mut().map_or(Ok(()), |residency| residency.wait_for_memory(self.engine.as_mut()))
    }

    /// The base leaves also where the device fails while the slices do.
    fn drop_slices_and_base(&mut self) -> Result<()> {
        let dropped = self.drop_slices();
        self.drop_base().and(dropped)
    }

    fn drop_base(&mut self) -> Result<()> {
        if self.idle.presence() == Presence::Nothing {
            return Ok(());
        }
        self.idle.set_presence(Presence::Nothing);
        self.prepared.clear();
        self.weights.destroy(self.engine.as_mut());
        // A pool lets go of what is free when something else is prepared, and nothing takes nothing.
        drop(self.engine.prepare(Recording::new()));
        self.engine.wait()
    }
}
