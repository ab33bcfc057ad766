//! What the fuzz targets share: the readers of the main package's tests, an allocator that counts, and ways to change
//! an input that leave it readable.

#[path = "../../tests/common/counting.rs"]
mod counting;
mod edits;
mod gguf;
#[path = "../../tests/common/readers.rs"]
pub mod readers;

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use counting::Counting;
pub use edits::mutate;
pub use gguf::edited as edited_gguf;
pub use libfuzzer_sys;
use readers::TARGETS;

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();

/// The last panic in words: a reader may catch one, of a library say, and make an error of it.
static PANIC: Mutex<String> = Mutex::new(String::new());

/// Keeps panics to itself, in place of libFuzzer's hook, which ends the process even where one is caught.
pub fn start() {
    std::panic::set_hook(Box::new(|panic| {
        *PANIC.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string();
    }));
    let _ = dir();
}

/// Reads an input of the target `name`, and ends the process where that is a fault.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    let read = AssertUnwindSafe(|| target.run(&ALLOCATOR, dir(), input));
    if std::panic::catch_unwind(read).is_err() {
        let panic = PANIC.lock().unwrap_or_else(PoisonError::into_inner);
        if known().iter().any(|known| panic.contains(known)) {
            return;
        }
        eprintln!("{panic}");
        std::process::abort();
    }
}

/// Parts of messages of panics that are known and not mended yet, so that what is behind them is found.
fn known() -> &'static [String] {
    static KNOWN: OnceLock<Vec<String>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let words = std::env::var("EDGE_RUN_FUZZ_KNOWN").unwrap_or_default();
        words.split(',').filter(|word| !word.is_empty()).map(String::from).collect()
    })
}

/// A folder of this process, in which every input is put into the same files.
fn dir() -> &'static PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("edge-run-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("the folder for temporary files can be written to");
        dir
    })
}

/// A target of this name whose inputs are changed as bytes, and as JSON where they are JSON.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        $crate::libfuzzer_sys::fuzz_target!(init: $crate::start(), |input: &[u8]| {
            $crate::run($name, input);
        });
        $crate::libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
            $crate::mutate(data, size, max_size, seed)
        });
    };
}
