//! Ranges and scales of channels that are chosen by how much each input counts.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use crate::common::families::{self, FamilyModel, FamilyPrompt};
use crate::common::{TinyModel, tiny_shape};
use edge_run::internals::arch::LayerVector;
use edge_run::internals::export::DepthRows;
use edge_run::internals::format::codes::RangeForm;
use edge_run::internals::format::{ModelFolder, layout};
use edge_run::internals::precision::Depth;
use edge_run::internals::quantize::{
    ChannelScales, Importance, QuantizeOptions, QuantizeProgress, ScaledSource, Source, SourceTensor, SquaredInputs,
    open, quantize, quantize_by, source_text,
};
use edge_run::internals::shape::{Site, SiteAt};
use edge_run::internals::unquantized::{self, ImportancePlan};
use safetensors::Dtype;

const TEXT: &str = "The inn in the valley was there before the road, and the thin path behind it led to the tin mine.";
const FIRST_NORM: &str = "model.layers.0.input_layernorm.weight";

/// A tiny model whose first products have inputs of very different sizes, in the folder `dir`.
fn uneven_model(dir: &Path) -> TinyModel {
    let mut model = TinyModel::new(tiny_shape(true), 31);
    let norm = &mut model.tensors.get_mut(FIRST_NORM).unwrap().1;
    norm.iter_mut().enumerate().for_each(|(at, weight)| *weight = if at % 5 == 0 { 4.0 } else { 0.25 });
    model.write_hf(dir, Dtype::F32, 1);
    model
}

fn measured(source: &Path) -> Importance {
    let mut source = open(source).unwrap();
    let tokenizer = source_text(source.as_ref()).unwrap();
    let plan = ImportancePlan::new(source.as_ref(), &tokenizer, "text", TEXT).unwrap();
    plan.measure(source.as_mut(), &mut |_, _| ControlFlow::Continue(())).unwrap()
}

/// As [`measured`], with what the numbers of an input have in common.
fn measured_with_moments(source: &Path) -> Importance {
    let mut source = open(source).unwrap();
    let tokenizer = source_text(source.as_ref()).unwrap();
    let plan = ImportancePlan::new(source.as_ref(), &tokenizer, "text", TEXT).unwrap();
    let memory = plan.memory_bytes();
    let plan = plan.with_moments();
    assert!(plan.memory_bytes() > memory);
    plan.measure(source.as_mut(), &mut |_, _| ControlFlow::Continue(())).unwrap()
}

/// Cuts the model at `source` to `out`, by this importance if there is one.
fn cut(source: &Path, out: &Path, importance: Option<&Importance>) -> ModelFolder {
    let options = QuantizeOptions { out: out.to_path_buf(), group_size: None, calibration: None, replace: false };
    let mut measure = |_: &mut dyn Source| Ok(importance.expect("asked where there is one").clone());
    let measure = importance.is_some().then_some(&mut measure as _);
    quantize_by(&mut *open(source).unwrap(), &options, measure, &mut |_| ControlFlow::Continue(())).unwrap();
    ModelFolder::open(out).unwrap()
}

/// The weights of the first layer's queries together with the norm before them, which may share scales.
fn queries(source: &mut dyn Source, rows: u32) -> Vec<f32> {
    let (mut weights, mut norm) = (Vec::new(), Vec::new());
    source.rows(SourceTensor::Query(0), 0..rows, &mut weights).unwrap();
    source.rows(SourceTensor::Vector(0, LayerVector::InputNorm), 0..1, &mut norm).unwrap();
    weights.iter_mut().zip(norm.iter().cycle()).for_each(|(weight, norm)| *weight *= norm);
    weights
}

