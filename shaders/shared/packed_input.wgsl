// A workgroup's own copy of a site's input, as pairs of int8s, and the depth that the site's router chooses for it.
// What a kernel binds is declared in `projection`.

// Invocations that pack a chunk: each makes one plane of it, of sixteen numbers.
const TEAM: u32 = 4u;
// vec4s of a chunk.
const CHUNK_VEC4S: u32 = 16u;
// The greatest number of a chunk becomes this: 127 high int8s and 127 low ones.
const PEAK: f32 = 32639.0;
// A float that is 2^23 and a half of it: a small number added to it is rounded to a whole one, which is its low bits.
const ROUNDS_OFF: f32 = 12582912.0;
// Chunks with no number greater than this become zeros.
const LEAST: f32 = 1e-30;

// Lengths of arrays have names, as naga wants. There are no more subgroups than this in a workgroup.
override PLANE_VEC4S: u32 = 8u * CHUNKS;
override SUBGROUPS: u32 = 64u;

// The input without the norm's factor, which is one for all: four planes of high int8s, four of low ones.
var<workgroup> planes: array<vec4<u32>, PLANE_VEC4S>;
// What a low int8 counts for, and the sum of the numbers.
var<workgroup> about: array<vec2<f32>, CHUNKS>;
// Of each subgroup: the sum of the squares of x, and of the input.
var<workgroup> squares: array<vec2<f32>, SUBGROUPS>;
// The router's units: what they come to, w2 and b1; b2 and the threshold; the most slices that may be read.
var<workgroup> unit_sums: array<f32, HIDDEN>;
var<workgroup> unit_weights: array<vec4<f32>, HIDDEN>;
var<workgroup> said: vec4<f32>;
var<workgroup> most: u32;

// Where an invocation is.
struct Place {
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_subgroups) subgroups: u32,
    @builtin(subgroup_id) subgroup: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) lane: u32,
}

fn local_of(place: Place) -> u32 {
    return place.subgroup * place.size + place.lane;
}

// Fetches what the router chooses by; the workgroup's last invocations do it, as the first ones have most to pack.
fn fetch_router(local: u32) {
    for (var unit = WORKGROUP - 1u - local; unit < HIDDEN; unit += WORKGROUP) {
        unit_weights[unit] = vec4<f32>(w2[unit], w2[HIDDEN + unit], w2[2u * HIDDEN + unit], b1[unit]);
        unit_sums[unit] = joined(heard[unit], heard[HIDDEN + unit]);
        if unit == 0u {
            said = vec4<f32>(b2[0], b2[1], b2[2], control[params.site].threshold);
            most = control[params.site].most;
        }
    }
}

// Packs plane `lane` of a chunk of the input, or nothing where it is not `within`, and returns the squares; the four
// invocations of a chunk come here together.
fn pack(chunk: u32, lane: u32, within: bool) -> vec2<f32> {
    var own: array<vec4<f32>, 4>;
    var all = vec2<f32>();
    var peak = 0.0;
    for (var c = 0u; c < 4u; c++) {
        let k = min(chunk, CHUNKS - 1u) * CHUNK_VEC4S + 4u * c + lane;
        let plain = x[k];
        own[c] = plain;
        if params.normed == 1u {
            own[c] *= norm[k];
        }
        all += vec2<f32>(dot(plain, plain), dot(own[c], own[c]));
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
        let ints = bitcast<vec4<u32>>(own[c] * to_int + vec4<f32>(ROUNDS_OFF));
        high[c] = pack4xU8((ints + vec4<u32>(128u)) >> vec4<u32>(8u));
        low[c] = pack4xU8(ints);
        sum += HIGH * dot4I8Packed(high[c], 0x01010101u) + dot4I8Packed(low[c], 0x01010101u);
    }
    sum += subgroupShuffleXor(sum, 1u);
    sum += subgroupShuffleXor(sum, 2u);
    if !within {
        return vec2<f32>();
    }
    planes[lane * CHUNKS + chunk] = high;
    planes[(4u + lane) * CHUNKS + chunk] = low;
    if lane == 0u {
        let unit = select(0.0, peak / PEAK, peak > LEAST);
        about[chunk] = vec2<f32>(unit, unit * f32(sum));
    }
    return all;
}

// Packs the input for the workgroup; the mean squares of x and of the input without the norm's factor.
fn pack_input(place: Place) -> vec2<f32> {
    let local = local_of(place);
    if params.routed == 1u {
        fetch_router(local);
    }
    var own = vec2<f32>();
    for (var first = 0u; first < CHUNKS; first += WORKGROUP / TEAM) {
        let chunk = first + local / TEAM;
        own += pack(chunk, local % TEAM, chunk < CHUNKS);
    }
    own = subgroupAdd(own);
    if place.lane == 0u {
        squares[place.subgroup] = own;
    }
    workgroupBarrier();
    var all = vec2<f32>();
    for (var s = place.lane; s < place.subgroups; s += place.size) {
        all += squares[s];
    }
    return subgroupAdd(all) / f32(64u * CHUNKS);
}

// The depth that the router chooses: every subgroup adds up the same numbers in the same order.
fn chosen_depth(place: Place, factor: f32) -> u32 {
    var sum = vec3<f32>();
    for (var unit = place.lane; unit < HIDDEN; unit += place.size) {
        let weights = unit_weights[unit];
        sum += silu(unit_sums[unit] * factor + weights.w) * weights.xyz;
    }
    return depth_of(said.xyz + subgroupAdd(sum), Control(said.w, most));
}
