// Keys and values in few bits: groups of 32 numbers, multiplied by a Hadamard matrix so that none stands out, and then
// codes of four or eight bits with a scale. Code c of b bits means (c - (2^b - 1) / 2) * scale.
//
// A row is a head's key and value at a position: a word a group with the scales of key and value, as f16, padded to
// vec4s; the codes of the key; the codes of the value. A group's four-bit codes are in one vec4, the first sixteen in
// the low halves of its bytes and the others in the high ones; eight-bit codes are in two, those of keys less 128.

override HEAD_DIM: u32 = 128u;
// 4 or 8.
override KEY_BITS: u32 = 8u;
override VALUE_BITS: u32 = 8u;
override GROUPS: u32 = HEAD_DIM / 32u;
// vec4s of a row's scales, of a group's codes, and of a row.
override SCALE_VEC4S: u32 = (GROUPS + 3u) / 4u;
override KEY_VEC4S: u32 = KEY_BITS / 4u;
override VALUE_VEC4S: u32 = VALUE_BITS / 4u;
override ROW_VEC4S: u32 = SCALE_VEC4S + GROUPS * (KEY_VEC4S + VALUE_VEC4S);

const HADAMARD: mat4x4<f32> = mat4x4<f32>(
    1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0, -1.0, -1.0, 1.0,
);

// 32 numbers in their order, as matrices, which are added and scaled as a whole.
struct Group {
    first: mat4x4<f32>,
    second: mat4x4<f32>,
}

// The codes of a group, in one vec4 or two, and their scale.
struct Codes {
    first: vec4<u32>,
    second: vec4<u32>,
    scale: f32,
}

// Where a group's codes of the key, or of the value, are in the row that begins at `row`.
fn codes_at(row: u32, group: u32, of_value: bool) -> u32 {
    let codes = row + SCALE_VEC4S;
    return select(codes + group * KEY_VEC4S, codes + GROUPS * KEY_VEC4S + group * VALUE_VEC4S, of_value);
}

// Times the Hadamard matrix of 32 by 32 over sqrt(32), which is its own inverse.
fn hadamard(group: Group) -> Group {
    let first = HADAMARD * group.first * HADAMARD;
    let second = HADAMARD * group.second * HADAMARD;
    let factor = inverseSqrt(32.0);
    return Group((first + second) * factor, (first - second) * factor);
}

fn f16_in(words: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}

// 32 numbers that are f16.
fn group_of(a: vec4<u32>, b: vec4<u32>, c: vec4<u32>, d: vec4<u32>) -> Group {
    return Group(
        mat4x4<f32>(f16_in(a.xy), f16_in(a.zw), f16_in(b.xy), f16_in(b.zw)),
        mat4x4<f32>(f16_in(c.xy), f16_in(c.zw), f16_in(d.xy), f16_in(d.zw)),
    );
}

fn largest_column(m: mat4x4<f32>) -> vec4<f32> {
    return max(max(abs(m[0]), abs(m[1])), max(abs(m[2]), abs(m[3])));
}

// The number of a group that is furthest from zero, without its sign.
fn largest_of(group: Group) -> f32 {
    let four = max(largest_column(group.first), largest_column(group.second));
    return max(max(four.x, four.y), max(four.z, four.w));
}

// Four codes as bytes, of numbers times `by`.
fn four_bytes(numbers: vec4<f32>, by: f32, most: f32) -> u32 {
    let nearest = floor(numbers * by + 0.5 * (most + 1.0));
    return pack4xU8(vec4<u32>(clamp(nearest, vec4<f32>(), vec4<f32>(most))));
}

fn sixteen_bytes(m: mat4x4<f32>, by: f32, most: f32) -> vec4<u32> {
    return vec4<u32>(
        four_bytes(m[0], by, most), four_bytes(m[1], by, most), four_bytes(m[2], by, most), four_bytes(m[3], by, most),
    );
}

// The scale of codes up to `most`, as a row has it, so that they are the nearest to what they will mean.
fn quantized_scale(largest: f32, most: f32) -> f32 {
    return unpack2x16float(pack2x16float(vec2<f32>(min(largest * 2.0 / most, 65504.0), 0.0))).x;
}

// The codes of a group after the Hadamard transform.
fn quantized(group: Group, bits: u32, of_value: bool) -> Codes {
    let most = f32(1u << bits) - 1.0;
    let scale = quantized_scale(largest_of(group), most);
    let by = select(0.0, 1.0 / scale, scale > 0.0);
    let first = sixteen_bytes(group.first, by, most);
    let second = sixteen_bytes(group.second, by, most);
    if bits == 8u {
        let sign = vec4<u32>(select(0x80808080u, 0u, of_value));
        return Codes(first ^ sign, second ^ sign, scale);
    }
    return Codes(first | (second << vec4<u32>(4u)), vec4<u32>(), scale);
}

// A group's codes as bytes.
fn bytes_of(codes: Codes, bits: u32) -> Codes {
    if bits == 8u {
        return codes;
    }
    let low = vec4<u32>(0x0f0f0f0fu);
    return Codes(codes.first & low, (codes.first >> vec4<u32>(4u)) & low, codes.scale);
}

// Four bytes and 1024, by way of f16, whose last bit counts one there, in place of conversions of integers.
fn four_numbers(word: u32) -> vec4<f32> {
    let even = unpack2x16float((word & 0x00ff00ffu) | 0x64006400u);
    let odd = unpack2x16float(((word >> 8u) & 0x00ff00ffu) | 0x64006400u);
    return vec4<f32>(even.x, odd.x, even.y, odd.y);
}

fn sixteen_numbers(words: vec4<u32>) -> mat4x4<f32> {
    return mat4x4<f32>(four_numbers(words.x), four_numbers(words.y), four_numbers(words.z), four_numbers(words.w));
}

// A matrix whose every entry is the number.
fn all_of(number: f32) -> mat4x4<f32> {
    let four = vec4<f32>(number);
    return mat4x4<f32>(four, four, four, four);
}

// The code that would mean zero.
fn middle_of(bits: u32) -> f32 {
    return 0.5 * (f32(1u << bits) - 1.0);
}
