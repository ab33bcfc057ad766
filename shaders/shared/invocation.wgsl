// Where an invocation is, in its workgroup and its subgroup.
struct Invocation {
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) lane: u32,
}

// Lanes of a subgroup that have an invocation: a subgroup may be larger than the workgroup.
fn lanes_of(here: Invocation) -> u32 {
    return min(here.size, WORKGROUP);
}

fn local_of(here: Invocation) -> u32 {
    return here.subgroup * here.size + here.lane;
}

// Adds one of two numbers of a lane to that of its partner, which adds the other one.
fn swap_and_add(a: vec4<f32>, b: vec4<f32>, lane: u32, other: u32) -> vec4<f32> {
    let keeps_b = (lane & other) != 0u;
    return select(a, b, keeps_b) + subgroupShuffleXor(select(b, a, keeps_b), other);
}
