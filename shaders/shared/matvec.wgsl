// What the products of few tokens share: four rows of one token, in chunks of 64 weights.

@group(0) @binding(5) var<storage, read> x: array<vec4<f32>>;
// The depth of each token.
@group(0) @binding(6) var<storage, read> depths: array<u32>;

// Chunks `at` of four rows.
fn load_chunks(at: vec4<u32>, depth: u32) -> array<Chunk, 4> {
    return array<Chunk, 4>(
        load_chunk(at.x, depth), load_chunk(at.y, depth), load_chunk(at.z, depth), load_chunk(at.w, depth),
    );
}

fn dot_codes(chunk: Chunk, i: u32, depth: u32, x_t: mat4x4<f32>) -> f32 {
    let c = codes(chunk, i, depth);
    return dot(c[0], x_t[0]) + dot(c[1], x_t[1]) + dot(c[2], x_t[2]) + dot(c[3], x_t[3]);
}

// The codes of plane i of four rows times x; column c of `x_t` holds numbers 16c + 4i to 16c + 4i + 3 of the chunk.
fn dot_plane(chunks: array<Chunk, 4>, i: u32, depth: u32, x_t: mat4x4<f32>) -> vec4<f32> {
    return vec4<f32>(
        dot_codes(chunks[0], i, depth, x_t),
        dot_codes(chunks[1], i, depth, x_t),
        dot_codes(chunks[2], i, depth, x_t),
        dot_codes(chunks[3], i, depth, x_t),
    );
}

// What chunks `at` add to the products of their rows, from the products of their codes and the sum of x.
fn scaled(at: vec4<u32>, depth: u32, products: vec4<f32>, x_sum: f32) -> vec4<f32> {
    let bin0 = bin(at.x, params.group_chunks, depth);
    let bin1 = bin(at.y, params.group_chunks, depth);
    let bin2 = bin(at.z, params.group_chunks, depth);
    let bin3 = bin(at.w, params.group_chunks, depth);
    return vec4<f32>(bin0.x, bin1.x, bin2.x, bin3.x) * products
        + vec4<f32>(bin0.y, bin1.y, bin2.y, bin3.y) * x_sum;
}
