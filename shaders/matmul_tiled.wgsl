// The product of a sliced weight with many tokens at once, taken in an order whose tiles have one depth each, for
// devices with workgroup memory of their own.
//
// A workgroup works on 64 rows and a tile of 64 tokens, 32 neighbours of the rows at a time: it unpacks them, and the
// tokens' x, to workgroup memory, from where each invocation multiplies eight rows with four tokens. The next numbers
// are loaded while the last ones are multiplied. 16 KiB of workgroup memory are what every adapter has.
#import sliced
#import product
#import tiled

// Fours of tokens, and of rows, in a tile.
const QUADS: u32 = 16u;

// [DEEP, QUADS]: four tokens, or four rows, each.
var<workgroup> x_tile: array<vec4<f32>, DEEP * QUADS>;
var<workgroup> w_tile: array<vec4<f32>, DEEP * QUADS>;

// Where neighbour k of a four of tokens or rows lies. Invocations side by side write every fourth k of one four, and
// the exclusive or has them write to different banks.
fn place(k: u32, quad: u32) -> u32 {
    return k * QUADS + (quad ^ (k / 4u % DEEP_QUADS));
}

// Four rows by four neighbours, the `deep`th four of each row.
fn weights(rows: vec4<u32>, deep: u32, depth: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        four_weights(rows.x, deep, depth),
        four_weights(rows.y, deep, depth),
        four_weights(rows.z, deep, depth),
        four_weights(rows.w, deep, depth),
    );
}

// Four tokens by four neighbours; first[t] is where the x of a token begins.
fn inputs(first: vec4<u32>, deep: u32) -> mat4x4<f32> {
    return mat4x4<f32>(x[first.x + deep], x[first.y + deep], x[first.z + deep], x[first.w + deep]);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let first_entry = workgroup.x * TILE;
    let head = order[first_entry];
    // Tiles are filled from the front, so that one without a first token has none.
    if token_of(head) >= params.tokens {
        return;
    }
    let depth = head >> DEPTH_SHIFT;
    // What this invocation loads.
    let quad = local / DEEP_QUADS;
    let deep = local % DEEP_QUADS;
    let rows = four_rows(workgroup.y * TILE + quad * 4u);
    let first = four_tokens(first_entry + quad * 4u, head);
    // What it multiplies.
    let own_tokens = local % QUADS;
    let own_rows = local / QUADS * 2u;

    var low = mat4x4<f32>();
    var high = mat4x4<f32>();
    var next_x = transpose(inputs(first, deep));
    var next_w = transpose(weights(rows, deep, depth));
    let end = params.chunks * 16u;
    for (var at = 0u; at < end; at += DEEP_QUADS) {
        workgroupBarrier();
        for (var k = 0u; k < 4u; k++) {
            x_tile[place(deep * 4u + k, quad)] = next_x[k];
            w_tile[place(deep * 4u + k, quad)] = next_w[k];
        }
        workgroupBarrier();
        if at + DEEP_QUADS < end {
            next_x = transpose(inputs(first, at + DEEP_QUADS + deep));
            next_w = transpose(weights(rows, at + DEEP_QUADS + deep, depth));
        }
        for (var k = 0u; k < DEEP; k++) {
            let xs = x_tile[place(k, own_tokens)];
            let w_low = w_tile[place(k, own_rows)];
            let w_high = w_tile[place(k, own_rows + 1u)];
            low[0] += xs.x * w_low;
            low[1] += xs.y * w_low;
            low[2] += xs.z * w_low;
            low[3] += xs.w * w_low;
            high[0] += xs.x * w_high;
            high[1] += xs.y * w_high;
            high[2] += xs.z * w_high;
            high[3] += xs.w * w_high;
        }
    }

    let row = workgroup.y * TILE + own_rows * 4u;
    for (var t = 0u; t < 4u; t++) {
        let token = token_of(order[first_entry + own_tokens * 4u + t]);
        if token < params.tokens {
            store(token, row, low[t]);
            store(token, row + 4u, high[t]);
        }
    }
}
