//! From the times of single dispatches to those of kernels, and the gaps between.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::KernelTime;

/// Where the time of a step went, on average over several runs of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// What took longest first.
    pub kernels: Vec<KernelShare>,
    /// From the end of each dispatch to the begin of the next: how many, and how long together.
    pub gaps: KernelShare,
}

/// All dispatches of one kernel in a step.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelShare {
    /// The kernel's name.
    pub kernel: &'static str,
    /// Dispatches.
    pub launches: usize,
    /// Time of all of them, in microseconds.
    pub total_us: f64,
}

impl Profile {
    /// The profile of runs of one recording; panics where there is none.
    pub fn of(runs: &[Vec<KernelTime>]) -> Profile {
        assert!(!runs.is_empty(), "a profile has runs");
        let share = |kernel, (count, time): (usize, Duration)| KernelShare {
            kernel,
            launches: count / runs.len(),
            total_us: time.as_secs_f64() * 1e6 / runs.len() as f64,
        };
        let mut sums: BTreeMap<&'static str, (usize, Duration)> = BTreeMap::new();
        let mut gaps = (0, Duration::ZERO);
        for run in runs {
            for time in run {
                let (launches, total) = sums.entry(time.kernel).or_default();
                *launches += 1;
                *total += time.end.saturating_sub(time.start);
            }
            gaps.0 += run.len().saturating_sub(1);
            gaps.1 += run.windows(2).map(|pair| pair[1].start.saturating_sub(pair[0].end)).sum::<Duration>();
        }
        let mut kernels: Vec<KernelShare> = sums.into_iter().map(|(kernel, sum)| share(kernel, sum)).collect();
        kernels.sort_by(|a, b| b.total_us.total_cmp(&a.total_us));
        Profile { kernels, gaps: share("(gaps)", gaps) }
    }

    /// Kernels and gaps together, in microseconds.
    pub fn total_us(&self) -> f64 {
        self.kernels.iter().chain([&self.gaps]).map(|share| share.total_us).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispatches_add_up_by_kernel_and_gaps_lie_between() {
        let time = |kernel, start, end| {
            let [start, end] = [start, end].map(Duration::from_micros);
            KernelTime { kernel, start, end }
        };
        let run = vec![time("a", 0, 10), time("b", 12, 42), time("a", 42, 52)];
        let slower = vec![time("a", 0, 20), time("b", 20, 50), time("a", 54, 64)];
        let profile = Profile::of(&[run, slower]);
        let share = |kernel, launches, total_us| KernelShare { kernel, launches, total_us };
        assert_eq!(profile.kernels, [share("b", 1, 30.0), share("a", 2, 25.0)]);
        assert_eq!(profile.gaps, share("(gaps)", 2, 3.0));
        assert_eq!(profile.total_us(), 58.0);
    }
}
