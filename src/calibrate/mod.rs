//! Calibration: ranges and routers trained together, by distillation from the unquantized model.
//!
//! The weights stay as they are. What is trained is the range (`lo` and `step`) of every group and the router of every
//! input site, on windows of ordinary text: each step draws a number of bits, gates open by the scores above the
//! threshold that belongs to it, and the loss is the distance between the next-token distributions of the two models
//! plus a penalty for reading more or fewer bits than drawn. Which trained ranges stay,
//! and how far apart gates open, is then chosen by windows that were held out. On these a table from bits to thresholds
//! is measured, and all goes into a [pack](crate::format::Pack).

mod backward;
mod checkpoint;
mod coded;
mod device;
mod memory;
mod network;
mod optimizer;
mod out_place;
mod pack;
mod products;
#[cfg(test)]
#[path = "random_source_tests.rs"]
mod random_source;
mod reduce;
mod scores;
mod scratch;
mod selection;
mod shelf;
mod step;
mod student;
mod text;
mod thresholds;
mod trained;
mod trainer;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use burn::tensor::DType;
pub use burn::tensor::Device;

use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::format::codes::{RangeForm, WORD_GROUP};
use crate::format::{check_space, layout};
use crate::quantize::{self, CutBasis, Importance, MeasureImportance, Source};
use checkpoint::CalibrationRun;
pub use device::{cpu, gpu};
pub use memory::Memory;
use network::{Network, WeightPlace};
use optimizer::Rates;
use out_place::OutPlace;
pub use out_place::checkpoint_path;
use scratch::Scratch;
use shelf::Keeping;
use step::{Batch, Target};
use text::Windows;
use trainer::Trainer;

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
    /// Bytes that the run may take on the device. Where not all layers fit, they come one at a time from a scratch file
    /// in the folder of `out`.
    pub memory: u64,
    /// Whether they come from there even where all of them fit, as tests and benchmarks ask for.
    pub stream: bool,
    /// The pack to write. A checkpoint lies beside it, with `.checkpoint` at its name's end, until the run is done.
    /// Where this is a link, both are where it leads to.
    pub out: PathBuf,
}

/// How far a calibration has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum CalibrationProgress {
    /// Weights are hashed or loaded: (done, total).
    Weights(u64, u64),
    /// Scales of columns are chosen: (done, total), in sites.
    Scales(u64, u64),
    /// What the run takes, before its first step.
    Plan(Memory),
    /// The run goes on after so many steps, which a checkpoint had kept.
    Resumed(usize),
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
    /// What was chosen after the last step.
    pub chosen: Chosen,
    /// Time taken, in seconds.
    pub seconds: f64,
}

