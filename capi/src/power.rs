//! What a session reads of the weights: set by hand, or by a power state that the system or the application tells.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use edge_run::power_source::{Policy, PowerSource, PowerState, PushedPower, Reading, Supply, Thermal};
use edge_run::{Error, PowerFollower, PowerMode, PrecisionPlan};

use crate::handles::{SESSIONS, SessionHandle};
use crate::input::{read_struct, versioned};
use crate::open::no_such;
use crate::session::{NextPlan, SessionEntry};
use crate::status::{Failure, Outcome, Status, entry};

/// 8 bits.
pub const EDGE_RUN_POWER_HIGH: u32 = 0;
/// 6 bits.
pub const EDGE_RUN_POWER_BALANCED: u32 = 1;
/// 4 bits.
pub const EDGE_RUN_POWER_LOW: u32 = 2;
/// As battery, charger, energy saver, heat and memory allow, which the library reads from the operating system.
pub const EDGE_RUN_POWER_AUTO: u32 = 3;

/// The mains.
pub const EDGE_RUN_SUPPLY_AC: u32 = 0;
/// A battery that is being discharged.
pub const EDGE_RUN_SUPPLY_BATTERY: u32 = 1;

/// Nothing is limited.
pub const EDGE_RUN_THERMAL_NOMINAL: u32 = 0;
/// Warm.
pub const EDGE_RUN_THERMAL_FAIR: u32 = 1;
/// Hot: the device slows itself down.
pub const EDGE_RUN_THERMAL_SERIOUS: u32 = 2;
/// So hot that the device must cool down.
pub const EDGE_RUN_THERMAL_CRITICAL: u32 = 3;

/// The power state of a device. All zero but `size` is a device on the mains about which nothing is to be said.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CPowerState {
    /// sizeof(edge_run_power_state)
    pub size: usize,
    /// EDGE_RUN_SUPPLY_...
    pub supply: u32,
    /// The battery's charge, 0 to 100; a negative number where it is not known. Only on battery.
    pub battery_percent: f32,
    /// Whether the system's energy saver is on: 0 or 1.
    pub saver: u32,
    /// EDGE_RUN_THERMAL_...
    pub thermal: u32,
    /// Part of the time in which some task waits for memory, 0 to 100.
    pub memory_pressure: f32,
    /// 0
    pub reserved: u32,
}

versioned!(CPowerState = "edge_run_power_state");

/// Reads the power state into `state`, whose size is set and whose other fields are zero; only fields within that size
/// are to be touched. Returns 0, or anything else where the state cannot be read. It is called on a thread of the
/// library every three seconds, and once on the thread that asks for it. It must not throw.
///
/// It may cancel, set bits, power mode or power state, and free its session. It must not chat or settle, nor wait for
/// another thread that may be in a call of this library: a call that puts something in its place waits for it to
/// return. An application whose callbacks run on its main thread, as those of JavaScript do, uses
/// edge_run_session_push_power.
pub type PowerCallback = Option<unsafe extern "C" fn(state: *mut CPowerState, user_data: *mut c_void) -> c_int>;

/// What changes a session's plan.
#[derive(Default)]
pub(crate) enum Following {
    /// Nothing that has to be ended: the plan was set by hand, or the library reads the system's state.
    #[default]
    Itself,
    /// What the application pushes.
    Pushed(PushedPower),
    /// What the application reads.
    Asked(Arc<Gate>),
}

/// What keeps a callback from being called after it was given up.
#[derive(Default)]
pub(crate) struct Gate {
    closed: AtomicBool,
    /// Locked while the callback runs.
    running: Mutex<()>,
}

thread_local! {
    /// The gate of the callback that runs on this thread, by its address; 0 for none.
    static INSIDE: Cell<usize> = const { Cell::new(0) };
}

