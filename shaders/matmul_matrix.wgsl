// The product of a sliced weight with many tokens at once, taken in an order whose tiles have one depth each, by
// cooperative matrices of 16 by 16: f16 times f16, summed in f32.
//
// A workgroup works on as many rows as a tile has tokens, a chunk of 64 neighbours at a time: it unpacks the rows, and
// copies the tokens' x, to workgroup memory, and loads the next chunk while it multiplies this one. Of its subgroups,
// of 32 invocations, each multiplies 32 rows with every other sixteen tokens of the tile. Large tiles take least of
// memory and of the caches, which is what this waits for; small ones are more workgroups.
enable f16;
enable wgpu_cooperative_matrix;
#import bins
#import product
#import order
#import squares
#import f16_weights

// Matrices of tokens that a subgroup has, and times 32 rows of the workgroup: 2 or 4.
override MATRICES: u32 = 4u;
override WORKGROUP: u32 = 64u * MATRICES;
// 1: tiles are large, and many of them may have few tokens.
override PARTIAL: u32 = 0u;
// Rows, and tokens, of a workgroup.
override TILE: u32 = 32u * MATRICES;
// Fours of numbers of a chunk, and from one row or token to the next in workgroup memory: two more let rows begin in
// different banks. Matrices begin at multiples of 16 bytes.
const QUADS: u32 = 16u;
const STRIDE: u32 = 18u;
override TILE_QUADS: u32 = TILE * STRIDE;
// Fours of x that an invocation copies of a chunk, and tokens from one to the next.
const COPIES: u32 = 8u;
override COPIED: u32 = WORKGROUP / QUADS;

// The words of each slice, two to an entry.
@group(0) @binding(0) var<storage, read> base_slice: array<vec2<u32>>;
@group(0) @binding(1) var<storage, read> first_slice: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> second_slice: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> third_slice: array<vec2<u32>>;
// [entries, input], in the order's order; what padding has is not looked at.
@group(0) @binding(8) var<storage, read> x: array<vec4<f16>>;
// See shaders/shared/order.wgsl.
@group(0) @binding(9) var<storage, read> order: array<u32>;

var<workgroup> w_tile: array<vec4<f16>, TILE_QUADS>;
var<workgroup> x_tile: array<vec4<f16>, TILE_QUADS>;

// Half a chunk of a row: two words of each slice.
struct Half {
    base_slice: vec2<u32>,
    first_slice: vec2<u32>,
    second_slice: vec2<u32>,
    third_slice: vec2<u32>,
}

// Half `at` of a chunk of the weight, counted over all rows. Slices that are not read have what their buffer begins with.
fn begin_half(at: u32, reading: Reading) -> Half {
    return Half(
        base_slice[at],
        first_slice[place_of(at, reading.depth > 1u)],
        second_slice[place_of(at, reading.depth > 2u)],
        third_slice[place_of(at, reading.depth > 3u)],
    );
}

// Adds the subgroups' matrices to y, or writes them there: of each subgroup, `row` and those after it with the tokens
// of entry `first` and those after it.
fn store_square(local: u32, first: u32, row: u32) {
    workgroupBarrier();
    let square = local / SUBGROUP * SQUARE;
    for (var at = local % SUBGROUP; at < SQUARE / 4u; at += SUBGROUP) {
        let token = token_of(order[first + at / 4u]);
        if token < params.tokens {
            store(token, row + at % 4u * 4u, four_sums(square + at * 4u));
        }
    }
    workgroupBarrier();
}

// What an invocation copies of x, and what it unpacks: half a chunk of a row.
struct Copy {
    x: u32,
    x_to: u32,
    // The first chunk of the row, and the first half of a chunk that is unpacked.
    row: u32,
    half_row: u32,
    w_to: u32,
}

fn copy_of(local: u32, first_entry: u32, first_row: u32) -> Copy {
    let copied = local / QUADS;
    let row = min(first_row + local / 2u, params.rows - 1u) * params.chunks;
    return Copy(
        (first_entry + copied) * params.chunks * QUADS + local % QUADS,
        copied * STRIDE + local % QUADS,
        row,
        2u * row + local % 2u,
        local / 2u * STRIDE + local % 2u * (QUADS / 2u),
    );
}

// Unpacks half a chunk of a row to workgroup memory.
fn stage_weights(to: u32, half: Half, bin: vec2<f32>, reading: Reading) {
    if has_nibbles(reading) {
        for (var word = 0u; word < 2u; word++) {
            stage_nibbles(to + 4u * word, half.base_slice[word], half.first_slice[word], bin, reading);
        }
        return;
    }
    for (var word = 0u; word < 2u; word++) {
        let words = vec4<u32>(
            half.base_slice[word], half.first_slice[word], half.second_slice[word], half.third_slice[word],
        );
        stage_word(to + 4u * word, words, bin, reading);
    }
}

alias Sums = coop_mat16x16<f32, C>;

