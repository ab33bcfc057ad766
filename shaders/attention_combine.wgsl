// y[t, h, :] combines the partials of shaders/attention_split.wgsl or shaders/attention_quantized.wgsl. An invocation
// writes four neighbouring dimensions. y: [T, H, A] f32.
#import partials

struct Params {
    // vec4s of y.
    vec4s: u32,
}

override WORKGROUP: u32 = 32u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) invocation: vec3<u32>) {
    if invocation.x < params.vec4s {
        y[invocation.x] = four_at(invocation.x);
    }
}
