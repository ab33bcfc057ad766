//! Which slices are on the device, and which are to come and go: a state machine without I/O.
//!
//! A part of the model, a layer for example, has a base that is always there and three residual slices, which are its
//! units. Whoever drives the store loads the units that [`Store::next`] hands out, frees those that
//! [`Store::take_freed`] does, and tells what came of it. Time is a count that never falls, of token boundaries for
//! example, so that the same calls make the same decisions.

use crate::precision::{Depth, SLICES};

/// Units that a part has.
const RESIDUALS: usize = SLICES - 1;
/// Ticks without loading after a failure; twice as many after each further one, up to the longest wait.
const FIRST_WAIT: u64 = 8;
const LONGEST_WAIT: u64 = 1024;

/// One residual slice of one part of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SliceUnit {
    /// The part, by its place in the list that the store was made from.
    pub part: usize,
    /// The slice, 1 to 3; the base, 0, is no unit.
    pub slice: usize,
}

/// Where a unit is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SliceState {
    /// Not on the device.
    Absent,
    /// Has memory, and its bytes are on their way.
    Loading,
    /// Can be read.
    Resident,
    /// Freed, but the device may still read it, so that its memory still counts.
    Retiring,
}

/// What is known of a part.
#[derive(Debug, Clone)]
struct PartState {
    /// Bytes of each of its units.
    bytes: u64,
    /// Depth to be resident, within the budget.
    wanted: Depth,
    states: [SliceState; RESIDUALS],
}

impl PartState {
    /// Slices of it, the base included, that can be read one after the other.
    fn resident(&self) -> usize {
        1 + self.states.iter().take_while(|state| **state == SliceState::Resident).count()
    }
}

/// The states of all units, and what is wanted of them.
#[derive(Debug, Clone)]
pub struct Store {
    parts: Vec<PartState>,
    budget_bytes: Option<u64>,
    freed: Vec<SliceUnit>,
    /// Failures, each after a wait, since a unit loaded last.
    failures: u32,
    /// Before this tick nothing is loaded. One wait serves all parts: they share files and memory, which is what fails.
    waits_until: u64,
}

impl Store {
    /// A store with only the bases there, of parts whose units have these bytes. Units take at most `budget_bytes`
    /// together, whatever their state.
    pub fn new(unit_bytes: &[u64], budget_bytes: Option<u64>) -> Store {
        let part =
            |bytes: &u64| PartState { bytes: *bytes, wanted: Depth::ALL[0], states: [SliceState::Absent; RESIDUALS] };
        let parts = unit_bytes.iter().map(part).collect();
        Store { parts, budget_bytes, freed: Vec::new(), failures: 0, waits_until: 0 }
    }

    /// Takes so many bytes from the budget, where there is one, from the next [`Store::want`] on. Fails with what is
    /// lacking where it has fewer.
    pub fn reserve(&mut self, bytes: u64) -> Result<(), u64> {
        let Some(budget) = &mut self.budget_bytes else { return Ok(()) };
        *budget = budget.checked_sub(bytes).ok_or_else(|| bytes - *budget)?;
        Ok(())
    }

    /// Sets the depth that is to be resident of each part; panics where there is not one for each.
    ///
    /// Where the budget holds less, every part is cut to the same depth, the deepest that fits. What lies deeper is
    /// freed at once.
    pub fn want(&mut self, depths: &[Depth]) {
        let cut = self.fitting(depths);
        for (at, depth) in depths.iter().enumerate() {
            self.parts[at].wanted = (*depth).min(cut);
            for slice in self.parts[at].wanted.slices()..SLICES {
                let unit = SliceUnit { part: at, slice };
                if self.state(unit) == SliceState::Resident {
                    self.free(unit);
                }
            }
        }
    }

    /// The deepest depth to which [`Store::want`] cuts parts that are to have these depths; panics where there is not
    /// one for each.
    pub fn fitting(&self, depths: &[Depth]) -> Depth {
        assert_eq!(depths.len(), self.parts.len(), "a depth for each part");
        let cut = Depth::ALL.into_iter().rev().find(|cut| {
            let bytes = self.parts.iter().zip(depths).map(|(part, depth)| {
                let units = (*depth).min(*cut).slices() as u64 - 1;
                part.bytes * units
            });
            self.budget_bytes.is_none_or(|budget| bytes.sum::<u64>() <= budget)
        });
        cut.unwrap_or(Depth::ALL[0])
    }

    /// The unit to load next at `now`, which counts as loading from here on; none where all is there or on its way,
    /// while all wait after a failure, and where memory is not free yet.
    ///
    /// The second slices of all parts come before the third of any.
    pub fn next(&mut self, now: u64) -> Option<SliceUnit> {
        let unit = self.due(now)?;
        let fits = |budget| self.committed_bytes() + self.parts[unit.part].bytes <= budget;
        if !self.budget_bytes.is_none_or(fits) {
            return None;
        }
        *self.state_mut(unit) = SliceState::Loading;
        Some(unit)
    }

