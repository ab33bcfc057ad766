//! Whether the numbers that go into the products of a single token become int8s: by what the device is, or by a trial
//! of both ways on the model itself, which a file remembers.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Model;
use super::executor::{Executor, StepKind, TokenRows};
use crate::cancel::CancelToken;
use crate::engine::{Activations, DeviceInfo, Traits};
use crate::error::{Error, Result};
use crate::format::write_whole;
use crate::kernels::step_rows::StepRow;
use crate::kernels::{fingerprint, project};
use crate::precision::{Depth, PrecisionPlan};
use crate::sampling::{Choice, SamplerSettings};
use crate::shape::LlamaShape;

/// Runs of a trial that count, each way.
const RUNS: usize = 5;
/// Runs before them, in which the device compiles and wakes up.
const WARM_UPS: usize = 2;
/// How much faster f32 must be to be chosen, so that noise does not turn a close result.
const MARGIN: f64 = 1.05;
/// How deep a trial reads: the least depth at which products take all bits of int8 activations. At depth 1, where they
/// take half of them, int8s would look better than they are in most plans. The second slice need not be there yet: the
/// base is bound in its place until then, and takes as long to multiply.
const DEPTH: Depth = Depth::ALL[1];

/// Microseconds that a token took in a trial, at depth 2.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// With f32 activations.
    pub f32_us: u64,
    /// With int8 activations.
    pub int8_us: u64,
}

/// A trial in its file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    of: TrialSubject,
    #[serde(flatten)]
    trial: Trial,
}

/// All that a trial depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct TrialSubject {
    device: String,
    backend: String,
    driver: String,
    /// Of this program, and a hash of its shaders.
    version: String,
    shape: String,
    group: u32,
    cache_type: String,
}

impl TrialSubject {
    /// Whether it is the same but for the version of the program.
    fn renews(&self, other: &TrialSubject) -> bool {
        *self == TrialSubject { version: self.version.clone(), ..other.clone() }
    }
}

/// Whether a model's activations are packed where nothing was tried.
///
/// Fails where int8 was asked for and the model's inputs do not fit in a workgroup's memory.
pub(super) fn untried(traits: Traits, shape: &LlamaShape) -> Result<bool> {
    let fits = project::fits(traits, shape);
    if traits.activations == Activations::Int8 && !fits {
        let (needs, has) = (project::needed_bytes(traits, shape), traits.workgroup_bytes);
        let (bound, binds) = (project::bound_bytes(shape), traits.binding_bytes);
        let expected = if bound > binds {
            format!("auto or f32 on a device that binds {binds} bytes at once: this model needs {bound}")
        } else {
            format!("auto or f32 on a device whose workgroups have {has} bytes: this model needs {needs}")
        };
        return Err(Error::argument("activations", expected, "int8"));
    }
    Ok(match traits.activations {
        Activations::F32 => false,
        Activations::Auto => fits && !traits.software,
        Activations::Int8 => fits,
    })
}

impl Model {
    /// Whether the numbers that go into the products of a single token become int8s.
    pub fn int8_activations(&self) -> bool {
        self.executor().int8_activations
    }

    /// Chooses f32 or int8 activations by which is faster here: by the trial that `file` remembers of such a device,
    /// driver and model, or by one of now, which `file` remembers from then on. The trial takes as long as fourteen
    /// tokens and the compilation of both ways' kernels. Nothing is tried where there is no choice: where the engine
    /// was opened for one of them, where it has one only, and on processors, for which the kernels of int8s are not
    /// made.
    ///
    /// To be called where fewer than [`Model::sequences`] are open, as the trial takes the place of one. Fails where
    /// none is free, and where the device fails. A file that cannot be read or written is as none.
    pub fn choose_activations(&self, file: Option<&Path>) -> Result<()> {
        self.executor().choose_activations(file, self.cancel_token())
    }

    /// The trial by which [`Model::choose_activations`] chose, where there was a choice.
    pub fn activations_trial(&self) -> Option<Trial> {
        self.executor().trial
    }
}

impl Executor {
    fn choose_activations(&mut self, file: Option<&Path>, cancel: &CancelToken) -> Result<()> {
        let traits = self.engine.traits();
        if traits.activations != Activations::Auto || !untried(traits, &self.shape)? {
            return Ok(());
        }
        let of = self.subject();
        let mut entries = file.map(read).unwrap_or_default();
        let trial = match entries.iter().find(|known| known.of == of) {
            Some(known) => known.trial,
            None => {
                let trial = self.try_both_ways(cancel).map_err(|e| e.within("loading"))?;
                entries.retain(|known| !of.renews(&known.of));
                entries.push(Entry { of, trial });
                // Where it cannot be kept, the next start tries again.
                let _ = file.map(|file| keep(file, &entries));
                trial
            }
        };
        self.set_int8_activations(trial.prefers_int8());
        self.trial = Some(trial);
        Ok(())
    }

