// A chunk of 64 weights times 64 numbers that are pairs of int8s: within a chunk all is whole numbers, of which the
// chunk's ranges make f32.
// src/kernels/project/packed.rs describes the layout of the pairs. A kernel imports `packed_input`.

// 64 numbers: word c of plane i has those that belong to weights 16c + 4i to 16c + 4i + 3.
struct Input {
    high: array<vec4<u32>, 4>,
    low: array<vec4<u32>, 4>,
    // What a low int8 counts for, and the sum of the numbers: of all in x, or, where ranges are words, of those of the
    // chunk's halves.
    unit: f32,
    sums: vec2<f32>,
}

// A sum over the chunk in x, or, where ranges are words, the sums over its halves.
fn dot_words(a: vec4<u32>, b: vec4<u32>) -> vec2<i32> {
    let x = dot4I8Packed(a.x, b.x) + dot4I8Packed(a.y, b.y);
    if WORD_RANGES == 1u {
        return vec2<i32>(x, dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w));
    }
    return vec2<i32>(x + dot4I8Packed(a.z, b.z) + dot4I8Packed(a.w, b.w), 0);
}

fn dot_planes(codes0: vec4<u32>, codes1: vec4<u32>, codes2: vec4<u32>, codes3: vec4<u32>, input: Input) -> vec2<i32> {
    let high = dot_words(codes0, input.high[0]) + dot_words(codes1, input.high[1])
        + dot_words(codes2, input.high[2]) + dot_words(codes3, input.high[3]);
    let low = dot_words(codes0, input.low[0]) + dot_words(codes1, input.low[1])
        + dot_words(codes2, input.low[2]) + dot_words(codes3, input.low[3]);
    return HIGH * high + low;
}

// The two-bit codes of a slice times the numbers.
fn dot_slice(slice: vec4<u32>, input: Input) -> vec2<i32> {
    return dot_planes(pairs_at(slice, 0u), pairs_at(slice, 1u), pairs_at(slice, 2u), pairs_at(slice, 3u), input);
}

// The bits of two slices side by side, four for each weight: those of planes 0 and 2 in the low and the high half of
// each byte.
fn weave_even(high: vec4<u32>, low: vec4<u32>) -> vec4<u32> {
    return ((high << vec4<u32>(2u)) & vec4<u32>(0xccccccccu)) | (low & vec4<u32>(0x33333333u));
}

// The same for planes 1 and 3.
fn weave_odd(high: vec4<u32>, low: vec4<u32>) -> vec4<u32> {
    return (high & vec4<u32>(0xccccccccu)) | ((low >> vec4<u32>(2u)) & vec4<u32>(0x33333333u));
}

// The four-bit codes of two slices times the numbers.
fn dot_two_slices(high: vec4<u32>, low: vec4<u32>, input: Input) -> vec2<i32> {
    let four = vec4<u32>(4u);
    let nibbles = vec4<u32>(0x0f0f0f0fu);
    let even = weave_even(high, low);
    let odd = weave_odd(high, low);
    return dot_planes(even & nibbles, odd & nibbles, (even >> four) & nibbles, (odd >> four) & nibbles, input);
}

// The eight-bit codes of four slices, less 128, in planes. Slices that are not read are zero.
fn codes_of(base: vec4<u32>, first: vec4<u32>, second: vec4<u32>, third: vec4<u32>) -> array<vec4<u32>, 4> {
    let four = vec4<u32>(4u);
    let low = vec4<u32>(0x0f0f0f0fu);
    let high = vec4<u32>(0xf0f0f0f0u);
    // A code with its highest bit inverted is the int8 that is 128 less.
    let signed = base ^ vec4<u32>(0xaaaaaaaau);
    let upper_even = weave_even(signed, first);
    let upper_odd = weave_odd(signed, first);
    let lower_even = weave_even(second, third);
    let lower_odd = weave_odd(second, third);
    return array<vec4<u32>, 4>(
        ((upper_even << four) & high) | (lower_even & low),
        ((upper_odd << four) & high) | (lower_odd & low),
        (upper_even & high) | ((lower_even >> four) & low),
        (upper_odd & high) | ((lower_odd >> four) & low),
    );
}

// These codes times the numbers.
fn dot_four_slices(
    base: vec4<u32>, first: vec4<u32>, second: vec4<u32>, third: vec4<u32>, input: Input,
) -> vec2<i32> {
    let codes = codes_of(base, first, second, third);
    return dot_planes(codes[0], codes[1], codes[2], codes[3], input);
}

// The part of a row's product that lies in a chunk, by its range as a pair, the product of its codes, and the sum of
// the numbers: what one of a code counts for in parts of the step, and how many such parts the middle of the bin of an
// all-zero code is above the lowest weight. Products and sums are joined explicitly, so that one token and several
// round alike.
fn part_by_pair(range: u32, one: f32, zero: f32, unit: f32, dots: i32, sum: f32) -> f32 {
    let lo_step = unpack2x16float(range);
    let own = lo_step.y * one;
    return fma(own * unit, f32(dots), fma(own, zero, lo_step.x) * sum);
}

// The same by its range in words, where codes and numbers are multiplied and summed up by halves. Each half is
// v * (one * codes * numbers + (zero - z / 2) * numbers), with z made a float by its bits, as 1 + z / 128.
fn part_by_words(range: u32, one: f32, zero: f32, unit: f32, dots: vec2<i32>, sums: vec2<f32>) -> f32 {
    let v = unpack2x16float((range & 0x01ff01ffu) << 5u);
    let z = bitcast<vec2<f32>>((vec2<u32>(range << 7u, range >> 9u) & vec2<u32>(0x7f0000u)) | vec2<u32>(0x3f800000u));
    let zeros = vec2<f32>(zero + 64.0) - 64.0 * z;
    let halves = fma(vec2<f32>(one * unit), vec2<f32>(dots), zeros * sums);
    return fma(v.x, halves.x, v.y * halves.y);
}

// What `part_by_pair`, or `part_by_words`, takes at a depth as `one` and `zero`. Codes of eight bits are less 128.
fn scale_at(slices: u32) -> vec2<f32> {
    let one = 1.0 / f32(1u << (2u * slices - 2u));
    if WORD_RANGES == 1u {
        return select(vec2<f32>(16.0 * one, 8.0 * one), vec2<f32>(0.25, 8.0 * one + 32.0), slices > 2u);
    }
    let wide = vec2<f32>(0.015625, 128.0 + 0.5 * f32(1u << (8u - 2u * slices)));
    return select(vec2<f32>(one, 0.5), wide, slices > 2u);
}
