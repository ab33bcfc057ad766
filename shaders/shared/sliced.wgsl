// A weight in slices: bindings 0 to 3 of the kernels that read 64 neighbours of a row at once, and these as numbers.
// src/format/codes.rs describes the format.

@group(0) @binding(0) var<storage, read> base_slice: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> first_slice: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> second_slice: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> third_slice: array<vec4<u32>>;

// One vec4<u32> of each slice: 64 weights of one row. Slices that are not read are zero.
struct Chunk {
    base_slice: vec4<u32>,
    first_slice: vec4<u32>,
    second_slice: vec4<u32>,
    third_slice: vec4<u32>,
}

// Chunk `at` of the weight, counted over all rows.
fn load_chunk(at: u32, depth: u32) -> Chunk {
    var chunk = Chunk(base_slice[at], vec4<u32>(), vec4<u32>(), vec4<u32>());
    if depth > 1u {
        chunk.first_slice = first_slice[at];
    }
    if depth > 2u {
        chunk.second_slice = second_slice[at];
    }
    if depth > 3u {
        chunk.third_slice = third_slice[at];
    }
    return chunk;
}

// The bins of a chunk's halves, by its range.
fn bins_of(range: u32, depth: u32) -> vec4<f32> {
    let first = bin_of(range, 0u, depth);
    if WORD_RANGES == 1u {
        return vec4<f32>(first, bin_of(range, 1u, depth));
    }
    return vec4<f32>(first, first);
}

// The bin of the weights in word `word` of a chunk.
fn bin_of_word(bins: vec4<f32>, word: u32) -> vec2<f32> {
    if WORD_RANGES == 1u && word > 1u {
        return bins.zw;
    }
    return bins.xy;
}

// The codes of four neighbours from each of the chunk's four words: column c holds those of weights
// 16c + 4i to 16c + 4i + 3, as eight-bit codes whose unread low bits are zero.
fn codes(chunk: Chunk, i: u32, depth: u32) -> mat4x4<f32> {
    var bytes = pairs_at(chunk.base_slice, i) << vec4<u32>(6u);
    if depth > 1u {
        bytes |= pairs_at(chunk.first_slice, i) << vec4<u32>(4u);
    }
    if depth > 2u {
        bytes |= pairs_at(chunk.second_slice, i) << vec4<u32>(2u);
    }
    if depth > 3u {
        bytes |= pairs_at(chunk.third_slice, i);
    }
    return mat4x4<f32>(
        vec4<f32>(unpack4xU8(bytes.x)),
        vec4<f32>(unpack4xU8(bytes.y)),
        vec4<f32>(unpack4xU8(bytes.z)),
        vec4<f32>(unpack4xU8(bytes.w)),
    );
}
