// Attention of many tokens over the cache by cooperative matrices of 16 by 16: f16 times f16, summed in f32.
//
// A workgroup takes one head and 64 tokens, each of its four subgroups sixteen of them, and goes over the positions in
// blocks of 64, twice: first for each token's highest score and sum of exp(score - highest), then, with the scores
// again, for the sum of exp(score - highest) * value. So matrices are only added to, which is all they can. A block's
// keys, or values, are in workgroup memory for all subgroups, and the next ones are loaded while these are multiplied.
enable f16;
enable wgpu_cooperative_matrix;
#import step_rows
#import cells
#import scores

struct Params {
    tokens: u32,
    heads: u32,
    cells: u32,
}

const WORKGROUP: u32 = 128u;
const SUBGROUP: u32 = 32u;
// Tokens, positions and dimensions that are taken at once; and fours of them, and from one row to the next.
const BLOCK: u32 = 64u;
const QUADS: u32 = 16u;
const STRIDE: u32 = 18u;
// A multiple of 16, 128 at most.
override HEAD_DIM: u32 = 128u;
// Heads that share keys and values.
override SHARED_BY: u32 = 1u;
// Fours of a head, from one row of a block to the next in workgroup memory, and that an invocation loads of a block.
override HEAD_QUADS: u32 = HEAD_DIM / 4u;
override ROW_QUADS: u32 = HEAD_QUADS + 2u;
override BLOCK_QUADS: u32 = BLOCK * ROW_QUADS;
override LOADS: u32 = BLOCK * HEAD_QUADS / WORKGROUP;
const LOWEST: f32 = -3.4e38;
const F16_MAX: vec4<f32> = vec4<f32>(65504.0);

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
// Of one sequence; their positions rise.
@group(0) @binding(1) var<storage, read> step_rows: array<StepRow>;
@group(0) @binding(2) var<storage, read> keys: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read> values: array<vec4<f16>>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<f32>>;

// The tokens' queries, and then the weights of positions; their scores, and then their sums.
var<workgroup> rows_f16: array<vec4<f16>, BLOCK * STRIDE>;
var<workgroup> floats: array<vec4<f32>, BLOCK * STRIDE>;
var<workgroup> totals: array<f32, BLOCK>;
// The keys, or the values, of the positions of a block.
var<workgroup> rows: array<vec4<f16>, BLOCK_QUADS>;

// The scores of a token for four positions of a block; those that it does not look at are the lowest.
fn four_scores(row: u32, quad: u32, block: u32, position: u32) -> vec4<f32> {
    let at = vec4<u32>(block + 4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<f32>(LOWEST), four_capped(floats[row * STRIDE + quad]), four_visible(at, position));
}

// exp(score - highest) of these, or nothing where there is no score.
fn four_weights(scores: vec4<f32>, highest: f32) -> vec4<f32> {
    return select(vec4<f32>(), exp(scores - highest), scores > vec4<f32>(LOWEST));
}

// What an invocation loads of a block. Rows past the last one are that one: what lies behind was not written. Blocks
// begin at the first position that a token of the workgroup looks at: what lies before may have been written over.
fn load_rows(local: u32, cache: u32, block: u32, last: u32, of_values: bool) -> array<vec4<f16>, 16> {
    var loaded: array<vec4<f16>, 16>;
    for (var i = 0u; i < LOADS; i++) {
        let at = i * WORKGROUP + local;
        let load = cache + place_of(min(block + at / HEAD_QUADS, last)) * HEAD_QUADS + at % HEAD_QUADS;
        if of_values {
            loaded[i] = values[load];
        } else {
            loaded[i] = keys[load];
        }
    }
    return loaded;
}

// Leaves what the invocations loaded in workgroup memory, once that is free.
fn stage_rows(local: u32, loaded: array<vec4<f16>, 16>) {
    workgroupBarrier();
    for (var i = 0u; i < LOADS; i++) {
        let at = i * WORKGROUP + local;
        rows[at / HEAD_QUADS * ROW_QUADS + at % HEAD_QUADS] = loaded[i];
    }
    workgroupBarrier();
}

// Takes so many dimensions of the tokens' queries, from `first` on, to workgroup memory.
fn stage_queries(local: u32, first_token: u32, head: u32, first: u32) {
    workgroupBarrier();
    for (var at = local; at < BLOCK * QUADS; at += WORKGROUP) {
        let token = min(first_token + at / QUADS, params.tokens - 1u);
        let quad = min(first / 4u + at % QUADS, HEAD_QUADS - 1u);
        let scaled = q[(token * params.heads + head) * HEAD_QUADS + quad] * inverseSqrt(f32(HEAD_DIM));
        rows_f16[at / QUADS * STRIDE + at % QUADS] = vec4<f16>(clamp(scaled, -F16_MAX, F16_MAX));
    }
    workgroupBarrier();
}