    /// The unit that would be loaded at `now` if there is memory.
    fn due(&self, now: u64) -> Option<SliceUnit> {
        if now < self.waits_until {
            return None;
        }
        let is_due = |unit: &SliceUnit| {
            let part = &self.parts[unit.part];
            // Above a slice that failed nothing could be read.
            let mut below = part.states[..unit.slice - 1].iter();
            let grounded = below.all(|state| matches!(state, SliceState::Loading | SliceState::Resident));
            unit.slice < part.wanted.slices() && self.state(*unit) == SliceState::Absent && grounded
        };
        self.units().find(is_due)
    }

    /// A loading unit is whole. It is freed at once where it is no longer wanted.
    pub fn loaded(&mut self, unit: SliceUnit) {
        assert_eq!(self.state(unit), SliceState::Loading, "{unit:?} lands");
        self.failures = 0;
        *self.state_mut(unit) = SliceState::Resident;
        if unit.slice >= self.parts[unit.part].wanted.slices() {
            self.free(unit);
        }
    }

    /// A loading unit cannot be had at `now`; its memory is free. Nothing more is loaded for a while, ever longer while
    /// nothing lands. Whether this begins such a wait: what was on its way beside it may fail within the same one.
    pub fn failed(&mut self, unit: SliceUnit, now: u64) -> bool {
        assert_eq!(self.state(unit), SliceState::Loading, "{unit:?} fails");
        *self.state_mut(unit) = SliceState::Absent;
        if now < self.waits_until {
            return false;
        }
        // Beyond ten doublings it is the longest wait anyhow.
        self.waits_until = now + (FIRST_WAIT << self.failures.min(10)).min(LONGEST_WAIT);
        self.failures += 1;
        true
    }

    /// A loading unit is no longer waited for; its memory is free.
    pub fn given_up(&mut self, unit: SliceUnit) {
        assert_eq!(self.state(unit), SliceState::Loading, "{unit:?} is given up");
        *self.state_mut(unit) = SliceState::Absent;
    }

    /// The memory of a freed unit is free.
    pub fn retired(&mut self, unit: SliceUnit) {
        assert_eq!(self.state(unit), SliceState::Retiring, "{unit:?} retires");
        *self.state_mut(unit) = SliceState::Absent;
    }

    /// The units freed since the last call: none of them may be read any more, and each is to be [`Store::retired`].
    pub fn take_freed(&mut self) -> Vec<SliceUnit> {
        std::mem::take(&mut self.freed)
    }

    /// How many slices may be read of a part.
    pub fn clamp(&self, part: usize) -> Depth {
        let part = &self.parts[part];
        let resident = Depth::new(part.resident()).expect("a base and up to three slices");
        resident.min(part.wanted)
    }

    /// The clamps of all parts.
    pub fn clamps(&self) -> Vec<Depth> {
        (0..self.parts.len()).map(|part| self.clamp(part)).collect()
    }

    /// Where a unit is.
    pub fn state(&self, unit: SliceUnit) -> SliceState {
        self.parts[unit.part].states[unit.slice - 1]
    }

    /// Whether every part is as deep as wanted and nothing is on its way.
    pub fn is_settled(&self) -> bool {
        let still = self.units().all(|unit| matches!(self.state(unit), SliceState::Absent | SliceState::Resident));
        still && self.parts.iter().all(|part| part.resident() == part.wanted.slices())
    }

    /// Bytes of the units that can be read.
    pub fn resident_bytes(&self) -> u64 {
        self.bytes_of(|state| state == SliceState::Resident)
    }

    /// Bytes of all units that take memory, whatever for.
    pub fn committed_bytes(&self) -> u64 {
        self.bytes_of(|state| state != SliceState::Absent)
    }

    /// Bytes of a unit.
    pub fn unit_bytes(&self, unit: SliceUnit) -> u64 {
        self.parts[unit.part].bytes
    }

    fn bytes_of(&self, counts: impl Fn(SliceState) -> bool) -> u64 {
        self.units().filter(|unit| counts(self.state(*unit))).map(|unit| self.unit_bytes(unit)).sum()
    }

    /// All units in the order in which they are loaded.
    fn units(&self) -> impl Iterator<Item = SliceUnit> + use<> {
        let parts = self.parts.len();
        (1..SLICES).flat_map(move |slice| (0..parts).map(move |part| SliceUnit { part, slice }))
    }

    fn state_mut(&mut self, unit: SliceUnit) -> &mut SliceState {
        &mut self.parts[unit.part].states[unit.slice - 1]
    }

    fn free(&mut self, unit: SliceUnit) {
        *self.state_mut(unit) = SliceState::Retiring;
        self.freed.push(unit);
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
