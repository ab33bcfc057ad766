//! A source of a tiny model that has what a spec says, with random vectors where the model has none.

use std::ops::Range;
use std::path::PathBuf;

use edge_run::Result;
use edge_run::internals::arch::ModelSpec;
use edge_run::internals::format::ModelSource;
use edge_run::internals::quantize::{Source, SourceTensor, TextAssets};
use edge_run::internals::shape::LlamaShape;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// A model's matrices with another spec.
pub struct DescribedSource {
    /// Where the matrices come from.
    pub inner: Box<dyn Source>,
    /// What it is to be.
    pub spec: ModelSpec,
    /// Dimensions and constants: those of `inner`, but for what is no dimension.
    pub shape: LlamaShape,
}

impl DescribedSource {
    /// The model of `inner` with another spec.
    pub fn new(inner: Box<dyn Source>, spec: ModelSpec) -> DescribedSource {
        let shape = inner.shape().clone();
        DescribedSource { inner, spec, shape }
    }
}

impl Source for DescribedSource {
    fn shape(&self) -> &LlamaShape {
        &self.shape
    }

    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn model_source(&self) -> &ModelSource {
        self.inner.model_source()
    }

    fn warnings(&self) -> &[String] {
        self.inner.warnings()
    }

    fn text(&self) -> Result<TextAssets> {
        self.inner.text()
    }

    fn rows(&mut self, tensor: SourceTensor, rows: Range<u32>, out: &mut Vec<f32>) -> Result<()> {
        if !tensor.is_vector() {
            return self.inner.rows(tensor, rows, out);
        }
        let (_, length) = tensor.dims(&self.shape, &self.spec);
        let seed = format!("{tensor:?}").bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(byte));
        let mut random = StdRng::seed_from_u64(seed);
        let is_bias =
            matches!(tensor, SourceTensor::QueryBias(_) | SourceTensor::KeyBias(_) | SourceTensor::ValueBias(_));
        let least = if is_bias { -1.0 } else { 0.5 };
        *out = (0..length).map(|_| random.random_range(least..1.5f32)).collect();
        Ok(())
    }

    fn locate(&self, tensor: SourceTensor) -> (PathBuf, String) {
        (self.inner.locate(SourceTensor::Embed).0, format!("{tensor:?}"))
    }
}