// Writes so many dimensions of the subgroup's sums, from `first` on, to y.
fn store_sums(lane: u32, own_row: u32, first_token: u32, head: u32, first: u32) {
    workgroupBarrier();
    for (var at = lane; at < 16u * QUADS; at += SUBGROUP) {
        let row = own_row + at / QUADS;
        let quad = first / 4u + at % QUADS;
        let token = first_token + row;
        if token < params.tokens && quad < HEAD_QUADS {
            y[(token * params.heads + head) * HEAD_QUADS + quad] = floats[row * STRIDE + at % QUADS] / totals[row];
        }
    }
    workgroupBarrier();
}

alias Sums = coop_mat16x16<f32, C>;
alias Queries = coop_mat16x16<f16, A>;
alias Rows = coop_mat16x16<f16, B>;

// Leaves the scores of the subgroup's tokens for the block's positions in `floats`, from `own` on.
fn score_block(
    own: u32, zero: Sums, q_0: Queries, q_1: Queries, q_2: Queries, q_3: Queries, q_4: Queries, q_5: Queries,
    q_6: Queries, q_7: Queries,
) {
    for (var sixteen = 0u; sixteen < 4u; sixteen++) {
        let key = 16u * sixteen * ROW_QUADS;
        var scores = coopMultiplyAdd(q_0, coopLoad<Rows>(&rows[key], ROW_QUADS), zero);
        if HEAD_DIM > 16u {
            scores = coopMultiplyAdd(q_1, coopLoad<Rows>(&rows[key + 4u], ROW_QUADS), scores);
        }
        if HEAD_DIM > 32u {
            scores = coopMultiplyAdd(q_2, coopLoad<Rows>(&rows[key + 8u], ROW_QUADS), scores);
        }
        if HEAD_DIM > 48u {
            scores = coopMultiplyAdd(q_3, coopLoad<Rows>(&rows[key + 12u], ROW_QUADS), scores);
        }
        if HEAD_DIM > 64u {
            scores = coopMultiplyAdd(q_4, coopLoad<Rows>(&rows[key + 16u], ROW_QUADS), scores);
        }
        if HEAD_DIM > 80u {
            scores = coopMultiplyAdd(q_5, coopLoad<Rows>(&rows[key + 20u], ROW_QUADS), scores);
        }
        if HEAD_DIM > 96u {
            scores = coopMultiplyAdd(q_6, coopLoad<Rows>(&rows[key + 24u], ROW_QUADS), scores);
        }
        if HEAD_DIM > 112u {
            scores = coopMultiplyAdd(q_7, coopLoad<Rows>(&rows[key + 28u], ROW_QUADS), scores);
        }
        coopStoreT(scores, &floats[own + 4u * sixteen], STRIDE);
    }
    workgroupBarrier();
}

// The highest score of a token, and the sum of exp(score - highest).
struct Peak {
    highest: f32,
    total: f32,
}

// The same with the scores of a block, of whose fours an invocation takes every other one from `parity` on.
fn add_block(before: Peak, row: u32, parity: u32, block: u32, position: u32) -> Peak {
    var higher = before.highest;
    for (var quad = parity; quad < QUADS; quad += 2u) {
        let four = four_scores(row, quad, block, position);
        higher = max(higher, max(max(four.x, four.y), max(four.z, four.w)));
    }
    var total = before.total * exp(before.highest - higher);
    for (var quad = parity; quad < QUADS; quad += 2u) {
        total += dot(four_weights(four_scores(row, quad, block, position), higher), vec4<f32>(1.0));
    }
    return Peak(higher, total);
}

