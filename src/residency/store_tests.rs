//! Tests of the store: its order, and random sequences of wishes, landings, failures and retirements.

use proptest::prelude::*;

use super::*;

fn depths(slices: &[usize]) -> Vec<Depth> {
    slices.iter().map(|slices| Depth::new(*slices).unwrap()).collect()
}

fn all_due(store: &mut Store, now: u64) -> Vec<(usize, usize)> {
    std::iter::from_fn(|| store.next(now)).map(|unit| (unit.part, unit.slice)).collect()
}

#[test]
fn second_slices_come_before_third_ones_and_clamps_rise_as_they_land() {
    let mut store = Store::new(&[10, 10, 30], None);
    store.want(&depths(&[3, 2, 4]));
    assert_eq!(all_due(&mut store, 0), [(0, 1), (1, 1), (2, 1), (0, 2), (2, 2), (2, 3)]);
    // A slice above one that is missing is no use yet.
    store.loaded(SliceUnit { part: 2, slice: 2 });
    assert_eq!(store.clamps(), depths(&[1, 1, 1]));
    store.loaded(SliceUnit { part: 2, slice: 1 });
    store.loaded(SliceUnit { part: 1, slice: 1 });
    assert_eq!(store.clamps(), depths(&[1, 2, 3]));
    assert_eq!((store.resident_bytes(), store.committed_bytes()), (70, 120));
}

#[test]
fn going_down_lowers_the_clamp_at_once_and_frees() {
    let mut store = Store::new(&[10, 10], None);
    store.want(&depths(&[4, 4]));
    while let Some(unit) = store.next(0) {
        store.loaded(unit);
    }
    assert!(store.is_settled());
    store.want(&depths(&[2, 3]));
    assert_eq!(store.clamps(), depths(&[2, 3]));
    let freed = store.take_freed();
    assert_eq!(freed, [(0, 2), (0, 3), (1, 3)].map(|(part, slice)| SliceUnit { part, slice }));
    // What is still retiring is loaded again only once it has gone.
    store.want(&depths(&[4, 4]));
    assert_eq!(store.next(0), None);
    assert!(!store.is_settled());
    freed.into_iter().for_each(|unit| store.retired(unit));
    assert_eq!(all_due(&mut store, 0), [(0, 2), (0, 3), (1, 3)]);
}

#[test]
fn a_budget_cuts_all_parts_to_one_depth() {
    let mut store = Store::new(&[10, 10, 40], Some(139));
    store.want(&depths(&[4, 4, 4]));
    assert_eq!(store.parts.iter().map(|part| part.wanted.slices()).collect::<Vec<_>>(), [3, 3, 3]);
    // What fits is known before anything is wanted, and after.
    assert_eq!([store.fitting(&depths(&[4, 4, 4])), store.fitting(&depths(&[4, 4, 2]))], [Depth::ALL[2], Depth::FULL]);
    store.want(&depths(&[4, 4, 2]));
    assert_eq!(store.parts.iter().map(|part| part.wanted.slices()).collect::<Vec<_>>(), [4, 4, 2]);
    let mut none = Store::new(&[10], Some(9));
    assert_eq!(none.fitting(&depths(&[4])), Depth::ALL[0]);
    none.want(&depths(&[4]));
    assert!(none.is_settled() && none.next(0).is_none());
}

#[test]
fn what_is_reserved_of_a_budget_is_no_more_for_slices() {
    let mut store = Store::new(&[10, 10, 40], Some(180));
    store.want(&depths(&[4, 4, 4]));
    while let Some(unit) = store.next(0) {
        store.loaded(unit);
    }
    assert_eq!((store.clamps(), store.resident_bytes()), (depths(&[4, 4, 4]), 180));
    assert_eq!(store.reserve(181), Err(1));
    assert_eq!(store.reserve(41), Ok(()));
    store.want(&depths(&[4, 4, 4]));
    assert_eq!((store.clamps(), store.resident_bytes()), (depths(&[3, 3, 3]), 120));
    assert_eq!((store.reserve(140), Store::new(&[10], None).reserve(1)), (Err(1), Ok(())));
}

