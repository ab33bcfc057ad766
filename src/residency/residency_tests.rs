//! Residency with a reader whose thread ended, on the CPU engine and a file of one byte value.

use std::sync::Arc;

use super::*;
use crate::format::OpenFile;

/// Tensors of this many bytes.
const BYTES: u64 = 64;

/// A residency of two parts, all of it wanted.
fn residency(file: &std::path::Path) -> Residency {
    std::fs::write(file, [1; 3 * BYTES as usize]).unwrap();
    let file = Arc::new(OpenFile::open(file).unwrap());
    let place = |slice: u64| TensorPlace {
        file: Arc::clone(&file),
        name: format!("o.slice{slice}"),
        offset: (slice - 1) * BYTES,
        bytes: BYTES,
    };
    let part = |name: &str| PartFiles { name: name.into(), slices: [1, 2, 3].map(|slice| vec![place(slice)]) };
    let mut residency = Residency::new(vec![part("layer 0"), part("layer 1")], None).unwrap();
    residency.want(&[Depth::FULL; 2]);
    residency
}

#[test]
fn a_reader_that_died_is_told_once_and_started_again() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut engine = crate::cpu::open();
    for pace in [Pace::AsReady, Pace::Units(1)] {
        // Dead before anything is asked of it.
        let mut residency = residency(file.path());
        residency.stream = Some(SliceStream::ended_for_test());
        assert!(residency.advance(&mut *engine, pace).unwrap().loaded.is_empty());
        let faults = residency.take_faults();
        assert!(matches!(&faults[..], [fault] if fault.contains("the thread that reads slices")), "{faults:?}");

        let mut loaded = 0;
        for _ in 0..1000 {
            loaded += residency.advance(&mut *engine, pace).unwrap().loaded.len();
            if residency.is_settled() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!((loaded, residency.take_faults()), (6, vec![]), "{pace:?}");
        let report = residency.report();
        assert_eq!((report.faults, report.read_bytes), (1, 7 + 6 * BYTES), "what the first one read counts too");
    }
}

#[test]
fn what_was_on_its_way_from_a_reader_that_died_is_asked_for_again() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut engine = crate::cpu::open();
    let mut residency = residency(file.path());
    residency.ask(&mut *engine);
    assert_eq!(residency.arrivals.len(), UNITS_AT_ONCE);
    residency.stream = Some(SliceStream::ended_for_test());
    assert!(residency.settle(&mut *engine, None).unwrap().loaded.is_empty());
    assert!(residency.arrivals.is_empty());
    assert_eq!(residency.take_faults().len(), 1, "one wait, one sentence");
    residency.now += 1000;
    assert_eq!(residency.settle(&mut *engine, None).unwrap().loaded.len(), 6);
}
