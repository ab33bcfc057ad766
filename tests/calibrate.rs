//! Calibration from text to a routed model, on the CPU, with a tiny random model.
#![cfg(feature = "calibrate")]

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use common::families::FamilyModel;
use common::{TinyModel, tiny_hf_folder, tiny_shape};
use edge_run::internals::calibrate::{
    CalibrationOptions, CalibrationProgress, CalibrationReport, Chosen, Memory, StepLog, calibrate, cpu,
};
use edge_run::internals::format::codes::{RangeForm, WEIGHTS_PER_WORD, unpack};
use edge_run::internals::format::{ModelFolder, Pack, SCALED_VERSION, layout};
use edge_run::internals::model::Model;
use edge_run::internals::precision::SLICES;
use edge_run::internals::quantize::{self, CutBasis, Importance, QuantizeOptions, Source, SourceTensor};
use edge_run::internals::shape::Site;
use edge_run::internals::unquantized::ImportancePlan;
use edge_run::{CancelToken, Error, PrecisionPlan};
use safetensors::Dtype;
use serde_json::Value;

/// A place to calibrate in: a tiny model's checkpoint and a text.
struct Lab {
    dir: tempfile::TempDir,
    cancel: CancelToken,
}

impl Lab {
    fn new() -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::create_dir(&source).unwrap();
        tiny_hf_folder(&source, 7, true);
        Lab::beside(dir, 2400)
    }

    /// With two layers of a family's tiny model, and a short text: most of the time goes into the table of thresholds, for
    /// which all that is held out runs some sixty times.
    fn of_family(family: &str, changes: &Value) -> Lab {
        let dir = tempfile::tempdir().unwrap();
        let model = FamilyModel::read(family).cut(2, changes);
        let style = model.configs.keys().next().expect("a style of config.json");
        model.write_hf(&dir.path().join("source"), style);
        Lab::beside(dir, 200)
    }

    /// With the checkpoint in a folder, and a text of so many words.
    fn beside(dir: tempfile::TempDir, words: u32) -> Lab {
        let words: String = (0..words).map(|i| ["on ", "a ", "day ", "the "][(i * i % 7 % 4) as usize]).collect();
        fs::write(dir.path().join("text.txt"), words).unwrap();
        Lab { dir, cancel: CancelToken::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn options(&self, out: &str) -> CalibrationOptions {
        CalibrationOptions {
            texts: vec![self.path("text.txt")],
            steps: 12,
            batch: 2,
            seq: 16,
            seed: 3,
            memory: 4 << 30,
            stream: false,
            out: self.path(out),
        }
    }

    /// Calibrates and returns the steps; `stop_after` breaks off.
    fn run(
        &self,
        options: &CalibrationOptions,
        stop_after: Option<usize>,
    ) -> (Result<CalibrationReport, Error>, Vec<StepLog>) {
        let mut steps = Vec::new();
        let mut source = quantize::open(&self.path("source")).unwrap();
        let report = calibrate(source.as_mut(), &cpu(), options, None, &self.cancel, &mut |progress| {
            if let CalibrationProgress::Step(step) = progress {
                steps.push(step);
                if stop_after == Some(step.done) {
                    return ControlFlow::Break(());
                }
            }
            ControlFlow::Continue(())
        });
        (report, steps)
    }
}

/// The pack without the facts that differ from run to run.
fn tensors(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header..].to_vec()
}

#[test]
fn training_lowers_the_loss_and_its_pack_routes_a_model() {
    let lab = Lab::new();
    let (report, steps) = lab.run(&CalibrationOptions { steps: 40, ..lab.options("a.pack") }, None);
    let report = report.unwrap();
    assert!(steps.len() == 40 && report.resumed == 0);
    assert!(report.loss_after < 0.8 * report.loss_before, "{report:?}");
    assert!(steps.iter().all(|step| (2.0..=8.0).contains(&step.bits)), "{steps:?}");
    assert!(!lab.path("a.pack.checkpoint").exists());

    let pack = Pack::open(&lab.path("a.pack")).unwrap();
    let recipe = &pack.info().recipe;
    assert_eq!(recipe["steps"], 40);
    let Chosen { untrained_ranges, scores_apart } = &report.chosen;
    assert!([0.0, 2.0, 8.0].contains(scores_apart) && untrained_ranges.iter().all(|bits| [2, 4].contains(bits)));
    assert_eq!(recipe["scores_apart"], *scores_apart);
    assert_eq!(recipe["untrained_ranges"], serde_json::json!(untrained_ranges));
    let mut source = quantize::open(&lab.path("source")).unwrap();
    let options = QuantizeOptions {
        out: lab.path("model"),
        group_size: None,
        replace: false,
        calibration: Some(lab.path("a.pack")),
    };
    quantize::quantize(source.as_mut(), &options, &mut |_| ControlFlow::Continue(())).unwrap();
    let folder = ModelFolder::open(&lab.path("model")).unwrap();
    assert_eq!(folder.thresholds(), Some(&pack.info().thresholds));
}

