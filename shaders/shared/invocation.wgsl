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
