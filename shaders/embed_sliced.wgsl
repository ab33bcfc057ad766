// y[t, :] = the embedding's row of the token of step row t, read as deep as that says, and the token's cell has its id;
// an invocation writes 64 numbers of a token.
// A dispatch covers the rows first_row to first_row + rows of the whole embedding and leaves other tokens alone.
#import step_rows
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
}

override WORKGROUP: u32 = 64u;

var<immediate> params: Params;
@group(0) @binding(8) var<storage, read> step_rows: array<StepRow>;
// The id of the token that each sequence's last step sampled, and the logit of its likeliest one.
@group(0) @binding(9) var<storage, read> sampled: array<vec2<u32>>;
@group(0) @binding(10) var<storage, read_write> cell_tokens: array<u32>;
@group(0) @binding(11) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(global_invocation_id) global: vec3<u32>) {
    let token = global.x / params.chunks;
    let chunk_of_row = global.x % params.chunks;
    if token >= params.tokens {
        return;
    }
    let step_row = step_rows[token];
    var id = step_row.token;
    if id == SAMPLED {
        id = sampled[step_row.slot].x;
    }
    let row = id - params.first_row;
    // An id before the first row wraps around to a large number.
    if row >= params.rows {
        return;
    }
    if chunk_of_row == 0u {
        cell_tokens[step_row.first_cell + step_row.position] = id;
    }
    let depth = step_row.embed_depth;
    let at = row * params.chunks + chunk_of_row;
    let chunk = load_chunk(at, depth);
    let bins = bins_of(load_range(group_of(at, params.group_chunks), depth), depth);
    let to = (token * params.chunks + chunk_of_row) * 16u;
    for (var i = 0u; i < 4u; i++) {
        let code = codes(chunk, i, depth);
        for (var word = 0u; word < 4u; word++) {
            let bin = bin_of_word(bins, word);
            y[to + word * 4u + i] = code[word] * bin.x + vec4<f32>(bin.y);
        }
    }
}
