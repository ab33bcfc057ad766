// What the device's subgroups are: each invocation of a workgroup writes how large its subgroup is and how many there
// are, at the place that kernels take it to have by its subgroup's number and its lane. It writes zeros where a shuffle
// does not bring what the lane beside it has.
#import place

struct Params {
    // Entry of the first invocation.
    first: u32,
}

override WORKGROUP: u32 = 64u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read_write> seen: array<vec2<u32>>;

@compute @workgroup_size(WORKGROUP)
fn main(place: Place) {
    let local = local_of(place);
    let beside = subgroupShuffleXor(place.lane, 1u);
    let swapped = place.size == 1u || beside == (place.lane ^ 1u);
    if local < WORKGROUP {
        seen[params.first + local] = select(vec2<u32>(), vec2<u32>(place.size, place.subgroups), swapped);
    }
}
