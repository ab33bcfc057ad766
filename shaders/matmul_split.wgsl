// The product of a sliced weight with 16, 32 or 64 tokens of one depth, by cooperative matrices of 16 by 16: f16 times
// f16, summed in f32.
//
// So few tokens leave a device idle that has a workgroup for each tile of rows and tokens. Here each of a workgroup's
// subgroups, of 32 invocations, multiplies 32 rows with all tokens of the tile, but only every `SPLITS`th chunk of 64
// neighbours, and loads its next chunk while it multiplies this one. At the end the sums of the chunks come together,
// always in the same order.
enable f16;
enable wgpu_cooperative_matrix;
#import bins
#import sliced
#import product
#import order
#import squares
#import f16_weights

override WORKGROUP: u32 = 256u;
// Matrices of tokens in a tile: 1, 2 or 4.
override MATRICES: u32 = 1u;
// Subgroups that share 32 rows.
override SPLITS: u32 = 8u;
override SUBGROUPS: u32 = WORKGROUP / SUBGROUP;
// Rows of a workgroup.
override ROWS: u32 = WORKGROUP / SPLITS;
// Fours of numbers of a chunk, and from one row to the next in workgroup memory: two more let rows begin in different
// banks. Matrices begin at multiples of 16 bytes.
const QUADS: u32 = 16u;
const STRIDE: u32 = 18u;
// Entries of a subgroup's 32 rows; two more let chunks begin in different banks, too.
const OWN_QUADS: u32 = SUBGROUP * STRIDE + 2u;
override TILE_QUADS: u32 = SUBGROUPS * OWN_QUADS;

// [entries / 16, input / 16, 16, 16], in the order's order; zeros, where that has padding.
@group(0) @binding(8) var<storage, read> x: array<vec4<f16>>;
// See shaders/shared/order.wgsl.
@group(0) @binding(9) var<storage, read> order: array<u32>;

// A row of a chunk for each invocation.
var<workgroup> w_tile: array<vec4<f16>, TILE_QUADS>;

alias Sums = coop_mat16x16<f32, C>;
alias Weights = coop_mat16x16<f16, A>;
alias Inputs = coop_mat16x16<f16, B>;

// Chunk `at` of the weight, counted over all rows. Slices that are not read have what their buffer begins with.
fn begin_chunk(at: u32, reading: Reading) -> Chunk {
    return Chunk(
        base_slice[at],
        first_slice[place_of(at, reading.depth > 1u)],
        second_slice[place_of(at, reading.depth > 2u)],
        third_slice[place_of(at, reading.depth > 3u)],
    );
}

// Unpacks a chunk of an invocation's row to workgroup memory.
fn stage_weights(to: u32, chunk: Chunk, bins: vec4<f32>, reading: Reading) {
    if has_nibbles(reading) {
        for (var word = 0u; word < 4u; word++) {
            let bin = bin_of_word(bins, word);
            stage_nibbles(to + 4u * word, chunk.base_slice[word], chunk.first_slice[word], bin, reading);
        }
        return;
    }
    for (var word = 0u; word < 4u; word++) {
        let words = vec4<u32>(
            chunk.base_slice[word], chunk.first_slice[word], chunk.second_slice[word], chunk.third_slice[word],
        );
        stage_word(to + 4u * word, words, bin_of_word(bins, word), reading);
    }
}

// A chunk of sixteen rows with sixteen tokens, added to their sums.
fn multiplied(
    w_0: Weights, w_1: Weights, w_2: Weights, w_3: Weights,
    x_0: Inputs, x_1: Inputs, x_2: Inputs, x_3: Inputs,
    sums: Sums,
) -> Sums {
    let half = coopMultiplyAdd(w_1, x_1, coopMultiplyAdd(w_0, x_0, sums));
    return coopMultiplyAdd(w_3, x_3, coopMultiplyAdd(w_2, x_2, half));
}

