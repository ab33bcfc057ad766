//! How many large workgroups a device runs side by side, one on each of its processors, which no driver reports:
//! counted by how long more and more of them take, and remembered in a file.
//!
//! A workgroup keeps a processor busy for as long as it has rounds. As many of them as there are processors take as
//! long as one, and one more takes twice as long. All loops are bounded, and no workgroup waits for another.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::engine::{DeviceInfo, DeviceKind, Engine, USUAL_PROCESSORS};
use crate::error::Result;
use crate::format::write_whole;
use crate::kernels::probe::processors;
use crate::recording::{Recording, Span};

/// The file, beside the compiled pipelines.
const FILE: &str = "processors.json";
/// Workgroups that are tried at most, and at first, which is enough for small devices.
const MOST: u32 = 512;
const FIRST: u32 = 32;
/// Invocations of a workgroup, where the device has as many.
const WORKGROUP: u32 = 1024;
/// What a workgroup should take, in microseconds: much longer than a launch, and much shorter than anyone notices.
const TARGET_US: f64 = 100.0;
/// Rounds of the first try, and at most.
const FIRST_ROUNDS: u32 = 256;
const MOST_ROUNDS: u32 = 1 << 15;
/// Twice as long is one workgroup too many; half between counts as that.
const LONGER: f64 = 1.5;
/// Workgroups that fit take about as long as one; where they do not, something else keeps the device busy.
const AS_LONG: f64 = 1.25;

/// What was counted on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Counted {
    device: String,
    backend: String,
    driver: String,
    /// None where no count was clear.
    processors: Option<u32>,
}

/// The processors of the engine's device: as the file in `folder` has them, or counted now and kept there. The usual
/// number on software renderers, and where no count is clear.
pub(super) fn count(engine: &mut dyn Engine, folder: &Path) -> u32 {
    if engine.info().kind == DeviceKind::SoftwareRenderer {
        return USUAL_PROCESSORS;
    }
    let file = folder.join(FILE);
    let mut all = read(&file);
    let DeviceInfo { name, backend, driver, .. } = engine.info().clone();
    let of = |known: &&Counted| known.device == name && known.backend == backend && known.driver == driver;
    let found = all.iter().find(of).map(|known| known.processors);
    let processors = found.unwrap_or_else(|| {
        // A device that cannot be counted is as one that was not.
        let processors = measure(engine).ok().flatten();
        all.push(Counted { device: name.clone(), backend: backend.clone(), driver: driver.clone(), processors });
        // Where it cannot be kept, the next start counts again.
        let _ = keep(&file, &all);
        processors
    });
    usual(processors)
}

/// The number that kernels go by: a number near the usual one is that, for which they were measured.
fn usual(counted: Option<u32>) -> u32 {
    const NEAR: u32 = USUAL_PROCESSORS / 5;
    counted.filter(|counted| counted.abs_diff(USUAL_PROCESSORS) > NEAR).unwrap_or(USUAL_PROCESSORS)
}

/// Counts; none where times say nothing clear, or the device has none.
fn measure(engine: &mut dyn Engine) -> Result<Option<u32>> {
    let workgroup = WORKGROUP.min(1 << engine.traits().workgroup_invocations.ilog2());
    let y = engine.create("probe", u64::from(MOST) * u64::from(workgroup) * 4)?;
    let found = measure_into(engine, workgroup, y.all());
    engine.destroy(y);
    found
}

