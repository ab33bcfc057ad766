// y = x, in vec4s; each invocation takes every so manyth one.

struct Params {
    vec4s: u32,
}

override WORKGROUP: u32 = 64u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<u32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global: vec3<u32>, @builtin(num_workgroups) workgroups: vec3<u32>) {
    let stride = workgroups.x * WORKGROUP;
    for (var i = global.x; i < params.vec4s; i += stride) {
        y[i] = x[i];
    }
}
