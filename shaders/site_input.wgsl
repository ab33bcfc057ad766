// Makes the input of a site ready for `matvec_packed`, for one token: pairs of int8s with one scale for each chunk of 64,
// and what the site's router needs to choose the depth. src/kernels/site_input.rs tells how the result lies.
//
// Each workgroup sums over the whole input, so that none waits for another; then it computes one hidden unit of the
// router, and packs its share of the chunks, each with four invocations side by side in a subgroup.
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

// Invocations for one chunk: each makes one plane of it, of sixteen numbers.
const TEAM: u32 = 4u;
// vec4s of a chunk.
const CHUNK_VEC4S: u32 = 16u;
// The greatest int8; what it counts for, in the int8s of what it leaves.
const PEAK: f32 = 127.0;
const HIGH: i32 = 254;
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

// What each subgroup has; none is smaller than a chunk's team.
var<workgroup> partial: array<vec3<f32>, WORKGROUP / TEAM>;

struct Place {
    // Of the invocation in its subgroup, which `subgroups` and `size` tell of.
    lane: u32,
    subgroup: u32,
    subgroups: u32,
    size: u32,
}

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
fn sum_up(place: Place, unit: u32) -> vec3<f32> {
    let row_eights = params.row_vec4s / 2u;
    var sums = vec3<f32>();
    for (var k = place.subgroup * place.size + place.lane; k < row_eights; k += WORKGROUP) {
        let low = numbers(2u * k);
        let high = numbers(2u * k + 1u);
        if params.routed == 1u {
            sums += vec3<f32>(dot_eight(w1[unit * row_eights + k], low, high), square(low) + square(high), 0.0);
        }
        if params.source == NORM {
            sums.z += square(x[2u * k]) + square(x[2u * k + 1u]);
        }
    }
    sums = subgroupAdd(sums);
    if place.lane == 0u {
        partial[place.subgroup] = sums;
    }
    workgroupBarrier();
    var all = vec3<f32>();
    for (var part = place.lane; part < place.subgroups; part += place.size) {
        all += partial[part];
    }
    return subgroupAdd(all);
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

// Packs the plane `lane` of a chunk, which `within` the input or writes nothing; the four invocations of a chunk come
// here together.
fn pack(chunk: u32, lane: u32, within: bool, factor: f32) {
    let chunks = params.row_vec4s / CHUNK_VEC4S;
    var own: array<vec4<f32>, 4>;
    var peak = 0.0;
    for (var c = 0u; c < 4u; c++) {
        if within {
            own[c] = numbers(chunk * CHUNK_VEC4S + 4u * c + lane);
        }
        let sizes = abs(own[c]);
        peak = max(peak, max(max(sizes.x, sizes.y), max(sizes.z, sizes.w)));
    }
    peak = max(peak, subgroupShuffleXor(peak, 1u));
    peak = max(peak, subgroupShuffleXor(peak, 2u));
    let to_int = select(0.0, PEAK / peak, peak > LEAST);
    var high: vec4<u32>;
    var low: vec4<u32>;
    var sum = 0;
    for (var c = 0u; c < 4u; c++) {
        let scaled = own[c] * to_int;
        let ints = round(scaled);
        high[c] = pack4xI8(vec4<i32>(ints));
        low[c] = pack4xI8(vec4<i32>(round((scaled - ints) * f32(HIGH))));
        sum += HIGH * dot4I8Packed(high[c], 0x01010101u) + dot4I8Packed(low[c], 0x01010101u);
    }
    sum += subgroupShuffleXor(sum, 1u);
    sum += subgroupShuffleXor(sum, 2u);
    if within {
        ready[lane * chunks + chunk] = high;
        ready[(4u + lane) * chunks + chunk] = low;
        if lane == 0u {
            let unit = select(0.0, peak * factor / (PEAK * f32(HIGH)), peak > LEAST);
            ready[8u * chunks + chunk] = vec4<u32>(bitcast<u32>(unit), bitcast<u32>(unit * f32(sum)), 0u, 0u);
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) lane: u32,
) {
    let chunks = params.row_vec4s / CHUNK_VEC4S;
    let place = Place(lane, subgroup, subgroups, size);
    var factor = 1.0;
    if params.source == NORM || params.routed == 1u {
        let sums = sum_up(place, workgroup.x);
        let count = f32(params.row_vec4s * 4u);
        if params.source == NORM {
            factor = inverseSqrt(sums.z / count + params.eps);
        }
        if params.routed == 1u && subgroup == 0u && lane == 0u {
            let norm = inverseSqrt(sums.y * factor * factor / count + EPS);
            tell_router(workgroup.x, silu(sums.x * factor * norm + b1[workgroup.x]), chunks * 9u);
        }
    }
    let team = (subgroup * size + lane) / TEAM;
    for (var first = workgroup.x; first < chunks; first += params.groups * WORKGROUP / TEAM) {
        let chunk = first + team * params.groups;
        pack(chunk, lane % TEAM, chunk < chunks, factor);
    }
}
