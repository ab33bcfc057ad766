// y[t, h, :] of the splits of shaders/attention_split.wgsl: their sums, brought to one highest score, by their total.
// An invocation writes four neighbouring dimensions; the others of a workgroup only help to tell a router of them.
// splits: [T, H, S, A] f32; peaks: [T, H, S]; y: [T, H, A] f32.
#import router
#import router_sums
#import add_term
#import tell

struct Params {
    // vec4s of y.
    vec4s: u32,
}

override WORKGROUP: u32 = 256u;
// vec4s of a head.
override HEAD_VEC4S: u32 = 32u;
override SPLITS: u32 = 2u;
// 1: a router is told of y.
override TELLS: u32 = 0u;
// vec4s of a workgroup.
const OWN: u32 = 32u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> splits: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> peaks: array<vec2<f32>>;
// The site's, [HIDDEN, y] f16.
@group(0) @binding(2) var<storage, read> w1: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> sums: array<atomic<u32>>;

var<workgroup> told: array<vec4<f32>, OWN>;

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
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let first = workgroup.x * OWN;
    let eights = min(OWN, params.vec4s - first) / 2u;
    var early: array<vec4<u32>, EARLY>;
    if TELLS == 1u {
        early = early_weights(local, params.vec4s / 2u, 4u * first, eights);
    }
    if local < OWN && first + local < params.vec4s {
        let own = join(first + local);
        y[first + local] = own;
        told[local] = own;
    }
    if TELLS == 1u {
        tell_router(local, params.vec4s / 2u, 4u * first, eights, early);
    }
}
