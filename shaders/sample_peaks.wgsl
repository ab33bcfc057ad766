// Logits made ready for the choice of a token, and of each block of them the likeliest; a workgroup for each block of
// each choice.
// In place: no number becomes minus infinity, and tokens seen lately become less likely.
#import step_rows
#import sampling

struct Params {
    vocab: u32,
    // The token in `step_rows` that the first choice follows; the others follow the tokens after it.
    first_row: u32,
}

override WORKGROUP: u32 = 64u;
// Logits of a block.
override BLOCK: u32 = 128u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> choices: array<Choice>;
@group(0) @binding(1) var<storage, read> step_rows: array<StepRow>;
// The token of each cell of the cache.
@group(0) @binding(2) var<storage, read> cell_tokens: array<u32>;
// [S, V], bits of f32.
@group(0) @binding(3) var<storage, read_write> logits: array<u32>;
// [S, blocks]
@group(0) @binding(4) var<storage, read_write> peaks: array<Peak>;

// Whether each token of the block was seen lately.
var<workgroup> seen: array<atomic<u32>, BLOCK>;
var<workgroup> keys: array<u32, WORKGROUP>;
var<workgroup> ids: array<u32, WORKGROUP>;
var<workgroup> masses: array<vec2<f32>, WORKGROUP>;

fn mark_seen(first: u32, local: u32, row: StepRow, last_n: u32) {
    for (var at = local; at < BLOCK; at += WORKGROUP) {
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
            atomicStore(&seen[place], 1u);
        }
    }
    workgroupBarrier();
}

fn penalized(key: u32, penalty: f32) -> u32 {
    let logit = logit_of_key(key);
    let less = select(logit * penalty, logit / penalty, logit > 0.0);
    return select(finite_key(bitcast<u32>(less)), LOWEST_KEY, key == LOWEST_KEY);
}

@compute @workgroup_size(WORKGROUP)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) workgroups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let choice = choices[workgroup.y];
    let first = workgroup.x * BLOCK;
    let end = min(first + BLOCK, params.vocab);
    let row = workgroup.y * params.vocab;
    let penalizes = choice.repeat_penalty != 1.0;
    if penalizes {
        mark_seen(first, local, step_rows[params.first_row + workgroup.y], choice.repeat_last_n);
    }
    var key = 0u;
    var id = 0u;
    for (var v = first + local; v < end; v += WORKGROUP) {
        let bits = logits[row + v];
        var own = finite_key(bits);
        if penalizes && atomicLoad(&seen[v - first]) == 1u {
            own = penalized(own, choice.repeat_penalty);
        }
        if bits_of_key(own) != bits {
            logits[row + v] = bits_of_key(own);
        }
        if own > key {
            key = own;
            id = v;
        }
    }
    keys[local] = key;
    ids[local] = id;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half && before(keys[local + half], ids[local + half], keys[local], ids[local]) {
            keys[local] = keys[local + half];
            ids[local] = ids[local + half];
        }
    }
    workgroupBarrier();
    let peak = keys[0];
    // Without a temperature, nobody asks what it makes of the weights.
    let temperature = select(choice.temperature, 1.0, choice.temperature == 0.0);
    var mass = vec2<f32>();
    for (var v = first + local; v < end; v += WORKGROUP) {
        let own = key_of_bits(logits[row + v]);
        mass += vec2<f32>(weight(own, peak, 1.0), weight(own, peak, temperature));
    }
    masses[local] = mass;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            masses[local] += masses[local + half];
        }
    }
    if local == 0u {
        peaks[workgroup.y * workgroups.x + workgroup.x] = Peak(peak, ids[0], masses[0].x, masses[0].y);
    }
}
