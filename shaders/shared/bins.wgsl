// What the codes of a weight's groups mean: bindings 4 to 7 of every kernel that reads a weight in slices.
// src/format/codes.rs describes the format.

// 1: ranges are words, one of each depth for 32 weights; 0: pairs, which serve all depths, one for each group.
override WORD_RANGES: u32 = 0u;

// The ranges that each depth reads. As words, the two of a chunk of 64 weights in one u32, with the first half's in the
// low bits; as pairs, (lo, step) of a group in two f16, the same at all depths.
@group(0) @binding(4) var<storage, read> ranges_1: array<u32>;
@group(0) @binding(5) var<storage, read> ranges_2: array<u32>;
@group(0) @binding(6) var<storage, read> ranges_3: array<u32>;
@group(0) @binding(7) var<storage, read> ranges_4: array<u32>;

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

// Where in the ranges chunks `at` have theirs, counted over all rows: rows are whole numbers of groups.
fn groups_of(at: vec4<u32>, group_chunks: u32) -> vec4<u32> {
    if WORD_RANGES == 1u {
        return at;
    }
    return at / group_chunks;
}

fn group_of(at: u32, group_chunks: u32) -> u32 {
    if WORD_RANGES == 1u {
        return at;
    }
    return at / group_chunks;
}

// The range of a group at a depth.
fn load_range(group: u32, depth: u32) -> u32 {
    if WORD_RANGES == 0u || depth == 1u {
        return ranges_1[group];
    }
    if depth == 2u {
        return ranges_2[group];
    }
    if depth == 3u {
        return ranges_3[group];
    }
    return ranges_4[group];
}

// The same for four of them.
fn load_ranges(groups: vec4<u32>, depth: u32) -> vec4<u32> {
    if WORD_RANGES == 0u || depth == 1u {
        return vec4<u32>(ranges_1[groups.x], ranges_1[groups.y], ranges_1[groups.z], ranges_1[groups.w]);
    }
    if depth == 2u {
        return vec4<u32>(ranges_2[groups.x], ranges_2[groups.y], ranges_2[groups.z], ranges_2[groups.w]);
    }
    if depth == 3u {
        return vec4<u32>(ranges_3[groups.x], ranges_3[groups.y], ranges_3[groups.z], ranges_3[groups.w]);
    }
    return vec4<u32>(ranges_4[groups.x], ranges_4[groups.y], ranges_4[groups.z], ranges_4[groups.w]);
}

// The width of the finest bin of half a chunk, 0 or 1, by the chunk's range, and the middle of the bin that an all-zero
// code names at `depth`; weight = code * x + y.
fn bin_of(range: u32, half: u32, depth: u32) -> vec2<f32> {
    if WORD_RANGES == 1u {
        let word = range >> (16u * half);
        let v = unpack2x16float((word & 0x1ffu) << 5u).x;
        let zero = f32((word >> 9u) & 0x7fu);
        return v * vec2<f32>(0.25, f32(1u << (8u - 2u * depth)) * 0.125 - 0.5 * zero);
    }
    let lo_step = unpack2x16float(range);
    let finest = lo_step.y / 64.0;
    return vec2<f32>(finest, lo_step.x + finest * 0.5 * f32(1u << (8u - 2u * depth)));
}