// Adds a subgroup's matrix of sums to y, or writes it there: as `store_square` does.
fn store_result(sums: Sums, local: u32, first: u32, row: u32) {
    coopStore(sums, &squares[local / SUBGROUP * SQUARE], 16u);
    store_square(local, first, row);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let first_entry = workgroup.x * TILE;
    let head = order[first_entry];
    // Tiles are filled from the front, so that one without a first token has none. Tokens are taken from entries
    // without a call here: naga requires conditions before matrices that it knows to be uniform, and calls are not
    // among these.
    if (head & 0xffffu) >= params.tokens {
        return;
    }
    let reading = reading_of(depth_of_entry(head));
    // The second half of a large tile is passed over where it has no tokens.
    let full = (PARTIAL == 0u) | ((order[first_entry + TILE / 2u] & 0xffffu) < params.tokens);
    let four = full & (MATRICES > 2u);
    let first_row = workgroup.y * TILE;
    let copy = copy_of(local, first_entry, first_row);
    // What its subgroup multiplies.
    let subgroup = local / SUBGROUP;
    let own_row = subgroup % MATRICES * 32u;
    let own_token = subgroup / MATRICES * 16u;
    let square = subgroup * SQUARE;

    clear_squares(local);
    var low_0 = coopLoad<Sums>(&squares[square], 16u);
    var low_1 = coopLoad<Sums>(&squares[square], 16u);
    var low_2 = coopLoad<Sums>(&squares[square], 16u);
    var low_3 = coopLoad<Sums>(&squares[square], 16u);
    var high_0 = coopLoad<Sums>(&squares[square], 16u);
    var high_1 = coopLoad<Sums>(&squares[square], 16u);
    var high_2 = coopLoad<Sums>(&squares[square], 16u);
    var high_3 = coopLoad<Sums>(&squares[square], 16u);

    // What is copied of the next chunk, in loops that stay here: an array that a function takes or returns costs 5 to
    // 8% on an H200. The second half of a tile is not read where it has no tokens.
    let apart = COPIED * params.chunks * QUADS;
    var inputs: array<vec4<f16>, COPIES>;
    for (var i = 0u; i < COPIES; i++) {
        if full || i < COPIES / 2u {
            inputs[i] = x[copy.x + i * apart];
        }
    }
    var half = begin_half(copy.half_row, reading);
    var range = begin_range(copy.row, reading);
    for (var at = 0u; at < params.chunks; at++) {
        let bin = bin_of(range, local % 2u, reading.depth);
        workgroupBarrier();
        for (var i = 0u; i < COPIES; i++) {
            x_tile[copy.x_to + i * COPIED * STRIDE] = inputs[i];
        }
        stage_weights(copy.w_to, half, bin, reading);
        workgroupBarrier();
        if at + 1u < params.chunks {
            for (var i = 0u; i < COPIES; i++) {
                if full || i < COPIES / 2u {
                    inputs[i] = x[copy.x + (at + 1u) * QUADS + i * apart];
                }
            }
            half = begin_half(copy.half_row + 2u * (at + 1u), reading);
            range = begin_range(copy.row + at + 1u, reading);
        }
        for (var k = 0u; k < QUADS; k += 4u) {
            let w_low = coopLoadT<coop_mat16x16<f16, A>>(&w_tile[own_row * STRIDE + k], STRIDE);
            let w_high = coopLoadT<coop_mat16x16<f16, A>>(&w_tile[(own_row + 16u) * STRIDE + k], STRIDE);
            let x_0 = coopLoad<coop_mat16x16<f16, B>>(&x_tile[own_token * STRIDE + k], STRIDE);
            let x_1 = coopLoad<coop_mat16x16<f16, B>>(&x_tile[(own_token + 32u) * STRIDE + k], STRIDE);
            low_0 = coopMultiplyAdd(w_low, x_0, low_0);
            high_0 = coopMultiplyAdd(w_high, x_0, high_0);
            low_1 = coopMultiplyAdd(w_low, x_1, low_1);
            high_1 = coopMultiplyAdd(w_high, x_1, high_1);
            if four {
                let x_2 = coopLoad<coop_mat16x16<f16, B>>(&x_tile[(own_token + 64u) * STRIDE + k], STRIDE);
                let x_3 = coopLoad<coop_mat16x16<f16, B>>(&x_tile[(own_token + 96u) * STRIDE + k], STRIDE);
                low_2 = coopMultiplyAdd(w_low, x_2, low_2);
                high_2 = coopMultiplyAdd(w_high, x_2, high_2);
                low_3 = coopMultiplyAdd(w_low, x_3, low_3);
                high_3 = coopMultiplyAdd(w_high, x_3, high_3);
            }
        }
    }

    // The results have rows side by side, as y has.
    workgroupBarrier();
    let entry = first_entry + own_token;
    let y_row = first_row + own_row;
    store_result(low_0, local, entry, y_row);
    store_result(high_0, local, entry, y_row + 16u);
    store_result(low_1, local, entry + 32u, y_row);
    store_result(high_1, local, entry + 32u, y_row + 16u);
    if four {
        store_result(low_2, local, entry + 64u, y_row);
        store_result(high_2, local, entry + 64u, y_row + 16u);
        store_result(low_3, local, entry + 96u, y_row);
        store_result(high_3, local, entry + 96u, y_row + 16u);
    }
}