/// How much the inputs of a source count, with what they have in common, on a short text.
fn measured(source: &mut dyn Source) -> edge_run::Result<Importance> {
    let tokenizer = quantize::source_text(source)?;
    let text = "The inn in the valley was there before the road, and the path led to the tin mine. ".repeat(8);
    let plan = ImportancePlan::new(source, &tokenizer, "a text", &text)?.with_moments();
    plan.measure(source, &mut |_, _| ControlFlow::Continue(()))
}

/// The codes of a matrix in a folder.
fn codes(folder: &ModelFolder, name: &str) -> Vec<u8> {
    let slices: Vec<_> = (0..SLICES).map(|at| folder.tensor(at, &format!("{name}.slice{at}")).unwrap()).collect();
    let words: Vec<&[u32]> = slices.iter().map(|slice| bytemuck::cast_slice(slice.bytes())).collect();
    (0..words[0].len())
        .flat_map(|at| unpack(&std::array::from_fn::<u32, SLICES, _>(|slice| words[slice][at])))
        .collect()
}

#[test]
fn a_pack_by_importance_gives_the_weights_that_were_trained_on() {
    let lab = Lab::new();
    let path = lab.path("source");
    let mut model = TinyModel::new(tiny_shape(false), 31);
    for (_, norm) in model.tensors.values_mut().filter(|(dims, _)| dims.len() == 1) {
        norm.iter_mut().enumerate().for_each(|(at, weight)| *weight = if at % 5 == 0 { 4.0 } else { 0.25 });
    }
    model.write_hf(&path, Dtype::F32, 1);
    let open = || quantize::open(&path).unwrap();
    let options = lab.options("a.pack");
    let go_on = &mut |_: CalibrationProgress| ControlFlow::Continue(());
    let report = calibrate(&mut *open(), &cpu(), &options, Some(&mut measured), &lab.cancel, go_on).unwrap();
    // With scales in the codes alone, or in the weights alone, this would be some hundredths.
    let (bits, kl) = *report.held_out[0].divergences.last().unwrap();
    assert!(bits == 8.0 && kl < 1e-3, "{report:?}");

    let pack = Pack::open(&options.out).unwrap();
    assert_eq!(pack.info().pack_version, SCALED_VERSION);
    let cut = |name: &str, measure: Option<&mut quantize::MeasureImportance<'_>>| {
        let calibration = Some(options.out.clone());
        let options = QuantizeOptions { out: lab.path(name), group_size: None, replace: false, calibration };
        quantize::quantize_by(&mut *open(), &options, measure, &mut |_| ControlFlow::Continue(())).unwrap();
        ModelFolder::open(&lab.path(name)).unwrap()
    };
    let (folder, nearest) = (cut("by", Some(&mut measured)), cut("nearest", None));
    let importance = measured(&mut *open()).unwrap();
    let forward = &mut |_: &quantize::QuantizeProgress<'_>| ControlFlow::Continue(());
    let basis = CutBasis::choose(&mut *open(), Some(importance), RangeForm::Words, forward).unwrap();
    let (mut scaled_sites, mut moved) = (0, 0);
    for (layer, site) in layout::sites(folder.shape()) {
        let matrix = layout::site(folder.shape(), layer, site);
        let tensors = SourceTensor::of_site(layer, site);
        let (mut weights, mut rows) = (Vec::new(), Vec::new());
        for tensor in &tensors {
            let (count, _) = tensor.dims(folder.shape(), &folder.manifest().spec);
            basis.scaled(&mut *open()).rows(*tensor, 0..count, &mut rows).unwrap();
            weights.extend_from_slice(&rows);
        }
        let trained_on = basis.codes(tensors[0], &weights, matrix.input as usize).unwrap();
        assert!(codes(&folder, &matrix.name) == trained_on.codes, "{}", matrix.name);
        for slice in [2, 3] {
            let words = folder.tensor(slice, &format!("{}.ranges{slice}", matrix.name)).unwrap();
            assert_eq!(bytemuck::cast_slice::<u8, u16>(words.bytes()), trained_on.words[slice], "{}", matrix.name);
        }
        // Without compensation, codes differ in their lower four bits alone.
        let by_themselves = codes(&nearest, &matrix.name);
        assert!(trained_on.codes.iter().zip(&by_themselves).all(|(a, b)| a >> 4 == b >> 4), "{}", matrix.name);
        moved += trained_on.codes.iter().zip(&by_themselves).filter(|(a, b)| a != b).count();
        scaled_sites += usize::from(basis.scales().of(tensors[0]).is_some());
        assert_eq!(weights.len(), trained_on.words[0].len() * 2 * WEIGHTS_PER_WORD);
    }
    assert!(scaled_sites > 2 && moved > 100, "{scaled_sites} sites have scales, {moved} codes compensate");
}

