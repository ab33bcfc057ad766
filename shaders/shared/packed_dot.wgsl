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

fn dot_plane_words(codes: array<vec4<u32>, 4>, numbers: array<vec4<u32>, 4>) -> vec2<i32> {
    return dot_words(codes[0], numbers[0]) + dot_words(codes[1], numbers[1])
        + dot_words(codes[2], numbers[2]) + dot_words(codes[3], numbers[3]);
}

// Codes in planes, read so many slices deep, times the numbers. At depth 1 the numbers are their high int8s alone: the
// error is far less than that of weights of two bits.
fn dot_planes(codes: array<vec4<u32>, 4>, slices: u32, input: Input) -> vec2<i32> {
    let high = HIGH * dot_plane_words(codes, input.high);
    if slices == 1u {
        return high;
    }
    return high + dot_plane_words(codes, input.low);
}

// The eight-bit codes of the base slice alone, less 128, in planes: as they lie around zero, what low int8s would add is
// less than with codes of two bits. The highest bits of codes are inverted before these are taken apart, which is one
// instruction for sixteen.
fn base_codes_of(slice: vec4<u32>) -> array<vec4<u32>, 4> {
    let signed = slice ^ vec4<u32>(0xaaaaaaaau);
    let top = vec4<u32>(0xc0c0c0c0u);
    return array<vec4<u32>, 4>(
        (signed << vec4<u32>(6u)) & top,
        (signed << vec4<u32>(4u)) & top,
        (signed << vec4<u32>(2u)) & top,
        signed & top,
    );
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

// The four-bit codes of two slices, in planes.
fn nibbles_of(high: vec4<u32>, low: vec4<u32>) -> array<vec4<u32>, 4> {
    let four = vec4<u32>(4u);
    let nibbles = vec4<u32>(0x0f0f0f0fu);
    let even = weave_even(high, low);
    let odd = weave_odd(high, low);
    return array<vec4<u32>, 4>(even & nibbles, odd & nibbles, (even >> four) & nibbles, (odd >> four) & nibbles);
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

// What the codes of a chunk's halves stand for at a depth. Where ranges are words, a code stands for
// scale * (one * code + offset), with `one` of the depth, as below. Where they are pairs, it stands for
// scale * code + offset in both halves, and x has these.
struct Affine {
    scale: vec2<f32>,
    offset: vec2<f32>,
}

// By its range: `one` is what one of a code counts for in parts of the step, and `zero` how many such parts the middle
// of the bin of an all-zero code is above the lowest weight. Half of a word stands for v * (one * code + zero - z / 2),
// with z made a float by its bits, as 1 + z / 128.
fn affine_of(range: u32, one: f32, zero: f32) -> Affine {
    if WORD_RANGES == 1u {
        let v = unpack2x16float((range & 0x01ff01ffu) << 5u);
        let z = (vec2<u32>(range << 7u, range >> 9u) & vec2<u32>(0x7f0000u)) | vec2<u32>(0x3f800000u);
        return Affine(v, vec2<f32>(zero + 64.0) - 64.0 * bitcast<vec2<f32>>(z));
    }
    let lo_step = unpack2x16float(range);
    let own = lo_step.y * one;
    return Affine(vec2<f32>(own, 0.0), vec2<f32>(fma(own, zero, lo_step.x), 0.0));
}

// The part of a row's product that lies in a chunk, by the product of its codes with the numbers and the sums of these.
// Products and sums are joined explicitly, so that one token and several round alike.
fn part_of(affine: Affine, one: f32, unit: f32, dots: vec2<i32>, sums: vec2<f32>) -> f32 {
    if WORD_RANGES == 1u {
        let halves = fma(vec2<f32>(one * unit), vec2<f32>(dots), affine.offset * sums);
        return fma(affine.scale.x, halves.x, affine.scale.y * halves.y);
    }
    return fma(affine.scale.x * unit, f32(dots.x), affine.offset.x * sums.x);
}

// Whether codes are of eight bits, less 128, at a depth; otherwise they are of four bits.
fn is_wide(slices: u32) -> bool {
    return slices != 2u;
}

// What `affine_of` takes at a depth as `one` and `zero`.
fn scale_at(slices: u32) -> vec2<f32> {
    let one = 1.0 / f32(1u << (2u * slices - 2u));
    if WORD_RANGES == 1u {
        return select(vec2<f32>(16.0 * one, 8.0 * one), vec2<f32>(0.25, 8.0 * one + 32.0), is_wide(slices));
    }
    let wide = vec2<f32>(0.015625, 128.0 + 0.5 * f32(1u << (8u - 2u * slices)));
    return select(vec2<f32>(one, 0.5), wide, is_wide(slices));
}
