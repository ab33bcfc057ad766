// Logits made ready for the choice of a token, and of each block of them the likeliest; one workgroup a block.
// In place: no number becomes minus infinity, and tokens seen lately become less likely.
#import step_rows
#import sampling

struct Params {
    vocab: u32,
    // The step's last token, in `step_rows`.
    last: u32,
}

override WORKGROUP: u32 = 64u;
// Logits of a block.
override BLOCK: u32 = 128u;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> choice: Choice;
@group(0) @binding(1) var<storage, read> step_rows: array<StepRow>;
// The token of each cell of the cache.
@group(0) @binding(2) var<storage, read> cell_tokens: array<u32>;
// Bits of f32.
@group(0) @binding(3) var<storage, read_write> logits: array<u32>;
@group(0) @binding(4) var<storage, read_write> peaks: array<Peak>;

// Whether each token of the block was seen lately.
var<workgroup> seen: array<atomic<u32>, BLOCK>;
var<workgroup> keys: array<u32, WORKGROUP>;
var<workgroup> ids: array<u32, WORKGROUP>;
var<workgroup> masses: array<f32, WORKGROUP>;

fn mark_seen(first: u32, local: u32) {
    for (var at = local; at < BLOCK; at += WORKGROUP) {
        atomicStore(&seen[at], 0u);
    }
    workgroupBarrier();
    // The sequence's cells.
    let length = step_rows[params.last].position + 1u;
    let end = step_rows[params.last].first_cell + length;
    for (var at = end - min(length, choice.repeat_last_n) + local; at < end; at += WORKGROUP) {
        // An id before the block wraps around to a large number.
        let place = cell_tokens[at] - first;
        if place < BLOCK {
            atomicStore(&seen[place], 1u);
        }
    }
    workgroupBarrier();
}

fn penalized(key: u32) -> u32 {
    let logit = logit_of_key(key);
    let less = select(logit * choice.repeat_penalty, logit / choice.repeat_penalty, logit > 0.0);
    return select(finite_key(bitcast<u32>(less)), LOWEST_KEY, key == LOWEST_KEY);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    let first = workgroup.x * BLOCK;
    let end = min(first + BLOCK, params.vocab);
    let penalizes = choice.repeat_penalty != 1.0;
    if penalizes {
        mark_seen(first, local);
    }
    var key = 0u;
    var id = 0u;
    for (var v = first + local; v < end; v += WORKGROUP) {
        let bits = logits[v];
        var own = finite_key(bits);
        if penalizes && atomicLoad(&seen[v - first]) == 1u {
            own = penalized(own);
        }
        if bits_of_key(own) != bits {
            logits[v] = bits_of_key(own);
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
    var mass = 0.0;
    for (var v = first + local; v < end; v += WORKGROUP) {
        mass += weight(key_of_bits(logits[v]), peak, 1.0);
    }
    masses[local] = mass;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            masses[local] += masses[local + half];
        }
    }
    if local == 0u {
        peaks[workgroup.x] = Peak(peak, ids[0], masses[0]);
    }
}
