//! Rotary frequencies, as transformers and llama.cpp compute them.
//!
//! `f_i = theta^(-2i/R)` for the first R dimensions of each head. YaRN is arXiv 2309.00071, LongRoPE arXiv 2402.13753.

use crate::arch::{LongFrequencies, RopeTable};
use crate::shape::{Rope, RopeScaling};

/// A rotary embedding as a checkpoint states it.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeFacts {
    /// Base of the frequencies.
    pub theta: f32,
    /// What stretches them.
    pub stretch: RopeStretch,
    /// What rotated queries and keys are multiplied by, each.
    pub magnitude: f64,
}

/// How rotary frequencies are stretched for long contexts.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeStretch {
    /// In a way that shapes have.
    Plain(RopeScaling),
    /// The low ones by a factor, with a ramp.
    Yarn(YarnRamp),
    /// Each by a divisor of its own, of which there are two sets.
    LongRope {
        /// Divisors for contexts up to `original_context`, [R/2].
        short: Vec<f32>,
        /// Divisors for longer ones, [R/2].
        long: Vec<f32>,
        /// Context of the first training, in tokens.
        original_context: u32,
    },
}

/// The ramp of YaRN.
#[derive(Debug, Clone, PartialEq)]
pub struct YarnRamp {
    /// Divisor of the low frequencies.
    pub factor: f64,
    /// Context of the first training, in tokens.
    pub original_context: f64,
    /// Frequencies that turn so often within the first context are not divided.
    pub beta_fast: f64,
    /// Frequencies that turn so seldom within the first context are divided in full.
    pub beta_slow: f64,
    /// Whether the ramp begins and ends at whole dimensions.
    pub truncate: bool,
}

impl RopeFacts {
    /// What a model has that is not stretched.
    pub fn plain(theta: f32, scaling: RopeScaling) -> RopeFacts {
        RopeFacts { theta, stretch: RopeStretch::Plain(scaling), magnitude: 1.0 }
    }

    /// The rotary embedding of a shape, where one can say the frequencies of all dimensions.
    pub fn of_shape(&self) -> Option<Rope> {
        match &self.stretch {
            RopeStretch::Plain(scaling) => Some(Rope { theta: self.theta, scaling: scaling.clone() }),
            _ => None,
        }
    }

    /// The frequencies of heads of `head_dim` dimensions, of which the first `rotated` are rotated and the others have
    /// the frequency 0. There are others for long contexts where `max_context` tokens go beyond the first training's.
    pub fn table(&self, head_dim: u32, rotated: u32, max_context: u32) -> RopeTable {
        let fill = |mut frequencies: Vec<f32>| {
            frequencies.resize(head_dim as usize / 2, 0.0);
            frequencies
        };
        let divided = |factors: &[f32]| {
            let plain = self.plain_frequencies(rotated);
            fill(plain.zip(factors).map(|(frequency, factor)| (frequency / f64::from(*factor)) as f32).collect())
        };
        match &self.stretch {
            RopeStretch::Plain(scaling) => {
                let rope = Rope { theta: self.theta, scaling: scaling.clone() };
                RopeTable { frequencies: fill(rope.frequencies(rotated)), long: None }
            }
            RopeStretch::Yarn(ramp) => {
                let weights = ramp.weights(f64::from(self.theta), rotated);
                let stretched = self.plain_frequencies(rotated).zip(weights);
                let stretched = stretched.map(|(f, weight)| (f * (1.0 - weight) + f / ramp.factor * weight) as f32);
                RopeTable { frequencies: fill(stretched.collect()), long: None }
            }
            RopeStretch::LongRope { short, long, original_context } => {
                let long = (max_context > *original_context)
                    .then(|| LongFrequencies { original_context: *original_context, frequencies: divided(long) });
                RopeTable { frequencies: divided(short), long }
            }
        }
    }

    fn plain_frequencies(&self, rotated: u32) -> impl Iterator<Item = f64> {
        let theta = f64::from(self.theta);
        (0..rotated / 2).map(move |i| theta.powf(-2.0 * f64::from(i) / f64::from(rotated)))
    }
}

impl YarnRamp {
    /// What rotated queries and keys are multiplied by where a checkpoint does not say it: `mscale` is YaRN's factor of
    /// the logarithm, and `all_dims` that of which the inverse is in the weights already.
    pub fn magnitude(factor: f64, scales: Option<(f64, f64)>) -> f64 {
        let grown = |scale: f64| if factor > 1.0 { 0.1 * scale * factor.ln() + 1.0 } else { 1.0 };
        match scales {
            Some((mscale, all_dims)) => grown(mscale) / grown(all_dims),
            None => grown(1.0),
        }
    }

    /// How much of each of the R/2 frequencies is divided, from 0 to 1.
    fn weights(&self, theta: f64, rotated: u32) -> impl Iterator<Item = f64> {
        let dims = f64::from(rotated);
        // The dimension that turns so many times within the first context.
        let dimension =
            |turns: f64| dims * (self.original_context / (turns * std::f64::consts::TAU)).ln() / (2.0 * theta.ln());
        let (mut low, mut high) = (dimension(self.beta_fast), dimension(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(dims - 1.0));
        if low == high {
            high += 0.001;
        }
        (0..rotated / 2).map(move |i| ((f64::from(i) - low) / (high - low)).clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `_compute_yarn_parameters` and `_compute_longrope_parameters` of transformers 5 give for these.
    #[test]
    fn frequencies_are_those_of_transformers() {
        let yarn = RopeFacts {
            theta: 10_000.0,
            stretch: RopeStretch::Yarn(YarnRamp {
                factor: 4.0,
                original_context: 1024.0,
                beta_fast: 32.0,
                beta_slow: 1.0,
                truncate: true,
            }),
            magnitude: YarnRamp::magnitude(4.0, None),
        };
        assert_close(&yarn.table(16, 16, 128).frequencies, YARN);
        assert!((yarn.magnitude - 1.138_629_436_111_989).abs() < 1e-12);
        assert_eq!(YarnRamp::magnitude(4.0, Some((1.0, 1.0))), 1.0);

        let stretch = RopeStretch::LongRope {
            short: vec![1.0, 1.1, 1.2, 1.3],
            long: vec![1.0, 2.0, 4.0, 8.0],
            original_context: 32,
        };
        let long = RopeFacts { theta: 10_000.0, stretch, magnitude: 1.0 };
        let table = long.table(16, 8, 128);
        assert_close(&table.frequencies, &[1.0, 0.090_909_09, 0.008_333_334, 0.000_769_230_8, 0.0, 0.0, 0.0, 0.0]);
        let beyond = table.long.unwrap();
        assert_eq!(beyond.original_context, 32);
        assert_close(&beyond.frequencies, &[1.0, 0.05, 0.002_5, 0.000_125, 0.0, 0.0, 0.0, 0.0]);
        assert!(long.table(16, 8, 32).long.is_none());
    }

    const YARN: &[f32] =
        &[1.0, 0.316_227_76, 0.081_250_004, 0.019_764_237, 0.004_375, 0.000_790_569_47, 0.000_25, 0.000_079_056_95];

    fn assert_close(got: &[f32], expected: &[f32]) {
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() <= 2e-6 * expected.abs(), "{got}, not {expected}");
        }
    }
}
