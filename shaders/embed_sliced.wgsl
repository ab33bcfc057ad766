// y[t, :] = row ids[t] of the embedding, read at `depth`; an invocation writes 64 numbers of a token.
// A dispatch covers the rows first_row to first_row + rows of the whole embedding and leaves other tokens alone.
#import bins
#import sliced

struct Params {
    tokens: u32,
    first_row: u32,
    rows: u32,
    // Chunks of 64 weights in a row.
    chunks: u32,
    // Chunks of 64 weights in a quantization group.
    group_chunks: u32,
    depth: u32,
}

override WORKGROUP: u32 = 64u;

var<immediate> params: Params;
@group(0) @binding(5) var<storage, read> ids: array<u32>;
@group(0) @binding(6) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global: vec3<u32>) {
    let token = global.x / params.chunks;
    let chunk_of_row = global.x % params.chunks;
    if token >= params.tokens {
        return;
    }
    let row = ids[token] - params.first_row;
    // An id before the first row wraps around to a large number.
    if row >= params.rows {
        return;
    }
    let at = row * params.chunks + chunk_of_row;
    let chunk = load_chunk(at, params.depth);
    let range = bin(at, params.group_chunks, params.depth);
    let to = (token * params.chunks + chunk_of_row) * 16u;
    for (var i = 0u; i < 4u; i++) {
        let code = codes(chunk, i, params.depth);
        for (var word = 0u; word < 4u; word++) {
            y[to + word * 4u + i] = code[word] * range.x + vec4<f32>(range.y);
        }
    }
}
