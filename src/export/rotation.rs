//! Rotary tables in the terms of other programs: a base with a factor, or a divisor for each frequency.

use crate::arch::ModelSpec;
use crate::shape::{LlamaShape, RopeScaling};

/// The divisor of a frequency that is zero: at any position, its pair turns by less than a number of f32 can tell.
const STILL_DIVISOR: f32 = 1e30;
/// How far frequencies may be from those of a formula, as a part of them: f32's rounding of both.
const FORMULA_ERROR: f64 = 4e-7;

/// A rotary table.
#[derive(Debug, Clone, PartialEq)]
pub enum RotaryTable {
    /// Nothing turns.
    Still,
    /// `theta^(-2i/A) / factor`
    Plain {
        /// Base of the frequencies.
        theta: f32,
        /// Divisor of all of them.
        factor: f32,
    },
    /// As Llama 3.1 has it: [`RopeScaling::Llama3`].
    Llama3 {
        /// Base of the frequencies.
        theta: f32,
        /// The scaling.
        scaling: RopeScaling,
    },
    /// `theta^(-2i/A) / divisors[i]`
    Divided {
        /// Base of the frequencies.
        theta: f32,
        /// [A/2]
        divisors: Vec<f32>,
        /// Other divisors for contexts beyond so many tokens, [A/2].
        long: Option<(u32, Vec<f32>)>,
    },
}

impl RotaryTable {
    /// The rotary table `table` of a model, as its spec counts them.
    pub fn of(shape: &LlamaShape, spec: &ModelSpec, table: u32) -> RotaryTable {
        let theta = shape.rope.theta;
        let Some(own) = table.checked_sub(1) else {
            return match &shape.rope.scaling {
                RopeScaling::None => RotaryTable::Plain { theta, factor: 1.0 },
                RopeScaling::Linear { factor } => RotaryTable::Plain { theta, factor: *factor },
                RopeScaling::Factors { factors } => {
                    RotaryTable::Divided { theta, divisors: factors.clone(), long: None }
                }
                scaling @ RopeScaling::Llama3 { .. } => RotaryTable::Llama3 { theta, scaling: scaling.clone() },
            };
        };
        let table = &spec.rope_tables[own as usize];
        let divisors = |frequencies: &[f32]| divisors(theta, frequencies);
        match &table.long {
            Some(long) if long.frequencies != table.frequencies => RotaryTable::Divided {
                theta,
                divisors: divisors(&table.frequencies),
                long: Some((long.original_context, divisors(&long.frequencies))),
            },
            _ if table.frequencies.iter().all(|frequency| *frequency == 0.0) => RotaryTable::Still,
            _ => formula(&table.frequencies).unwrap_or_else(|| RotaryTable::Divided {
                theta,
                divisors: divisors(&table.frequencies),
                long: None,
            }),
        }
    }

    /// The divisors of the frequencies of `theta`, [A/2], of a table that is the same for all contexts.
    pub fn divisors(&self, head_dim: u32) -> Option<Vec<f32>> {
        match self {
            RotaryTable::Divided { divisors, long: None, .. } => Some(divisors.clone()),
            RotaryTable::Llama3 { theta, scaling } => {
                let rope = crate::shape::Rope { theta: *theta, scaling: scaling.clone() };
                Some(divisors(*theta, &rope.frequencies(head_dim)))
            }
            _ => None,
        }
    }
}

/// What each of the frequencies of `theta` is to be divided by.
fn divisors(theta: f32, frequencies: &[f32]) -> Vec<f32> {
    let head_dim = 2.0 * frequencies.len() as f64;
    let plain = (0..frequencies.len()).map(|i| f64::from(theta).powf(-2.0 * i as f64 / head_dim));
    let divisor =
        |(plain, frequency): (f64, &f32)| (plain / f64::from(*frequency)).min(f64::from(STILL_DIVISOR)) as f32;
    plain.zip(frequencies).map(divisor).collect()
}

