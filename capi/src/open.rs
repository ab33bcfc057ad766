//! Models: the devices there are, opening, closing, and giving memory back while nobody asks.

use std::ffi::{c_char, c_int, c_void};
use std::time::Duration;

use edge_run::{CacheType, CancelToken, Device, LanguageModel, OpenOptions};

use crate::handles::{MODELS, ModelEntry, ModelHandle};
use crate::input::{read_struct, read_text, versioned, with_nul};
use crate::status::{Failure, Outcome, Status, entry};

/// The best GPU, or the processor where there is none but software renderers.
pub const EDGE_RUN_DEVICE_BEST: u32 = 0;
/// The processor.
pub const EDGE_RUN_DEVICE_CPU: u32 = 1;
/// The GPU with the number `gpu_index`.
pub const EDGE_RUN_DEVICE_GPU: u32 = 2;

/// Keys and values in f16.
pub const EDGE_RUN_CACHE_F16: u32 = 0;
/// Keys and values in codes of eight bits.
pub const EDGE_RUN_CACHE_Q8: u32 = 1;
/// Keys in codes of eight bits, values in codes of four.
pub const EDGE_RUN_CACHE_Q6: u32 = 2;
/// Keys and values in codes of four bits.
pub const EDGE_RUN_CACHE_Q4: u32 = 3;

/// Follows the loading of a model: bytes done, and bytes in all. Returns 0 to go on; anything else stops the loading.
/// It must not throw, and may call any function.
pub type ProgressCallback = Option<unsafe extern "C" fn(done: u64, total: u64, user_data: *mut c_void) -> c_int>;

/// Is told one device. Returns 0 for the next one; anything else ends the list. It must not throw, and may call any
/// function.
pub type DeviceCallback = Option<unsafe extern "C" fn(device: *const CDeviceInfo, user_data: *mut c_void) -> c_int>;

/// How a model is opened. Zero stands for the usual in every field but `size` and `model_folder`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct COpenOptions {
    /// sizeof(edge_run_open_options)
    pub size: usize,
    /// The folder that `edge-run quantize` made; NUL-terminated.
    pub model_folder: *const c_char,
    /// A folder for what is found out about the device once, such as compiled pipelines; NUL-terminated. NULL for none.
    pub cache_folder: *const c_char,
    /// EDGE_RUN_DEVICE_...
    pub device: u32,
    /// The GPU's number, for EDGE_RUN_DEVICE_GPU.
    pub gpu_index: u32,
    /// Tokens of a session at most. 0 for 4096, or as many as the model was trained for.
    pub context: u32,
    /// Sessions that may be open at one time. 0 for 1. Memory for all of their contexts is taken at once.
    pub sessions: u32,
    /// Bytes of device memory that the model may take in all. 0 for no bound.
    pub memory_budget: u64,
    /// Milliseconds without use after which slices leave the device; after as many again the base leaves too. 0 for
    /// never.
    pub unload_after_ms: u64,
    /// EDGE_RUN_CACHE_...: how keys and values of the context are stored.
    pub cache_type: u32,
    /// 0
    pub reserved: u32,
    /// Follows the loading, on the thread that opens. NULL for nobody.
    pub on_progress: ProgressCallback,
    /// Handed to `on_progress`.
    pub user_data: *mut c_void,
}

/// A device. Only fields within `size` are there. The texts are NUL-terminated UTF-8 and there until the callback
/// returns.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CDeviceInfo {
    /// Bytes that the library filled in.
    pub size: usize,
    /// EDGE_RUN_DEVICE_CPU or EDGE_RUN_DEVICE_GPU.
    pub device: u32,
    /// The GPU's number.
    pub gpu_index: u32,
    /// The adapter's or processor's name.
    pub name: *const c_char,
    /// What sort of device it is, such as "discrete GPU".
    pub kind: *const c_char,
    /// "Vulkan", "Metal", "DX12" or "CPU".
    pub backend: *const c_char,
    /// Driver and version, where known.
    pub driver: *const c_char,
}

versioned!(COpenOptions = "edge_run_open_options", CDeviceInfo = "edge_run_device_info");

/// Tells `on_device` of the devices of this machine one by one, on this thread.
///
/// # Safety
///
/// `on_device` may be called with `user_data`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn edge_run_devices(on_device: DeviceCallback, user_data: *mut c_void) -> Status {
    entry(|| {
        let on_device = on_device.ok_or_else(|| Failure::null("on_device"))?;
        for device in edge_run::devices() {
            let [name, backend, driver] = [&device.name, &device.backend, &device.driver].map(|text| with_nul(text));
            let kind = with_nul(&device.kind.to_string());
            let info = CDeviceInfo {
                size: size_of::<CDeviceInfo>(),
                device: if device.index.is_some() { EDGE_RUN_DEVICE_GPU } else { EDGE_RUN_DEVICE_CPU },
                gpu_index: device.index.unwrap_or(0) as u32,
                name: name.as_ptr(),
                kind: kind.as_ptr(),
                backend: backend.as_ptr(),
                driver: driver.as_ptr(),
            };
            // SAFETY: the caller lets it be called with its data, and the struct outlives the call.
            if unsafe { on_device(&info, user_data) } != 0 {
                break;
            }
        }
        Ok(())
    })
}

