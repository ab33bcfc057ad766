//! Reads a source's weights, a layer at a time, to where a run keeps them.

use std::ops::ControlFlow;

use burn::tensor::{DType, Device, Tensor, TensorData};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{Network, Rotation, hidden_positions};
use crate::arch::{LayerVector, ModelSpec, Program};
use crate::calibrate::coded::CodedSite;
use crate::calibrate::shelf::{Keeping, Shelf};
use crate::cancel::CancelToken;
use crate::error::{Error, Result};
use crate::quantize::ranges::{EXPECTED, UnfitWeight};
use crate::quantize::{CutBasis, Source, SourceTensor};
use crate::shape::{LlamaShape, Site};

/// Weights that are read at once.
const BLOCK: u32 = 1 << 22;

/// Where weights go.
#[derive(Clone, Copy)]
pub struct WeightPlace<'a> {
    /// What computes.
    pub device: &'a Device,
    /// What products are computed in, and matrices kept.
    pub product_dtype: DType,
    /// Where those of layers are kept.
    pub keeping: &'a Keeping,
}

impl Network {
    /// Loads the weights of `source`, which `basis` has scaled and cuts, for windows of `window` tokens.
    /// `on_tensor(done, total)` follows it and may break off. Fails where a weight fits no range, and where a disk is
    /// full.
    pub fn load(
        source: &mut dyn Source,
        basis: &CutBasis,
        place: WeightPlace<'_>,
        window: usize,
        on_tensor: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
    ) -> Result<Network> {
        let (shape, spec) = (source.shape().clone(), source.spec().clone());
        let WeightPlace { device, product_dtype, keeping } = place;
        let total = shape.linear_params() + shape.embedding_params();
        let mut reader = WeightReader { source, basis, shape: &shape, spec: &spec, place, done: 0, total, on_tensor };
        let embed = reader.matrix(SourceTensor::Embed)?;
        let head = if shape.tied_head { None } else { Some(reader.matrix(SourceTensor::Head)?) };
        let (mut weights, mut codes) = (Shelf::new(keeping, device), Shelf::new(keeping, device));
        let mut vectors = Vec::with_capacity(shape.layers as usize);
        for layer in 0..shape.layers {
            let (mut of_sites, mut coded) = (Vec::new(), Vec::new());
            for site in Site::ALL {
                let (weight, codes) = reader.site(layer, site)?;
                of_sites.push(weight);
                coded.push(codes);
            }
            let four = "one for each site";
            weights.put(layer as usize, of_sites.try_into().expect(four))?;
            codes.put(layer as usize, coded.try_into().ok().expect(four))?;
            vectors.push(reader.vectors(layer)?);
        }
        let final_norm = reader.vector(SourceTensor::FinalNorm)?;
        let tables = 0..=spec.rope_tables.len() as u32;
        let rotation = |table| Rotation::new(&spec.frequencies(&shape, table, window as u32), window, device);
        let rotations = tables.map(rotation).collect();
        let hidden = spec.layers.iter().map(|layer| layer.attention.window);
        let hidden = hidden.map(|reach| (reach, hidden_positions(window, reach, device)));
        Ok(Network {
            program: Program::new(&spec, shape.layers),
            embed,
            head,
            final_norm,
            vectors,
            weights,
            codes,
            rotations,
            hidden: hidden.collect(),
            product_dtype,
            cancel: CancelToken::new(),
            shape,
        })
    }
}

/// Reads tensors one after the other.
struct WeightReader<'a> {
    source: &'a mut dyn Source,
    basis: &'a CutBasis,
    shape: &'a LlamaShape,
    spec: &'a ModelSpec,
    place: WeightPlace<'a>,
    /// Weights read.
    done: u64,
    /// Weights of the model.
    total: u64,
    on_tensor: &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>,
}

