// What the teams of a subgroup, of LANES invocations each, have of their groups of numbers, added up.

// What lanes so far apart have, added up.
fn add_across(m: mat4x4<f32>, other: u32) -> mat4x4<f32> {
    return m + mat4x4<f32>(
        subgroupShuffleXor(m[0], other), subgroupShuffleXor(m[1], other),
        subgroupShuffleXor(m[2], other), subgroupShuffleXor(m[3], other),
    );
}

// Adds up what the teams of a subgroup, eight or more, have of a group; a lane keeps four of the numbers, as pairs of
// lanes share the work: that is a third of the shuffles.
fn add_and_scatter(sum: Group, here: Invocation) -> vec4<f32> {
    let a = swap_and_add(sum.first[0], sum.second[0], here.lane, LANES);
    let b = swap_and_add(sum.first[1], sum.second[1], here.lane, LANES);
    let c = swap_and_add(sum.first[2], sum.second[2], here.lane, LANES);
    let d = swap_and_add(sum.first[3], sum.second[3], here.lane, LANES);
    let ac = swap_and_add(a, c, here.lane, 2u * LANES);
    let bd = swap_and_add(b, d, here.lane, 2u * LANES);
    var four = swap_and_add(ac, bd, here.lane, 4u * LANES);
    for (var other = 8u * LANES; other < lanes_of(here); other *= 2u) {
        four += subgroupShuffleXor(four, other);
    }
    return four;
}

// Which four of the group's numbers that is.
fn scattered_four(lane: u32) -> u32 {
    let team = lane / LANES;
    return team % 2u * 4u + team / 2u % 2u * 2u + team / 4u % 2u;
}