#[test]
fn a_run_does_not_go_on_from_one_with_other_importance() {
    let lab = Lab::new();
    let options = lab.options("a.pack");
    assert!(matches!(lab.run(&options, Some(2)).0, Err(Error::Stopped(_))));
    let mut source = quantize::open(&lab.path("source")).unwrap();
    let go_on = &mut |_: CalibrationProgress| ControlFlow::Continue(());
    let fault = calibrate(source.as_mut(), &cpu(), &options, Some(&mut measured), &lab.cancel, go_on).unwrap_err();
    assert!(fault.to_string().contains("a checkpoint of this run"), "{fault}");
    // What differs whatever the inputs count is told before anybody waits for that.
    let longer = CalibrationOptions { steps: options.steps + 1, ..options };
    let measured_too = &mut |_: &mut dyn Source| panic!("the importance is measured first");
    let fault = calibrate(source.as_mut(), &cpu(), &longer, Some(measured_too), &lab.cancel, go_on).unwrap_err();
    assert!(fault.to_string().contains("got steps 12 where this run has 13"), "{fault}");
}

/// Calibrates a family's tiny model in a few steps, cuts it by the pack, and reads it at three averages of bits.
fn assert_calibrates(family: &str, changes: &Value) {
    let lab = Lab::of_family(family, changes);
    let options = CalibrationOptions { steps: 28, batch: 4, seq: 8, ..lab.options("a.pack") };
    let report = lab.run(&options, None).0.unwrap();
    println!("{family}: a loss of {} before, {} after, {} s", report.loss_before, report.loss_after, report.seconds);
    assert!(report.loss_after < report.loss_before, "{family}: {report:?}");

    let mut source = quantize::open(&lab.path("source")).unwrap();
    let calibration = Some(lab.path("a.pack"));
    let options = QuantizeOptions { out: lab.path("model"), group_size: None, replace: false, calibration };
    quantize::quantize(source.as_mut(), &options, &mut |_| ControlFlow::Continue(())).unwrap();
    let folder = ModelFolder::open(&lab.path("model")).unwrap();
    let model = Model::load(&folder, edge_run::internals::cpu::open(), 64, &mut |_, _| ()).unwrap();
    let ids: Vec<u32> = (0..48).map(|at| 3 + at * at % 150).collect();
    let bits = [2.5, 4.0, 6.0].map(|bits| {
        let plan = PrecisionPlan::for_bits(bits, true, "a test").unwrap();
        let step = model.sequence(&plan).unwrap().next_logits(&ids).unwrap();
        assert!(step.logits.iter().all(|logit| logit.is_finite()));
        let sites = (0..folder.shape().layers as usize).flat_map(|at| Site::ALL.map(|site| (at, site)));
        let depths: Vec<u8> = sites.flat_map(|(at, site)| step.depths.at(at, site).to_vec()).collect();
        depths.iter().map(|depth| 2.0 * f32::from(*depth)).sum::<f32>() / depths.len() as f32
    });
    assert!(bits[0] < bits[1] && bits[1] < bits[2], "{family}: {bits:?}");
}

