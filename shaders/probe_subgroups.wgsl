// What the device's subgroups are: each invocation of a workgroup writes how large its subgroup is and how many there
// are, at the place that kernels take it to have by its subgroup's number and its lane. It writes zeros where a shuffle
// does not bring what the lane beside it has.
#import invocation

struct Params {
    // Entry of the first invocation.
    first: u32,
}

override WORKGROUP: u32 = 64u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read_write> seen: array<vec2<u32>>;

@compute @workgroup_size(WORKGROUP)
fn main(here: Invocation) {
    let local = local_of(here);
    let beside = subgroupShuffleXor(here.lane, 1u);
    let swapped = here.size == 1u || beside == (here.lane ^ 1u);
    if local < WORKGROUP {
        seen[params.first + local] = select(vec2<u32>(), vec2<u32>(here.size, here.subgroups), swapped);
    }
}