// Adds the block's values by the weights of the subgroup's tokens, in `rows_f16` from `own` on.
fn add_values(
    own: u32, y_0: ptr<function, Sums>, y_1: ptr<function, Sums>, y_2: ptr<function, Sums>, y_3: ptr<function, Sums>,
    y_4: ptr<function, Sums>, y_5: ptr<function, Sums>, y_6: ptr<function, Sums>, y_7: ptr<function, Sums>,
) {
    for (var sixteen = 0u; sixteen < 4u; sixteen++) {
        let value = 16u * sixteen * ROW_QUADS;
        let weights = coopLoadT<Queries>(&rows_f16[own + 4u * sixteen], STRIDE);
        *y_0 = coopMultiplyAdd(weights, coopLoadT<Rows>(&rows[value], ROW_QUADS), *y_0);
        if HEAD_DIM > 16u {
            *y_1 = coopMultiplyAdd(weights, coopLoadT<Rows>(&rows[value + 4u], ROW_QUADS), *y_1);
        }
        if HEAD_DIM > 32u {
            *y_2 = coopMultiplyAdd(weights, coopLoadT<Rows>(&rows[value + 8u], ROW_QUADS), *y_2);
        }
        if HEAD_DIM > 48u {
            *y_3 = coopMultiplyAdd(weights, coopLoadT<Rows>(&rows[value + 12u], ROW_QUADS), *y_3);
        }
        if HEAD_DIM > 64u {
            *y_4 = coopMultiplyAdd(weights, coopLoadT<Rows>(&rows[value + 16u], ROW_QUADS), *y_4);
        }
        if HEAD_DIM > 80u {
            *y_5 = coopMultiplyAdd(weights, coopLoadT<Rows>(&rows[value + 20u], ROW_QUADS), *y_5);
        }
        if HEAD_DIM > 96u {
            *y_6 = coopMultiplyAdd(weights, coopLoadT<Rows>(&rows[value + 24u], ROW_QUADS), *y_6);
        }
        if HEAD_DIM > 112u {
            *y_7 = coopMultiplyAdd(weights, coopLoadT<Rows>(&rows[value + 28u], ROW_QUADS), *y_7);
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let head = workgroup.x;
    let first_token = workgroup.y * BLOCK;
    let cache = (head / SHARED_BY * params.cells + first_cell_of(step_rows[first_token])) * HEAD_QUADS;
    let first = first_visible(step_rows[first_token].position);
    let last = step_rows[min(first_token + BLOCK, params.tokens) - 1u].position;
    // Two lanes share a token, and take turns at its positions.
    let lane = local % SUBGROUP;
    let own_row = local / SUBGROUP * 16u;
    let row = own_row + lane / 2u;
    let position = step_rows[min(first_token + row, params.tokens - 1u)].position;
    let own = own_row * STRIDE;

    var loaded = load_rows(local, cache, first, last, false);
    for (var at = local; at < BLOCK * STRIDE; at += WORKGROUP) {
        floats[at] = vec4<f32>();
    }
    stage_queries(local, first_token, head, 0u);
    let zero = coopLoad<Sums>(&floats[own], STRIDE);
    let q_0 = coopLoadT<Queries>(&rows_f16[own], STRIDE);
    let q_1 = coopLoadT<Queries>(&rows_f16[own + 4u], STRIDE);
    let q_2 = coopLoadT<Queries>(&rows_f16[own + 8u], STRIDE);
    let q_3 = coopLoadT<Queries>(&rows_f16[own + 12u], STRIDE);
    stage_queries(local, first_token, head, BLOCK);
    let q_4 = coopLoadT<Queries>(&rows_f16[own], STRIDE);
    let q_5 = coopLoadT<Queries>(&rows_f16[own + 4u], STRIDE);
    let q_6 = coopLoadT<Queries>(&rows_f16[own + 8u], STRIDE);
    let q_7 = coopLoadT<Queries>(&rows_f16[own + 12u], STRIDE);

    var peak = Peak(LOWEST, 0.0);
    for (var block = first; block <= last; block += BLOCK) {
        stage_rows(local, loaded);
        loaded = load_rows(local, cache, select(first, block + BLOCK, block + BLOCK <= last), last, false);
        score_block(own, zero, q_0, q_1, q_2, q_3, q_4, q_5, q_6, q_7);
        peak = add_block(peak, row, lane % 2u, block, position);
    }
    let highest = max(peak.highest, subgroupShuffleXor(peak.highest, 1u));
    let total = peak.total * exp(peak.highest - highest);
    totals[row] = total + subgroupShuffleXor(total, 1u);

    var y_0: Sums = zero;
    var y_1: Sums = zero;
    var y_2: Sums = zero;
    var y_3: Sums = zero;
    var y_4: Sums = zero;
    var y_5: Sums = zero;
    var y_6: Sums = zero;
    var y_7: Sums = zero;
    for (var block = first; block <= last; block += BLOCK) {
        stage_rows(local, loaded);
        loaded = load_rows(local, cache, block, last, true);
        score_block(own, zero, q_0, q_1, q_2, q_3, q_4, q_5, q_6, q_7);
        for (var quad = lane % 2u; quad < QUADS; quad += 2u) {
            let weights = four_weights(four_scores(row, quad, block, position), highest);
            rows_f16[row * STRIDE + quad] = vec4<f16>(weights);
        }
        stage_rows(local, loaded);
        loaded = load_rows(local, cache, block + BLOCK, last, false);
        add_values(own, &y_0, &y_1, &y_2, &y_3, &y_4, &y_5, &y_6, &y_7);
    }

    coopStoreT(y_0, &floats[own], STRIDE);
    coopStoreT(y_1, &floats[own + 4u], STRIDE);
    coopStoreT(y_2, &floats[own + 8u], STRIDE);
    coopStoreT(y_3, &floats[own + 12u], STRIDE);
    store_sums(lane, own_row, first_token, head, 0u);
    if HEAD_DIM > BLOCK {
        coopStoreT(y_4, &floats[own], STRIDE);
        coopStoreT(y_5, &floats[own + 4u], STRIDE);
        coopStoreT(y_6, &floats[own + 8u], STRIDE);
        coopStoreT(y_7, &floats[own + 12u], STRIDE);
        store_sums(lane, own_row, first_token, head, BLOCK);
    }
}