/// What was chosen after the last step, by the divergence on text that was held out.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Chosen {
    /// The bits of the depths whose ranges are those that training started from.
    pub untrained_ranges: Vec<u32>,
    /// What was added to the distance between the scores of each router's gates.
    pub scores_apart: f32,
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
/// Scales of columns and the ranges that training starts from are those of [`quantize::quantize_by`] with this
/// `measure`: by the weights alone where there is none. The pack has the scales, so that its ranges fit what they are
/// applied to.
///
/// `on_progress` may break off, between two steps, and so may `cancel`, between two layers, of which the step then does
/// not count: a checkpoint is kept and the error is [`Error::Stopped`]; a later call with the same options goes on from
/// it. Fails where the text has too few windows, where a window is longer than the model was
/// trained for, where one window does not fit the memory, where another run writes the same pack, and where a file
/// cannot be read or written.
pub fn calibrate(
    source: &mut dyn Source,
    device: &Device,
    options: &CalibrationOptions,
    measure: Option<&mut MeasureImportance<'_>>,
    cancel: &CancelToken,
    on_progress: &mut dyn FnMut(CalibrationProgress) -> ControlFlow<()>,
) -> Result<CalibrationReport> {
    let begin = Instant::now();
    let shape = source.shape().clone();
    if let Some((expected, got)) = layout::group_fault(&shape, WORD_GROUP) {
        return Err(Error::unsupported("shape", got, expected));
    }
    let windows = Windows::read(source, options)?;
    let product_dtype = product_dtype(device);
    let memory = Memory::plan(&shape, options, product_dtype.size() as u64)?;
    flow(on_progress(CalibrationProgress::Plan(memory)))?;
    let out = OutPlace::claim(&options.out)?;
    let keeping = keeping(&memory, &out.pack)?;
    let source_sha256 = quantize::weights_sha256(source, &mut |progress| {
        on_progress(CalibrationProgress::Weights(progress.done, progress.total))
    })?;
    let run = CalibrationRun::new(source_sha256, &windows, options);
    run.refuse_other(&out.checkpoint)?;
    let importance = measure.map(|measure| measure(source).map_err(|fault| fault.within("calibrate"))).transpose()?;
    let run = CalibrationRun { importance_sha256: importance.as_ref().map(Importance::sha256), ..run };
    let basis = CutBasis::choose(source, importance, RangeForm::Words, &mut |progress| {
        on_progress(CalibrationProgress::Scales(progress.done, progress.total))
    });
    let basis = basis.map_err(|fault| fault.within("calibrate"))?;
    let place = WeightPlace { device, product_dtype, keeping: &keeping };
    let mut network = Network::load(&mut basis.scaled(source), &basis, place, options.seq, &mut |done, total| {
        on_progress(CalibrationProgress::Weights(done, total))
    })?;
    network.cancel = cancel.clone();
    // What the inputs count takes up to a GiB, and nothing needs it from here on.
    let scales = basis.into_chosen_scales();

    let mut trainer = Trainer::new(&network, (place, &out), &windows, memory.micro, run)?;
    let held_out = Batch { ids: windows.held_out(device), micro: memory.micro };
    let loss_before = trainer.loss(&held_out)?;
    let resumed = trainer.resume()?;
    if resumed > 0 {
        flow(on_progress(CalibrationProgress::Resumed(resumed)))?;
    }
    trainer.train(resumed, on_progress)?;
    let teacher = step::teacher(&network, &held_out)?;
    trainer.round(&held_out, &teacher)?;
    let loss_after = trainer.loss(&held_out)?;
    let thresholds = trainer.measure_table(&held_out, &teacher, on_progress)?;
    let held_out = trainer.judge(&thresholds, options)?;
    let seconds = begin.elapsed().as_secs_f64();
    let chosen = trainer.chosen();
    let facts = pack::Facts {
        options,
        out: &out,
        run: trainer.run(),
        loss_before,
        loss_after,
        held_out: &held_out,
        chosen: &chosen,
        seconds,
    };
    let bytes = pack::write((&*source, scales.as_ref()), &network, &trainer.params(), thresholds, &facts)?;
    trainer.forget_checkpoint();
    Ok(CalibrationReport {
        pack: options.out.clone(),
        bytes,
        steps: options.steps,
        resumed,
        loss_before,
        loss_after,
        held_out,
        chosen,
        seconds,
    })
}

/// Where a plan keeps layers. Fails where the scratch file of a pack `out` would not fit the disk.
fn keeping(memory: &Memory, out: &Path) -> Result<Keeping> {
    let Some(bytes) = memory.scratch else { return Ok(Keeping::OnDevice) };
    check_space(out, bytes, "the scratch file beside it takes")?;
    Ok(Keeping::InFile(Rc::new(Scratch::beside(out)?)))
}

/// What matrix products are computed in: half the bytes where the device computes in f16.
fn product_dtype(device: &Device) -> DType {
    if *device != cpu() && device.supports_dtype(DType::F16) { DType::F16 } else { DType::F32 }
}

fn flow(flow: ControlFlow<()>) -> Result<()> {
    if flow.is_break() { Err(Error::Stopped("calibrate")) } else { Ok(()) }
}
