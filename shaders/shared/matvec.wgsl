// What the products of few tokens share: four rows of one token, in chunks of 64 weights.

@group(0) @binding(8) var<storage, read> x: array<vec4<f32>>;
// The depth of each token.
@group(0) @binding(9) var<storage, read> depths: array<u32>;

// Chunks `at` of four rows.
fn load_chunks(at: vec4<u32>, depth: u32) -> array<Chunk, 4> {
    return array<Chunk, 4>(
        load_chunk(at.x, depth), load_chunk(at.y, depth), load_chunk(at.z, depth), load_chunk(at.w, depth),
    );
}

// A sum over the chunk, where its range is one; else the sums over its halves.
fn dot_codes(chunk: Chunk, i: u32, depth: u32, x_t: mat4x4<f32>) -> vec2<f32> {
    let c = codes(chunk, i, depth);
    if WORD_RANGES == 1u {
        return vec2<f32>(dot(c[0], x_t[0]) + dot(c[1], x_t[1]), dot(c[2], x_t[2]) + dot(c[3], x_t[3]));
    }
    return vec2<f32>(dot(c[0], x_t[0]) + dot(c[1], x_t[1]) + dot(c[2], x_t[2]) + dot(c[3], x_t[3]), 0.0);
}

// The codes of plane i of four rows times x, a column for each row; column c of `x_t` holds numbers 16c + 4i to
// 16c + 4i + 3 of the chunk.
fn dot_plane(chunks: array<Chunk, 4>, i: u32, depth: u32, x_t: mat4x4<f32>) -> mat4x2<f32> {
    return mat4x2<f32>(
        dot_codes(chunks[0], i, depth, x_t),
        dot_codes(chunks[1], i, depth, x_t),
        dot_codes(chunks[2], i, depth, x_t),
        dot_codes(chunks[3], i, depth, x_t),
    );
}

// What a chunk with this range adds to the product of its row, from the products of its codes and the sum of x, each
// over the chunk or over its halves.
fn scaled_row(range: u32, depth: u32, products: vec2<f32>, x_sums: vec2<f32>) -> f32 {
    let bin = bin_of(range, 0u, depth);
    let sum = bin.x * products.x + bin.y * x_sums.x;
    if WORD_RANGES == 1u {
        let second = bin_of(range, 1u, depth);
        return sum + second.x * products.y + second.y * x_sums.y;
    }
    return sum;
}

// The same for four rows.
fn scaled(ranges: vec4<u32>, depth: u32, products: mat4x2<f32>, x_sums: vec2<f32>) -> vec4<f32> {
    return vec4<f32>(
        scaled_row(ranges.x, depth, products[0], x_sums),
        scaled_row(ranges.y, depth, products[1], x_sums),
        scaled_row(ranges.z, depth, products[2], x_sums),
        scaled_row(ranges.w, depth, products[3], x_sums),
    );
}
