// Logits made ready for the choice of a token, and of each block of them the likeliest; a workgroup for each block of
// each choice.
// In place: no number becomes minus infinity, and tokens seen lately become less likely.
//
// An invocation has neighbouring tokens, so that of equally likely ones those of the invocation before come first. The
// invocations with the LEADERS likeliest maxima have all leaders; their tokens that are not below the last of these
// maxima are few, and are compared with each other.
#import step_rows
#import sampling
#import ranks

struct Params {
    vocab: u32,
    // The token in `step_rows` that the first choice follows; the others follow the tokens after it.
    first_row: u32,
    // 1, which no compiler knows, so that none unrolls a loop whose bound it is part of.
    one: u32,
}

// A multiple of 32.
override WORKGROUP: u32 = 64u;
// An invocation has AT_ONCE logits so many times.
override PIECES: u32 = 1u;
const AT_ONCE: u32 = 8u;
// Logits of an invocation, and of a block.
override OWN: u32 = PIECES * AT_ONCE;
override BLOCK: u32 = WORKGROUP * OWN;
// Tokens at most that are not below the last maximum.
override FINALISTS: u32 = LEADERS * OWN;
override SEEN_WORDS: u32 = BLOCK / 32u;
// From the first logit of an invocation to that of the next one, no power of two, so that they are in all banks.
const STRIDE: u32 = AT_ONCE + 1u;
override STAGED: u32 = WORKGROUP * STRIDE;
// Invocations whose sums are added up by one.
const SUMMED: u32 = 8u;
override SUMS: u32 = WORKGROUP / SUMMED;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> choices: array<Choice>;
@group(0) @binding(1) var<storage, read> step_rows: array<StepRow>;
// The token of each cell of the cache.
@group(0) @binding(2) var<storage, read> cell_tokens: array<u32>;
// [S, V], bits of f32.
@group(0) @binding(3) var<storage, read_write> logits: array<u32>;
// [S, blocks]
@group(0) @binding(4) var<storage, read_write> peaks: array<Peak>;
// [S, blocks, LEADERS]
@group(0) @binding(5) var<storage, read_write> leaders: array<vec2<u32>>;

// Whether each token of the block was seen lately, a bit each.
var<workgroup> seen: array<atomic<u32>, SEEN_WORDS>;
// Of the piece at hand of each invocation, the logits as they were, and then the tokens' keys, 0 past the end.
var<workgroup> staged: array<u32, STAGED>;
// The greatest key of each invocation.
var<workgroup> maxima: array<u32, WORKGROUP>;
// The likeliest token, and the last of the LEADERS likeliest maxima, both (key, id).
var<workgroup> best: vec2<u32>;
var<workgroup> bound: vec2<u32>;
var<workgroup> finalists: array<vec2<u32>, FINALISTS>;
var<workgroup> counter: atomic<u32>;
var<workgroup> masses: array<vec2<f32>, WORKGROUP>;
var<workgroup> sums: array<vec2<f32>, SUMS>;

fn mark_seen(first: u32, local: u32, row: StepRow, last_n: u32) {
    for (var at = local; at < SEEN_WORDS; at += WORKGROUP) {
        atomicStore(&seen[at], 0u);
    }
    workgroupBarrier();
    // The sequence's cells.
    let length = row.position + 1u;
    let end = row.first_cell + length;
    for (var at = end - min(length, last_n) + local; at < end; at += WORKGROUP) {
        // An id before the block wraps around to a large number.
        let place = cell_tokens[at] - first;
        if place < BLOCK {
            atomicOr(&seen[place / 32u], 1u << (place % 32u));
        }
    }
    workgroupBarrier();
}

fn penalized(key: u32, penalty: f32) -> u32 {
    let logit = logit_of_key(key);
    let less = select(logit * penalty, logit / penalty, logit > 0.0);
    return select(finite_key(bitcast<u32>(less)), LOWEST_KEY, key == LOWEST_KEY);
}

// Loads the invocation's own logits of a piece, the first of which is that of the token `first`.
fn load_piece(row: u32, first: u32, local: u32) {
    var loaded: array<u32, AT_ONCE>;
    for (var i = 0u; i < AT_ONCE; i++) {
        loaded[i] = logits[row + min(first + i, params.vocab - 1u)];
    }
    for (var i = 0u; i < AT_ONCE; i++) {
        staged[local * STRIDE + i] = loaded[i];
    }
}

// Loads the logits of a block of one piece, so that neighbouring invocations load neighbouring ones.
fn load_block(row: u32, first: u32, local: u32) {
    var loaded: array<u32, AT_ONCE>;
    for (var i = 0u; i < AT_ONCE; i++) {
        loaded[i] = logits[row + min(first + i * WORKGROUP + local, params.vocab - 1u)];
    }
    for (var i = 0u; i < AT_ONCE; i++) {
        let at = i * WORKGROUP + local;
        staged[at / AT_ONCE * STRIDE + at % AT_ONCE] = loaded[i];
    }
}

