//! The default model, where it is on this machine, and the reference's record of it, where that is.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use edge_run::internals::format::{MANIFEST_FILE, ModelFolder};

/// The folder in `EDGE_RUN_TEST_MODEL`, else the user's default model; the reason where there is neither. A folder that
/// the variable names must be there.
pub fn default_model() -> Result<ModelFolder, String> {
    if let Some(given) = std::env::var_os("EDGE_RUN_TEST_MODEL").map(PathBuf::from) {
        return Ok(ModelFolder::open(&given).expect("EDGE_RUN_TEST_MODEL names a sound model"));
    }
    let asked = Command::new(env!("CARGO_BIN_EXE_edge-run")).args(["paths", "default-model"]).output().unwrap();
    if !asked.status.success() {
        return Err(String::from_utf8_lossy(&asked.stderr).trim().to_string());
    }
    let dir = PathBuf::from(String::from_utf8(asked.stdout).unwrap().trim_end());
    if !dir.join(MANIFEST_FILE).exists() {
        return Err(format!("there is no default model at {}", dir.display()));
    }
    Ok(ModelFolder::open(&dir).expect("the default model is sound"))
}

/// A file of the reference's record, which `tests/golden/make.py` made.
#[allow(dead_code, reason = "not every test that has the model compares it with the record")]
pub fn record(name: &str) -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::read(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

/// Says why a test could not run, past the harness, which keeps what is printed to itself.
pub fn skipped(reason: &str) {
    writeln!(std::io::stderr(), "skipped: {reason}").expect("standard error can be written to");
}
