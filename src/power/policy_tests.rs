//! Tests of the policy: its precedence, its limits, and what holds for every state.

use proptest::prelude::*;

use super::*;

fn battery(percent: f32) -> PowerState {
    PowerState { supply: Supply::Battery { percent: Some(percent) }, ..PowerState::AC }
}

fn decide(state: &PowerState, has_routers: bool) -> (f32, Rule) {
    let decision = Policy::default().decide(state, has_routers, Held::default());
    (decision.bits, decision.rule)
}

#[test]
fn the_first_rule_that_applies_decides() {
    let ac = PowerState::AC;
    let of = |thermal| PowerState { thermal, ..ac };
    let unknown = PowerState { supply: Supply::Battery { percent: None }, ..ac };
    let pressed = |state| PowerState { memory_pressure: 10.0, ..state };
    let hot = |state| PowerState { thermal: Thermal::Serious, ..state };
    let critical = |state| PowerState { thermal: Thermal::Critical, ..state };
    let saving = |state| PowerState { saver: true, ..state };
    for (state, routed, unrouted, rule) in [
        (ac, 8.0, 8.0, Rule::Ac),
        (of(Thermal::Fair), 8.0, 8.0, Rule::Ac),
        (PowerState { memory_pressure: 9.9, ..ac }, 8.0, 8.0, Rule::Ac),
        (battery(100.0), 6.0, 6.0, Rule::Battery),
        (battery(50.0), 6.0, 6.0, Rule::Battery),
        (battery(49.0), 4.5, 4.0, Rule::Battery),
        (battery(20.0), 4.5, 4.0, Rule::Battery),
        (battery(19.0), 3.3, 4.0, Rule::Battery),
        (battery(0.0), 3.3, 4.0, Rule::Battery),
        (unknown, 4.5, 4.0, Rule::Battery),
        (hot(ac), 4.0, 4.0, Rule::ThermalSerious),
        (hot(battery(80.0)), 4.0, 4.0, Rule::ThermalSerious),
        (hot(battery(10.0)), 3.3, 4.0, Rule::Battery),
        (pressed(ac), 4.0, 4.0, Rule::MemoryPressure),
        (pressed(battery(80.0)), 4.0, 4.0, Rule::MemoryPressure),
        (pressed(battery(10.0)), 3.3, 4.0, Rule::Battery),
        (critical(ac), 3.0, 4.0, Rule::ThermalCritical),
        (critical(pressed(battery(10.0))), 3.0, 4.0, Rule::ThermalCritical),
        (saving(ac), 3.3, 4.0, Rule::Saver),
        (saving(battery(80.0)), 3.3, 4.0, Rule::Saver),
        (saving(critical(pressed(battery(10.0)))), 3.0, 4.0, Rule::ThermalCritical),
    ] {
        assert_eq!(decide(&state, true), (routed, rule), "{state:?}");
        assert_eq!(decide(&state, false), (unrouted, rule), "{state:?}");
    }
}

#[test]
fn where_something_is_to_be_saved_routers_read_one_slice_more_than_the_average() {
    let policy = Policy { ac: 4.0, ..Policy::default() };
    let deepest = |state: PowerState| policy.decide(&state, true, Held::default()).depth_max;
    let ac = PowerState::AC;
    assert_eq!(deepest(ac), Depth::FULL);
    // None of these lowers the bits, so that the mains decide them.
    for state in [PowerState { memory_pressure: 20.0, ..ac }, PowerState { thermal: Thermal::Serious, ..ac }] {
        assert_eq!(policy.decide(&state, true, Held::default()).rule, Rule::Ac);
        assert_eq!(deepest(state), Depth::ALL[2], "{state:?}");
    }
    assert_eq!(deepest(PowerState { saver: true, ..ac }), Depth::ALL[2]);
    assert_eq!(deepest(battery(80.0)), Depth::FULL);
}