// Makes a piece's logits ready; the likeliest of its tokens and `before_it`, (key, id).
fn ready_piece(row: u32, first: u32, local: u32, penalty: f32, seen_bits: u32, before_it: vec2<u32>) -> vec2<u32> {
    var best_own = before_it;
    for (var i = 0u; i < AT_ONCE * params.one; i++) {
        let bits = staged[local * STRIDE + i];
        var key = finite_key(bits);
        if ((seen_bits >> i) & 1u) == 1u {
            key = penalized(key, penalty);
        }
        let is_there = first + i < params.vocab;
        if is_there && bits_of_key(key) != bits {
            logits[row + first + i] = bits_of_key(key);
        }
        key = select(0u, key, is_there);
        staged[local * STRIDE + i] = key;
        if key > best_own.x {
            best_own = vec2<u32>(key, first + i);
        }
    }
    return best_own;
}

// Adds the weights of a piece's tokens up, and takes those not below the bound.
fn weigh_piece(first: u32, local: u32, temperature: f32) -> vec2<f32> {
    let likeliest = best.x;
    let last = bound;
    var mass = vec2<f32>();
    for (var i = 0u; i < AT_ONCE * params.one; i++) {
        let key = staged[local * STRIDE + i];
        if key > LOWEST_KEY {
            mass += vec2<f32>(weight(key, likeliest, 1.0), weight(key, likeliest, temperature));
            if !before(last.x, last.y, key, first + i) {
                finalists[atomicAdd(&counter, 1u)] = vec2<u32>(key, first + i);
            }
        }
    }
    return mass;
}

// Adds up the weights of SUMMED invocations each.
fn sum_some(local: u32) {
    if local < SUMS {
        var sum = vec2<f32>();
        for (var i = 0u; i < SUMMED; i++) {
            sum += masses[local * SUMMED + i];
        }
        sums[local] = sum;
    }
}

// Writes the leaders of a block, whose first place is `first`.
fn write_leaders(local: u32, first: u32) {
    let count = atomicLoad(&counter);
    for (var at = local; at < count; at += WORKGROUP) {
        let own = finalists[at];
        var place = 0u;
        for (var i = 0u; i < count; i++) {
            let other = finalists[i];
            place += select(0u, 1u, before(other.x, other.y, own.x, own.y));
        }
        if place < LEADERS {
            leaders[first + place] = own;
        }
    }
    if local >= count && local < LEADERS {
        leaders[first + local] = vec2<u32>(0u, NONE);
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let choice = choices[workgroup.y];
    let block = workgroup.y * workgroups.x + workgroup.x;
    let first = workgroup.x * BLOCK;
    let own_first = first + local * OWN;
    let row = workgroup.y * params.vocab;
    // While the settings are under way.
    if PIECES == 1u {
        load_block(row, first, local);
    } else {
        load_piece(row, own_first, local);
    }
    let penalizes = choice.repeat_penalty != 1.0;
    if penalizes {
        mark_seen(first, local, step_rows[params.first_row + workgroup.y], choice.repeat_last_n);
    }
    if PIECES == 1u {
        workgroupBarrier();
    }
    var own = vec2<u32>(LOWEST_KEY, own_first);
    for (var piece = 0u; piece < OWN; piece += AT_ONCE) {
        var seen_bits = 0u;
        if penalizes {
            let place = local * OWN + piece;
            seen_bits = atomicLoad(&seen[place / 32u]) >> (place % 32u);
        }
        if piece > 0u {
            load_piece(row, own_first + piece, local);
        }
        own = ready_piece(row, own_first + piece, local, choice.repeat_penalty, seen_bits, own);
    }
    maxima[local] = own.x;
    if local == 0u {
        atomicStore(&counter, 0u);
    }
    workgroupBarrier();
    if local < FOURS {
        let at = 4u * local;
        fours[local] = vec4<u32>(maxima[at], maxima[at + 1u], maxima[at + 2u], maxima[at + 3u]);
    }
    workgroupBarrier();
    let rank = rank_of(own.x, local);
    if rank == 0u {
        best = own;
    } else if rank == LEADERS - 1u {
        bound = own;
    }
    workgroupBarrier();
    // Without a temperature, nobody asks what it makes of the weights.
    let temperature = select(choice.temperature, 1.0, choice.temperature == 0.0);
    var mass = vec2<f32>();
    for (var piece = 0u; piece < OWN; piece += AT_ONCE) {
        if PIECES > 1u {
            load_piece(row, own_first + piece, local);
            _ = ready_piece(row, own_first + piece, local, 1.0, 0u, own);
        }
        mass += weigh_piece(own_first + piece, local, temperature);
    }
    masses[local] = mass;
    workgroupBarrier();
    sum_some(local);
    write_leaders(local, block * LEADERS);
    workgroupBarrier();
    if local == 0u {
        var sum = vec2<f32>();
        for (var i = 0u; i < SUMS; i++) {
            sum += sums[i];
        }
        peaks[block] = Peak(best.x, sum.x, sum.y);
    }
}
