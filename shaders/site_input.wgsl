// Makes the input of a site ready for `matvec_packed`, for one token: int8s with one scale for each chunk of 64, and
// what the site's router needs to choose the depth. src/kernels/site_input.rs tells how the result lies.
//
// Each workgroup sums over the whole input, so that none waits for another; then it computes one hidden unit of the
// router, and packs its share of the chunks, each with a team of sixteen invocations.
#import router

struct Params {
    // vec4s of the input.
    row_vec4s: u32,
    // Workgroups, which share the chunks; HIDDEN where there is a router.
    groups: u32,
    // What the input is: PLAIN, NORM or GATE.
    source: u32,
    // 1: there is a router.
    routed: u32,
    // The site's entry in `control`.
    site: u32,
    // Added to the mean square by the norm.
    eps: f32,
}

// x as it is.
const PLAIN: u32 = 0u;
// x / sqrt(mean(x^2) + eps) * weight
const NORM: u32 = 1u;
// silu(gate) * up, of x = [gate, up]
const GATE: u32 = 2u;

// Invocations for one chunk: each has four numbers, which become one word.
const TEAM: u32 = 16u;
// Chunks with no number greater than this become zeros.
const LEAST: f32 = 1e-30;

override WORKGROUP: u32 = 256u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> weight: array<vec4<f32>>;
// [HIDDEN, input] f16, eight to an entry.
@group(0) @binding(2) var<storage, read> w1: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> b1: array<f32>;
// [3, HIDDEN]
@group(0) @binding(4) var<storage, read> w2: array<f32>;
@group(0) @binding(5) var<storage, read> b2: array<f32>;
@group(0) @binding(6) var<storage, read> control: array<Control>;
@group(0) @binding(7) var<storage, read_write> ready: array<vec4<u32>>;

var<workgroup> partial: array<vec3<f32>, WORKGROUP>;
var<workgroup> halfway: array<vec3<f32>, TEAM>;
var<workgroup> peaks: array<f32, WORKGROUP>;
var<workgroup> words: array<u32, WORKGROUP>;

// Four numbers of the input, of which the norm's factor, one for all, is left out.
fn numbers(k: u32) -> vec4<f32> {
    let value = x[k];
    if params.source == NORM {
        return value * weight[k];
    }
    if params.source == GATE {
        return value / (vec4<f32>(1.0) + exp(-value)) * x[params.row_vec4s + k];
    }
    return value;
}

fn square(v: vec4<f32>) -> f32 {
    return dot(v, v);
}

// Over the input, without the norm's factor: its product with a row of w1, the sum of its squares, and that of x's.
fn sum_up(local: u32, unit: u32) -> vec3<f32> {
    let row_eights = params.row_vec4s / 2u;
    var sums = vec3<f32>();
    for (var k = local; k < row_eights; k += WORKGROUP) {
        let low = numbers(2u * k);
        let high = numbers(2u * k + 1u);
        if params.routed == 1u {
            sums += vec3<f32>(dot_eight(w1[unit * row_eights + k], low, high), square(low) + square(high), 0.0);
        }
        if params.source == NORM {
            sums.z += square(x[2u * k]) + square(x[2u * k + 1u]);
        }
    }
    partial[local] = sums;
    workgroupBarrier();
    if local < TEAM {
        for (var other = local + TEAM; other < WORKGROUP; other += TEAM) {
            sums += partial[other];
        }
        halfway[local] = sums;
    }
    workgroupBarrier();
    var all = vec3<f32>();
    for (var part = 0u; part < TEAM; part++) {
        all += halfway[part];
    }
    return all;
}

// What hidden unit `unit` adds to the router's outputs; the first one's workgroup also passes on the router's biases
// and what the host said.
fn tell_router(unit: u32, h: f32, at: u32) {
    let term = h * vec3<f32>(w2[unit], w2[HIDDEN + unit], w2[2u * HIDDEN + unit]);
    ready[at + unit] = bitcast<vec4<u32>>(vec4<f32>(term, 0.0));
    if unit == 0u {
        let said = control[params.site];
        ready[at + HIDDEN] = bitcast<vec4<u32>>(vec4<f32>(b2[0], b2[1], b2[2], said.threshold));
        ready[at + HIDDEN + 1u] = vec4<u32>(said.most, 0u, 0u, 0u);
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let chunks = params.row_vec4s / TEAM;
    var factor = 1.0;
    if params.source == NORM || params.routed == 1u {
        let sums = sum_up(local, workgroup.x);
        let count = f32(params.row_vec4s * 4u);
        if params.source == NORM {
            factor = inverseSqrt(sums.z / count + params.eps);
        }
        if params.routed == 1u && local == 0u {
            let norm = inverseSqrt(sums.y * factor * factor / count + EPS);
            tell_router(workgroup.x, silu(sums.x * factor * norm + b1[workgroup.x]), chunks * 5u);
        }
    }

    let lane = local % TEAM;
    let first_lane = local - lane;
    let teams = WORKGROUP / TEAM;
    for (var first = workgroup.x * teams; first < chunks; first += params.groups * teams) {
        let chunk = first + local / TEAM;
        var own = vec4<f32>();
        if chunk < chunks {
            own = numbers(chunk * TEAM + lane);
        }
        let sizes = abs(own);
        peaks[local] = max(max(sizes.x, sizes.y), max(sizes.z, sizes.w));
        workgroupBarrier();
        var peak = 0.0;
        for (var other = 0u; other < TEAM; other++) {
            peak = max(peak, peaks[first_lane + other]);
        }
        var to_int = 0.0;
        if peak > LEAST {
            to_int = 127.0 / peak;
        }
        words[local] = pack4xI8(vec4<i32>(round(own * to_int)));
        workgroupBarrier();
        // Plane `lane` has word `lane` of each sixteen weights, which a product needs together.
        if chunk < chunks && lane < 4u {
            ready[lane * chunks + chunk] = vec4<u32>(
                words[first_lane + lane],
                words[first_lane + lane + 4u],
                words[first_lane + lane + 8u],
                words[first_lane + lane + 12u],
            );
        }
        if chunk < chunks && lane == 4u {
            var sum = 0;
            for (var other = 0u; other < TEAM; other++) {
                sum += dot4I8Packed(words[first_lane + other], 0x01010101u);
            }
            let unit = select(0.0, peak * factor / 127.0, peak > LEAST);
            ready[4u * chunks + chunk] = vec4<u32>(bitcast<u32>(unit), bitcast<u32>(unit * f32(sum)), 0u, 0u);
        }
    }
}
