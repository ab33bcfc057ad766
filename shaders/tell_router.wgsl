// Tells a site's router of the norm of x, for one token: of what no product makes, the first layer's input. The norm's
// factor, one for all, is left out.
#import router
#import router_sums
#import add_term
#import tell

struct Params {
    // Numbers of x.
    input: u32,
}

override WORKGROUP: u32 = 128u;
// Numbers of a workgroup.
const OWN: u32 = 64u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> norm: array<vec4<f32>>;
// [HIDDEN, input] f16
@group(0) @binding(2) var<storage, read> w1: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> sums: array<atomic<u32>>;

var<workgroup> told: array<vec4<f32>, OWN / 4u>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let first = workgroup.x * OWN;
    let count = min(OWN, params.input - first);
    let early = early_weights(local, params.input / 8u, first, count / 8u);
    if local < count / 4u {
        told[local] = x[first / 4u + local] * norm[first / 4u + local];
    }
    tell_router(local, params.input / 8u, first, count / 8u, early);
}
