//! What tells energy: counters of joules, and powers, which are added up over time.

use std::time::Duration;

/// What tells energy.
pub trait EnergyGauge: Send {
    /// What it is, its kind first.
    fn name(&self) -> &str;

    /// Begins anew with what it tells now.
    fn begin(&mut self);

    /// Reads it, so long after it began.
    fn read(&mut self, now: Duration);

    /// Joules taken up to the last reading; none where one of the readings failed, where nothing was taken, or where
    /// that was too soon to tell.
    fn joules(&self) -> Option<f64>;
}

/// Counters of microjoules, which are added up.
pub struct CounterGauge {
    name: String,
    counters: Vec<Counter>,
    /// Microjoules up to the last reading; none after one that failed.
    taken: Option<u64>,
}

/// A counter of microjoules.
pub struct Counter {
    /// What it shows; none where it cannot be read.
    pub show: Box<dyn Fn() -> Option<u64> + Send>,
    /// After so many it begins at 0 again, if it does.
    pub range: Option<u64>,
    /// What it showed last.
    pub last: u64,
}

impl Counter {
    /// Microjoules since it was asked last.
    fn advance(&mut self) -> Option<u64> {
        let now = (self.show)()?;
        let before = std::mem::replace(&mut self.last, now);
        match self.range {
            Some(range) if now < before => (now + range).checked_sub(before),
            _ => now.checked_sub(before),
        }
    }
}

impl CounterGauge {
    /// The sum of some counters.
    pub fn of(name: String, counters: Vec<Counter>) -> CounterGauge {
        CounterGauge { name, counters, taken: None }
    }

    /// Microjoules that all counters took since they were asked last.
    fn advance(&mut self) -> Option<u64> {
        self.counters.iter_mut().map(Counter::advance).sum()
    }
}

impl EnergyGauge for CounterGauge {
    fn name(&self) -> &str {
        &self.name
    }

    fn begin(&mut self) {
        self.taken = self.advance().map(|_| 0);
    }

    fn read(&mut self, _now: Duration) {
        let more = self.advance();
        self.taken = self.taken.zip(more).map(|(taken, more)| taken + more);
    }

    fn joules(&self) -> Option<f64> {
        self.taken.filter(|taken| *taken > 0).map(|taken| taken as f64 / 1e6)
    }
}

/// A power, which is taken to change evenly between two readings.
pub struct PowerGauge {
    name: String,
    /// What it shows in watts; none where it cannot be read, or does not count now.
    show: Box<dyn Fn() -> Option<f64> + Send>,
    /// How long it takes until its readings are of the time that is measured.
    least: Duration,
    /// The last reading and when it was.
    last: (Option<f64>, Duration),
    joules: Option<f64>,
}

impl PowerGauge {
    /// A power that is shown in watts and needs so much time.
    pub fn of(name: String, least: Duration, show: Box<dyn Fn() -> Option<f64> + Send>) -> PowerGauge {
        PowerGauge { name, show, least, last: (None, Duration::ZERO), joules: None }
    }
}

impl EnergyGauge for PowerGauge {
    fn name(&self) -> &str {
        &self.name
    }

    fn begin(&mut self) {
        self.last = ((self.show)(), Duration::ZERO);
        self.joules = Some(0.0);
    }

    fn read(&mut self, now: Duration) {
        let ((before, then), watts) = (self.last, (self.show)());
        let more = before.zip(watts).map(|(before, watts)| (before + watts) / 2.0 * (now - then).as_secs_f64());
        self.joules = self.joules.zip(more).map(|(joules, more)| joules + more);
        self.last = (watts, now);
    }

    fn joules(&self) -> Option<f64> {
        self.joules.filter(|joules| *joules > 0.0 && self.last.1 >= self.least)
    }
}