/// Opens a model and writes its handle to `model`: NULL where that fails. It is to be closed by edge_run_close.
///
/// The 2-bit base is loaded. Slices come as sessions want them. EDGE_RUN_STATUS_STOPPED where `on_progress` stops it.
///
/// # Safety
///
/// `options` is NULL or points to such a struct, whose texts end with a NUL. `model` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn edge_run_open(options: *const COpenOptions, model: *mut *mut ModelHandle) -> Status {
    entry(|| {
        if model.is_null() {
            return Err(Failure::null("model"));
        }
        // SAFETY: the caller promises that it is writable.
        unsafe { model.write(std::ptr::null_mut()) };
        // SAFETY: the caller promises the struct.
        let given = unsafe { read_struct(options) }?;
        // SAFETY: the caller promises its texts.
        let folder = unsafe { read_text(given.model_folder, "model_folder") }?;
        // SAFETY: as above.
        let cache_folder = unsafe { optional_text(given.cache_folder, "cache_folder") }?;
        let mut options = open_options(&given)?;
        options.cache_dir = cache_folder.map(Into::into);
        let opened = open(folder, options, &given)?;
        let handle = MODELS.add(ModelEntry::new(opened));
        // SAFETY: as above.
        unsafe { model.write(handle) };
        Ok(())
    })
}

/// Closes a model. NULL and a handle that was closed are nothing to close. Its sessions go on, and its memory is freed
/// with the last of them.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_close(model: *mut ModelHandle) {
    entry(|| {
        drop(MODELS.remove(model));
        Ok(())
    });
}

/// Gives the memory of the model's weights back at once. They come again at the next use, which waits for them.
/// Sessions keep their contexts, and answer as if the weights had stayed.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_unload(model: *mut ModelHandle) -> Status {
    entry(|| {
        let entry = MODELS.get(model, "model")?;
        entry.guarded(|| Ok(entry.model.unload()?))
    })
}

/// Sets the time without use, in milliseconds, after which slices leave the device; after as long again the base leaves
/// too. 0 for never.
#[unsafe(no_mangle)]
pub extern "C" fn edge_run_unload_after(model: *mut ModelHandle, milliseconds: u64) -> Status {
    entry(|| {
        let entry = MODELS.get(model, "model")?;
        entry.guarded(|| Ok(entry.model.unload_after(idle_time(milliseconds))?))
    })
}

/// A time without use; 0 for none.
fn idle_time(milliseconds: u64) -> Option<Duration> {
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
}

fn open(folder: &str, options: OpenOptions, given: &COpenOptions) -> Outcome<LanguageModel> {
    let stop = options.cancel.clone();
    let opened = LanguageModel::open_with(folder, options, &mut |done, total| {
        let Some(on_progress) = given.on_progress else { return };
        // SAFETY: the caller of `edge_run_open` lets it be called with its data.
        if unsafe { on_progress(done, total, given.user_data) } != 0 {
            stop.cancel();
        }
    })?;
    // A stop at the last byte came too late to stop the loading, and is none of the sessions' business.
    stop.check("loading")?;
    Ok(opened)
}

fn open_options(given: &COpenOptions) -> Outcome<OpenOptions> {
    let mut options = OpenOptions::default();
    options.device = match given.device {
        EDGE_RUN_DEVICE_BEST => Device::Best,
        EDGE_RUN_DEVICE_CPU => Device::Cpu,
        EDGE_RUN_DEVICE_GPU => Device::Gpu(given.gpu_index as usize),
        other => return Err(no_such("device", "EDGE_RUN_DEVICE_...", other)),
    };
    options.cache_type = match given.cache_type {
        EDGE_RUN_CACHE_F16 => CacheType::F16,
        EDGE_RUN_CACHE_Q8 => CacheType::Q8,
        EDGE_RUN_CACHE_Q6 => CacheType::Q6,
        EDGE_RUN_CACHE_Q4 => CacheType::Q4,
        other => return Err(no_such("cache_type", "EDGE_RUN_CACHE_...", other)),
    };
    if given.reserved != 0 {
        return Err(no_such("reserved", "0", given.reserved));
    }
    options.context = (given.context > 0).then_some(given.context);
    options.sessions = given.sessions.max(1);
    options.memory_budget = (given.memory_budget > 0).then_some(given.memory_budget);
    options.unload_after = idle_time(given.unload_after_ms);
    options.cancel = CancelToken::new();
    Ok(options)
}

/// The failure of a number that is none of a field's.
pub(crate) fn no_such(field: &str, expected: &str, got: u32) -> Failure {
    Failure::new(Status::InvalidArgument, format!("{field}: expected {expected}, got {got}"))
}

/// Reads a text that may be NULL.
///
/// # Safety
///
/// As for [`read_text`].
unsafe fn optional_text<'a>(text: *const c_char, what: &str) -> Outcome<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller promises the same.
    unsafe { read_text(text, what) }.map(Some)
}
