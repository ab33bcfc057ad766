//! What a model's weights are cut by, beside themselves: the scales of columns, and how much each number of an input
//! counts. Quantization and calibration take it from here alike, so that one cuts what the other trained on.

use std::ops::ControlFlow;

use super::QuantizeProgress;
use super::channels::{ChannelScales, ScaledSource};
use super::compensate::ErrorMetric;
use super::importance::Importance;
use super::ranges::UnfitWeight;
use super::slices::RowCodes;
use super::source::{Source, SourceTensor};
use crate::error::Result;
use crate::format::codes::RangeForm;

/// What a model's weights are cut by.
#[derive(Debug, Clone, PartialEq)]
pub struct CutBasis {
    scales: ChannelScales,
    /// That of inputs which are divided by the scales.
    importance: Option<Importance>,
}

impl CutBasis {
    /// By how much the inputs count, where that is known, with scales that are chosen by it. `on_progress` may break
    /// off, which is [`Error::Stopped`](crate::Error::Stopped).
    pub fn choose(
        source: &mut dyn Source,
        importance: Option<Importance>,
        form: RangeForm,
        on_progress: &mut dyn FnMut(&QuantizeProgress<'_>) -> ControlFlow<()>,
    ) -> Result<CutBasis> {
        let scales = match &importance {
            Some(importance) => ChannelScales::choose(source, importance, form, on_progress)?,
            None => ChannelScales::none(source.shape()),
        };
        Ok(CutBasis::with_scales(scales, importance))
    }

    /// By scales that are given, and by how much the inputs count before they are divided by these.
    pub fn with_scales(scales: ChannelScales, importance: Option<Importance>) -> CutBasis {
        let importance = importance.map(|importance| importance.divided_by(&scales));
        CutBasis { scales, importance }
    }

    /// The source whose rows are to be cut.
    pub fn scaled<'a>(&'a self, source: &'a mut dyn Source) -> ScaledSource<'a> {
        ScaledSource::new(source, &self.scales)
    }

    /// The scales of columns.
    pub fn scales(&self) -> &ChannelScales {
        &self.scales
    }

    /// The scales alone, where they were chosen by how much the inputs count.
    pub fn into_chosen_scales(self) -> Option<ChannelScales> {
        self.importance.is_some().then_some(self.scales)
    }

    /// How much the inputs of the scaled weights count, where that is known.
    pub fn importance(&self) -> Option<&Importance> {
        self.importance.as_ref()
    }

    /// The codes of rows of [`scaled`](CutBasis::scaled), [rows, input], which are multiplied with the input of
    /// `tensor`, and the ranges that are chosen for them.
    pub fn codes(
        &self,
        tensor: SourceTensor,
        weights: &[f32],
        input: usize,
    ) -> std::result::Result<RowCodes, UnfitWeight> {
        let counts = self.importance.as_ref().and_then(|importance| importance.of(tensor));
        let moments = self.importance.as_ref().and_then(|importance| importance.moments(tensor));
        RowCodes::cut(weights, input, counts, moments.map(ErrorMetric::new).as_ref())
    }
}
