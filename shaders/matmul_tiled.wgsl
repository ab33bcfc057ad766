// The product of a sliced weight with many tokens at once, taken in an order whose tiles have one depth each, for
// devices with workgroup memory of their own.
//
// A workgroup works on 64 rows and a tile of 64 tokens, 32 neighbours of the rows at a time: it unpacks them, and the
// tokens' x, to workgroup memory, from where each invocation multiplies eight rows with four tokens. The next numbers
// are loaded while the last ones are multiplied. 16 KiB of workgroup memory are what every adapter has.
#import bins
#import sliced
#import product
#import order

// Rows, and tokens, of a tile.
const TILE: u32 = 64u;
const WORKGROUP: u32 = 128u;
// Neighbours taken at a time, and fours of them.
const DEEP: u32 = 32u;
const DEEP_QUADS: u32 = 8u;

@group(0) @binding(8) var<storage, read> x: array<vec4<f32>>;
// See shaders/shared/order.wgsl.
@group(0) @binding(9) var<storage, read> order: array<u32>;
// Fours of tokens, and of rows, in a tile.
const QUADS: u32 = 16u;

// [DEEP, QUADS]: four tokens, or four rows, each.
var<workgroup> x_tile: array<vec4<f32>, DEEP * QUADS>;
var<workgroup> w_tile: array<vec4<f32>, DEEP * QUADS>;

// The codes of the four neighbours in a plane of word `word` of chunk `at`.
fn four_codes(at: u32, word: u32, plane: u32, depth: u32) -> vec4<f32> {
    var words = vec4<u32>(base_slice[at][word], 0u, 0u, 0u);
    if depth > 1u {
        words.y = first_slice[at][word];
    }
    if depth > 2u {
        words.z = second_slice[at][word];
    }
    if depth > 3u {
        words.w = third_slice[at][word];
    }
    return vec4<f32>(unpack4xU8(code_bytes(pairs_at(words, plane), depth)));
}

// Weights of chunk `at`, whose range this is: those of the row's `deep`th four neighbours.
fn four_weights(at: u32, range: u32, deep: u32, depth: u32) -> vec4<f32> {
    let bin = bin_of(range, deep / DEEP_QUADS % 2u, depth);
    let codes = four_codes(at, deep / 4u % 4u, deep % 4u, depth);
    return codes * bin.x + vec4<f32>(bin.y);
}

// Where the x of the four tokens begins whose entries are `entry` and the three after it. Entries that are no token of
// this step stand for the first one of their tile, `head`.
fn four_tokens(entry: u32, head: u32) -> vec4<u32> {
    let tokens = vec4<u32>(
        token_of(order[entry]), token_of(order[entry + 1u]), token_of(order[entry + 2u]), token_of(order[entry + 3u]),
    );
    let sound = select(vec4<u32>(token_of(head)), tokens, tokens < vec4<u32>(params.tokens));
    return sound * params.chunks * 16u;
}

// Where neighbour k of a four of tokens or rows lies. Invocations side by side write every fourth k of one four, and
// the exclusive or has them write to different banks.
fn tile_entry(k: u32, quad: u32) -> u32 {
    return k * QUADS + (quad ^ (k / 4u % DEEP_QUADS));
}

// Four rows by four neighbours, the `deep`th four of each row.
fn weights(rows: vec4<u32>, deep: u32, depth: u32) -> mat4x4<f32> {
    let chunk = deep / 16u;
    let at = rows * params.chunks + chunk;
    let groups = rows * (params.chunks / params.group_chunks) + chunk / params.group_chunks;
    let ranges = load_ranges(groups, depth);
    return mat4x4<f32>(
        four_weights(at.x, ranges.x, deep, depth),
        four_weights(at.y, ranges.y, deep, depth),
        four_weights(at.z, ranges.z, deep, depth),
        four_weights(at.w, ranges.w, deep, depth),
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
    let depth = depth_of_entry(head);
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
            x_tile[tile_entry(deep * 4u + k, quad)] = next_x[k];
            w_tile[tile_entry(deep * 4u + k, quad)] = next_w[k];
        }
        workgroupBarrier();
        if at + DEEP_QUADS < end {
            next_x = transpose(inputs(first, at + DEEP_QUADS + deep));
            next_w = transpose(weights(rows, at + DEEP_QUADS + deep, depth));
        }
        for (var k = 0u; k < DEEP; k++) {
            let xs = x_tile[tile_entry(k, own_tokens)];
            let w_low = w_tile[tile_entry(k, own_rows)];
            let w_high = w_tile[tile_entry(k, own_rows + 1u)];
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
