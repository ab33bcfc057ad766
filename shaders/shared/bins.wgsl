// What the codes of a weight's groups mean: binding 4 of every kernel that reads a weight in slices.
// src/format/codes.rs describes the format.

// (lo, step) of each group, two f16.
@group(0) @binding(4) var<storage, read> scales: array<u32>;

// The low two bits of each byte of a slice's word: the slice's bits of four neighbours.
const LOW_PAIRS: vec4<u32> = vec4<u32>(0x03030303u);

// The bits in plane i of a slice's words: those of neighbours 4i to 4i + 3 of each word's sixteen.
fn pairs_at(words: vec4<u32>, i: u32) -> vec4<u32> {
    return (words >> vec4<u32>(2u * i)) & LOW_PAIRS;
}

// The eight-bit codes of four neighbours, as bytes, by their pairs of bits in each slice, whose unread ones count as
// zero.
fn code_bytes(pairs: vec4<u32>, depth: u32) -> u32 {
    var bytes = pairs.x << 6u;
    if depth > 1u {
        bytes |= pairs.y << 4u;
    }
    if depth > 2u {
        bytes |= pairs.z << 2u;
    }
    if depth > 3u {
        bytes |= pairs.w;
    }
    return bytes;
}

// The width of the finest bin of a group, by its scale, and the middle of the bin that an all-zero code names at
// `depth`; weight = code * x + y.
fn bin_of(scale: u32, depth: u32) -> vec2<f32> {
    let lo_step = unpack2x16float(scale);
    let finest = lo_step.y / 64.0;
    return vec2<f32>(finest, lo_step.x + finest * 0.5 * f32(1u << (8u - 2u * depth)));
}

// The same for the group that chunk `at` lies in. Rows are whole numbers of groups, so groups count on over all rows.
fn bin(at: u32, group_chunks: u32, depth: u32) -> vec2<f32> {
    return bin_of(scales[at / group_chunks], depth);
}