/// A test for each family, so that they share the cores. Where the layers that differ come late in the model, `changes` of
/// its configuration bring them to the front.
macro_rules! families_that_calibrate {
    ($($name:ident $changes:tt)*) => {
        mod families {
            use serde_json::json;

            $(#[test]
            fn $name() {
                super::assert_calibrates(stringify!($name), &json!($changes));
            })*
        }
    };
}

families_that_calibrate! {
    llama3 {}
    mistral {}
    ministral3 {}
    smollm3 {"no_rope_layers": [1, 0]}
    qwen2 {"layer_types": ["full_attention", "full_attention"]}
    qwen3 {"layer_types": ["full_attention", "full_attention"]}
    phi3_window {}
    granite {}
    gemma2 {"layer_types": ["sliding_attention", "full_attention"]}
    gemma3_text {"layer_types": ["sliding_attention", "full_attention"]}
    // It has no norms before its products: its routers look at one all the same.
    olmo2 {}
}

#[test]
fn a_run_that_was_stopped_ends_as_one_that_was_not() {
    let lab = Lab::new();
    let whole = lab.options("whole.pack");
    lab.run(&whole, None).0.unwrap();

    let halves = lab.options("halves.pack");
    assert!(matches!(lab.run(&halves, Some(7)).0, Err(Error::Stopped(_))));
    assert!(lab.path("halves.pack.checkpoint").exists() && !lab.path("halves.pack").exists());
    let other = CalibrationOptions { seed: 4, ..halves.clone() };
    let message = lab.run(&other, None).0.unwrap_err().to_string();
    assert!(message.contains("halves.pack.checkpoint"), "{message}");
    let mut source = quantize::open(&lab.path("source")).unwrap();
    let mut told = Vec::new();
    let report = calibrate(source.as_mut(), &cpu(), &halves, None, &lab.cancel, &mut |progress| {
        told.push(progress);
        ControlFlow::Continue(())
    });
    assert_eq!(report.unwrap().resumed, 7);
    // That it goes on is told before its first step.
    let resumed = told.iter().position(|progress| *progress == CalibrationProgress::Resumed(7)).expect("it goes on");
    assert!(matches!(told[resumed + 1], CalibrationProgress::Step(step) if step.done == 8), "{told:?}");
    assert!(tensors(&lab.path("whole.pack")) == tensors(&lab.path("halves.pack")), "the packs differ");
}

#[test]
fn a_batch_in_parts_has_the_gradients_of_the_whole() {
    let lab = Lab::new();
    let whole = CalibrationOptions { steps: 3, batch: 4, ..lab.options("whole.pack") };
    // Stopped after the last step, as nobody looks at the packs.
    let (_, at_once) = lab.run(&whole, Some(3));
    // The least memory that is enough holds one window of one layer at a time.
    let shape = quantize::open(&lab.path("source")).unwrap().shape().clone();
    let plan = |memory| Memory::plan(&shape, &CalibrationOptions { memory, ..whole.clone() }, 4);
    let (mut too_little, mut least) = (0, 1 << 30);
    while least - too_little > 1 {
        let between = (too_little + least) / 2;
        *if plan(between).is_ok() { &mut least } else { &mut too_little } = between;
    }
    assert_eq!(plan(least).unwrap().micro, 1);
    let starved = CalibrationOptions { memory: least, out: lab.path("parts.pack"), ..whole.clone() };
    let (_, in_parts) = lab.run(&starved, Some(3));
    assert_eq!((at_once.len(), in_parts.len()), (3, 3));
    for (whole, parts) in at_once.iter().zip(&in_parts) {
        // After the first step, rounding grows: the optimizer moves by the signs of small gradients too.
        let slack = if whole.done == 1 { 1e-4 } else { 0.05 };
        assert!((whole.kl - parts.kl).abs() < slack * whole.kl, "{whole:?} {parts:?}");
    }
}

