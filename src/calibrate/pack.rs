//! The trained tensors as a pack.

use std::collections::HashMap;

use burn::tensor::{Tensor, TensorData};
use half::f16;
use serde_json::{Value, json};

use super::checkpoint::CalibrationRun;
use super::coded::CodedSite;
use super::network::Network;
use super::out_place::OutPlace;
use super::student::SiteParams;
use super::trained::Params;
use super::{CalibrationOptions, Chosen, HeldOut};
use crate::error::Result;
use crate::format::codes::{GivenRanges, RangeForm, WORD_GROUP};
use crate::format::layout::TensorSpec;
use crate::format::{Pack, PackInfo, SCALED_VERSION, WORDS_VERSION, layout};
use crate::quantize::{ChannelScales, Source, SourceTensor};
use crate::routing::{REST, Thresholds};
use crate::shape::{LlamaShape, Site};

/// What the pack tells of the run that made it.
pub struct Facts<'a> {
    pub options: &'a CalibrationOptions,
    pub out: &'a OutPlace,
    pub run: &'a CalibrationRun,
    pub loss_before: f32,
    pub loss_after: f32,
    pub held_out: &'a [HeldOut],
    pub chosen: &'a Chosen,
    pub seconds: f64,
}

/// The parameters as the pack stores them: ranges in words, and the routers' first matrices in f16.
pub fn rounded(site: &CodedSite, params: SiteParams) -> SiteParams {
    let params = site.params_of(&site.words(&params), params);
    let (dims, device) = (params.w1.dims(), params.w1.device());
    let w1: Vec<f32> = halves(&params.w1).into_iter().map(f16::to_f32).collect();
    SiteParams { w1: Tensor::from_data(TensorData::new(w1, dims), &device), ..params }
}

/// The elements in f16, row by row.
fn halves(tensor: &Tensor<2>) -> Vec<f16> {
    elements(tensor).into_iter().map(f16::from_f32).collect()
}

/// The elements, row by row.
fn elements(tensor: &Tensor<2>) -> Vec<f32> {
    tensor.try_to_vec_as().expect("the device answers")
}

/// Writes the pack of a source with these scales, where some were chosen, and returns its length in bytes. Fails where
/// layers cannot be read and where a disk is full.
pub fn write(
    (source, scales): (&dyn Source, Option<&ChannelScales>),
    network: &Network,
    params: &Params<'_>,
    thresholds: Thresholds,
    facts: &Facts<'_>,
) -> Result<u64> {
    let shape = source.shape();
    let Facts { options, out, run, .. } = facts;
    let texts: Vec<_> = options.texts.iter().filter_map(|path| Some(path.file_name()?.to_string_lossy())).collect();
    let recipe = json!({
        "texts": texts,
        "steps": run.steps,
        "batch": run.batch,
        "seq": run.seq,
        "seed": run.seed,
        "importance_sha256": run.importance_sha256,
        "loss_before": facts.loss_before,
        "loss_after": facts.loss_after,
        "held_out": facts.held_out,
        "untrained_ranges": facts.chosen.untrained_ranges,
        "scores_apart": facts.chosen.scores_apart,
        "seconds": facts.seconds.round(),
    });
    let Value::Object(recipe) = recipe else { unreachable!("an object was written") };
    let info = PackInfo {
        pack_version: if scales.is_some() { SCALED_VERSION } else { WORDS_VERSION },
        source_sha256: run.source_sha256.clone(),
        source_name: source.model_source().name.clone(),
        group_size: WORD_GROUP,
        shape: shape.clone(),
        thresholds,
        recipe,
    };
    let mut bytes_by_name: HashMap<String, Vec<u8>> =
        scales.into_iter().flat_map(|scales| columns(shape, scales)).collect();
    let (mut all_w1, mut all_rest): (Vec<f16>, Vec<f32>) = (Vec::new(), Vec::new());
    for layer in 0..network.layers() {
        let (sites, codes) = (params.layer(layer)?, network.codes.get(layer)?);
        for site in Site::ALL {
            let (params, coded) = (&sites[site as usize], &codes[site as usize]);
            let [first, second] = coded.words(params);
            let matrix = layout::site(shape, layer as u32, site);
            for (slice, words) in GivenRanges::SLICES.into_iter().zip([&first[..], &second, coded.finest()]) {
                let tensor = matrix.ranges(RangeForm::Words, slice).expect("words lie with every slice");
                bytes_by_name.insert(tensor.name, bytemuck::cast_slice(words).to_vec());
            }
            all_w1.extend(halves(&params.w1));
            all_rest.extend([&params.b1, &params.w2, &params.b2].into_iter().flat_map(elements));
            all_rest.resize(all_rest.len().next_multiple_of(REST as usize), 0.0);
        }
    }
    let [w1, rest] = layout::routers(shape);
    bytes_by_name.insert(w1.name, bytemuck::cast_slice(&all_w1).to_vec());
    bytes_by_name.insert(rest.name, bytemuck::cast_slice(&all_rest).to_vec());
    let mut tensor_bytes = |spec: &TensorSpec| bytes_by_name.remove(&spec.name).expect("every tensor was trained");
    Pack::write_in(&out.aside(), &out.pack, &info, &mut tensor_bytes)
}

/// The scales of all columns that may have some, by the names of their tensors: 1 where they stay as they are.
fn columns<'a>(shape: &'a LlamaShape, scales: &'a ChannelScales) -> impl Iterator<Item = (String, Vec<u8>)> + 'a {
    let sites = layout::sites(shape)
        .map(|(layer, site)| (layout::site(shape, layer, site), SourceTensor::of_site(layer, site)[0]));
    let all = sites.chain(layout::head(shape).map(|head| (head, SourceTensor::Head)));
    all.map(|(matrix, tensor)| {
        let ones = vec![1.0; matrix.input as usize];
        let scales: &[f32] = scales.of(tensor).unwrap_or(&ones);
        (matrix.columns().name, bytemuck::cast_slice(scales).to_vec())
    })
}
