//! Calibration text as windows of tokens.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::RngExt;
use rand::seq::SliceRandom;
use rand::{SeedableRng, rngs::ChaCha8Rng};
use sha2::{Digest, Sha256};

use super::CalibrationOptions;
use crate::encoding;
use crate::error::{Error, Result};
use crate::quantize::Source;
use crate::text::{TextFiles, TextModel};

/// Tokens that are held out for the table of thresholds, about.
const HELD_OUT_TOKENS: usize = 8192;

/// Windows of `seq` tokens each.
pub struct Windows {
    seq: usize,
    train: Vec<Vec<u32>>,
    held_out: Vec<Vec<u32>>,
}

impl Windows {
    /// Cuts the texts into windows, and holds some out. Fails where a file cannot be read or is no text, and where the
    /// windows do not suffice for one step.
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
        let assets = source.text()?;
        let folder = std::path::Path::new("the source");
        let files = TextFiles {
            folder,
            tokenizer: &assets.tokenizer,
            template: None,
            templates: None,
            generation: Some(&assets.generation_config),
        };
        let model = TextModel::from_files(&files, source.shape().vocab)?;
        let mut windows = Vec::new();
        for path in &options.texts {
            let bytes = std::fs::read(path).map_err(Error::io("read", path))?;
            let name = format!("text `{}`", path.display());
            let text = encoding::decode(bytes).map_err(|fault| Error::argument(name, encoding::EXPECTED, fault))?;
            windows.extend(model.encode(&text, false)?.chunks_exact(seq).map(<[u32]>::to_vec));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        windows.shuffle(&mut rng);
        let held_out = HELD_OUT_TOKENS.div_ceil(seq).min(windows.len() / 8).max(1);
        if windows.len() < held_out + options.batch {
            let expected = format!("at least {} windows of {seq} tokens", held_out.max(1) + options.batch);
            return Err(Error::argument("text", expected, format!("{} windows", windows.len())));
        }
        let train = windows.split_off(held_out);
        Ok(Windows { seq, train, held_out: windows })
    }

    /// `batch` windows at random, [B, T].
    pub fn draw(&self, rng: &mut impl rand::Rng, batch: usize, device: &Device) -> Tensor<2, Int> {
        let drawn = (0..batch).map(|_| &self.train[rng.random_range(0..self.train.len())]);
        self.tensor(drawn, batch, device)
    }

    /// The windows held out, [B, T].
    pub fn held_out(&self, device: &Device) -> Tensor<2, Int> {
        self.tensor(self.held_out.iter(), self.held_out.len(), device)
    }

    /// SHA-256 of the tokens, in hexadecimal.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for window in self.train.iter().chain(&self.held_out) {
            hash.update(bytemuck::cast_slice::<u32, u8>(window));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn tensor<'a>(&self, windows: impl Iterator<Item = &'a Vec<u32>>, count: usize, device: &Device) -> Tensor<2, Int> {
        let ids: Vec<i32> = windows.flatten().map(|id| *id as i32).collect();
        Tensor::from_data(TensorData::new(ids, [count, self.seq]), device)
    }
}
