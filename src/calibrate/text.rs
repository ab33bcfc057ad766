//! Calibration text as windows of tokens.

use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::RngExt;
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::ChaCha8Rng};
use sha2::{Digest, Sha256};

use super::CalibrationOptions;
use crate::encoding;
use crate::error::{Error, Result};
use crate::quantize::{self, Source};

/// Tokens that are held out for the table of thresholds and to judge by, about, of all texts together.
const HELD_OUT_TOKENS: usize = 8192;

/// The bytes of a file. A pipe is refused: a run that was stopped reads its texts again.
fn read(path: &Path) -> Result<Vec<u8>> {
    let found = std::fs::metadata(path).map_err(Error::io("read", path))?;
    if !found.is_file() && !found.is_dir() {
        let name = format!("text `{}`", path.display());
        return Err(Error::argument(name, "a regular file, which can be read again", "another kind of file"));
    }
    std::fs::read(path).map_err(Error::io("read", path))
}

/// The most windows that are held out of all texts.
pub fn held_out_windows(options: &CalibrationOptions) -> usize {
    held_out_of_text(options) * options.texts.len().max(1)
}

/// The most windows that are held out of a text.
fn held_out_of_text(options: &CalibrationOptions) -> usize {
    HELD_OUT_TOKENS.div_ceil(options.seq).div_ceil(options.texts.len().max(1))
}

/// Windows of `seq` tokens each.
pub struct Windows {
    seq: usize,
    texts: Vec<TextWindows>,
}

/// The windows of a text.
struct TextWindows {
    train: Vec<Vec<u32>>,
    held_out: Vec<Vec<u32>>,
}

impl Windows {
    /// Cuts the texts into windows, which begin with the tokens before every text, and holds some of each out. Fails
    /// where a file cannot be read or is no text, where a text has no two windows, and where the windows do not suffice
    /// for one step.
    pub fn read(source: &dyn Source, options: &CalibrationOptions) -> Result<Windows> {
        let (seq, trained) = (options.seq, source.shape().max_context as usize);
        if !(2..=trained).contains(&seq) {
            return Err(Error::argument("sequence length", format!("2 to {trained} tokens"), seq));
        }
        for (setting, number) in [("batch", options.batch), ("steps", options.steps)] {
            if number == 0 {
                return Err(Error::argument(setting, "at least 1", number));
            }
        }
        let model = quantize::source_text(source)?;
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        let share = held_out_of_text(options);
        let mut texts = Vec::new();
        for path in &options.texts {
            let bytes = read(path)?;
            let name = format!("text `{}`", path.display());
            let text = encoding::decode(bytes).map_err(|fault| Error::argument(&name, encoding::EXPECTED, fault))?;
            let text = model.encode_for_windows(&name, &text)?;
            let mut held_out: Vec<Vec<u32>> = text.windows(seq)?.filter(|window| window.len() == seq).collect();
            if held_out.len() < 2 {
                let got = format!("{} of them", held_out.len());
                return Err(Error::argument(name, format!("at least 2 windows of {seq} tokens"), got));
            }
            held_out.shuffle(&mut rng);
            let train = held_out.split_off(share.min(held_out.len() / 8).max(1));
            texts.push(TextWindows { train, held_out });
        }
        let train: usize = texts.iter().map(|text| text.train.len()).sum();
        if train < options.batch {
            let expected = format!("at least {} windows of {seq} tokens beside those held out", options.batch);
            return Err(Error::argument("text", expected, format!("{train} windows")));
        }
        Ok(Windows { seq, texts })
    }

    /// `batch` windows at random, [B, T]: each of a text at random, so that all kinds of text count alike.
    pub fn draw(&self, rng: &mut impl rand::Rng, batch: usize, device: &Device) -> Tensor<2, Int> {
        let mut draw = || {
            let train = &self.texts[rng.random_range(0..self.texts.len())].train;
            &train[rng.random_range(0..train.len())]
        };
        let drawn: Vec<&Vec<u32>> = (0..batch).map(|_| draw()).collect();
        self.tensor(drawn.into_iter(), batch, device)
    }

    /// The windows held out of all texts, [B, T].
    pub fn held_out(&self, device: &Device) -> Tensor<2, Int> {
        let windows: Vec<&Vec<u32>> = self.texts.iter().flat_map(|text| &text.held_out).collect();
        let count = windows.len();
        self.tensor(windows.into_iter(), count, device)
    }

    /// The windows held out of each text, [B, T].
    pub fn held_out_texts(&self, device: &Device) -> impl Iterator<Item = Tensor<2, Int>> {
        self.texts.iter().map(move |text| self.tensor(text.held_out.iter(), text.held_out.len(), device))
    }

    /// SHA-256 of the tokens, in hexadecimal.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for window in self.texts.iter().flat_map(|text| text.train.iter().chain(&text.held_out)) {
            hash.update(bytemuck::cast_slice::<u32, u8>(window));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn tensor<'a>(&self, windows: impl Iterator<Item = &'a Vec<u32>>, count: usize, device: &Device) -> Tensor<2, Int> {
        let ids: Vec<i32> = windows.flatten().map(|id| *id as i32).collect();
        Tensor::from_data(TensorData::new(ids, [count, self.seq]), device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::ModelSpec;
    use crate::calibrate::random_source::RandomSource;

    #[test]
    fn every_window_begins_with_the_bos_that_the_tokenizer_puts_before_texts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("text.txt");
        std::fs::write(&file, "abba".repeat(50)).unwrap();
        let options = CalibrationOptions {
            texts: vec![file],
            steps: 1,
            batch: 1,
            seq: 16,
            seed: 0,
            memory: 0,
            stream: false,
            out: dir.path().join("x.pack"),
        };
        let windows = Windows::read(&RandomSource::new(ModelSpec::default()), &options).unwrap();
        let all: Vec<&Vec<u32>> = windows.texts[0].train.iter().chain(&windows.texts[0].held_out).collect();
        // 200 letters, of which each window has fifteen.
        assert_eq!(all.len(), 13);
        assert!(all.iter().all(|window| window.len() == 16 && window[0] == 2 && !window[1..].contains(&2)), "{all:?}");
    }
}