/// The base and the factor that give the frequencies, if there are such.
fn formula(frequencies: &[f32]) -> Option<RotaryTable> {
    let (first, last) = (f64::from(*frequencies.first()?), f64::from(*frequencies.last()?));
    if first <= 0.0 || last <= 0.0 || frequencies.len() < 2 {
        return None;
    }
    let head_dim = 2.0 * frequencies.len() as f64;
    let theta = (first / last).powf(head_dim / (head_dim - 2.0));
    // Of the bases within the error, the one that people write.
    let round = |number: f64, digits: i32| {
        let unit = 10f64.powi(number.log10().floor() as i32 + 1 - digits);
        (number / unit).round() * unit
    };
    let fits = |theta: f64, factor: f64| {
        frequencies.iter().enumerate().all(|(i, frequency)| {
            let formula = theta.powf(-2.0 * i as f64 / head_dim) / factor;
            (formula - f64::from(*frequency)).abs() <= formula * FORMULA_ERROR
        })
    };
    let candidates = [round(theta, 4), round(theta, 6), theta];
    let factors = [round(1.0 / first, 4), 1.0 / first];
    let pairs = candidates.into_iter().flat_map(|theta| factors.map(|factor| (theta, factor)));
    let (theta, factor) = pairs.into_iter().find(|(theta, factor)| fits(*theta, *factor))?;
    Some(RotaryTable::Plain { theta: theta as f32, factor: factor as f32 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{LongFrequencies, RopeTable};
    use crate::shape::Rope;

    fn shape(scaling: RopeScaling) -> LlamaShape {
        LlamaShape {
            layers: 2,
            model_dim: 256,
            ffn_dim: 512,
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            vocab: 100,
            max_context: 4096,
            norm_eps: 1e-5,
            tied_head: true,
            rope: Rope { theta: 500_000.0, scaling },
        }
    }

    /// Table 1, of these frequencies.
    fn of(frequencies: Vec<f32>) -> RotaryTable {
        let rope_tables = vec![RopeTable { frequencies, long: None }];
        RotaryTable::of(&shape(RopeScaling::None), &ModelSpec { rope_tables, ..ModelSpec::default() }, 1)
    }

    #[test]
    fn a_base_and_a_factor_are_found_again() {
        for (theta, factor) in [(10_000.0, 1.0), (1e6, 8.0), (5_000_000.0, 1.0), (150_000.0, 4.0)] {
            let rope = Rope { theta, scaling: RopeScaling::Linear { factor } };
            assert_eq!(of(rope.frequencies(64)), RotaryTable::Plain { theta, factor });
        }
        assert_eq!(of(vec![0.0; 32]), RotaryTable::Still);
    }

    #[test]
    fn other_frequencies_are_divided_those_of_the_base() {
        let mut frequencies = Rope { theta: 500_000.0, scaling: RopeScaling::None }.frequencies(64);
        frequencies[3] /= 2.5;
        frequencies[31] = 0.0;
        let rotation = of(frequencies.clone());
        let divisors = rotation.divisors(64).unwrap();
        assert!((divisors[3] - 2.5).abs() < 1e-5 && (divisors[30] - 1.0).abs() < 1e-5, "{divisors:?}");
        assert_eq!(divisors[31], STILL_DIVISOR);
        let long = LongFrequencies { original_context: 512, frequencies: vec![1.0; 32] };
        let rope_tables = vec![RopeTable { frequencies, long: Some(long) }];
        let spec = ModelSpec { rope_tables, ..ModelSpec::default() };
        let both = RotaryTable::of(&shape(RopeScaling::None), &spec, 1);
        assert!(matches!(&both, RotaryTable::Divided { long: Some((512, _)), .. }), "{both:?}");
        assert_eq!(both.divisors(64), None);
    }

    #[test]
    fn llama_3_has_divisors_too() {
        let scaling =
            RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 512.0 };
        let rotation = RotaryTable::of(&shape(scaling), &ModelSpec::default(), 0);
        let divisors = rotation.divisors(64).unwrap();
        assert!((divisors[0] - 1.0).abs() < 1e-5 && (divisors[31] - 8.0).abs() < 1e-5, "{divisors:?}");
    }
}
