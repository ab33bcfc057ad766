// Work that keeps a processor busy with one workgroup: whole numbers that each depend on the one before, in four chains
// an invocation. How long workgroups take side by side shows how many processors there are.

struct Params {
    rounds: u32,
}

override WORKGROUP: u32 = 256u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read_write> y: array<u32>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let at = workgroup.x * WORKGROUP + local;
    var chains = vec4<u32>(at, at + 1u, at + 2u, at + 3u);
    for (var round = 0u; round < params.rounds; round++) {
        chains = chains * vec4<u32>(1664525u) + vec4<u32>(1013904223u);
    }
    y[at] = chains.x ^ chains.y ^ chains.z ^ chains.w;
}
