//! Sessions: how they begin and end, how tokens are chosen, and stops from other threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::Duration;

use edge_run::{CancelToken, PowerFollower, PowerMode, PrecisionPlan, SamplerSettings, Session};

use crate::handles::{MODELS, ModelEntry, ModelHandle, SESSIONS, SessionHandle};
use crate::input::{read_struct, versioned, write_struct};
use crate::power::{Following, power_mode};
use crate::status::{Failure, Outcome, Status, entry};

/// A time without limit, in milliseconds.
pub const EDGE_RUN_NO_LIMIT: u64 = u64::MAX;

/// How tokens are chosen. Zeros are not the usual here: edge_run_get_sampler fills in what the model's makers
/// recommend, and what is to be different is changed after it. It sets `size` to the bytes that it filled in, so that a
/// program sets `size` again before it hands the struct back.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CSampler {
    /// sizeof(edge_run_sampler)
    pub size: usize,
    /// Divisor of the logits; 0 takes the likeliest token.
    pub temperature: f32,
    /// Likeliest tokens that stay in the draw; 0 for all.
    pub top_k: u32,
    /// The likeliest tokens stay that together have this probability; 1 for all.
    pub top_p: f32,
    /// Tokens stay that have at least this part of the likeliest one's probability; 0 for all.
    pub min_p: f32,
    /// Divisor of the positive logits, and factor of the negative ones, of tokens seen lately: 0.01 to 100, and 1 for
    /// none.
    pub repeat_penalty: f32,
    /// Tokens that count as seen lately.
    pub repeat_last_n: u32,
    /// Whether `seed` makes the draws repeatable: 0 or 1.
    pub has_seed: u32,
    /// The seed.
    pub seed: u32,
}

/// How a session begins. Zero stands for the usual in every field but `size`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CSessionOptions {
    /// sizeof(edge_run_session_options)
    pub size: usize,
    /// How tokens are chosen. NULL for what the model's makers recommend.
    pub sampler: *const CSampler,
    /// Bits read of each weight, 2 to 8. 0 for those of `power_mode`.
    pub bits: f32,
    /// EDGE_RUN_POWER_...
    pub power_mode: u32,
}

versioned!(CSampler = "edge_run_sampler", CSessionOptions = "edge_run_session_options");

/// What stands behind a [`SessionHandle`].
pub(crate) struct SessionEntry {
    pub model: Arc<ModelEntry>,
    /// Whether a call has the session for itself.
    claimed: AtomicBool,
    /// Such a call holds it from its beginning to its end; a change of the plan holds it for a moment where it is free.
    core: Mutex<SessionCore>,
    /// What changes the plan. It is locked before `core`.
    pub following: Mutex<Following>,
    /// What the session is to follow from its next token on.
    pending: Mutex<Option<NextPlan>>,
    cancel: CancelToken,
}

/// What one call at a time uses.
pub(crate) struct SessionCore {
    pub session: Session,
    pub follower: Option<Box<PowerFollower>>,
    /// Why slices could not be had that were waited for, until a listener is told.
    pub faults: Vec<String>,
}

/// What a change of the plan took the place of. The end of a follower waits for its thread, so that this is dropped
/// where no lock is held, or dismissed.
#[derive(Default)]
pub(crate) struct Replaced {
    _pending: Option<NextPlan>,
    follower: Option<Box<PowerFollower>>,
}

impl Replaced {
    /// Ends it without waiting.
    fn dismiss(self) {
        dismiss(self.follower);
    }
}

/// Ends a follower without waiting for the reading under way. A callback is called no more by then, or its call under
/// way was waited for: see [`Following`].
pub(crate) fn dismiss(follower: Option<Box<PowerFollower>>) {
    if let Some(follower) = follower {
        follower.dismiss();
    }
}

/// Marks a session as in use by one call, and ends with that.
struct Claim<'a>(&'a AtomicBool);

impl Claim<'_> {
    fn new(claimed: &AtomicBool) -> Outcome<Claim<'_>> {
        if claimed.swap(true, Ordering::Acquire) {
            return Err(Failure::new(Status::Busy, "the session is in use by another call"));
        }
        Ok(Claim(claimed))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// What is read from the next token on.
pub(crate) enum NextPlan {
    Fixed(PrecisionPlan),
    Followed(Box<PowerFollower>),
}

impl NextPlan {
    fn plan(&self) -> Outcome<PrecisionPlan> {
        match self {
            NextPlan::Fixed(plan) => Ok(plan.clone()),
            NextPlan::Followed(follower) => Ok(follower.plan()?),
        }
    }

    /// The plan to set now, and the follower that may change it later.
    pub fn parts(self) -> Outcome<(PrecisionPlan, Option<Box<PowerFollower>>)> {
        let plan = self.plan()?;
        Ok(match self {
            NextPlan::Fixed(_) => (plan, None),
            NextPlan::Followed(follower) => (plan, Some(follower)),
        })
    }
}

