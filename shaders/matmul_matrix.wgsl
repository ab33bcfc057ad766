// The product of a sliced weight with many tokens at once, taken in an order whose tiles have one depth each, by
// cooperative matrices of 16 by 16: f16 times f16, summed in f32.
//
// A workgroup works on 64 rows and a tile of 64 tokens, 32 neighbours of the rows at a time: it unpacks them, and the
// tokens' x, to f16 in workgroup memory. Each of its four subgroups, of 32 invocations, multiplies 32 rows with 32
// tokens. The next numbers are loaded while the last ones are multiplied.
enable f16;
enable wgpu_cooperative_matrix;
#import sliced
#import product
#import tiled

const SUBGROUP: u32 = 32u;
// Fours of numbers from one row or token to the next: the eight there are, and two that let rows begin in different
// banks. Matrices begin at multiples of 16 bytes.
const STRIDE: u32 = 10u;
// Numbers of a matrix.
const SQUARE: u32 = 256u;
const F16_MAX: vec4<f32> = vec4<f32>(65504.0);

var<workgroup> w_tile: array<vec4<f16>, TILE * STRIDE>;
var<workgroup> x_tile: array<vec4<f16>, TILE * STRIDE>;
// A matrix of results for each subgroup, [16 tokens, 16 rows].
var<workgroup> squares: array<f32, WORKGROUP / SUBGROUP * SQUARE>;

// Four neighbours of the x that begins at `first`, as f16.
fn four_inputs(first: u32, deep: u32) -> vec4<f16> {
    return vec4<f16>(clamp(x[first + deep], -F16_MAX, F16_MAX));
}

// Adds the subgroups' matrices to y, or writes them there: of each subgroup, rows from `row` and tokens from `column` on
// of its own 32 by 32.
fn store_squares(local: u32, first_entry: u32, row: u32, column: u32) {
    workgroupBarrier();
    for (var at = local; at < WORKGROUP / SUBGROUP * SQUARE / 4u; at += WORKGROUP) {
        let subgroup = at / (SQUARE / 4u);
        let token = at / 4u % 16u;
        let quad = at % 4u;
        let sum = at * 4u;
        let sums = vec4<f32>(squares[sum], squares[sum + 1u], squares[sum + 2u], squares[sum + 3u]);
        let entry = order[first_entry + subgroup / 2u * 32u + column + token];
        if token_of(entry) < params.tokens {
            store(token_of(entry), row + subgroup % 2u * 32u + quad * 4u, sums);
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let first_entry = workgroup.x * TILE;
    let head = order[first_entry];
    // Tiles are filled from the front, so that one without a first token has none.
    if (head & 0xffffu) >= params.tokens {
        return;
    }
    let depth = head >> DEPTH_SHIFT;
    let first_row = workgroup.y * TILE;
    // What this invocation loads.
    let quad = local / DEEP_QUADS * 4u;
    let deep = local % DEEP_QUADS;
    let rows = four_rows(first_row + quad);
    let first = four_tokens(first_entry + quad, head);
    let to = quad * STRIDE + deep;
    // What its subgroup multiplies.
    let subgroup = local / SUBGROUP;
    let w_at = subgroup % 2u * 32u * STRIDE;
    let x_at = subgroup / 2u * 32u * STRIDE;
    let square = subgroup * SQUARE;

    for (var at = local; at < WORKGROUP / SUBGROUP * SQUARE; at += WORKGROUP) {
        squares[at] = 0.0;
    }
    workgroupBarrier();
    var low_low = coopLoad<coop_mat16x16<f32, C>>(&squares[square], 16u);
    var high_low = coopLoad<coop_mat16x16<f32, C>>(&squares[square], 16u);
    var low_high = coopLoad<coop_mat16x16<f32, C>>(&squares[square], 16u);
    var high_high = coopLoad<coop_mat16x16<f32, C>>(&squares[square], 16u);

    var x0 = four_inputs(first.x, deep);
    var x1 = four_inputs(first.y, deep);
    var x2 = four_inputs(first.z, deep);
    var x3 = four_inputs(first.w, deep);
    var w0 = vec4<f16>(four_weights(rows.x, deep, depth));
    var w1 = vec4<f16>(four_weights(rows.y, deep, depth));
    var w2 = vec4<f16>(four_weights(rows.z, deep, depth));
    var w3 = vec4<f16>(four_weights(rows.w, deep, depth));
    let end = params.chunks * 16u;
    for (var at = 0u; at < end; at += DEEP_QUADS) {
        workgroupBarrier();
        x_tile[to] = x0;
        x_tile[to + STRIDE] = x1;
        x_tile[to + 2u * STRIDE] = x2;
        x_tile[to + 3u * STRIDE] = x3;
        w_tile[to] = w0;
        w_tile[to + STRIDE] = w1;
        w_tile[to + 2u * STRIDE] = w2;
        w_tile[to + 3u * STRIDE] = w3;
        workgroupBarrier();
        let next = at + DEEP_QUADS + deep;
        if at + DEEP_QUADS < end {
            x0 = four_inputs(first.x, next);
            x1 = four_inputs(first.y, next);
            x2 = four_inputs(first.z, next);
            x3 = four_inputs(first.w, next);
            w0 = vec4<f16>(four_weights(rows.x, next, depth));
            w1 = vec4<f16>(four_weights(rows.y, next, depth));
            w2 = vec4<f16>(four_weights(rows.z, next, depth));
            w3 = vec4<f16>(four_weights(rows.w, next, depth));
        }
        for (var k = 0u; k < DEEP_QUADS; k += 4u) {
            let w_low = coopLoadT<coop_mat16x16<f16, A>>(&w_tile[w_at + k], STRIDE);
            let w_high = coopLoadT<coop_mat16x16<f16, A>>(&w_tile[w_at + 16u * STRIDE + k], STRIDE);
            let x_low = coopLoad<coop_mat16x16<f16, B>>(&x_tile[x_at + k], STRIDE);
            let x_high = coopLoad<coop_mat16x16<f16, B>>(&x_tile[x_at + 16u * STRIDE + k], STRIDE);
            low_low = coopMultiplyAdd(w_low, x_low, low_low);
            high_low = coopMultiplyAdd(w_high, x_low, high_low);
            low_high = coopMultiplyAdd(w_low, x_high, low_high);
            high_high = coopMultiplyAdd(w_high, x_high, high_high);
        }
    }

    // The results have rows side by side, as y has.
    coopStore(low_low, &squares[square], 16u);
    store_squares(local, first_entry, first_row, 0u);
    coopStore(high_low, &squares[square], 16u);
    store_squares(local, first_entry, first_row + 16u, 0u);
    coopStore(low_high, &squares[square], 16u);
    store_squares(local, first_entry, first_row, 16u);
    coopStore(high_high, &squares[square], 16u);
    store_squares(local, first_entry, first_row + 16u, 16u);
}