/// The squared errors of the first layer's queries, each as often as its input counts, `counts` being those of inputs
/// that the source's norm has multiplied.
fn error(source: &Path, folder: &ModelFolder, depth: Depth, counts: &[f32]) -> f64 {
    let rows = folder.shape().q_dim();
    let mut source = open(source).unwrap();
    let mut norm = Vec::new();
    source.rows(SourceTensor::Vector(0, LayerVector::InputNorm), 0..1, &mut norm).unwrap();
    let exact = queries(source.as_mut(), rows);
    let read = queries(&mut DepthRows::new(folder, depth), rows);
    let counts = counts.iter().zip(&norm).map(|(count, norm)| f64::from(count / (norm * norm))).collect::<Vec<_>>();
    let errors = exact.iter().zip(&read).zip(counts.iter().cycle());
    errors.map(|((exact, read), count)| count * f64::from(exact - read).powi(2)).sum()
}

#[test]
fn the_first_products_inputs_count_as_their_mean_squares() {
    let dir = tempfile::tempdir().unwrap();
    let model = uneven_model(dir.path());
    let ids = source_text(&*open(dir.path()).unwrap()).unwrap().encode(TEXT, false).unwrap();
    assert!(ids.len() < model.shape.max_context as usize, "one window");
    let (embed, norm) = (&model.tensors["model.embed_tokens.weight"].1, &model.tensors[FIRST_NORM].1);
    let mut squares = vec![0.0; norm.len()];
    for id in ids {
        let row = &embed[id as usize * norm.len()..][..norm.len()];
        let mean = row.iter().map(|x| x * x).sum::<f32>() / norm.len() as f32 + model.shape.norm_eps;
        squares.iter_mut().zip(row.iter().zip(norm)).for_each(|(sum, (x, w))| *sum += x * x / mean * w * w);
    }
    let mean = squares.iter().sum::<f32>() / squares.len() as f32;
    let importance = measured(dir.path());
    let found = importance.of(SourceTensor::Query(0)).unwrap();
    for (at, (square, found)) in squares.iter().zip(found).enumerate() {
        // A hundredth of the mean is added to each.
        let expected = (square / mean + 0.01) / 1.01;
        assert!((found - expected).abs() <= 1e-4 * expected, "{at}: {found} for {expected}");
    }
    assert!(importance.of(SourceTensor::FinalNorm).is_none() && importance.of(SourceTensor::Embed).is_some());
}

#[test]
fn ranges_by_importance_bring_products_nearer_and_those_by_shuffled_importance_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), |name: &str| dir.path().join(name));
    let shape = uneven_model(&source).shape;
    let importance = measured(&source);
    let counts = importance.of(SourceTensor::Query(0)).unwrap().to_vec();
    // What counts most is said of the inputs beside.
    let mut shuffled: Vec<f32> = counts.iter().map(|count| count.sqrt()).collect();
    shuffled.rotate_right(1);
    let mut squares = SquaredInputs::new(&shape);
    squares.add_of_site(SiteAt { layer: 0, site: Site::Qkv }, &shuffled);
    let shuffled = squares.importance().unwrap();

    let plain = cut(&source, &out("plain"), None);
    let [by, by_shuffled] =
        [("by", &importance), ("shuffled", &shuffled)].map(|(name, of)| cut(&source, &out(name), Some(of)));
    for depth in Depth::ALL {
        let [alone, by, shuffled] = [&plain, &by, &by_shuffled].map(|folder| error(&source, folder, depth, &counts));
        assert!(by < 0.97 * alone, "{depth:?}: {by} by importance, {alone} by the weights alone");
        assert!(shuffled > alone, "{depth:?}: {shuffled} by shuffled importance, {alone} by the weights alone");
    }
}

#[test]
fn compensation_keeps_upper_bits_changes_lower_ones_and_gives_the_same_folder_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), |name: &str| dir.path().join(name));
    uneven_model(&source);
    let nearest = cut(&source, &out("nearest"), Some(&measured(&source)));
    let [one, other] = ["one", "other"].map(|name| cut(&source, &out(name), Some(&measured_with_moments(&source))));
    assert_eq!(one.manifest().files, other.manifest().files);
    let matrix = layout::site(nearest.shape(), 0, Site::Down);
    for slice in 0..4 {
        let [plain, compensated] =
            [&nearest, &one].map(|folder| folder.tensor(slice, &matrix.slice(slice).name).unwrap());
        assert_eq!(plain.bytes() == compensated.bytes(), slice < 2, "slice {slice}");
    }
}