#[test]
fn what_cannot_be_calibrated_is_told_before_anything_is_written() {
    let lab = Lab::new();
    let good = lab.options("x.pack");
    let cases = [
        (CalibrationOptions { batch: 100_000, ..good.clone() }, "text"),
        (CalibrationOptions { seq: 100_000, ..good.clone() }, "sequence length"),
        (CalibrationOptions { steps: 0, ..good.clone() }, "steps"),
        (CalibrationOptions { texts: vec![lab.path("none.txt")], ..good.clone() }, "none.txt"),
    ];
    // What is no file is not waited for.
    #[cfg(unix)]
    let cases = cases.into_iter().chain([(
        CalibrationOptions { texts: vec!["/dev/zero".into()], ..good.clone() },
        "text `/dev/zero`: expected a regular file",
    )]);
    for (options, named) in cases {
        let message = lab.run(&options, None).0.unwrap_err().to_string();
        assert!(message.contains(named), "{named}: {message}");
    }
    assert!(!lab.path("x.pack").exists() && !lab.path("x.pack.checkpoint").exists());
}

#[test]
fn a_run_is_stopped_within_a_step_of_which_nothing_counts() {
    let lab = Lab::new();
    let options = lab.options("stopped.pack");
    let mut source = quantize::open(&lab.path("source")).unwrap();
    let stopped = calibrate(source.as_mut(), &cpu(), &options, None, &lab.cancel, &mut |progress| {
        if matches!(progress, CalibrationProgress::Step(step) if step.done == 5) {
            lab.cancel.cancel();
        }
        ControlFlow::Continue(())
    });
    assert!(matches!(stopped, Err(Error::Stopped("calibrate"))));
    lab.cancel.reset();
    let (report, steps) = lab.run(&options, None);
    assert!(report.unwrap().resumed == 5 && steps[0].done == 6);
}

/// What is in the lab beside what it was made with.
fn left(lab: &Lab) -> Vec<String> {
    let names = fs::read_dir(lab.dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name != "source" && name != "text.txt").collect();
    names.sort();
    names
}

#[test]
fn layers_from_a_file_give_the_pack_of_layers_that_stay_on_the_device_and_leave_nothing() {
    let lab = Lab::new();
    let on_device = lab.options("device.pack");
    let streamed = CalibrationOptions { stream: true, out: lab.path("streamed.pack"), ..on_device.clone() };
    for options in [&on_device, &streamed] {
        let mut source = quantize::open(&lab.path("source")).unwrap();
        let mut plan = None;
        calibrate(source.as_mut(), &cpu(), options, None, &lab.cancel, &mut |progress| {
            if let CalibrationProgress::Plan(memory) = progress {
                plan = Some(memory);
            }
            ControlFlow::Continue(())
        })
        .unwrap();
        let plan = plan.unwrap();
        assert_eq!((plan.scratch.is_some(), plan.micro), (options.stream, options.batch));
    }
    assert!(tensors(&lab.path("device.pack")) == tensors(&lab.path("streamed.pack")), "the packs differ");
    assert_eq!(left(&lab), ["device.pack", "streamed.pack"]);
}

#[test]
fn a_streamed_run_that_was_stopped_anywhere_ends_as_one_that_was_not() {
    let lab = Lab::new();
    let whole = CalibrationOptions { stream: true, ..lab.options("whole.pack") };
    lab.run(&whole, None).0.unwrap();

    // Stopped between two steps, and then wherever it is some milliseconds later.
    let halves = CalibrationOptions { out: lab.path("halves.pack"), ..whole };
    assert!(matches!(lab.run(&halves, Some(3)).0, Err(Error::Stopped(_))));
    assert_eq!(left(&lab), ["halves.pack.checkpoint", "whole.pack"]);
    let mut source = quantize::open(&lab.path("source")).unwrap();
    let cancel = lab.cancel.clone();
    let stopped = calibrate(source.as_mut(), &cpu(), &halves, None, &lab.cancel, &mut |progress| {
        if matches!(progress, CalibrationProgress::Step(step) if step.done == 5) {
            let cancel = cancel.clone();
            std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(3));
                cancel.cancel();
            });
        }
        ControlFlow::Continue(())
    });
    assert!(matches!(stopped, Err(Error::Stopped("calibrate"))));
    assert_eq!(left(&lab), ["halves.pack.checkpoint", "whole.pack"]);
    lab.cancel.reset();
    let report = lab.run(&halves, None).0.unwrap();
    assert!(report.resumed >= 5, "{report:?}");
    assert!(tensors(&lab.path("whole.pack")) == tensors(&lab.path("halves.pack")), "the packs differ");
}