impl SessionCore {
    /// Keeps what could not be had for the listener of the next chat.
    fn keep(&mut self, faults: Vec<String>) {
        for fault in faults {
            if !self.faults.contains(&fault) {
                self.faults.push(fault);
            }
        }
    }
}

impl SessionEntry {
    fn new(model: Arc<ModelEntry>, core: SessionCore) -> SessionEntry {
        let cancel = core.session.cancel_token().clone();
        let (claimed, following, pending) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        SessionEntry { model, claimed, core: Mutex::new(core), following, pending, cancel }
    }

    /// Makes a call that has the session for itself, with the plan that was set last. Fails where another one has it.
    pub fn exclusively<T>(&self, call: impl FnOnce(&mut SessionCore) -> Outcome<T>) -> Outcome<T> {
        let _claim = Claim::new(&self.claimed)?;
        // A change of the plan leaves it soon.
        let mut core = self.core.lock().map_err(|_| Failure::poisoned())?;
        self.catch_up(&mut core)?.dismiss();
        call(&mut core)
    }

    /// Has the session read by another plan: now, or from the next token on where a chat is under way.
    ///
    /// Fails where the plan is none that the model can follow; the one before then stands.
    pub fn change_plan(&self, next: NextPlan) -> Outcome<Replaced> {
        next.plan()?;
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner).replace(next);
        Ok(Replaced { _pending: pending, ..self.refresh()? })
    }

    /// Sets the plan that is called for now, where no call uses the session; one that does sets it itself.
    pub fn refresh(&self) -> Outcome<Replaced> {
        match self.core.try_lock() {
            Ok(mut core) => self.catch_up(&mut core),
            Err(TryLockError::WouldBlock) => Ok(Replaced::default()),
            Err(TryLockError::Poisoned(_)) => Err(Failure::poisoned()),
        }
    }

    /// Sets the plan that was asked for last, or that the power state calls for now.
    fn catch_up(&self, core: &mut SessionCore) -> Outcome<Replaced> {
        let mut replaced = Replaced::default();
        if let Some(next) = self.take_pending() {
            let (plan, follower) = next.parts()?;
            core.session.set_plan(plan)?;
            replaced.follower = std::mem::replace(&mut core.follower, follower);
        }
        if let Some(change) = core.follower.as_mut().and_then(|follower| follower.poll()) {
            core.session.set_plan(change.decision.plan(self.model.model.has_routers())?)?;
        }
        Ok(replaced)
    }

    pub fn take_pending(&self) -> Option<NextPlan> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Writes how the model's makers recommend to choose tokens to `sampler`, whose size is to be set, and is to be set
/// again before the struct is handed back.
///
/// # Safety
///
/// `sampler` is NULL or points to such a struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn edge_run_get_sampler(model: *mut ModelHandle, sampler: *mut CSampler) -> Status {
    entry(|| {
        let entry = MODELS.get(model, "model")?;
        let settings = entry.guarded(|| Ok(entry.model.recommended_sampling()))?;
        let value = CSampler {
            size: size_of::<CSampler>(),
            temperature: settings.temperature,
            top_k: settings.top_k as u32,
            top_p: settings.top_p,
            min_p: settings.min_p,
            repeat_penalty: settings.repeat_penalty,
            repeat_last_n: settings.repeat_last_n as u32,
            has_seed: u32::from(settings.seed.is_some()),
            seed: settings.seed.unwrap_or(0),
        };
        // SAFETY: the caller promises the struct.
        unsafe { write_struct(sampler, value) }
    })
}

/// Starts a session and writes its handle to `session`: NULL where that fails. It is to be freed by
/// edge_run_session_free. Waits until the slices are there that it reads. It is EDGE_RUN_STATUS_OK also where some of
/// them could not be had: the next chat tells which by EDGE_RUN_EVENT_WARNING, and reads what is there. `options` may
/// be NULL.
///
/// # Safety
///
/// `options` is NULL or points to such a struct. `session` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn edge_run_session_new(
    model: *mut ModelHandle,
    options: *const CSessionOptions,
    session: *mut *mut SessionHandle,
) -> Status {
    entry(|| {
        if session.is_null() {
            return Err(Failure::null("session"));
        }
        // SAFETY: the caller promises that it is writable.
        unsafe { session.write(std::ptr::null_mut()) };
        let entry = MODELS.get(model, "model")?;
        let mut sampling = entry.guarded(|| Ok(entry.model.recommended_sampling()))?;
        let (mut bits, mut mode) = (0.0, 0);
        if !options.is_null() {
            // SAFETY: the caller promises the struct.
            let given = unsafe { read_struct(options) }?;
            (bits, mode) = (given.bits, given.power_mode);
            if !given.sampler.is_null() {
                // SAFETY: a sampler in it is such a struct too.
                sampling = sampler(sampling, &unsafe { read_struct(given.sampler) }?)?;
            }
        }
        let made = entry.guarded(|| begin(&entry, sampling, bits, power_mode(mode)?))?;
        // SAFETY: as above.
        unsafe { session.write(SESSIONS.add(made)) };
        Ok(())
    })
}

