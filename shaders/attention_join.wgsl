// y[t, h, :] of the splits of shaders/attention_split.wgsl: their sums, brought to one highest score, by their total.
// An invocation writes four neighbouring dimensions.
// sums: [T, H, S, A] f32; peaks: [T, H, S]; y: [T, H, A] f32.

struct Params {
    // vec4s of y.
    vec4s: u32,
    // vec4s of a head.
    head_vec4s: u32,
    splits: u32,
}

override WORKGROUP: u32 = 64u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> sums: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> peaks: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global: vec3<u32>) {
    let at = global.x;
    if at >= params.vec4s {
        return;
    }
    let first = at / params.head_vec4s * params.splits;
    let column = at % params.head_vec4s;
    // The first split always has a position.
    var highest = peaks[first].x;
    for (var s = 1u; s < params.splits; s++) {
        highest = max(highest, peaks[first + s].x);
    }
    var total = 0.0;
    var sum = vec4<f32>();
    for (var s = 0u; s < params.splits; s++) {
        let peak = peaks[first + s];
        let weight = exp(peak.x - highest);
        total += weight * peak.y;
        sum += weight * sums[(first + s) * params.head_vec4s + column];
    }
    y[at] = sum / total;
}
