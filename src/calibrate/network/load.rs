//! Reads a source's weights onto a device.

use std::ops::ControlFlow;

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::{Layer, Network, Rotation, hidden_positions};
use crate::arch::{LayerVector, Program};
use crate::calibrate::coded::CodedSite;
use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::quantize::ranges::{EXPECTED, UnfitWeight};
use crate::quantize::{Source, SourceTensor};
use crate::shape::Site;

impl Network {
    /// Loads the weights of `source` for windows of `window` tokens; products are computed in `product_dtype`, in which
    /// matrices are kept. `on_tensor(done, total)` follows it and may break off. Fails where a weight fits no range.
    pub fn load(
        source: &mut dyn Source,
        (device, product_dtype): (&Device, DType),
        window: usize,
        on_tensor: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Network> {
        let (shape, spec) = (source.shape().clone(), source.spec().clone());
        let total = shape.linear_params() + shape.embedding_params();
        let mut done = 0;
        let mut stacked = |source: &mut dyn Source, tensors: &[SourceTensor]| -> Result<(Vec<f32>, [usize; 2])> {
            let (mut all, mut block, mut rows) = (Vec::new(), Vec::new(), 0);
            let mut input = 0;
            for tensor in tensors {
                let dims = tensor.dims(&shape, &spec);
                source.rows(*tensor, 0..dims.0, &mut block)?;
                all.extend_from_slice(&block);
                (rows, input) = (rows + dims.0 as usize, dims.1 as usize);
            }
            if rows > 1 {
                done += all.len() as u64;
                if on_tensor(done, total).is_break() {
                    return Err(Error::Stopped("calibrate"));
                }
            }
            Ok((all, [rows, input]))
        };
        let matrix = |(all, dims): (Vec<f32>, [usize; 2])| {
            Tensor::<2>::from_data(TensorData::new(all, dims), device).cast(product_dtype)
        };
        let vector =
            |(all, [_, length]): (Vec<f32>, [usize; 2])| Tensor::<1>::from_data(TensorData::new(all, [length]), device);
        let embed = matrix(stacked(source, &[SourceTensor::Embed])?);
        let head = if shape.tied_head { None } else { Some(matrix(stacked(source, &[SourceTensor::Head])?)) };
        let mut layers = Vec::with_capacity(shape.layers as usize);
        for layer in 0..shape.layers {
            let mut sites = Vec::with_capacity(Site::ALL.len());
            let mut coded = Vec::with_capacity(Site::ALL.len());
            for site in Site::ALL {
                let tensors = SourceTensor::of_site(layer, site);
                let (all, dims) = stacked(source, &tensors)?;
                let codes = CodedSite::new(&all, dims[1], product_dtype, device);
                coded.push(codes.map_err(|UnfitWeight { row, weight }| {
                    let (file, name) = source.locate(tensors[0]);
                    Error::damaged(file, name, EXPECTED, format!("{weight} in row {row} of the site's rows"))
                })?);
                sites.push(matrix((all, dims)));
            }
            let mut vectors = [const { None }; LayerVector::ALL.len()];
            for which in LayerVector::of(spec.layer(layer)) {
                let mut parts = Vec::new();
                for tensor in SourceTensor::of_vector(layer, which) {
                    parts.push(vector(stacked(source, &[tensor])?));
                }
                vectors[which as usize] = Some(Tensor::cat(parts, 0));
            }
            let four = "one for each site";
            let (sites, coded) = (sites.try_into().expect(four), coded.try_into().ok().expect(four));
            layers.push(Layer { vectors, sites, coded });
        }
        let final_norm = vector(stacked(source, &[SourceTensor::FinalNorm])?);
        let tables = 0..=spec.rope_tables.len() as u32;
        let rotation = |table| Rotation::new(&spec.frequencies(&shape, table, window as u32), window, device);
        let rotations = tables.map(rotation).collect();
        let hidden = spec.layers.iter().map(|layer| layer.attention.window);
        let hidden = hidden.map(|reach| (reach, hidden_positions(window, reach, device)));
        Ok(Network {
            program: Program::new(&spec, shape.layers),
            shape,
            embed,
            head,
            final_norm,
            layers,
            rotations,
            hidden: hidden.collect(),
            product_dtype,
            cancel: CancelToken::new(),
        })
    }
}