impl WeightReader<'_> {
    /// Hands on all rows of a tensor, some at a time; its rows and its input.
    fn read(&mut self, tensor: SourceTensor, take: &mut dyn FnMut(&[f32])) -> Result<[usize; 2]> {
        let (rows, input) = tensor.dims(self.shape, self.spec);
        let at_once = (BLOCK / input).max(1);
        let mut block = Vec::new();
        for first in (0..rows).step_by(at_once as usize) {
            self.source.rows(tensor, first..rows.min(first + at_once), &mut block)?;
            if let Some(at) = block.iter().position(|weight| !weight.is_finite()) {
                let row = first as usize + at / input as usize;
                return Err(self.unfit(tensor, "finite weights", row, block[at]));
            }
            take(&block);
        }
        if !tensor.is_vector() {
            self.done += u64::from(rows) * u64::from(input);
            if (self.on_tensor)(self.done, self.total).is_break() {
                return Err(Error::Stopped("calibrate"));
            }
        }
        Ok([rows as usize, input as usize])
    }

    /// A matrix of its own, [rows, input], as products take it.
    fn matrix(&mut self, tensor: SourceTensor) -> Result<Tensor<2>> {
        let WeightPlace { device, product_dtype, .. } = self.place;
        let (mut halves, mut singles): (Vec<f16>, Vec<f32>) = (Vec::new(), Vec::new());
        let dims = self.read(tensor, &mut |block| match product_dtype {
            DType::F16 => extend_halves(&mut halves, block),
            _ => singles.extend_from_slice(block),
        })?;
        let data = match product_dtype {
            DType::F16 => TensorData::new(halves, dims),
            _ => TensorData::new(singles, dims),
        };
        Ok(Tensor::from_data(data, (device, product_dtype)))
    }

    /// The stacked weight of a site, [rows, input], and its codes.
    fn site(&mut self, layer: u32, site: Site) -> Result<(Tensor<2>, CodedSite)> {
        let WeightPlace { device, product_dtype, .. } = self.place;
        let tensors = SourceTensor::of_site(layer, site);
        let mut all = Vec::with_capacity(site.weights(self.shape) as usize);
        for tensor in &tensors {
            self.read(*tensor, &mut |block| all.extend_from_slice(block))?;
        }
        let (rows, input) = site.dims(self.shape);
        let coded = self.basis.codes(tensors[0], &all, input as usize);
        let coded = coded.map_err(|unfit| self.unfit_of_stack(&tensors, unfit))?;
        let coded = CodedSite::new(coded, input as usize, device);
        let dims = [rows as usize, input as usize];
        let data = match product_dtype {
            DType::F16 => {
                let mut halves = Vec::with_capacity(all.len());
                extend_halves(&mut halves, &all);
                TensorData::new(halves, dims)
            }
            _ => TensorData::new(all, dims),
        };
        Ok((Tensor::from_data(data, (device, product_dtype)), coded))
    }

    /// An error about a weight of stacked tensors, which names the one of them that has it.
    fn unfit_of_stack(&self, tensors: &[SourceTensor], UnfitWeight { row, weight }: UnfitWeight) -> Error {
        let mut row = row;
        for tensor in tensors {
            let rows = tensor.dims(self.shape, self.spec).0 as usize;
            if row < rows {
                return self.unfit(*tensor, EXPECTED, row, weight);
            }
            row -= rows;
        }
        unreachable!("the row is one of the tensors'")
    }

    fn unfit(&self, tensor: SourceTensor, expected: &str, row: usize, weight: f32) -> Error {
        let (file, name) = self.source.locate(tensor);
        Error::damaged(file, name, expected, format!("{weight} in row {row}"))
    }

    /// By [`LayerVector`], those that a layer has.
    fn vectors(&mut self, layer: u32) -> Result<[Option<Tensor<1>>; LayerVector::ALL.len()]> {
        let mut vectors = [const { None }; LayerVector::ALL.len()];
        for which in LayerVector::of(self.spec.layer(layer)) {
            let parts: Result<Vec<_>> =
                SourceTensor::of_vector(layer, which).into_iter().map(|tensor| self.vector(tensor)).collect();
            vectors[which as usize] = Some(Tensor::cat(parts?, 0));
        }
        Ok(vectors)
    }

    fn vector(&mut self, tensor: SourceTensor) -> Result<Tensor<1>> {
        let mut all = Vec::new();
        let [_, length] = self.read(tensor, &mut |block| all.extend_from_slice(block))?;
        Ok(Tensor::from_data(TensorData::new(all, [length]), self.place.device))
    }
}

/// Appends the numbers, each as the nearest half.
fn extend_halves(halves: &mut Vec<f16>, numbers: &[f32]) {
    let first = halves.len();
    halves.resize(first + numbers.len(), f16::ZERO);
    halves[first..].convert_from_f32_slice(numbers);
}
