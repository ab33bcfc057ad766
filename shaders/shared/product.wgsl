// What the kernels that multiply a sliced weight with activations share, beside the weight itself:
// y[t, first_row + r] (+)= sum over k of W[r, k] * x[t, k], with W read at the depth of token t.
// Bindings 5 and 6 are each kernel's own: x, and the depths.

struct Params {
    tokens: u32,
    rows: u32,
    // Chunks of 64 weights in a row.
    chunks: u32,
    // Chunks of 64 weights in a quantization group.
    group_chunks: u32,
    // Row of y that this dispatch's first row belongs to, and rows of y.
    first_row: u32,
    y_rows: u32,
    // 1: add to y; 0: overwrite it.
    accumulate: u32,
}

var<immediate> params: Params;
@group(0) @binding(10) var<storage, read_write> y: array<f32>;

// `row` and the three after it; rows past the end are the last one, for reading only.
fn four_rows(row: u32) -> vec4<u32> {
    return min(vec4<u32>(row, row + 1u, row + 2u, row + 3u), vec4<u32>(params.rows - 1u));
}

// Writes the products of a token with `row` and the three after it, as far as there are rows.
fn store(token: u32, row: u32, sums: vec4<f32>) {
    for (var r = 0u; r < min(4u, max(params.rows, row) - row); r++) {
        let to = token * params.y_rows + params.first_row + row + r;
        if params.accumulate == 1u {
            y[to] += sums[r];
        } else {
            y[to] = sums[r];
        }
    }
}
