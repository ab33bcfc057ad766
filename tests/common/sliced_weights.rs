//! Random weights in slices, with ranges in either form.

use edge_run::internals::engine::Engine;
use edge_run::internals::format::codes::RangeForm;
use edge_run::internals::kernels::sliced::SlicedWeight;
use half::f16;
use rand::RngExt;
use rand::rngs::StdRng;

use super::buffers::upload;

/// A weight with random codes, and ranges about [-1, 1]: where they are words, of each depth its own.
pub fn random_weight(
    engine: &mut dyn Engine,
    rng: &mut StdRng,
    rows: u32,
    input: u32,
    form: RangeForm,
) -> SlicedWeight {
    let slices = std::array::from_fn(|_| {
        let slice: Vec<u32> = (0..rows * input / 16).map(|_| rng.random()).collect();
        upload(engine, &slice)
    });
    let count = rows * input / form.group();
    let mut range = || (rng.random_range(-1.0f32..-0.5), rng.random_range(0.2f32..0.5));
    let ranges = match form {
        RangeForm::Pairs { .. } => {
            let pairs: Vec<f16> =
                (0..count).map(|_| range()).flat_map(|(lo, step)| [lo, step].map(f16::from_f32)).collect();
            [upload(engine, &pairs); 4]
        }
        RangeForm::Words => std::array::from_fn(|_| {
            let words: Vec<u16> = (0..count).map(|_| range()).map(word).collect();
            upload(engine, &words)
        }),
    };
    SlicedWeight { slices, ranges, rows, input, form }
}

/// About the range as a word.
pub fn word((lo, step): (f32, f32)) -> u16 {
    let zero = (-lo / step * 32.0).round().clamp(0.0, 127.0) as u16;
    zero << 9 | f16::from_f32(step / 16.0).to_bits() >> 5
}
