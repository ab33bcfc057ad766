//! Calibration: ranges and routers trained together, by distillation from the unquantized model.
//!
//! The weights stay as they are. What is trained is the range (`lo` and `step`) of every group and the router of every
//! input site, on windows of ordinary text: each step draws a number of bits, gates open by the scores above the
//! threshold that belongs to it, and the loss is the distance between the next-token distributions of the two models
//! plus a penalty for reading more or fewer bits than drawn. Which trained ranges stay,
//! and how far apart gates open, is then chosen by windows that were held out. On these a table from bits to thresholds
//! is measured, and all goes into a [pack](crate::format::Pack).

mod checkpoint;
mod coded;
mod device;
mod memory;
mod network;
mod optimizer;
mod pack;
mod reduce;
mod selection;
mod step;
mod student;
mod text;
mod thresholds;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub use burn::tensor::Device;
use burn::tensor::{DType, Int, Tensor};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::format::codes::WORD_GROUP;
use crate::format::layout;
use crate::precision::BITS;
use crate::quantize::{self, Source};
use crate::routing::Thresholds;
use checkpoint::CalibrationRun;
use coded::CodedSite;
pub use device::{cpu, gpu};
pub use memory::Memory;
use network::Network;
use optimizer::{Optimizer, Rates};
use step::{Batch, Params, Target, TeacherOutputs};
use student::SiteParams;
use text::Windows;
use thresholds::Scale;

/// Learning rates at their highest.
const RATES: Rates = Rates { ranges: 5e-3, routers: 2e-3 };
/// Fewest bits that a step draws, how many more, and how much rather few.
const BITS_DRAWN: (f32, f32, f32) = (2.1, 5.4, 1.6);
/// Bits at which the loss is told before and after, and the KL divergence of each text.
const BITS_JUDGED: [f32; 4] = [3.0, 4.0, 5.0, 6.0];
/// Bits at which a step's KL divergence counts once; with each bit more it counts twice as much, as it falls by more
/// than that.
const BITS_OF_UNIT_WEIGHT: f32 = 3.0;
/// Steps between two checkpoints.
const CHECKPOINT_STEPS: usize = 50;

/// How the training threshold follows from the bits drawn: the routers learn to make it true.
fn threshold_for(bits: f32) -> f32 {
    5.0 - bits
}

/// What a step is to reach that drew so many bits.
fn target(bits: f32) -> Target {
    Target { bits, threshold: threshold_for(bits), weight: (bits - BITS_OF_UNIT_WEIGHT).max(0.0).exp2() }
}

/// What a calibration is asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct CalibrationOptions {
    /// Text files to train on, UTF-8.
    pub texts: Vec<PathBuf>,
    /// Steps of the optimizer.
    pub steps: usize,
    /// Windows of a step.
    pub batch: usize,
    /// Tokens of a window.
    pub seq: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Bytes that the run may take on the device.
    pub memory: u64,
    /// The pack to write. A checkpoint lies beside it, with `.checkpoint` at its name's end, until the run is done.
    pub out: PathBuf,
}

/// Where a run that writes its pack to `out` keeps its checkpoint.
pub fn checkpoint_path(out: &Path) -> PathBuf {
    let mut path = out.as_os_str().to_os_string();
    path.push(".checkpoint");
    path.into()
}

/// How far a calibration has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CalibrationProgress {
    /// Weights are hashed or loaded: (done, total).
    Weights(u64, u64),
    /// What the run takes, before its first step.
    Plan(Memory),
    /// A step is done.
    Step(StepLog),
    /// Measurements of routers and table are done.
    Table(usize),
}

/// A step, in numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepLog {
    /// Steps done, this one included.
    pub done: usize,
    /// Mean KL divergence from the unquantized model, in nats a token.
    pub kl: f32,
    /// Average bits read.
    pub bits: f32,
    /// Average bits drawn.
    pub drawn: f32,
}

/// A calibration that is done.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct CalibrationReport {
    /// The pack.
    pub pack: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// Steps of the run.
    pub steps: usize,
    /// Steps done before, which a checkpoint had kept.
    pub resumed: usize,
    /// Loss on text that was held out, before the first step: KL divergence from the unquantized model, weighted by the
    /// bits, plus the squared distance from the bits wanted, averaged over a few of these.
    pub loss_before: f32,
    /// The same after the last step.
    pub loss_after: f32,
    /// What was held out of each text, in the order of [`CalibrationOptions::texts`].
    pub held_out: Vec<HeldOut>,
    /// Time taken, in seconds.
    pub seconds: f64,
}

/// How near the calibrated model comes to the unquantized one on windows of a text that the training did not see.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct HeldOut {
    /// The text's file name.
    pub text: String,
    /// Tokens that were held out.
    pub tokens: usize,
    /// Average bits, and the mean KL divergence in nats a token at these.
    pub divergences: Vec<(f32, f32)>,
}

