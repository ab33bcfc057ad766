// y[t, k] = activation(gate_up[t, k]) * gate_up[t, F + k]; gate_up: [T, 2F], y: [T, F].
#import gelu

struct Params {
    // vec4s of F.
    row_vec4s: u32,
}

override WORKGROUP: u32 = 64u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> gate_up: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;

fn activation(v: vec4<f32>) -> vec4<f32> {
    if GELU == 1u {
        return vec4<f32>(gelu(v.x), gelu(v.y), gelu(v.z), gelu(v.w));
    }
    return v / (vec4<f32>(1.0) + exp(-v));
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global: vec3<u32>) {
    let token = global.y;
    let k = global.x;
    if k >= params.row_vec4s {
        return;
    }
    let row = token * params.row_vec4s * 2u;
    let gate = gate_up[row + k];
    let up = gate_up[row + params.row_vec4s + k];
    y[token * params.row_vec4s + k] = activation(gate) * up;
}