impl Gate {
    /// Waits for a call that is under way, unless it is the one that asks for this.
    fn close(self: &Arc<Gate>) {
        self.closed.store(true, Ordering::SeqCst);
        if INSIDE.get() != Arc::as_ptr(self).addr() {
            drop(self.running.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// The application's callback as a source. The last state stands after its gate was closed.
struct Asked {
    callback: unsafe extern "C" fn(*mut CPowerState, *mut c_void) -> c_int,
    user_data: *mut c_void,
    gate: Arc<Gate>,
    last: PowerState,
}

// SAFETY: the caller of `edge_run_session_follow_power` lets the callback be called with its data on another thread,
// and nothing else is done with that pointer.
unsafe impl Send for Asked {}

impl PowerSource for Asked {
    fn read(&mut self) -> edge_run::Result<Reading> {
        let gate = Arc::clone(&self.gate);
        let _running = gate.running.lock().unwrap_or_else(PoisonError::into_inner);
        if !gate.closed.load(Ordering::SeqCst) {
            let mut state = CPowerState {
                size: size_of::<CPowerState>(),
                supply: EDGE_RUN_SUPPLY_AC,
                battery_percent: 0.0,
                saver: 0,
                thermal: EDGE_RUN_THERMAL_NOMINAL,
                memory_pressure: 0.0,
                reserved: 0,
            };
            let outside = INSIDE.replace(Arc::as_ptr(&gate).addr());
            // SAFETY: see `Send`. The struct outlives the call.
            let failed = unsafe { (self.callback)(&mut state, self.user_data) };
            INSIDE.set(outside);
            if failed != 0 {
                return Err(Error::argument("power callback", "0", failed));
            }
            self.last = power_state(&state).map_err(|failure| Error::caller(failure.message))?;
        }
        Ok(Reading { state: self.last, signals: Vec::new(), follows: true })
    }
}

impl SessionEntry {
    /// What is followed, locked so that it and the plan change as one.
    fn following(&self) -> MutexGuard<'_, Following> {
        self.following.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts another thing in the place of what was followed, and ends that.
    pub fn follow(&self, next: Following) {
        // The lock ends with this line: the callback that is waited for may want it.
        let before = std::mem::replace(&mut *self.following(), next);
        before.end();
    }

    /// Has the session read by what `next` says, and follow what it says.
    fn change_to(&self, mut following: MutexGuard<'_, Following>, next: NextPlan, source: Following) -> Outcome {
        let changed = self.change_plan(next);
        let over = if changed.is_ok() { std::mem::replace(&mut *following, source) } else { source };
        drop(following);
        over.end();
        changed.map(drop)
    }
}

impl Following {
    /// Waits until a callback is called no more.
    fn end(self) {
        if let Following::Asked(gate) = self {
            gate.close();
        }
    }
}

/// Reads so many bits of each weight from the next token on, 2 to 8, in the middle of a chat too: 2, 4, 6 or 8, and
/// anything between for a model with routers.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_session_set_bits(session: *mut SessionHandle, bits: f32) -> Status {
    change(session, |entry| {
        let plan = PrecisionPlan::for_bits(bits, entry.model.model.has_routers(), "set by hand")?;
        Ok((NextPlan::Fixed(plan), Following::Itself))
    })
}

/// Reads what a power mode (EDGE_RUN_POWER_...) asks for from the next token on, in the middle of a chat too.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_session_set_power_mode(session: *mut SessionHandle, mode: u32) -> Status {
    change(session, |entry| {
        let model = &entry.model.model;
        let next = match power_mode(mode)? {
            PowerMode::Auto => NextPlan::Followed(Box::new(PowerFollower::system(model.has_routers())?)),
            mode => NextPlan::Fixed(model.plan(mode)),
        };
        Ok((next, Following::Itself))
    })
}

/// Lets the plan follow a power state that `callback` reads, until another plan or state takes its place or the session
/// is freed. After the call that does so has returned, `callback` is not called any more. A session that does not chat
/// takes a change with its next chat, edge_run_session_settle or another call that has the session for itself.
/// EDGE_RUN_STATUS_INVALID_ARGUMENT where the callback fails at once.
///
/// # Safety
///
/// `callback` may be called with `user_data` on any thread until then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn edge_run_session_follow_power(
    session: *mut SessionHandle,
    callback: PowerCallback,
    user_data: *mut c_void,
) -> Status {
    change(session, |entry| {
        let callback = callback.ok_or_else(|| Failure::null("callback"))?;
        let gate = Arc::new(Gate::default());
        let source = Asked { callback, user_data, gate: Arc::clone(&gate), last: PowerState::AC };
        let has_routers = entry.model.model.has_routers();
        let follower = PowerFollower::start(Policy::default(), Box::new(source), has_routers)?;
        Ok((NextPlan::Followed(Box::new(follower)), Following::Asked(gate)))
    })
}

/// Lets the plan follow the power state that the application pushes: this one, from the next token on, in the middle of
/// a chat too. Bits fall at once, and rise when what speaks for more has lasted for ten seconds. A session that does
/// not chat is looked at by this call and by those that have the session for themselves; what falls due between them is
/// taken by the next one.
///
/// # Safety
///
/// `state` is NULL or points to such a struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn edge_run_session_push_power(session: *mut SessionHandle, state: *const CPowerState) -> Status {
    entry(|| {
        let entry = SESSIONS.get(session, "session")?;
        // SAFETY: the caller promises the struct.
        let state = power_state(&unsafe { read_struct(state) }?)?;
        entry.model.guarded(|| {
            let following = entry.following();
            if let Following::Pushed(pushed) = &*following {
                pushed.push(state)?;
                drop(following);
                return entry.refresh().map(drop);
            }
            let pushed = PushedPower::new(state)?;
            let follower = PowerFollower::pushed(Policy::default(), &pushed, entry.model.model.has_routers())?;
            entry.change_to(following, NextPlan::Followed(Box::new(follower)), Following::Pushed(pushed))
        })
    })
}