/// Importance that inputs of different sizes have, without a pass.
fn made_up(source: &dyn Source) -> Importance {
    let shape = source.shape();
    let mut squares = SquaredInputs::new(shape);
    let uneven = |input: u32| (0..input).map(|at| if at % 7 == 0 { 9.0 } else { 0.5 }).collect::<Vec<f32>>();
    for layer in 0..shape.layers {
        for site in Site::ALL {
            squares.add_of_site(SiteAt { layer, site }, &uneven(site.dims(shape).1));
        }
    }
    squares.add_of_head(&uneven(shape.model_dim));
    squares.importance().unwrap()
}

#[test]
fn a_model_with_scaled_channels_computes_the_same_in_every_family() {
    let dir = tempfile::tempdir().unwrap();
    let (mut families, mut scaled_ones) = (0, 0);
    for entry in fs::read_dir(families::folder()).unwrap() {
        let path = entry.unwrap().path();
        let is_record = path.extension().is_some_and(|extension| extension == "json");
        // What is refused has no weights.
        if !is_record || path.ends_with("refused.json") {
            continue;
        }
        let model = FamilyModel::read(path.file_stem().unwrap().to_str().unwrap());
        let from = dir.path().join(&model.family);
        model.write_hf(&from, "new");
        let mut source = open(&from).unwrap();
        let importance = made_up(source.as_ref());
        let form = RangeForm::of_group(layout::DEFAULT_GROUP);
        let go_on = &mut |_: &QuantizeProgress<'_>| ControlFlow::Continue(());
        let scales = ChannelScales::choose(source.as_mut(), &importance, form, go_on).unwrap();
        let FamilyPrompt { ids, context, .. } = &model.prompts[0];
        let ids = &ids[..ids.len().min(12)];
        let expected = unquantized::logits(source.as_mut(), ids, *context).unwrap().concat();
        let found = unquantized::logits(&mut ScaledSource::new(source.as_mut(), &scales), ids, *context).unwrap();
        let largest = expected.iter().fold(0.0f32, |most, logit| most.max(logit.abs()));
        for (found, expected) in found.concat().iter().zip(&expected) {
            assert!((found - expected).abs() <= 1e-4 * largest.max(1.0), "{}: {found} for {expected}", model.family);
        }
        families += 1;
        scaled_ones += usize::from(scales != ChannelScales::none(source.shape()));
    }
    assert!(families > 15 && scaled_ones == families, "{scaled_ones} of {families} families have scales");
}

/// A model with an input that counts most, and with weights that a range holds as they are and not when they are scaled.
#[test]
fn no_model_is_refused_for_its_scales() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = TinyModel::new(tiny_shape(false), 9);
    for name in ["lm_head.weight", "model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"] {
        let weights = &mut model.tensors.get_mut(name).unwrap().1;
        weights[70] = 100.0;
    }
    let source = dir.path().join("source");
    model.write_hf(&source, Dtype::F32, 1);
    let importance = made_up(&*open(&source).unwrap());
    let read = cut(&source, &dir.path().join("model"), Some(&importance));
    let mut rows = Vec::new();
    DepthRows::new(&read, Depth::FULL).rows(SourceTensor::Up(0), 1..2, &mut rows).unwrap();
    assert!((rows[70 - 64] - 100.0).abs() < 1.0, "{}", rows[70 - 64]);
}

