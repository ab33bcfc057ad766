//! Room on a disk, asked for before it is filled.

use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Error, Result};

/// Fails where the file system of `dir` has fewer than `needed_bytes` to give; `what` says what takes them, as in "the
/// model takes".
pub fn check_space(dir: &Path, needed_bytes: u64, what: &str) -> Result<()> {
    // A parent that is not there yet will be made on the file system of the nearest one that is.
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("."));
    // A file system that does not tell its free space is given the benefit of the doubt.
    let Ok(free_bytes) = fs4::available_space(existing) else { return Ok(()) };
    if free_bytes >= needed_bytes {
        return Ok(());
    }
    let (needed, free) = (needed_bytes.div_ceil(1_000_000), free_bytes / 1_000_000);
    let shortage = format!("{what} {needed} MB and {free} MB are free");
    Err(Error::io("write", dir)(std::io::Error::new(ErrorKind::StorageFull, shortage)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_without_the_room_is_refused_before_a_byte_is_written() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check_space(dir.path(), 1, "the model takes").is_ok());
        assert!(check_space(&dir.path().join("not/yet/there"), 1, "the model takes").is_ok());
        let fault = check_space(dir.path(), u64::MAX, "the model takes").unwrap_err().to_string();
        assert!(fault.contains("the model takes ") && fault.contains("MB are free"), "{fault}");
    }
}