#[test]
fn failures_are_tried_again_ever_more_rarely() {
    let mut store = Store::new(&[10], None);
    store.want(&depths(&[2]));
    let (mut now, mut tries) = (0, Vec::new());
    while tries.len() < 10 {
        if let Some(unit) = store.next(now) {
            tries.push(now);
            assert!(store.failed(unit, now));
        }
        now += 1;
    }
    let waits: Vec<u64> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(waits, [8, 16, 32, 64, 128, 256, 512, 1024, 1024]);
    now += 1024;
    let unit = store.next(now).unwrap();
    store.loaded(unit);
    assert_eq!(store.clamp(0), Depth::ALL[1]);
    assert_eq!(store.failures, 0);
    // What fails beside another begins no wait of its own.
    let mut store = Store::new(&[10, 10], None);
    store.want(&depths(&[2, 2]));
    let both = [store.next(0).unwrap(), store.next(0).unwrap()];
    assert_eq!(both.map(|unit| store.failed(unit, 1)), [true, false]);
    assert_eq!((store.next(8), store.next(9)), (None, Some(both[0])));
}

/// What happens to a store.
#[derive(Debug, Clone)]
enum Event {
    Want(Vec<usize>),
    Load,
    Land(usize),
    Fail(usize),
    Retire(usize),
    Wait(u64),
}

fn events(parts: usize) -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        1 => prop::collection::vec(1..=SLICES, parts).prop_map(Event::Want),
        4 => Just(Event::Load),
        3 => any::<usize>().prop_map(Event::Land),
        1 => any::<usize>().prop_map(Event::Fail),
        2 => any::<usize>().prop_map(Event::Retire),
        1 => (0u64..40).prop_map(Event::Wait),
    ];
    prop::collection::vec(event, 0..80)
}

/// The world of a store: what the device holds, by what it was told.
struct World {
    store: Store,
    /// Units with memory whose bytes are on their way.
    loading: Vec<SliceUnit>,
    /// Units that kernels may read.
    readable: Vec<SliceUnit>,
    /// Units that were freed and whose memory is still taken.
    retiring: Vec<SliceUnit>,
    now: u64,
}

impl World {
    fn take(&mut self, event: &Event) {
        match event {
            Event::Want(slices) => self.store.want(&depths(slices)),
            Event::Load => self.loading.extend(self.store.next(self.now)),
            Event::Land(at) => {
                if let Some(unit) = pick(&mut self.loading, *at) {
                    self.readable.push(unit);
                    self.store.loaded(unit);
                }
            }
            Event::Fail(at) => {
                if let Some(unit) = pick(&mut self.loading, *at) {
                    let _ = self.store.failed(unit, self.now);
                }
            }
            Event::Retire(at) => {
                if let Some(unit) = pick(&mut self.retiring, *at) {
                    self.store.retired(unit);
                }
            }
            Event::Wait(ticks) => self.now += ticks,
        }
        for unit in self.store.take_freed() {
            let at = self.readable.iter().position(|other| *other == unit).expect("only what is there is freed");
            self.retiring.push(self.readable.remove(at));
        }
    }

    fn check(&self, budget: Option<u64>) {
        for (part, clamp) in self.store.clamps().into_iter().enumerate() {
            assert!(clamp <= self.store.parts[part].wanted, "part {part} is clamped to what is wanted");
            for slice in 1..clamp.slices() {
                let unit = SliceUnit { part, slice };
                assert!(self.readable.contains(&unit), "{unit:?} is within the clamp and not there");
            }
        }
        let taken = self.loading.iter().chain(&self.readable).chain(&self.retiring);
        let bytes: u64 = taken.map(|unit| self.store.unit_bytes(*unit)).sum();
        assert_eq!(bytes, self.store.committed_bytes());
        assert!(budget.is_none_or(|budget| bytes <= budget), "{bytes} of {budget:?}");
    }
}

fn pick(units: &mut Vec<SliceUnit>, at: usize) -> Option<SliceUnit> {
    (!units.is_empty()).then(|| units.swap_remove(at % units.len()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_freed_is_read_and_the_budget_holds(
        bytes in prop::collection::vec(1u64..100, 1..6),
        budget in prop::option::of(0u64..1200),
        seed in events(5),
        last in prop::collection::vec(1..=SLICES, 5),
    ) {
        let parts = bytes.len();
        let store = Store::new(&bytes, budget);
        let mut world = World { store, loading: vec![], readable: vec![], retiring: vec![], now: 0 };
        for event in &seed {
            let event = match event {
                Event::Want(slices) => &Event::Want(slices[..parts].to_vec()),
                other => other,
            };
            world.take(event);
            world.check(budget);
        }
        // Where nothing fails any more, what is wanted comes.
        world.take(&Event::Want(last[..parts].to_vec()));
        for _ in 0..200 {
            if world.store.is_settled() {
                break;
            }
            for event in [Event::Retire(0), Event::Load, Event::Land(0), Event::Wait(LONGEST_WAIT)] {
                world.take(&event);
                world.check(budget);
            }
        }
        prop_assert!(world.store.is_settled(), "{:?}", world.store);
    }
}
