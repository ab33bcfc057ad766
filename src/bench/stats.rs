//! Mean and deviation of repeated measurements.

use serde::Serialize;

/// Of repeated measurements.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stats {
    /// The arithmetic mean.
    pub mean: f64,
    /// The sample's standard deviation; 0 for a single measurement, which has none.
    pub stddev: f64,
}

impl Stats {
    /// Of `values`; panics where there is none.
    pub fn of(values: &[f64]) -> Stats {
        assert!(!values.is_empty(), "a mean has values");
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Stats { mean, stddev: (squares / (count - 1.0).max(1.0)).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deviation_is_the_samples() {
        let stats = Stats::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]);
        assert_eq!(stats.mean, 5.0);
        assert!((stats.stddev - (32f64 / 7.0).sqrt()).abs() < 1e-12);
        assert_eq!(Stats::of(&[3.0]), Stats { mean: 3.0, stddev: 0.0 });
    }
}