/// Calibrates the model of `source` on `device` and writes its pack.
///
/// `on_progress` may break off, between two steps, and so may `cancel`, between two layers, of which the step then does
/// not count: a checkpoint is kept and the error is [`Error::Stopped`]; a later call with the same options goes on from
/// it. Fails where the text has too few windows, where a window is longer than the model was
/// trained for, where one window does not fit the memory, and where a file cannot be read or written.
pub fn calibrate(
    source: &mut dyn Source,
    device: &Device,
    options: &CalibrationOptions,
    cancel: &CancelToken,
    on_progress: &mut dyn FnMut(CalibrationProgress) -> ControlFlow<()>,
) -> Result<CalibrationReport> {
    let begin = Instant::now();
    let shape = source.shape().clone();
    if let Some((expected, got)) = layout::group_fault(&shape, WORD_GROUP) {
        return Err(Error::unsupported("shape", got, expected));
    }
    let windows = Windows::read(source, options)?;
    let memory = Memory::plan(&shape, options)?;
    flow(on_progress(CalibrationProgress::Plan(memory)))?;
    if let Some(folder) = options.out.parent() {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    let source_sha256 = quantize::weights_sha256(source, &mut |progress| {
        on_progress(CalibrationProgress::Weights(progress.done, progress.total))
    })?;
    let mut network = Network::load(source, (device, product_dtype(device)), options.seq, &mut |done, total| {
        on_progress(CalibrationProgress::Weights(done, total))
    })?;
    network.cancel = cancel.clone();

    let mut trainer = Trainer::new(&network, device, &windows, memory.micro, options, source_sha256);
    let held_out = Batch { ids: windows.held_out(device), micro: memory.micro };
    let loss_before = trainer.loss(&held_out)?;
    let resumed = trainer.resume()?;
    trainer.train(resumed, on_progress)?;
    let teacher = step::teacher(&network, &held_out)?;
    trainer.round(&held_out, &teacher)?;
    let loss_after = trainer.loss(&held_out)?;
    let thresholds = trainer.measure_table(&held_out, &teacher, on_progress)?;
    let held_out = trainer.judge(&thresholds, options)?;
    let seconds = begin.elapsed().as_secs_f64();
    let facts = pack::Facts { options, run: &trainer.run, loss_before, loss_after, held_out: &held_out, seconds };
    let bytes = pack::write(source, &network, &trainer.params, thresholds, &facts)?;
    trainer.forget_checkpoint();
    Ok(CalibrationReport {
        pack: options.out.clone(),
        bytes,
        steps: options.steps,
        resumed,
        loss_before,
        loss_after,
        held_out,
        seconds,
    })
}

/// What matrix products are computed in: half the bytes where the device computes in f16.
fn product_dtype(device: &Device) -> DType {
    if *device != cpu() && device.supports_dtype(DType::F16) { DType::F16 } else { DType::F32 }
}

fn flow(flow: ControlFlow<()>) -> Result<()> {
    if flow.is_break() { Err(Error::Stopped("calibrate")) } else { Ok(()) }
}

/// A training run.
struct Trainer<'a> {
    network: &'a Network,
    device: &'a Device,
    windows: &'a Windows,
    micro: usize,
    checkpoint: PathBuf,
    run: CalibrationRun,
    params: Params,
    optimizer: Optimizer,
}