#[test]
fn weights_on_a_grid_of_four_bits_stay_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = TinyModel::new(tiny_shape(false), 5);
    for (_, weights) in model.tensors.values_mut().filter(|(dims, _)| dims.len() == 2) {
        weights.iter_mut().enumerate().for_each(|(at, weight)| *weight = ((at * 7919) % 16) as f32 / 8.0 - 1.0);
    }
    model.write_hf(dir.path(), Dtype::F32, 1);
    let mut source = open(dir.path()).unwrap();
    let importance = made_up(source.as_ref());
    let go_on = &mut |_: &QuantizeProgress<'_>| ControlFlow::Continue(());
    let scales = ChannelScales::choose(source.as_mut(), &importance, RangeForm::Words, go_on).unwrap();
    assert_eq!(scales, ChannelScales::none(source.shape()));

    let stop = &mut |_: &QuantizeProgress<'_>| ControlFlow::Break(());
    let stopped = ChannelScales::choose(source.as_mut(), &importance, RangeForm::Words, stop).unwrap_err();
    assert!(stopped.to_string().contains("stopped"), "{stopped}");
}

#[test]
fn importance_gives_the_same_folder_each_time_and_is_measured_only_for_a_model_that_can_be_made() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), |name: &str| dir.path().join(name));
    uneven_model(&source);
    let [first, second] = ["a", "b"].map(|name| cut(&source, &out(name), Some(&measured(&source))));
    assert_eq!(first.manifest().files, second.manifest().files);

    let options = QuantizeOptions { out: out("a"), group_size: None, calibration: None, replace: false };
    let mut measure = |_: &mut dyn Source| panic!("there is a model already");
    quantize_by(&mut *open(&source).unwrap(), &options, Some(&mut measure), &mut |_| ControlFlow::Continue(()))
        .unwrap_err();
    let options = QuantizeOptions { replace: true, ..options };
    quantize(&mut *open(&source).unwrap(), &options, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_ne!(ModelFolder::open(&out("a")).unwrap().manifest().files, second.manifest().files);
}

#[test]
fn a_pass_that_is_broken_off_or_has_too_short_a_text_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    uneven_model(dir.path());
    let mut source = open(dir.path()).unwrap();
    let tokenizer = source_text(source.as_ref()).unwrap();
    for short in ["", "t", &TEXT[..40]] {
        let tokens = tokenizer.encode(short, false).unwrap().len();
        let short = ImportancePlan::new(source.as_ref(), &tokenizer, "the notes", short).unwrap_err().to_string();
        assert_eq!(short, format!("the notes: expected 64 tokens or more, got {tokens}"));
    }
    let plan = ImportancePlan::new(source.as_ref(), &tokenizer, "text", TEXT).unwrap();
    let stopped = plan.measure(source.as_mut(), &mut |_, _| ControlFlow::Break(())).unwrap_err();
    assert!(stopped.to_string().contains("stopped"), "{stopped}");
    // Norms that grow over all bounds, in a model that is otherwise as it was.
    let mut model = TinyModel::new(tiny_shape(true), 31);
    model.tensors.get_mut(FIRST_NORM).unwrap().1.fill(1e30);
    model.write_hf(&dir.path().join("odd"), Dtype::F32, 1);
    let mut source = open(&dir.path().join("odd")).unwrap();
    let odd = plan.measure(source.as_mut(), &mut |_, _| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(odd.contains("finite activations"), "{odd}");
    // A weight that is none is named.
    model = TinyModel::new(tiny_shape(true), 31);
    model.tensors.get_mut("model.layers.1.mlp.down_proj.weight").unwrap().1[300] = f32::NAN;
    model.write_hf(&dir.path().join("nan"), Dtype::F32, 1);
    let mut source = open(&dir.path().join("nan")).unwrap();
    let odd = plan.measure(source.as_mut(), &mut |_, _| ControlFlow::Continue(())).unwrap_err().to_string();
    assert!(odd.contains("model.layers.1.mlp.down_proj.weight") && odd.contains("NaN in row"), "{odd}");
}
