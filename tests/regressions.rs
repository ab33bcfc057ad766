//! Inputs of the fuzz targets, read again: seeds, of which each is accepted or refused as its name says, and inputs
//! that once broke a reader.

#[path = "common/counting.rs"]
mod counting;
#[path = "common/readers.rs"]
mod readers;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use counting::Counting;
use readers::{TARGETS, Target};

#[global_allocator]
static ALLOCATOR: Counting = Counting::new();
/// One at a time: memory is counted over all threads.
static ALONE: Mutex<()> = Mutex::new(());

/// The files of a folder of the fuzz targets, by name; none where there is no such folder.
fn inputs(kind: &str, target: &Target) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(target.name);
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Reads an input; what the reader says of it.
fn read(target: &Target, input: &[u8]) -> edge_run::Result<()> {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = tempfile::tempdir().unwrap();
    target.run(&ALLOCATOR, dir.path(), input)
}

#[test]
fn seeds_are_accepted_or_refused_as_their_names_say() {
    for target in &TARGETS {
        let (mut sound, mut refused) = (0, 0);
        for file in inputs("seeds", target) {
            let outcome = read(target, &std::fs::read(&file).unwrap());
            let name = file.file_name().unwrap().to_string_lossy();
            if name.starts_with("sound-") {
                assert!(outcome.is_ok(), "{}: {outcome:?}", file.display());
                sound += 1;
            } else {
                assert!(name.starts_with("refused-") && outcome.is_err(), "{}: {outcome:?}", file.display());
                refused += 1;
            }
        }
        assert!(sound > 0 && refused > 0, "{}: {sound} sound seeds and {refused} others", target.name);
    }
}

#[test]
fn inputs_that_broke_a_reader_no_longer_do() {
    let mut read_again = 0;
    for target in &TARGETS {
        for file in inputs("regressions", target) {
            // Printed, so that one which aborts is known.
            println!("{}", file.display());
            let _ = read(target, &std::fs::read(&file).unwrap());
            read_again += 1;
        }
    }
    assert!(read_again > 0, "there are none");
}

#[test]
fn memory_out_of_proportion_is_found() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, peak) = ALLOCATOR.peak_of(|| drop(vec![1_u8; 32 << 20]));
    assert!(peak >= 32 << 20, "{peak}");
    let (_, peak) = ALLOCATOR.peak_of(|| {
        let mut bytes = Vec::new();
        (0..1000).for_each(|at| bytes.push(at as u8));
        bytes.len()
    });
    assert!((1000..100_000).contains(&peak), "{peak}");
}