impl<'a> Trainer<'a> {
    fn new(
        network: &'a Network,
        device: &'a Device,
        windows: &'a Windows,
        micro: usize,
        options: &CalibrationOptions,
        source_sha256: String,
    ) -> Trainer<'a> {
        let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
        let dim = network.shape.model_dim as usize;
        let mut site = |coded: &CodedSite| SiteParams::new(coded.dims(), dim, device, &mut rng);
        let params = network.layers.iter().map(|layer| layer.coded.each_ref().map(&mut site)).collect();
        Trainer {
            network,
            device,
            windows,
            micro,
            checkpoint: checkpoint_path(&options.out),
            run: CalibrationRun {
                source_sha256,
                text_sha256: windows.sha256(),
                steps: options.steps,
                batch: options.batch,
                seq: options.seq,
                seed: options.seed,
            },
            params,
            optimizer: Optimizer::new(network.layers.len(), options.steps, RATES),
        }
    }

    /// Takes up an earlier session of this run, if there was one; the steps that it did.
    fn resume(&mut self) -> Result<usize> {
        if !self.checkpoint.exists() {
            return Ok(0);
        }
        checkpoint::load(&self.checkpoint, &self.run, &mut self.params, &mut self.optimizer, self.device)
    }

    /// Does the steps after the first `done`.
    fn train(
        &mut self,
        done: usize,
        on_progress: &mut dyn FnMut(CalibrationProgress) -> ControlFlow<()>,
    ) -> Result<()> {
        for at in done..self.run.steps {
            // Every step has a stream of its own, so a run that was stopped draws what it would have drawn.
            let mut rng = ChaCha8Rng::seed_from_u64(self.run.seed);
            rng.set_stream(1 + at as u64);
            let drawn = draw(&mut rng);
            let ids = self.windows.draw(&mut rng, self.run.batch, self.device);
            let batch = Batch { ids, micro: self.micro };
            let outcome = match step::step(self.network, &self.params, &batch, target(drawn)) {
                Ok(outcome) => outcome,
                Err(stopped) => {
                    self.save(at)?;
                    return Err(stopped);
                }
            };
            self.optimizer.step(at, &mut self.params, outcome.gradients);
            if !outcome.kl.is_finite() {
                return Err(self.failed(format!("step {} has a loss of {}", at + 1, outcome.kl)));
            }
            let step = StepLog { done: at + 1, kl: outcome.kl, bits: outcome.bits, drawn };
            let stopped = on_progress(CalibrationProgress::Step(step)).is_break();
            // At the end too: the table is still to be measured.
            if stopped || (at + 1) % CHECKPOINT_STEPS == 0 || at + 1 == self.run.steps {
                self.save(at + 1)?;
            }
            if stopped {
                return Err(Error::Stopped("calibrate"));
            }
        }
        Ok(())
    }

    /// Keeps what `done` steps have come to.
    fn save(&self, done: usize) -> Result<()> {
        checkpoint::save(&self.checkpoint, &self.run, done, &self.params, &self.optimizer)
    }

    /// The mean loss at [`BITS_JUDGED`]. Fails where a stop is asked for.
    fn loss(&self, batch: &Batch) -> Result<f32> {
        let losses = step::losses(self.network, &self.params, batch, &BITS_JUDGED.map(target))?;
        Ok(losses.iter().sum::<f32>() / losses.len() as f32)
    }

    /// The KL divergence on what was held out of each text, at [`BITS_JUDGED`] and with every slice. Fails where a stop
    /// is asked for.
    fn judge(&self, thresholds: &Thresholds, options: &CalibrationOptions) -> Result<Vec<HeldOut>> {
        let targets: Vec<Target> = BITS_JUDGED
            .iter()
            .chain([BITS.end()])
            .map(|bits| Target { bits: *bits, threshold: thresholds.threshold(*bits), weight: 1.0 })
            .collect();
        let texts = options.texts.iter().zip(self.windows.held_out_texts(self.device));
        let judge = |(path, ids): (&PathBuf, Tensor<2, Int>)| {
            let tokens = ids.dims().iter().product();
            let batch = Batch { ids, micro: self.micro };
            let found = step::divergences(self.network, &self.params, &batch, &targets)?;
            let text = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            Ok(HeldOut { text, tokens, divergences: found })
        };
        texts.map(judge).collect()
    }

    fn failed(&self, message: String) -> Error {
        Error::Device { device: format!("{:?}", self.device), message }
    }

    /// Rounds the parameters as the pack will hold them, and keeps those ranges that serve. Fails where a stop is asked
    /// for.
    fn round(&mut self, held_out: &Batch, teacher: &TeacherOutputs) -> Result<()> {
        let layers = self.network.layers.iter().zip(std::mem::take(&mut self.params));
        let rounded = layers.map(|(layer, sites)| {
            let mut coded = layer.coded.iter();
            sites.map(|params| pack::rounded(coded.next().expect("one for each site"), params))
        });
        self.params = selection::keep_better_ranges(self.network, rounded.collect(), held_out, teacher)?;
        Ok(())
    }

    /// Moves the routers' gates apart where that serves, and measures the table of what will run. Fails where a stop is
    /// asked for.
    fn measure_table(
        &mut self,
        batch: &Batch,
        teacher: &TeacherOutputs,
        on_progress: &mut dyn FnMut(CalibrationProgress) -> ControlFlow<()>,
    ) -> Result<Thresholds> {
        let mut on_measurement = |rows| flow(on_progress(CalibrationProgress::Table(rows)));
        let network = self.network;
        let mut scale = Scale { network, batch, teacher, on_measurement: &mut on_measurement, done: 0 };
        let sketch;
        (self.params, sketch) = selection::widen_gates(&mut scale, &self.params)?;
        scale.table(&self.params, sketch)
    }

    /// The run is in its pack: the checkpoint has done its duty.
    fn forget_checkpoint(&self) {
        let _ = std::fs::remove_file(&self.checkpoint);
    }
}

/// The bits of a step.
fn draw(rng: &mut impl rand::Rng) -> f32 {
    let (fewest, more, rather_few) = BITS_DRAWN;
    fewest + more * rng.random::<f32>().powf(rather_few)
}
