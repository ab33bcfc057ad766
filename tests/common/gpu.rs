//! The GPU that tests run on, where there is one.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::io::Write;
use std::sync::{Mutex, MutexGuard, OnceLock};

use edge_run::internals::engine::Engine;
use edge_run::internals::gpu::{self, GpuOptions};

/// How tests open a GPU of their own: with checks and poisoned workgroup memory where `EDGE_RUN_GPU_CHECKS` is set,
/// else as users do.
pub fn options() -> GpuOptions {
    GpuOptions { checks: std::env::var_os("EDGE_RUN_GPU_CHECKS").is_some(), ..GpuOptions::default() }
}

/// How many random problems a test of its own engines tries, of the `usual` ones.
pub fn cases(usual: u32) -> u32 {
    if options().checks { usual / 4 } else { usual }
}

/// The machine's first GPU or software renderer, for one test at a time.
///
/// `None` where there is no adapter, with a line that says so; a panic instead where `EDGE_RUN_REQUIRE_GPU` is set, so
/// that a missing driver cannot turn a run green.
pub fn gpu() -> Option<MutexGuard<'static, Box<dyn Engine>>> {
    static GPU: OnceLock<Option<Mutex<Box<dyn Engine>>>> = OnceLock::new();
    let gpu = GPU.get_or_init(|| {
        if gpu::devices().is_empty() {
            assert!(
                std::env::var_os("EDGE_RUN_REQUIRE_GPU").is_none(),
                "EDGE_RUN_REQUIRE_GPU is set and no GPU is there"
            );
            writeln!(std::io::stderr(), "skipped: no GPU and no software renderer").expect("standard error is open");
            return None;
        }
        let engine = gpu::open(0, GpuOptions { checks: true, ..Default::default() }).expect("the first adapter opens");
        println!("GPU tests run on {}", engine.info().name);
        Some(Mutex::new(engine))
    });
    gpu.as_ref().map(|gpu| gpu.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
}