fn begin(entry: &Arc<ModelEntry>, sampling: SamplerSettings, bits: f32, mode: PowerMode) -> Outcome<SessionEntry> {
    let model = &entry.model;
    let follows = bits == 0.0 && mode == PowerMode::Auto;
    let follower = if follows { Some(PowerFollower::system(model.has_routers())?) } else { None };
    let plan = match &follower {
        Some(follower) => follower.plan()?,
        None if bits == 0.0 => model.plan(mode),
        None => PrecisionPlan::for_bits(bits, model.has_routers(), "set by hand")?,
    };
    let mut session = model.session_with(plan, sampling)?;
    // All that can be had is there; this tells what could not.
    let faults = session.settle(Some(Duration::ZERO))?;
    let core = SessionCore { session, follower: follower.map(Box::new), faults };
    Ok(SessionEntry::new(Arc::clone(entry), core))
}

/// Frees a session. NULL and a handle that was freed are nothing to free. A chat that runs on another thread is stopped
/// and returns soon after; a power callback is not called any more once this returns.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_session_free(session: *mut SessionHandle) {
    entry(|| {
        if let Some(entry) = SESSIONS.remove(session) {
            entry.cancel.cancel();
            entry.follow(Following::default());
        }
        Ok(())
    });
}

/// Forgets the conversation. The random numbers of a seed that was given begin anew; without one they go on.
/// EDGE_RUN_STATUS_BUSY while a chat is under way.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_session_reset(session: *mut SessionHandle) -> Status {
    with_core(session, |core| {
        core.session.reset();
        Ok(())
    })
}

/// Sets how tokens are chosen from the next one on. EDGE_RUN_STATUS_BUSY while a chat is under way.
///
/// # Safety
///
/// `sampler` is NULL or points to such a struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn edge_run_session_set_sampler(session: *mut SessionHandle, sampler: *const CSampler) -> Status {
    // SAFETY: the caller promises the struct.
    let given = unsafe { read_struct(sampler) };
    with_core(session, |core| {
        let settings = self::sampler(SamplerSettings::default(), &given?)?;
        Ok(core.session.set_sampling(settings)?)
    })
}

/// Sets whether the next tokens of answers are guessed by what followed the same ones before, if `on` is not 0: an
/// answer that repeats parts of the conversation is faster, and no other one. At first it is so on the CPU engine.
/// EDGE_RUN_STATUS_BUSY while a chat is under way.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_session_set_prompt_lookup(session: *mut SessionHandle, on: u32) -> Status {
    with_core(session, |core| {
        core.session.set_prompt_lookup(on != 0);
        Ok(())
    })
}

/// Waits until the slices are there that the plans of all sessions read, at most so many milliseconds. Without this, a
/// chat begins with what is there. It is EDGE_RUN_STATUS_OK also where the time passed before, and where some slices
/// could not be had: the next chat tells which by EDGE_RUN_EVENT_WARNING. EDGE_RUN_STATUS_BUSY while a chat is under
/// way.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_session_settle(session: *mut SessionHandle, milliseconds: u64) -> Status {
    with_core(session, |core| {
        let patience = (milliseconds != EDGE_RUN_NO_LIMIT).then(|| Duration::from_millis(milliseconds));
        let faults = core.session.settle(patience)?;
        core.keep(faults);
        Ok(())
    })
}

/// Asks for a stop, on any thread: the chat that is under way ends soon, within a prompt too, and no chat begins until
/// edge_run_session_reset_cancel.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_session_cancel(session: *mut SessionHandle) -> Status {
    entry(|| {
        SESSIONS.get(session, "session")?.cancel.cancel();
        Ok(())
    })
}

/// Takes the request to stop back, before the next chat.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_session_reset_cancel(session: *mut SessionHandle) -> Status {
    entry(|| {
        SESSIONS.get(session, "session")?.cancel.reset();
        Ok(())
    })
}

/// A call that has the session for itself.
pub(crate) fn with_core(session: *const SessionHandle, call: impl FnOnce(&mut SessionCore) -> Outcome) -> Status {
    entry(|| {
        let entry = SESSIONS.get(session, "session")?;
        entry.model.guarded(|| entry.exclusively(call))
    })
}

/// The settings that a caller gave; those that C does not know are as in `settings`.
fn sampler(mut settings: SamplerSettings, given: &CSampler) -> Outcome<SamplerSettings> {
    settings.temperature = given.temperature;
    settings.top_k = given.top_k as usize;
    settings.top_p = given.top_p;
    settings.min_p = given.min_p;
    settings.repeat_penalty = given.repeat_penalty;
    settings.repeat_last_n = given.repeat_last_n as usize;
    settings.seed = (given.has_seed != 0).then_some(given.seed);
    settings.check()?;
    Ok(settings)
}