#[test]
fn an_error_in_the_middle_leaves_no_scratch_file() {
    let lab = Lab::new();
    let options = CalibrationOptions { stream: true, ..lab.options("broken.pack") };
    let mut source = quantize::open(&lab.path("source")).unwrap();
    let fault = calibrate(source.as_mut(), &cpu(), &options, None, &lab.cancel, &mut |progress| {
        // A folder where the checkpoint is to be.
        if matches!(progress, CalibrationProgress::Step(step) if step.done == 2) {
            fs::create_dir(lab.path("broken.pack.checkpoint")).unwrap();
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    let message = fault.unwrap_err().to_string();
    assert!(message.contains("broken.pack.checkpoint"), "{message}");
    assert_eq!(left(&lab), ["broken.pack.checkpoint"]);
}

#[test]
fn a_place_belongs_to_one_run_and_what_a_killed_one_left_there_is_removed() {
    let lab = Lab::new();
    let options = lab.options("x.pack");
    let left_over = lab.path(".x.pack.partial/model/.checkpoint.partial-abc");
    fs::create_dir_all(&left_over).unwrap();
    fs::write(left_over.join("x.pack.checkpoint"), "half of one").unwrap();
    let mut source = quantize::open(&lab.path("source")).unwrap();
    let mut refused = None;
    calibrate(source.as_mut(), &cpu(), &options, None, &lab.cancel, &mut |progress| {
        if matches!(progress, CalibrationProgress::Step(step) if step.done == 2) {
            assert!(!left_over.exists());
            refused = lab.run(&options, None).0.err();
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    let refused = refused.unwrap().to_string();
    assert!(refused.contains("x.pack") && refused.contains("another run is writing to"), "{refused}");
    assert_eq!(left(&lab), ["x.pack"]);
}

#[cfg(unix)]
#[test]
fn a_link_has_its_checkpoint_and_its_pack_where_it_leads_to() {
    let lab = Lab::new();
    fs::create_dir(lab.path("packs")).unwrap();
    std::os::unix::fs::symlink(lab.path("packs/x.pack"), lab.path("link.pack")).unwrap();
    let options = lab.options("link.pack");
    assert!(matches!(lab.run(&options, Some(3)).0, Err(Error::Stopped(_))));
    assert!(lab.path("packs/x.pack.checkpoint").exists());
    assert_eq!(left(&lab), ["link.pack", "packs"]);
    assert_eq!(lab.run(&options, None).0.unwrap().resumed, 3);
    assert!(lab.path("link.pack").is_symlink() && Pack::open(&lab.path("packs/x.pack")).is_ok());
    assert_eq!(fs::read_dir(lab.path("packs")).unwrap().count(), 1);
}

#[test]
fn a_damaged_checkpoint_is_refused_with_what_to_do() {
    let lab = Lab::new();
    let options = lab.options("x.pack");
    assert!(matches!(lab.run(&options, Some(2)).0, Err(Error::Stopped(_))));
    let file = lab.path("x.pack.checkpoint");
    let sound = fs::read(&file).unwrap();
    // A bit is another one: of a trained number, which stays one, of the run in the header, and of the checksum.
    let flipped = |at: usize, bit: u8| {
        let mut bytes = sound.clone();
        bytes[at] ^= bit;
        bytes
    };
    let seed = sound.windows(6).position(|bytes| bytes == br#"seed\""#).expect("the header has it") + 7;
    let [number, run, checksum] = [flipped(sound.len() - 100, 1), flipped(seed, 1), flipped(sound.len() - 1, 1)];
    let cut = &sound[..sound.len() - 100];
    let cases = [
        (cut, "tensors"),
        (&[], "header"),
        (b"not one", "header"),
        (&number, "sha256"),
        (&run, "sha256"),
        (&checksum, "sha256"),
    ];
    for (bytes, named) in cases {
        fs::write(&file, bytes).unwrap();
        let fault = lab.run(&options, None).0.unwrap_err();
        assert!(matches!(fault, Error::Damaged { .. }), "{fault}");
        let message = fault.to_string();
        assert!(message.contains("x.pack.checkpoint") && message.contains(named), "{named}: {message}");
        assert!(message.contains("remove the file to begin anew"), "{message}");
        assert!(fs::read(&file).unwrap() == bytes, "it is changed");
    }
    fs::write(&file, &sound).unwrap();
    assert_eq!(lab.run(&options, None).0.unwrap().resumed, 2);
}
