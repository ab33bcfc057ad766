// A chunk of 64 weights times 64 numbers that are pairs of int8s: within a chunk all is whole numbers.
// src/kernels/project/packed.rs describes the layout of the pairs.

// What a high int8 counts for, in low ones.
const HIGH: i32 = 256;

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

// The eight-bit codes of four slices, less 128, times the numbers.
fn dot_four_slices(
    base: vec4<u32>, first: vec4<u32>, second: vec4<u32>, third: vec4<u32>, input: Input,
) -> vec2<i32> {
    let four = vec4<u32>(4u);
    let low = vec4<u32>(0x0f0f0f0fu);
    let high = vec4<u32>(0xf0f0f0f0u);
    // A code with its highest bit inverted is the int8 that is 128 less.
    let signed = base ^ vec4<u32>(0xaaaaaaaau);
    let upper_even = weave_even(signed, first);
    let upper_odd = weave_odd(signed, first);
    let lower_even = weave_even(second, third);
    let lower_odd = weave_odd(second, third);
    return dot_planes(
        ((upper_even << four) & high) | (lower_even & low),
        ((upper_odd << four) & high) | (lower_odd & low),
        (upper_even & high) | ((lower_even >> four) & low),
        (upper_odd & high) | ((lower_odd >> four) & low),
        input,
    );
}