fn measure_into(engine: &mut dyn Engine, workgroup: u32, y: Span) -> Result<Option<u32>> {
    // The first ones wake the device up.
    let woken = times(engine, workgroup, y, FIRST_ROUNDS, &[1; 8])?;
    let least = woken.iter().copied().fold(f64::INFINITY, f64::min).max(0.1);
    let rounds = (f64::from(FIRST_ROUNDS) * TARGET_US / least).clamp(64.0, f64::from(MOST_ROUNDS)) as u32;
    let mut time = |counts: &[u32]| times(engine, workgroup, y, rounds, counts);
    let powers = |from: u32, to: u32| -> Vec<u32> {
        std::iter::successors(Some(from), |count| (*count < to).then_some(count * 2)).collect()
    };
    let mut counts = powers(1, FIRST);
    let mut took = time(&counts)?;
    if step(&counts, &took).is_none() {
        counts.extend(powers(FIRST * 2, MOST));
        took.extend(time(&counts[took.len()..])?);
    }
    let one = took[0];
    let mut bracket = step(&counts, &took);
    // Finer and finer between the last number that fits and the first that does not.
    while let Some((fits, too_many)) = bracket.filter(|(fits, too_many)| too_many - fits > 1) {
        let stride = (too_many - fits).div_ceil(16);
        counts = (fits..too_many).step_by(stride as usize).skip(1).chain([too_many]).collect();
        took = time(&counts)?;
        counts.insert(0, fits);
        took.insert(0, one);
        let narrower = step(&counts, &took);
        bracket = narrower.filter(|(low, high)| high - low < too_many - fits);
    }
    let Some((fits, too_many)) = bracket else { return Ok(None) };
    let again = time(&[1, fits, too_many])?;
    Ok(is_clear(&again).then_some(fits))
}

/// The last count that takes about as long as the first one does, and the first that takes longer.
fn step(counts: &[u32], took: &[f64]) -> Option<(u32, u32)> {
    let at = took.iter().position(|time| *time > took[0] * LONGER)?;
    Some((counts[at - 1], counts[at]))
}

/// Whether the times of one workgroup, of as many as fit and of one more are what they should be.
fn is_clear(took: &[f64]) -> bool {
    took[1] < took[0] * AS_LONG && took[2] > took[0] * LONGER
}

/// Microseconds of each number of workgroups, the less of two tries.
fn times(engine: &mut dyn Engine, workgroup: u32, y: Span, rounds: u32, counts: &[u32]) -> Result<Vec<f64>> {
    let mut recording = Recording::new();
    for count in counts.iter().chain(counts) {
        processors::record(&mut recording, *count, workgroup, rounds, y);
    }
    let mut prepared = engine.prepare(recording)?;
    let times = engine.profile(&mut prepared)?;
    let us = |at: usize| (times[at].end - times[at].start).as_secs_f64() * 1e6;
    Ok((0..counts.len()).map(|at| us(at).min(us(at + counts.len())).max(1e-3)).collect())
}

/// What is in the file; nothing where it is not there or is no such file.
fn read(file: &Path) -> Vec<Counted> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}

fn keep(file: &Path, all: &[Counted]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    write_whole(file, &serde_json::to_vec_pretty(all)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_in_the_times_is_found() {
        assert_eq!(step(&[1, 2, 4, 8], &[100.0, 101.0, 104.0, 199.0]), Some((4, 8)));
        assert_eq!(step(&[1, 2, 4, 8], &[100.0, 190.0, 380.0, 760.0]), Some((1, 2)));
        assert_eq!(step(&[1, 2, 4], &[100.0, 101.0, 102.0]), None);
        assert!(is_clear(&[100.0, 103.0, 199.0]));
        assert!(!is_clear(&[100.0, 140.0, 199.0]) && !is_clear(&[100.0, 103.0, 140.0]));
    }

    #[test]
    fn a_count_near_the_usual_one_is_that() {
        assert_eq!([Some(132), Some(128), Some(114), Some(144), None].map(usual), [USUAL_PROCESSORS; 5]);
        assert_eq!([Some(1), Some(24), Some(84), Some(188)].map(usual), [1, 24, 84, 188]);
    }

    #[test]
    fn counts_are_read_as_they_were_kept_and_a_spoilt_file_is_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("made").join(FILE);
        assert_eq!(read(&file), []);
        let counted = |processors| Counted {
            device: "GPU".to_string(),
            backend: "Vulkan".to_string(),
            driver: "1".to_string(),
            processors,
        };
        let all = [counted(Some(24)), counted(None)];
        keep(&file, &all).unwrap();
        assert_eq!(read(&file), all);
        std::fs::write(&file, "[{").unwrap();
        assert_eq!(read(&file), []);
    }
}
