// y[t, h, :] of the splits of shaders/attention_split.wgsl: their sums, brought to one highest score, by their total.
// An invocation writes four neighbouring dimensions.
// splits: [T, H, S, A] f32; peaks: [T, H, S]; y: [T, H, A] f32.

struct Params {
    // vec4s of y.
    vec4s: u32,
}

override WORKGROUP: u32 = 32u;
// vec4s of a head.
override HEAD_VEC4S: u32 = 32u;
override SPLITS: u32 = 2u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> splits: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> peaks: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f32>>;

fn join(at: u32) -> vec4<f32> {
    let first = at / HEAD_VEC4S * SPLITS;
    let column = at % HEAD_VEC4S;
    // The first split always has a position.
    var highest = peaks[first].x;
    for (var s = 1u; s < SPLITS; s++) {
        highest = max(highest, peaks[first + s].x);
    }
    var total = 0.0;
    var sum = vec4<f32>();
    for (var s = 0u; s < SPLITS; s++) {
        let peak = peaks[first + s];
        let weight = exp(peak.x - highest);
        total += weight * peak.y;
        sum += weight * splits[(first + s) * HEAD_VEC4S + column];
    }
    return sum / total;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) invocation: vec3<u32>) {
    if invocation.x < params.vec4s {
        y[invocation.x] = join(invocation.x);
    }
}
