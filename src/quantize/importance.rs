//! How much each number of a matrix's input counts: the mean of its square over some text. Where that is asked for,
//! also what the numbers of an input have in common.

use super::channels::ChannelScales;
use super::compensate::ErrorMetric;
use super::moments::{InputMoments, ModelMoments};
use super::source::SourceTensor;
use crate::format::sha256;
use crate::shape::{LlamaShape, Site, SiteAt};

/// What is added to all, as a share of their mean, so that weights whose input was never there count a little.
const LEAST: f64 = 0.01;

/// How much the inputs of a model's matrices count, relative to each other within each matrix: 1 on average.
#[derive(Debug, Clone, PartialEq)]
pub struct Importance {
    /// By layer, then by [`Site`].
    sites: Vec<[Vec<f32>; Site::ALL.len()]>,
    /// Of the head, `[D]`.
    head: Vec<f32>,
    /// Whether the embedding is the head.
    tied: bool,
    moments: Option<ModelMoments>,
}

/// Which input a tensor is multiplied with.
enum InputOf {
    Site(SiteAt),
    Head,
}

/// Sums of squares of inputs, in the making of an [`Importance`].
#[derive(Debug, Clone)]
pub struct SquaredInputs {
    sites: Vec<[Vec<f64>; Site::ALL.len()]>,
    head: Vec<f64>,
    tied: bool,
    moments: Option<ModelMoments>,
}

impl SquaredInputs {
    /// No inputs yet, of a model of this shape.
    pub fn new(shape: &LlamaShape) -> SquaredInputs {
        let of_layer = || Site::ALL.map(|site| vec![0.0; site.dims(shape).1 as usize]);
        let sites = (0..shape.layers).map(|_| of_layer()).collect();
        let head = vec![0.0; shape.model_dim as usize];
        SquaredInputs { sites, head, tied: shape.tied_head, moments: None }
    }

    /// As [`new`](SquaredInputs::new), but what the numbers of an input have in common is summed up too.
    pub fn with_moments(shape: &LlamaShape) -> SquaredInputs {
        SquaredInputs { moments: Some(ModelMoments::new(shape)), ..SquaredInputs::new(shape) }
    }

    /// Bytes of memory that what they become takes while weights are cut.
    pub fn cutting_bytes(shape: &LlamaShape, with_moments: bool) -> u64 {
        let widest = shape.model_dim.max(shape.ffn_dim).max(shape.q_dim());
        let metric = if with_moments { ErrorMetric::bytes(widest, rayon::current_num_threads() as u64) } else { 0 };
        SquaredInputs::bytes(shape, with_moments) + metric
    }

    /// Bytes of memory that these sums take of a model of this shape.
    pub fn bytes(shape: &LlamaShape, with_moments: bool) -> u64 {
        let squares = 12 * u64::from(shape.layers) * u64::from(4 * shape.model_dim + shape.ffn_dim);
        squares + if with_moments { ModelMoments::bytes(shape) } else { 0 }
    }

    /// Adds inputs of a site of a layer, [T, input].
    pub fn add_of_site(&mut self, at: SiteAt, inputs: &[f32]) {
        add(&mut self.sites[at.layer as usize][at.site as usize], inputs);
        if let Some(moments) = &mut self.moments {
            moments.of_site_mut(at).add(inputs);
        }
    }

    /// Adds inputs of the head, [T, D].
    pub fn add_of_head(&mut self, inputs: &[f32]) {
        add(&mut self.head, inputs);
        if let Some(moments) = &mut self.moments {
            moments.of_head_mut().add(inputs);
        }
    }

    /// What the inputs count; `None` where one of them was not finite, or so large that a sum is not.
    pub fn importance(self) -> Option<Importance> {
        if self.moments.as_ref().is_some_and(|moments| !moments.are_finite()) {
            return None;
        }
        let sites = self.sites.iter().map(|of_layer| {
            let [qkv, o, gate_up, down] = of_layer.each_ref().map(|sums| relative(sums));
            Some([qkv?, o?, gate_up?, down?])
        });
        Some(Importance {
            sites: sites.collect::<Option<_>>()?,
            head: relative(&self.head)?,
            tied: self.tied,
            moments: self.moments,
        })
    }
}