// Adds up the matrices of the subgroups that share rows, and adds that to y, or writes it there: of each 32 rows, `row`
// and the fifteen after it with the tokens of entry `first` and the fifteen after it.
fn store_sums(sums: Sums, local: u32, first: u32, row: u32) {
    coopStore(sums, &squares[local / SUBGROUP * SQUARE], 16u);
    workgroupBarrier();
    for (var at = local; at < SUBGROUPS / SPLITS * SQUARE / 4u; at += WORKGROUP) {
        let rows = at / (SQUARE / 4u);
        let four = at % (SQUARE / 4u);
        var sum = vec4<f32>();
        for (var split = 0u; split < SPLITS; split++) {
            sum += four_sums((rows * SPLITS + split) * SQUARE + four * 4u);
        }
        let token = token_of(order[first + four / 4u]);
        if token < params.tokens {
            store(token, row + rows * SUBGROUP + four % 4u * 4u, sum);
        }
    }
    workgroupBarrier();
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let first_entry = workgroup.x * 16u * MATRICES;
    let head = order[first_entry];
    // As in matmul_matrix.wgsl, there is no call here, and a tile without a first token has none. Matrices have no arrays
    // in WGSL, so that this function is long.
    if (head & 0xffffu) >= params.tokens {
        return;
    }
    let reading = reading_of(depth_of_entry(head));
    let first_row = workgroup.y * ROWS;
    let subgroup = local / SUBGROUP;
    // What it unpacks in each round: neighbours have chunks side by side in memory.
    let row = local / SPLITS;
    let split = local % SPLITS;
    let own_row = min(first_row + row, params.rows - 1u) * params.chunks;
    let w_to = (row / SUBGROUP * SPLITS + split) * OWN_QUADS + row % SUBGROUP * STRIDE;
    // What its subgroup multiplies.
    let w_from = subgroup * OWN_QUADS;
    let square = subgroup * SQUARE;
    let x_tile = 16u * params.chunks * QUADS;
    let rounds = (params.chunks + SPLITS - 1u) / SPLITS;

    clear_squares(local);
    var low_0 = coopLoad<Sums>(&squares[square], 16u);
    var low_1 = coopLoad<Sums>(&squares[square], 16u);
    var low_2 = coopLoad<Sums>(&squares[square], 16u);
    var low_3 = coopLoad<Sums>(&squares[square], 16u);
    var high_0 = coopLoad<Sums>(&squares[square], 16u);
    var high_1 = coopLoad<Sums>(&squares[square], 16u);
    var high_2 = coopLoad<Sums>(&squares[square], 16u);
    var high_3 = coopLoad<Sums>(&squares[square], 16u);

    var next = min(split, params.chunks - 1u);
    var chunk = begin_chunk(own_row + next, reading);
    var range = begin_range(own_row + next, reading);
    for (var round = 0u; round < rounds; round++) {
        // The chunks of the last round that are not there count as zeros.
        let there = select(0.0, 1.0, round * SPLITS + split < params.chunks);
        let bins = bins_of(range, reading.depth) * there;
        // x comes while the weights are unpacked.
        let own_chunk = min(round * SPLITS + subgroup % SPLITS, params.chunks - 1u);
        let x_from = first_entry * params.chunks * QUADS + 16u * own_chunk * QUADS;
        let x_00 = coopLoad<Inputs>(&x[x_from], 4u);
        let x_01 = coopLoad<Inputs>(&x[x_from + 64u], 4u);
        let x_02 = coopLoad<Inputs>(&x[x_from + 128u], 4u);
        let x_03 = coopLoad<Inputs>(&x[x_from + 192u], 4u);
        workgroupBarrier();
        stage_weights(w_to, chunk, bins, reading);
        workgroupBarrier();
        next = min(next + SPLITS, params.chunks - 1u);
        chunk = begin_chunk(own_row + next, reading);
        range = begin_range(own_row + next, reading);
        let low_w0 = coopLoadT<Weights>(&w_tile[w_from], STRIDE);
        let high_w0 = coopLoadT<Weights>(&w_tile[w_from + 16u * STRIDE], STRIDE);
        let low_w1 = coopLoadT<Weights>(&w_tile[w_from + 4u], STRIDE);
        let high_w1 = coopLoadT<Weights>(&w_tile[w_from + 16u * STRIDE + 4u], STRIDE);
        let low_w2 = coopLoadT<Weights>(&w_tile[w_from + 8u], STRIDE);
        let high_w2 = coopLoadT<Weights>(&w_tile[w_from + 16u * STRIDE + 8u], STRIDE);
        let low_w3 = coopLoadT<Weights>(&w_tile[w_from + 12u], STRIDE);
        let high_w3 = coopLoadT<Weights>(&w_tile[w_from + 16u * STRIDE + 12u], STRIDE);
        low_0 = multiplied(low_w0, low_w1, low_w2, low_w3, x_00, x_01, x_02, x_03, low_0);
        high_0 = multiplied(high_w0, high_w1, high_w2, high_w3, x_00, x_01, x_02, x_03, high_0);
        if MATRICES > 1u {
            let x_10 = coopLoad<Inputs>(&x[x_from + x_tile], 4u);
            let x_11 = coopLoad<Inputs>(&x[x_from + x_tile + 64u], 4u);
            let x_12 = coopLoad<Inputs>(&x[x_from + x_tile + 128u], 4u);
            let x_13 = coopLoad<Inputs>(&x[x_from + x_tile + 192u], 4u);
            low_1 = multiplied(low_w0, low_w1, low_w2, low_w3, x_10, x_11, x_12, x_13, low_1);
            high_1 = multiplied(high_w0, high_w1, high_w2, high_w3, x_10, x_11, x_12, x_13, high_1);
        }
        if MATRICES > 2u {
            let x_20 = coopLoad<Inputs>(&x[x_from + 2u * x_tile], 4u);
            let x_21 = coopLoad<Inputs>(&x[x_from + 2u * x_tile + 64u], 4u);
            let x_22 = coopLoad<Inputs>(&x[x_from + 2u * x_tile + 128u], 4u);
            let x_23 = coopLoad<Inputs>(&x[x_from + 2u * x_tile + 192u], 4u);
            low_2 = multiplied(low_w0, low_w1, low_w2, low_w3, x_20, x_21, x_22, x_23, low_2);
            high_2 = multiplied(high_w0, high_w1, high_w2, high_w3, x_20, x_21, x_22, x_23, high_2);
            let x_30 = coopLoad<Inputs>(&x[x_from + 3u * x_tile], 4u);
            let x_31 = coopLoad<Inputs>(&x[x_from + 3u * x_tile + 64u], 4u);
            let x_32 = coopLoad<Inputs>(&x[x_from + 3u * x_tile + 128u], 4u);
            let x_33 = coopLoad<Inputs>(&x[x_from + 3u * x_tile + 192u], 4u);
            low_3 = multiplied(low_w0, low_w1, low_w2, low_w3, x_30, x_31, x_32, x_33, low_3);
            high_3 = multiplied(high_w0, high_w1, high_w2, high_w3, x_30, x_31, x_32, x_33, high_3);
        }
    }

    store_sums(low_0, local, first_entry, first_row);
    store_sums(high_0, local, first_entry, first_row + 16u);
    if MATRICES > 1u {
        store_sums(low_1, local, first_entry + 16u, first_row);
        store_sums(high_1, local, first_entry + 16u, first_row + 16u);
    }
    if MATRICES > 2u {
        store_sums(low_2, local, first_entry + 32u, first_row);
        store_sums(high_2, local, first_entry + 32u, first_row + 16u);
        store_sums(low_3, local, first_entry + 48u, first_row);
        store_sums(high_3, local, first_entry + 48u, first_row + 16u);
    }
}
