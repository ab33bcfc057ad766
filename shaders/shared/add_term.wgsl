// Adds to what a router is told in a unit. The kernel declares `sums`, [2, HIDDEN].
fn add_term(unit: u32, term: f32) {
    let bounded = clamp(term, -LARGEST, LARGEST);
    let high = floor(bounded * HIGH_PARTS);
    atomicAdd(&sums[unit], bitcast<u32>(i32(high)));
    atomicAdd(&sums[HIDDEN + unit], u32((bounded - high / HIGH_PARTS) * LOW_PARTS));
}
