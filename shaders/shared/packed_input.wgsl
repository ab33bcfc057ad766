// How a workgroup makes a site's input into pairs of int8s. A kernel binds it as `x` and `norm`, says by `input_at`
// with which vec4 the input begins, and keeps by `keep_words` and `keep_sums` what comes of it.

// Invocations that pack a chunk, side by side in a subgroup: 4, 8 or 16.
override TEAM: u32 = 4u;
// vec4s of a chunk.
const CHUNK_VEC4S: u32 = 16u;
// The whole numbers of a chunk are x * 2^n * WHOLE, with the greatest in 16319 to 32639: 127 high int8s and 127 low
// ones at most. There are 2^14 of them, less a little, in the power of two that the greatest number lies above.
const WHOLE: f32 = 32639.0 / 32768.0;
const BITS: u32 = 14u;
// Chunks whose greatest number has a lower exponent than this are rounded as if it had this one.
const LEAST_EXPONENT: u32 = 15u << 23u;
// The bits of 3.4e38, which is greater than any number that is finite but for the last few.
const INFINITE: u32 = 0x7f7fc99eu;
// A float that is 2^23 and a half of it: a small number added to it is rounded to a whole one, which is its low bits.
const ROUNDS_OFF: f32 = 12582912.0;

// What a high int8 counts for, in low ones.
const HIGH: i32 = 256;

// There are no more subgroups than this in a workgroup.
override SUBGROUPS: u32 = 64u;

// The sum of the squares of x that each subgroup has.
var<workgroup> squares: array<f32, SUBGROUPS>;

// The sum and the products of four numbers, joined explicitly, so that all kernels round alike.
fn add_products(sum: f32, a: vec4<f32>, b: vec4<f32>) -> f32 {
    return fma(a.x, b.x, fma(a.y, b.y, fma(a.z, b.z, fma(a.w, b.w, sum))));
}

// Packs what lane `lane` of a team has of a chunk of the input, every TEAM-th vec4, or nothing where it is not
// `within`, and returns the squares of x; the chunk's team comes here together.
fn pack(chunk: u32, lane: u32, within: bool) -> f32 {
    var own: array<vec4<f32>, 4>;
    var all = 0.0;
    // Bits of the greatest size: as such they are ordered like the sizes, with what is no number above infinity.
    var peak = 0u;
    for (var v = 0u; v < CHUNK_VEC4S / TEAM; v++) {
        let k = min(chunk, CHUNKS - 1u) * CHUNK_VEC4S + v * TEAM + lane;
        let plain = four_at(input_at() + k);
        own[v] = plain;
        if NORMED == 1u {
            own[v] *= norm[k];
        }
        all = add_products(all, plain, plain);
        let sizes = bitcast<vec4<u32>>(own[v]) & vec4<u32>(0x7fffffffu);
        peak = max(peak, max(max(sizes.x, sizes.y), max(sizes.z, sizes.w)));
    }
    for (var other = TEAM / 2u; other > 0u; other /= 2u) {
        peak = max(peak, subgroupShuffleXor(peak, other));
    }
    // Powers of two by their bits, as a division takes long.
    let exponent = max(peak & 0x7f800000u, LEAST_EXPONENT);
    let to_int = bitcast<f32>(((254u + BITS) << 23u) - exponent) * WHOLE;
    var sum = 0;
    var second = 0;
    for (var v = 0u; v < CHUNK_VEC4S / TEAM; v++) {
        let ints = bitcast<vec4<u32>>(own[v] * to_int + vec4<f32>(ROUNDS_OFF));
        let high = pack4xU8((ints + vec4<u32>(128u)) >> vec4<u32>(8u));
        let low = pack4xU8(ints);
        // Entry 4c + i of a chunk is word c of plane i.
        let entry = v * TEAM + lane;
        let four = HIGH * dot4I8Packed(high, 0x01010101u) + dot4I8Packed(low, 0x01010101u);
        if WORD_RANGES == 1u && entry >= CHUNK_VEC4S / 2u {
            second += four;
        } else {
            sum += four;
        }
        if within {
            keep_words(chunk, entry, high, low);
        }
    }
    for (var other = TEAM / 2u; other > 0u; other /= 2u) {
        sum += subgroupShuffleXor(sum, other);
        if WORD_RANGES == 1u {
            second += subgroupShuffleXor(second, other);
        }
    }
    if lane == 0u && within {
        // What is not finite stays so.
        let unit = select(bitcast<f32>(exponent - (BITS << 23u)) * (1.0 / WHOLE), bitcast<f32>(peak), peak > INFINITE);
        keep_sums(chunk, unit, sum, second);
    }
    return select(0.0, all, within);
}

// Packs an invocation's part of the workgroup's input, and returns the squares of x that it has.
fn pack_input(here: Invocation) -> f32 {
    let local = local_of(here);
    var own = 0.0;
    for (var first = 0u; first < CHUNKS; first += WORKGROUP / TEAM) {
        let chunk = first + local / TEAM;
        own += pack(chunk, local % TEAM, chunk < CHUNKS);
    }
    return own;
}

// Shares what `pack_input` has made with the workgroup.
fn share_input(here: Invocation, own_squares: f32) {
    if NORMED == 1u {
        let own = subgroupAdd(own_squares);
        if here.lane == 0u {
            squares[here.subgroup] = own;
        }
    }
    workgroupBarrier();
}

// What the norm multiplies all of the input with, once that is packed; called by whole subgroups.
fn norm_factor(here: Invocation) -> f32 {
    if NORMED == 0u {
        return 1.0;
    }
    var all = 0.0;
    for (var s = here.lane; s < here.subgroups; s += here.size) {
        all += squares[s];
    }
    return inverseSqrt(subgroupAdd(all) / f32(64u * CHUNKS) + params.eps);
}