    fn set_int8_activations(&mut self, int8: bool) {
        if int8 != self.int8_activations {
            self.int8_activations = int8;
            self.prepared.clear();
        }
    }

    /// The trial, after which the model computes as before, even where it fails.
    fn try_both_ways(&mut self, cancel: &CancelToken) -> Result<Trial> {
        let before = self.int8_activations;
        let slot = self.open(&PrecisionPlan::uniform(Depth::ALL[0], "a trial of activations"))?;
        let trial = self.try_activations(slot, cancel);
        self.close(slot);
        self.set_int8_activations(before);
        trial
    }

    /// Runs the first token both ways, one after the other.
    fn try_activations(&mut self, slot: u32, cancel: &CancelToken) -> Result<Trial> {
        self.engine.set_cancel(cancel.clone());
        self.use_weights()?;
        let limits = &mut self.slots[slot as usize].as_mut().expect("the slot is open").limits;
        limits.layers.fill(DEPTH);
        self.inputs.write_choices(self.engine.as_mut(), &[Choice::new(&SamplerSettings::default(), 0)]);
        let first_cell = self.cache.cells(slot).start;
        let row = StepRow { token: 0, position: 0, first_cell, slot, depth_row: 0, first_control: 0, embed_depth: 0 };
        let mut ways = Vec::new();
        for int8 in [false, true] {
            self.set_int8_activations(int8);
            let class = self.write(StepKind::NextToken, TokenRows { rows: vec![row], routed: false });
            ways.push((self.engine.prepare(self.record(class))?, Duration::MAX));
        }
        for run in 0..WARM_UPS + RUNS {
            for (prepared, least) in &mut ways {
                let start = Instant::now();
                self.engine.run(prepared)?;
                if run >= WARM_UPS {
                    *least = start.elapsed().min(*least);
                }
            }
        }
        let [f32_us, int8_us] = [0, 1].map(|way: usize| ways[way].1.as_micros() as u64);
        Ok(Trial { f32_us, int8_us })
    }

    fn subject(&self) -> TrialSubject {
        let DeviceInfo { name, backend, driver, .. } = self.engine.info();
        let LlamaShape { layers, model_dim, ffn_dim, heads, kv_heads, head_dim, vocab, .. } = self.shape;
        let dims = [layers, model_dim, ffn_dim, heads, kv_heads, head_dim, vocab];
        TrialSubject {
            device: name.clone(),
            backend: backend.clone(),
            driver: driver.clone(),
            version: format!("{} {}", env!("CARGO_PKG_VERSION"), &fingerprint()[..16]),
            shape: dims.map(|dim| dim.to_string()).join("x"),
            group: self.weights.embed.form.group(),
            cache_type: self.cache.options.cache_type.to_string(),
        }
    }
}

impl Trial {
    /// Whether int8s are to be taken.
    fn prefers_int8(self) -> bool {
        self.int8_us as f64 <= self.f32_us as f64 * MARGIN
    }
}

/// The trials in a file; none where it is not there or is no such file. What another version wrote otherwise is left
/// out.
fn read(file: &Path) -> Vec<Entry> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let entries: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap_or_default();
    entries.into_iter().filter_map(|entry| serde_json::from_value(entry).ok()).collect()
}

/// Writes the file, and its folder where there is none.
fn keep(file: &Path, entries: &[Entry]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    write_whole(file, &serde_json::to_vec_pretty(entries)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f32_is_chosen_for_a_clear_gain_only() {
        for (f32_us, int8_us, int8) in [(200, 100, true), (100, 200, false), (100, 104, true), (100, 106, false)] {
            assert_eq!(Trial { f32_us, int8_us }.prefers_int8(), int8, "{f32_us} and {int8_us}");
        }
    }

    #[test]
    fn trials_are_read_as_they_were_written_and_a_spoilt_file_is_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("made/activations.json");
        assert_eq!(read(&file), []);
        let of = TrialSubject {
            device: "GPU".to_string(),
            backend: "Vulkan".to_string(),
            driver: "1".to_string(),
            version: "0".to_string(),
            shape: "1x2".to_string(),
            group: 64,
            cache_type: "f16".to_string(),
        };
        let newer = TrialSubject { version: "1".to_string(), ..of.clone() };
        assert!(newer.renews(&of) && !newer.renews(&TrialSubject { group: 128, ..of.clone() }));
        assert!(!TrialSubject { cache_type: "q8".to_string(), ..of.clone() }.renews(&of), "each cache has a trial");
        let trial = Trial { f32_us: 150, int8_us: 125 };
        let other = TrialSubject { driver: "2".to_string(), ..of.clone() };
        let entries = [of, other].map(|of| Entry { of, trial });
        keep(&file, &entries).unwrap();
        assert_eq!(read(&file), entries);
        // As 0.1.0 wrote them first, without a type of cache.
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replacen("\"cache_type\"", "\"other\"", 1)).unwrap();
        assert_eq!(read(&file), entries[1..]);
        std::fs::write(&file, "[{").unwrap();
        assert_eq!(read(&file), []);
    }
}
