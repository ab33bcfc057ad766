// The query, key and value of one token, made ready by a workgroup for products with what quantized_cache.wgsl has: an
// invocation takes four neighbouring numbers, and eight of a subgroup a group.

// Vec4s of a head.
override HEAD_VEC4S: u32 = HEAD_DIM / 4u;

// The query in pairs of int8s, of which the high ones count 256 units, and unit and sum of each group.
var<workgroup> query_high: array<u32, HEAD_VEC4S>;
var<workgroup> query_low: array<u32, HEAD_VEC4S>;
var<workgroup> query_units: array<vec2<f32>, GROUPS>;
// Key and value as a row has them.
var<workgroup> own_scales: array<vec2<f32>, GROUPS>;
var<workgroup> own_codes: array<vec4<u32>, OWN_VEC4S>;
override OWN_VEC4S: u32 = ROW_VEC4S - SCALE_VEC4S;

fn hadamard_pair(own: vec4<f32>, lane: u32, other: u32) -> vec4<f32> {
    return subgroupShuffleXor(own, other) + select(own, -own, (lane & other) != 0u);
}

// What `hadamard` makes of the 32 numbers of eight neighbouring lanes.
fn hadamard_across(four: vec4<f32>, lane: u32) -> vec4<f32> {
    let own = HADAMARD * four * inverseSqrt(32.0);
    return hadamard_pair(hadamard_pair(hadamard_pair(own, lane, 1u), lane, 2u), lane, 4u);
}

fn max_across(own: u32) -> u32 {
    let two = max(own, subgroupShuffleXor(own, 1u));
    let four = max(two, subgroupShuffleXor(two, 2u));
    return max(four, subgroupShuffleXor(four, 4u));
}

fn sum_across(own: f32) -> f32 {
    let two = own + subgroupShuffleXor(own, 1u);
    let four = two + subgroupShuffleXor(two, 2u);
    return four + subgroupShuffleXor(four, 4u);
}

// Leaves four numbers, of the query (0), the key (1) or the value (2), in workgroup memory; `at` is their place in a
// head. All lanes of a subgroup call it.
fn make_ready(four: vec4<f32>, at: u32, part: u32, lane: u32) {
    let numbers = hadamard_across(four, lane);
    // Sizes are compared by their bits, in which NaN is greater than infinity, and infinity than any number.
    let sizes = bitcast<vec4<u32>>(numbers) & vec4<u32>(0x7fffffffu);
    let largest_bits = max_across(max(max(sizes.x, sizes.y), max(sizes.z, sizes.w)));
    let largest = bitcast<f32>(largest_bits);
    let group = at / 8u;
    let unit = largest / 32512.0;
    let whole = vec4<i32>(round(numbers * select(0.0, 1.0 / unit, largest > 0.0)));
    let sum = sum_across(f32(whole.x + whole.y + whole.z + whole.w)) * unit;
    let bits = select(KEY_BITS, VALUE_BITS, part == 2u);
    let most = f32(1u << bits) - 1.0;
    let scale = quantized_scale(largest, most);
    let bytes = four_bytes(numbers, select(0.0, 1.0 / scale, scale > 0.0), most);
    // The first four lanes of a group have what is in the low halves.
    let high_bytes = subgroupShuffleXor(bytes, 4u);
    if part == 0u {
        let high = (whole + 128) >> vec4<u32>(8u);
        query_high[at] = pack4xI8(high);
        query_low[at] = pack4xI8(whole - 256 * high);
        query_units[group] = vec2<f32>(unit, sum);
        return;
    }
    let first = codes_at(0u, group, part == 2u) - SCALE_VEC4S;
    // What is no number counts for NaN here, so that nothing hides it.
    let numbers_all = largest_bits < 0x7f800000u;
    own_scales[group][part - 1u] = select(bitcast<f32>(largest_bits | 0x7fc00000u), scale, numbers_all);
    if bits == 8u {
        own_codes[first + at % 8u / 4u][at % 4u] = bytes ^ select(0x80808080u, 0u, part == 2u);
    } else if at % 8u < 4u {
        own_codes[first][at % 4u] = bytes | (high_bytes << 4u);
    }
}

// A group of the query.
struct Query {
    high: array<vec4<u32>, 2>,
    low: array<vec4<u32>, 2>,
    unit: f32,
    // The sum of all numbers.
    sum: f32,
}

fn four_words(group: u32, half: u32, high: bool) -> vec4<u32> {
    let at = group * 8u + half * 4u;
    if high {
        return vec4<u32>(query_high[at], query_high[at + 1u], query_high[at + 2u], query_high[at + 3u]);
    }
    return vec4<u32>(query_low[at], query_low[at + 1u], query_low[at + 2u], query_low[at + 3u]);
}

// What `make_ready` left of a group of the query.
fn ready_query(group: u32) -> Query {
    return Query(
        array<vec4<u32>, 2>(four_words(group, 0u, true), four_words(group, 1u, true)),
        array<vec4<u32>, 2>(four_words(group, 0u, false), four_words(group, 1u, false)),
        query_units[group].x, query_units[group].y,
    );
}

fn dot_sixteen(a: vec4<u32>, b: vec4<u32>) -> i32 {
    return dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y) + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w);
}

// The query times a group of a key.
fn score_of(query: Query, codes: Codes) -> f32 {
    let key = bytes_of(codes, KEY_BITS);
    let high = dot_sixteen(query.high[0], key.first) + dot_sixteen(query.high[1], key.second);
    let low = dot_sixteen(query.low[0], key.first) + dot_sixteen(query.low[1], key.second);
    let middle = middle_of(KEY_BITS) - select(0.0, 128.0, KEY_BITS == 8u);
    return (f32(high * 256 + low) * query.unit - middle * query.sum) * codes.scale;
}