/// Has a session read by what `next` says, and follow what it says.
fn change(session: *const SessionHandle, next: impl FnOnce(&SessionEntry) -> Outcome<(NextPlan, Following)>) -> Status {
    entry(|| {
        let entry = SESSIONS.get(session, "session")?;
        entry.model.guarded(|| {
            // A callback may run in here, so that the lock comes after it.
            let (next, source) = next(&entry)?;
            entry.change_to(entry.following(), next, source)
        })
    })
}

/// The power mode of a number.
pub(crate) fn power_mode(mode: u32) -> Outcome<PowerMode> {
    match mode {
        EDGE_RUN_POWER_HIGH => Ok(PowerMode::High),
        EDGE_RUN_POWER_BALANCED => Ok(PowerMode::Balanced),
        EDGE_RUN_POWER_LOW => Ok(PowerMode::Low),
        EDGE_RUN_POWER_AUTO => Ok(PowerMode::Auto),
        other => Err(no_such("power mode", "EDGE_RUN_POWER_...", other)),
    }
}

/// The power state that a caller told. Its numbers are checked where it is pushed.
fn power_state(state: &CPowerState) -> Outcome<PowerState> {
    let percent = state.battery_percent;
    let supply = match state.supply {
        EDGE_RUN_SUPPLY_AC => Supply::Ac,
        EDGE_RUN_SUPPLY_BATTERY => Supply::Battery { percent: if percent < 0.0 { None } else { Some(percent) } },
        other => return Err(no_such("supply", "EDGE_RUN_SUPPLY_...", other)),
    };
    if state.reserved != 0 {
        return Err(no_such("reserved", "0", state.reserved));
    }
    let thermal = Thermal::NAMES.get(state.thermal as usize);
    let (_, thermal) = *thermal.ok_or_else(|| no_such("thermal", "EDGE_RUN_THERMAL_...", state.thermal))?;
    let (saver, memory_pressure) = (state.saver != 0, state.memory_pressure);
    let state = PowerState { supply, saver, thermal, memory_pressure };
    // A callback's numbers are no better than those of a push.
    PushedPower::new(state)?;
    Ok(state)
}