#[test]
fn memory_is_short_until_its_pressure_is_past_the_margin_or_none() {
    for (from, margin, ends) in [(10.0, 5.0, 5.0), (5.0, 5.0, 0.0), (3.0, 5.0, 0.0)] {
        let policy = Policy { memory_from: from, memory_margin: margin, ..Policy::default() };
        let after = |pressure, held| {
            policy.decide(&PowerState { memory_pressure: pressure, ..PowerState::AC }, true, held).held
        };
        let held = after(from, Held::default());
        assert!(held.pressed && after(ends + 0.5, held).pressed && !after(ends, held).pressed, "{from} {margin}");
    }
}

#[test]
fn a_flag_stands_above_all_but_the_limits() {
    let policy = Policy { min_bits: 3.5, ..Policy::default() };
    let decision = policy.fixed(8.0, "--bits 8", true);
    assert_eq!((decision.bits, decision.rule, decision.reason.as_str()), (8.0, Rule::Flag, "--bits 8"));
    let decision = policy.fixed(2.5, "--bits 2.5", true);
    assert_eq!((decision.bits, decision.reason.as_str()), (3.5, "--bits 2.5, at least 3.5 bits"));
    assert_eq!(policy.fixed(2.0, "--bits 2", false).bits, 4.0);
}

#[test]
fn the_reason_tells_the_state_and_the_limit() {
    let state = PowerState { saver: true, memory_pressure: 12.4, thermal: Thermal::Critical, ..battery(18.2) };
    let policy = Policy { min_bits: 5.0, ..Policy::default() };
    let reason = policy.decide(&state, true, Held::default()).reason;
    assert_eq!(reason, "battery 18%, saver on, thermal critical, memory pressure 12%, at least 5 bits");
}

#[test]
fn limits_that_leave_nothing_are_refused() {
    let limits = |min_bits, max_bits| Policy { min_bits, max_bits, ..Policy::default() };
    assert!(limits(4.2, 5.8).check_limits(true).is_ok());
    let error = limits(4.2, 5.8).check_limits(false).unwrap_err().to_string();
    assert!(error.contains("2, 4, 6 or 8 between them") && error.contains("4.2 and 5.8"), "{error}");
    assert!(limits(6.0, 5.0).check_limits(true).is_err());
    // Asked for by name, two bits are given.
    let two = limits(2.0, 3.0);
    assert!(two.check_limits(false).is_ok());
    assert_eq!(two.decide(&PowerState::AC, false, Held::default()).bits, 2.0);
}

fn any_state() -> impl Strategy<Value = PowerState> {
    let percent = prop_oneof![Just(None), (0.0f32..=100.0).prop_map(Some)];
    let supply = prop_oneof![Just(Supply::Ac), percent.prop_map(|percent| Supply::Battery { percent })];
    let thermal = (0..4usize).prop_map(|at| Thermal::NAMES[at].1);
    (supply, any::<bool>(), thermal, 0.0f32..=100.0).prop_map(|(supply, saver, thermal, memory_pressure)| PowerState {
        supply,
        saver,
        thermal,
        memory_pressure,
    })
}

proptest! {
    #[test]
    fn every_decision_is_a_plan_within_the_limits(
        state in any_state(),
        before in any_state(),
        (a, b) in (2.0f32..=8.0, 2.0f32..=8.0),
        has_routers: bool,
    ) {
        let policy = Policy { min_bits: a.min(b), max_bits: a.max(b), ..Policy::default() };
        prop_assume!(policy.check_limits(has_routers).is_ok());
        let held = policy.decide(&before, has_routers, Held::default()).held;
        let decision = policy.decide(&state, has_routers, held);
        prop_assert!((policy.min_bits..=policy.max_bits).contains(&decision.bits));
        prop_assert!(decision.plan(has_routers).is_ok() && !decision.reason.is_empty());
    }

    #[test]
    fn less_charge_never_reads_more(state in any_state(), less in 0.0f32..=100.0, more in 0.0f32..=100.0) {
        let with = |percent| PowerState { supply: Supply::Battery { percent: Some(percent) }, ..state };
        let (less, more) = (less.min(more), less.max(more));
        prop_assert!(decide(&with(less), true).0 <= decide(&with(more), true).0);
        let plugged_in = decide(&PowerState { supply: Supply::Ac, ..state }, true).0;
        prop_assert!(decide(&with(more), true).0 <= plugged_in);
    }
}
