// Weights as f16 in workgroup memory, for cooperative matrices. A kernel has them in `w_tile`, fours of neighbours in an
// entry, each in the order 0, 2, 1, 3, as gather_inputs.wgsl has x.
//
// Reads have no branches, as a compiler puts off what stands in a branch until its words are needed, and memory is far.
// What a depth does not read is read from the beginning of its buffer, over and over, and masked where it is used.

// How a tile reads a weight.
struct Reading {
    depth: u32,
    // What counts of a word of the first, second and third slice after the base; nothing, where the depth does not read
    // it. Each has every other pair of bits of the codes.
    first: u32,
    second: u32,
    third: u32,
    // Two f16 that are 1, by their bits. No compiler knows this number, so that it keeps it in a register, and a mask and
    // these bits are one instruction and not two.
    ones: u32,
}

fn reading_of(depth: u32) -> Reading {
    return Reading(
        depth,
        select(0u, 0x33333333u, depth > 1u),
        select(0u, 0xccccccccu, depth > 2u),
        select(0u, 0x33333333u, depth > 3u),
        0x3c003c00u * min(params.chunks, 1u),
    );
}

// Where a slice is read, of which a depth reads entry `at` or nothing.
fn place_of(at: u32, is_read: bool) -> u32 {
    return select(0u, at, is_read);
}

// The range of chunk `at`, counted over all rows.
fn begin_range(at: u32, reading: Reading) -> u32 {
    if WORD_RANGES == 0u {
        return ranges_1[group_of(at, params.group_chunks)];
    }
    let depth = reading.depth;
    let lower = select(ranges_1[place_of(at, depth == 1u)], ranges_2[place_of(at, depth == 2u)], depth == 2u);
    let upper = select(ranges_3[place_of(at, depth == 3u)], ranges_4[place_of(at, depth == 4u)], depth == 4u);
    return select(lower, upper, depth > 2u);
}

// A code of eight bits with 0x4c00 above it is the f16 that is 16 more than a 64th of the code, which counts the base's
// bins; their width is an f16 as it is.
fn weights_of(bytes: u32, width: vec4<f16>, middle: vec4<f16>, ones: u32) -> vec4<f16> {
    let sixteens = ones + 0x10001000u;
    let even = unpack2x16float((bytes & 0x00ff00ffu) | sixteens);
    let odd = unpack2x16float(((bytes >> 8u) & 0x00ff00ffu) | sixteens);
    return fma(vec4<f16>(vec2<f16>(even), vec2<f16>(odd)) - vec4<f16>(16.0h), width, middle);
}

// Unpacks sixteen neighbours, by a word of each slice, to four entries from `to` on. Of each byte of a word, planes 0 and
// 2 are the even pairs of bits, and planes 1 and 3 the odd ones.
fn stage_word(to: u32, words: vec4<u32>, bin: vec2<f32>, reading: Reading) {
    let width = vec4<f16>(f16(64.0 * bin.x));
    let middle = vec4<f16>(f16(bin.y));
    let even_high = ((words.x << 2u) & 0xccccccccu) | (words.y & reading.first);
    let even_low = ((words.z << 2u) & reading.second) | (words.w & reading.third);
    let odd_high = (words.x & 0xccccccccu) | ((words.y >> 2u) & reading.first);
    let odd_low = (words.z & reading.second) | ((words.w >> 2u) & reading.third);
    let even_first = ((even_high << 4u) & 0xf0f0f0f0u) | (even_low & 0x0f0f0f0fu);
    let even_second = (even_high & 0xf0f0f0f0u) | ((even_low >> 4u) & 0x0f0f0f0fu);
    let odd_first = ((odd_high << 4u) & 0xf0f0f0f0u) | (odd_low & 0x0f0f0f0fu);
    let odd_second = (odd_high & 0xf0f0f0f0u) | ((odd_low >> 4u) & 0x0f0f0f0fu);
    w_tile[to] = weights_of(even_first, width, middle, reading.ones);
    w_tile[to + 1u] = weights_of(odd_first, width, middle, reading.ones);
    w_tile[to + 2u] = weights_of(even_second, width, middle, reading.ones);
    w_tile[to + 3u] = weights_of(odd_second, width, middle, reading.ones);
}

// Whether codes have four bits at most, which take half the instructions.
fn has_nibbles(reading: Reading) -> bool {
    return reading.depth < 3u;
}

// A code of four bits in bits 6 to 9 of an f16 that is 1 makes it one and a 16th of the code.
fn ones_and_codes(low: u32, high: u32, ones: u32) -> vec4<f16> {
    let even = unpack2x16float((low & 0x03c003c0u) | ones);
    let odd = unpack2x16float((high & 0x03c003c0u) | ones);
    return vec4<f16>(vec2<f16>(even), vec2<f16>(odd));
}

// `stage_word` for such codes, by a word of the base and of the first slice after it.
fn stage_nibbles(to: u32, base: u32, first: u32, bin: vec2<f32>, reading: Reading) {
    // What all codes span, and the middle of the lowest bin less that, as codes come with a 1.
    let span = vec4<f16>(f16(256.0 * bin.x));
    let middle = vec4<f16>(f16(bin.y - 256.0 * bin.x));
    let even = ((base << 2u) & 0xccccccccu) | (first & reading.first);
    let odd = (base & 0xccccccccu) | ((first >> 2u) & reading.first);
    w_tile[to] = fma(ones_and_codes(even << 6u, even >> 2u, reading.ones), span, middle);
    w_tile[to + 1u] = fma(ones_and_codes(odd << 6u, odd >> 2u, reading.ones), span, middle);
    w_tile[to + 2u] = fma(ones_and_codes(even << 2u, even >> 6u, reading.ones), span, middle);
    w_tile[to + 3u] = fma(ones_and_codes(odd << 2u, odd >> 6u, reading.ones), span, middle);
}