impl Importance {
    /// That of inputs that are divided by the scales.
    pub fn divided_by(mut self, scales: &ChannelScales) -> Importance {
        if let Some(moments) = &mut self.moments {
            moments.divide_by(scales);
        }
        let divided = |counts: &[f32], by: Option<&[f32]>| match by {
            Some(by) => mean_of_one(counts.iter().zip(by).map(|(count, scale)| count / (scale * scale)).collect()),
            None => counts.to_vec(),
        };
        let of_layer = |(layer, counts): (u32, &[Vec<f32>; Site::ALL.len()])| {
            Site::ALL.map(|site| divided(&counts[site as usize], scales.of(SourceTensor::of_site(layer, site)[0])))
        };
        Importance {
            sites: (0..).zip(&self.sites).map(of_layer).collect(),
            head: divided(&self.head, scales.of(SourceTensor::Head)),
            tied: self.tied,
            moments: self.moments,
        }
    }

    /// What the input of this tensor counts, `[input]`; `None` of what is no product's weight, as of an embedding that
    /// is not the head.
    pub fn of(&self, tensor: SourceTensor) -> Option<&[f32]> {
        Some(match self.input_of(tensor)? {
            InputOf::Site(at) => &self.sites[at.layer as usize][at.site as usize],
            InputOf::Head => &self.head,
        })
    }

    /// What the numbers of this tensor's input have in common; `None` also where that was not asked for.
    pub fn moments(&self, tensor: SourceTensor) -> Option<&InputMoments> {
        let moments = self.moments.as_ref()?;
        Some(match self.input_of(tensor)? {
            InputOf::Site(at) => moments.of_site(at),
            InputOf::Head => moments.of_head(),
        })
    }

    /// SHA-256 of what all inputs count, in hexadecimal, which is another one where sums were rounded otherwise.
    pub fn sha256(&self) -> String {
        let counts = self.sites.iter().flatten().chain([&self.head]);
        sha256(&counts.flat_map(|counts| bytemuck::cast_slice::<f32, u8>(counts)).copied().collect::<Vec<u8>>())
    }

    fn input_of(&self, tensor: SourceTensor) -> Option<InputOf> {
        use SourceTensor::*;
        let of_site = |layer: u32, site: Site| Some(InputOf::Site(SiteAt { layer, site }));
        match tensor {
            Embed => self.tied.then_some(InputOf::Head),
            Head => Some(InputOf::Head),
            Query(layer) | Key(layer) | Value(layer) => of_site(layer, Site::Qkv),
            Output(layer) => of_site(layer, Site::O),
            Gate(layer) | Up(layer) => of_site(layer, Site::GateUp),
            Down(layer) => of_site(layer, Site::Down),
            QueryBias(_) | KeyBias(_) | ValueBias(_) | Vector(..) | FinalNorm => None,
        }
    }
}

fn add(sums: &mut [f64], inputs: &[f32]) {
    for row in inputs.chunks_exact(sums.len()) {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
    }
}

/// The sums with a mean of 1; all alike where all are 0, and `None` where one is not finite.
fn relative(sums: &[f64]) -> Option<Vec<f32>> {
    let mean = sums.iter().sum::<f64>() / sums.len() as f64;
    if !mean.is_finite() {
        return None;
    }
    let share = |sum: &f64| if mean > 0.0 { sum / mean } else { 1.0 };
    Some(sums.iter().map(|sum| ((share(sum) + LEAST) / (1.0 + LEAST)) as f32).collect())
}

/// The counts over their mean.
fn mean_of_one(mut counts: Vec<f32>) -> Vec<f32> {
    let mean = counts.iter().sum::<f32>() / counts.len() as f32;
    counts.iter_mut().for_each(|count| *count /= mean);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_relative_to_the_mean_and_never_nothing() {
        let mut sums = vec![0.0; 3];
        add(&mut sums, &[1.0, 0.0, -2.0, 1.0, 0.0, 0.0]);
        assert_eq!(sums, [2.0, 0.0, 4.0]);
        let shares = relative(&sums).unwrap();
        assert!((shares.iter().sum::<f32>() - 3.0).abs() < 1e-5 && shares[1] > 0.009 && shares[1] < 0.01, "{shares:?}");
        assert_eq!(relative(&[0.0; 2]), Some(vec![1.0; 2]));
        add(&mut sums, &[f32::INFINITY, 0.0, 0.0]);
        assert_eq!(relative(&sums), None);
    }
}
