// A workgroup's own copy of a site's input, as pairs of int8s, and the depth that the site's router chooses for it.
// What a kernel binds is declared in `projection`.

// Invocations that pack a chunk, side by side in a subgroup: 4, 8 or 16.
override TEAM: u32 = 4u;
// vec4s of a chunk.
const CHUNK_VEC4S: u32 = 16u;
// The whole numbers of a chunk are x * 2^n * WHOLE, with the greatest in 16319 to 32639: 127 high int8s and 127 low ones
// at most. There are 2^14 of them, less a little, in the power of two that the greatest number lies above.
const WHOLE: f32 = 32639.0 / 32768.0;
const BITS: u32 = 14u;
// Chunks whose greatest number has a lower exponent than this are rounded as if it had this one.
const LEAST_EXPONENT: u32 = 15u << 23u;
// Greater than any number that is finite but for the last few.
const INFINITE: f32 = 3.4e38;
// A float that is 2^23 and a half of it: a small number added to it is rounded to a whole one, which is its low bits.
const ROUNDS_OFF: f32 = 12582912.0;

// Lengths of arrays have names, as naga wants. There are no more subgroups than this in a workgroup.
override PLANE_VEC4S: u32 = 8u * CHUNKS;
override SUBGROUPS: u32 = 64u;

// The input without the norm's factor, which is one for all: four planes of high int8s, four of low ones.
var<workgroup> planes: array<vec4<u32>, PLANE_VEC4S>;
// What a low int8 counts for, and the sum of the numbers.
var<workgroup> about: array<vec2<f32>, CHUNKS>;
// Of each subgroup: the sum of the squares of x, and of the input.
var<workgroup> squares: array<vec2<f32>, SUBGROUPS>;

// Hidden units of the router that an invocation of the subgroup that chooses takes, 8 at most.
override UNITS: u32 = 1u;

// What an invocation knows of the router: of each of its units, w2, b1 and what it was told; b2 and the threshold; the
// most slices that may be read.
struct Heard {
    weights: array<vec4<f32>, 8>,
    sums: array<f32, 8>,
    said: vec4<f32>,
    most: u32,
}

// Fetches what the router chooses by; what is fetched is not waited for until then.
fn fetch_router(place: Place) -> Heard {
    var router: Heard;
    for (var u = 0u; u < UNITS; u++) {
        let unit = min(u * place.size + place.lane, HIDDEN - 1u);
        router.weights[u] = vec4<f32>(w2[unit], w2[HIDDEN + unit], w2[2u * HIDDEN + unit], b1[unit]);
        router.sums[u] = joined(heard[unit], heard[HIDDEN + unit]);
    }
    router.said = vec4<f32>(b2[0], b2[1], b2[2], control[params.site].threshold);
    router.most = control[params.site].most;
    return router;
}

// Packs what lane `lane` of a team has of a chunk of the input, every TEAM-th vec4, or nothing where it is not `within`,
// and returns the squares of x and of the input; the chunk's team comes here together.
fn pack(chunk: u32, lane: u32, within: bool) -> vec2<f32> {
    var own: array<vec4<f32>, 4>;
    var all = vec2<f32>();
    var peak = 0.0;
    for (var v = 0u; v < CHUNK_VEC4S / TEAM; v++) {
        let k = min(chunk, CHUNKS - 1u) * CHUNK_VEC4S + v * TEAM + lane;
        let plain = x[k];
        own[v] = plain;
        if NORMED == 1u {
            own[v] *= norm[k];
        }
        all += vec2<f32>(dot(plain, plain), dot(own[v], own[v]));
        let sizes = abs(own[v]);
        peak = max(peak, max(max(sizes.x, sizes.y), max(sizes.z, sizes.w)));
    }
    for (var other = TEAM / 2u; other > 0u; other /= 2u) {
        peak = max(peak, subgroupShuffleXor(peak, other));
    }
    // Powers of two by their bits, as a division takes long.
    let exponent = max(bitcast<u32>(peak) & 0x7f800000u, LEAST_EXPONENT);
    let to_int = bitcast<f32>(((254u + BITS) << 23u) - exponent) * WHOLE;
    var sum = 0;
    for (var v = 0u; v < CHUNK_VEC4S / TEAM; v++) {
        let ints = bitcast<vec4<u32>>(own[v] * to_int + vec4<f32>(ROUNDS_OFF));
        let high = pack4xU8((ints + vec4<u32>(128u)) >> vec4<u32>(8u));
        let low = pack4xU8(ints);
        sum += HIGH * dot4I8Packed(high, 0x01010101u) + dot4I8Packed(low, 0x01010101u);
        if within {
            // Entry 4c + i of a chunk is word c of plane i.
            let entry = v * TEAM + lane;
            planes[entry % 4u * CHUNKS + chunk][entry / 4u] = high;
            planes[(4u + entry % 4u) * CHUNKS + chunk][entry / 4u] = low;
        }
    }
    for (var other = TEAM / 2u; other > 0u; other /= 2u) {
        sum += subgroupShuffleXor(sum, other);
    }
    if lane == 0u && within {
        // What is not finite stays so.
        let unit = select(bitcast<f32>(exponent - (BITS << 23u)) * (1.0 / WHOLE), peak, peak > INFINITE);
        about[chunk] = vec2<f32>(unit, unit * f32(sum));
    }
    return select(vec2<f32>(), all, within);
}

// Packs the input for the workgroup.
fn pack_input(place: Place) {
    let local = local_of(place);
    var own = vec2<f32>();
    for (var first = 0u; first < CHUNKS; first += WORKGROUP / TEAM) {
        let chunk = first + local / TEAM;
        own += pack(chunk, local % TEAM, chunk < CHUNKS);
    }
    if NORMED + ROUTED > 0u {
        own = subgroupAdd(own);
        if place.lane == 0u {
            squares[place.subgroup] = own;
        }
    }
    workgroupBarrier();
}

// The mean squares of x and of the input without the norm's factor, once that is packed; called by whole subgroups.
fn mean_squares(place: Place) -> vec2<f32> {
    var all = vec2<f32>();
    for (var s = place.lane; s < place.subgroups; s += place.size) {
        all += squares[s];
    }
    return subgroupAdd(all) / f32(64u * CHUNKS);
}

// The depth that the router chooses; called by whole subgroups.
fn chosen_depth(place: Place, router: Heard, factor: f32) -> u32 {
    var sum = vec3<f32>();
    for (var u = 0u; u < UNITS; u++) {
        let weights = router.weights[u];
        if u * place.size + place.lane < HIDDEN {
            sum += silu(router.sums[u] * factor + weights.w) * weights.xyz;
        }
    }
    return depth_of(router.said.xyz + subgroupAdd(sum), Control(router.said.w, router.most));
}
