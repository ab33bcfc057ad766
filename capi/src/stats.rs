//! What a model and a session take and have.

use crate::handles::{MODELS, ModelHandle, SessionHandle};
use crate::input::{versioned, write_struct};
use crate::session::with_core;
use crate::status::{Status, entry};

/// What a model takes on its device.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CModelStats {
    /// sizeof(edge_run_model_stats); afterwards the bytes that the library filled in.
    pub size: usize,
    /// Bytes on the device: weights, contexts, work space.
    pub device_bytes: u64,
    /// Bytes of the slices that can be read.
    pub slice_bytes: u64,
    /// Bytes of the slices that were loaded since the model was opened.
    pub loaded_bytes: u64,
    /// Bytes of the slices that were freed since.
    pub freed_bytes: u64,
    /// Tokens of a session at most.
    pub context: u32,
    /// Sessions that may be open at one time.
    pub sessions: u32,
    /// Whether the model has routers, so that any number of bits from 2 to 8 can be read: 0 or 1.
    pub has_routers: u32,
    /// Whether the weights are there, or come again at the next use: 0 or 1.
    pub is_loaded: u32,
}

/// What a session has.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CSessionStats {
    /// sizeof(edge_run_session_stats); afterwards the bytes that the library filled in.
    pub size: usize,
    /// Tokens of the conversation that have run.
    pub tokens: u32,
    /// Bits that the plan asks for.
    pub bits: f32,
}

versioned!(CModelStats = "edge_run_model_stats", CSessionStats = "edge_run_session_stats");

/// Writes what a model takes to `stats`, whose size is to be set. It waits for the step of a chat that is under way,
/// not for the chat.
///
/// # Safety
///
/// `stats` is NULL or points to such a struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn edge_run_get_model_stats(model: *mut ModelHandle, stats: *mut CModelStats) -> Status {
    entry(|| {
        let entry = MODELS.get(model, "model")?;
        let value = entry.guarded(|| {
            let model = entry.model.model();
            let slices = model.slices().unwrap_or_default();
            Ok(CModelStats {
                size: size_of::<CModelStats>(),
                device_bytes: model.allocated_bytes(),
                slice_bytes: slices.resident_bytes,
                loaded_bytes: slices.loaded_bytes,
                freed_bytes: slices.freed_bytes,
                context: model.context(),
                sessions: model.sequences(),
                has_routers: u32::from(model.has_routers()),
                is_loaded: u32::from(entry.model.is_loaded()),
            })
        })?;
        // SAFETY: the caller promises the struct.
        unsafe { write_struct(stats, value) }
    })
}

/// Writes what a session has to `stats`, whose size is to be set. EDGE_RUN_STATUS_BUSY while a chat is under way.
///
/// # Safety
///
/// `stats` is NULL or points to such a struct.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn edge_run_get_session_stats(session: *mut SessionHandle, stats: *mut CSessionStats) -> Status {
    with_core(session, |core| {
        let tokens = core.session.sequence().tokens().len() as u32;
        let value = CSessionStats { size: size_of::<CSessionStats>(), tokens, bits: core.session.plan().bits() };
        // SAFETY: the caller promises the struct.
        unsafe { write_struct(stats, value) }
    })
}
