//! A training run: its steps, what it keeps of them on disk, and what is chosen afterwards.

use std::ops::ControlFlow;
use std::path::PathBuf;

use burn::tensor::{Device, Int, Tensor};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};

use super::checkpoint::{self, CalibrationRun};
use super::network::{Network, WeightPlace};
use super::optimizer::Optimizer;
use super::out_place::OutPlace;
use super::step::{self, Batch, Target, TeacherStreams};
use super::text::Windows;
use super::thresholds::Scale;
use super::trained::{Params, ParamsChange, Trained};
use super::{
    BITS_DRAWN, BITS_JUDGED, CHECKPOINT_STEPS, CalibrationOptions, CalibrationProgress, Chosen, HeldOut, RATES,
    StepLog, flow, pack, selection, target,
};
use crate::error::{Error, Result};
use crate::precision::{BITS, SLICE_BITS};
use crate::routing::Thresholds;

/// A training run.
pub struct Trainer<'a> {
    network: &'a Network,
    device: &'a Device,
    windows: &'a Windows,
    micro: usize,
    out: &'a OutPlace,
    run: CalibrationRun,
    trained: Trained,
    optimizer: Optimizer,
    /// What was changed after the last step, first to last.
    changes: Vec<ParamsChange>,
}

impl<'a> Trainer<'a> {
    /// A run that has done nothing yet, on windows of which `micro` are computed at once.
    pub fn new(
        network: &'a Network,
        (place, out): (WeightPlace<'a>, &'a OutPlace),
        windows: &'a Windows,
        micro: usize,
        run: CalibrationRun,
    ) -> Result<Trainer<'a>> {
        let mut rng = ChaCha8Rng::seed_from_u64(run.seed);
        Ok(Trainer {
            network,
            device: place.device,
            windows,
            micro,
            out,
            optimizer: Optimizer::new(run.steps, RATES),
            run,
            trained: Trained::new(&network.shape, place.keeping, place.device, &mut rng)?,
            changes: Vec::new(),
        })
    }

    /// What it shares with its checkpoints.
    pub fn run(&self) -> &CalibrationRun {
        &self.run
    }

    /// What it has come to.
    pub fn params(&self) -> Params<'_> {
        Params::of(&self.trained.params)
    }

    /// Takes up an earlier session of this run, if there was one; the steps that it did.
    pub fn resume(&mut self) -> Result<usize> {
        if !self.out.checkpoint.exists() {
            return Ok(0);
        }
        checkpoint::load(&self.out.checkpoint, &self.run, &mut self.trained, self.network.layers(), self.device)
    }

    /// Does the steps after the first `done`.
    pub fn train(
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
            let outcome = match step::step(self.network, &mut self.trained, &batch, target(drawn)) {
                Ok(outcome) => outcome,
                Err(stopped @ Error::Stopped(_)) => {
                    self.save(at)?;
                    return Err(stopped);
                }
                Err(fault) => return Err(fault),
            };
            self.optimizer.step(at, &mut self.trained, self.network.layers(), outcome.squares)?;
            if !outcome.kl.is_finite() || !outcome.bits.is_finite() {
                let step::Outcome { kl, bits, .. } = outcome;
                return Err(self.failed(format!("step {} has a loss of {kl} at {bits} bits", at + 1)));
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
        checkpoint::save(self.out, &self.run, done, &self.trained, self.network.layers())
    }

    /// The mean loss at [`BITS_JUDGED`]. Fails where a stop is asked for.
    pub fn loss(&self, batch: &Batch) -> Result<f32> {
        let losses = step::losses(self.network, &self.params(), batch, &BITS_JUDGED.map(target))?;
        Ok(losses.iter().sum::<f32>() / losses.len() as f32)
    }

    /// The KL divergence on what was held out of each text, at [`BITS_JUDGED`] and with every slice. Fails where a stop
    /// is asked for.
    pub fn judge(&self, thresholds: &Thresholds, options: &CalibrationOptions) -> Result<Vec<HeldOut>> {
        let targets: Vec<Target> = BITS_JUDGED
            .iter()
            .chain([BITS.end()])
            .map(|bits| Target { bits: *bits, threshold: thresholds.threshold(*bits), weight: 1.0 })
            .collect();
        let texts = options.texts.iter().zip(self.windows.held_out_texts(self.device));
        let judge = |(path, ids): (&PathBuf, Tensor<2, Int>)| {
            let tokens = ids.dims().iter().product();
            let batch = Batch { ids, micro: self.micro };
            let found = step::divergences(self.network, &self.params(), &batch, &targets)?;
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
    pub fn round(&mut self, held_out: &Batch, teacher: &TeacherStreams) -> Result<()> {
        let network = self.network;
        self.trained.replace(network.layers(), &|at, sites| {
            let codes = network.codes.get(at)?;
            let mut codes = codes.iter();
            Ok(sites.map(|params| pack::rounded(codes.next().expect("one for each site"), params)))
        })?;
        let kept = selection::keep_better_ranges(network, self.params(), held_out, teacher)?;
        let changes = kept.changes().to_vec();
        self.change(&changes)
    }

    /// Makes changes of the parameters last.
    fn change(&mut self, changes: &[ParamsChange]) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        self.trained.replace(self.network.layers(), &|_, sites| Ok(ParamsChange::all_of(changes, sites)))?;
        self.changes.extend(changes);
        Ok(())
    }

    /// What was chosen after the last step.
    pub fn chosen(&self) -> Chosen {
        let mut chosen = Chosen { untrained_ranges: Vec::new(), scores_apart: 0.0 };
        for change in &self.changes {
            match change {
                ParamsChange::StartingRanges(slice) => chosen.untrained_ranges.push(SLICE_BITS * (*slice as u32 + 1)),
                ParamsChange::ScoresApart(distance) => chosen.scores_apart = *distance,
                ParamsChange::Always(_) => {}
            }
        }
        chosen
    }

    /// Moves the routers' gates apart where that serves, and measures the table of what will run. Fails where a stop is
    /// asked for.
    pub fn measure_table(
        &mut self,
        batch: &Batch,
        teacher: &TeacherStreams,
        on_progress: &mut dyn FnMut(CalibrationProgress) -> ControlFlow<()>,
    ) -> Result<Thresholds> {
        let mut on_measurement = |rows| flow(on_progress(CalibrationProgress::Table(rows)));
        let network = self.network;
        let mut scale = Scale { network, batch, teacher, on_measurement: &mut on_measurement, done: 0 };
        let (widened, sketch) = selection::widen_gates(&mut scale, &self.params())?;
        let table = scale.table(&sketch)?;
        let changes = widened.changes().to_vec();
        self.change(&changes)?;
        Ok(table)
    }

    /// The run is in its pack: the checkpoint has done its duty.
    pub fn forget_checkpoint(&self) {
        let _ = std::fs::remove_file(&self.out.checkpoint);
    }
}

/// The bits of a step.
fn draw(rng: &mut impl rand::Rng) -> f32 {
    let (fewest, more, rather_few) = BITS_DRAWN;
    fewest + more * rng.random::<f32>().powf(rather_few)
}
