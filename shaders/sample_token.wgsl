// Chooses the next token and writes it where the next step reads it; one workgroup. src/sampling.rs has the rules.
//
// As a rule the tokens that stay in the draw are few, and are sorted (candidates); where they turn out to be many, they
// are searched, never sorted (descent). Where only min-p cuts, they are taken in the order of their ids. No invocation
// walks along all tokens: Mesa's llvmpipe ends all loops of an invocation after 65535 rounds of them together.
#import step_rows
#import sampling
#import candidates
#import workgroup_sum
#import descent

struct Params {
    vocab: u32,
    // The step's last token, in `step_rows`.
    last: u32,
    blocks: u32,
}

// The token that was chosen, and the bits of the likeliest one's logit.
struct Sampled {
    id: u32,
    best_logit: u32,
}

const WORKGROUP: u32 = 256u;
// Logits of a block.
override BLOCK: u32 = 128u;
// Tokens that most nuclei do not exceed.
const NUCLEUS: u32 = 64u;
// No token.
const NONE: u32 = 0xffffffffu;

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> choice: Choice;
@group(0) @binding(1) var<storage, read> step_rows: array<StepRow>;
// Bits of f32, finite and penalized.
@group(0) @binding(2) var<storage, read> logits: array<u32>;
@group(0) @binding(3) var<storage, read> peaks: array<Peak>;
// An entry for each sequence.
@group(0) @binding(4) var<storage, read_write> sampled: array<Sampled>;

// The likeliest token, (key, id).
var<workgroup> best: vec2<u32>;

// The likeliest token, (key, id).
fn find_best(local: u32) -> vec2<u32> {
    var own = vec2<u32>();
    for (var b = local; b < params.blocks; b += WORKGROUP) {
        if before(peaks[b].key, peaks[b].id, own.x, own.y) {
            own = vec2<u32>(peaks[b].key, peaks[b].id);
        }
    }
    keys[local] = own.x;
    members[local] = own.y;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half && before(keys[local + half], members[local + half], keys[local], members[local]) {
            keys[local] = keys[local + half];
            members[local] = members[local + half];
        }
    }
    if local == 0u {
        best = vec2<u32>(keys[0], members[0]);
    }
    return workgroupUniformLoad(&best);
}

// Sum of the probabilities of all tokens, as parts of the likeliest one's.
fn total_mass(local: u32) -> f32 {
    var own = 0.0;
    for (var b = local; b < params.blocks; b += WORKGROUP) {
        own += peaks[b].mass * weight(peaks[b].key, best.x, 1.0);
    }
    return sum_up(local, own);
}

// The least key that min-p leaves.
fn least_key() -> u32 {
    let key = key_of_bits(bitcast<u32>(logit_of_key(best.x) + choice.min_p_ln));
    // Minus zero is not less than zero.
    return select(select(key, 0x7fffffffu, key == 0x80000000u), 0u, choice.min_p_ln < -1e30);
}

// The random number, in [0, 1).
fn uniform_number() -> f32 {
    return f32(choice.draw_high >> 8u) * 0x1p-24;
}

// How many of the first `k` candidates top-p and min-p leave; NONE if that hangs on tokens after them. Those have a
// `total` together with the candidates; without a total there are none.
fn candidates_left(k: u32, total: f32) -> u32 {
    var mass = total;
    for (var at = 0u; at < k && total == 0.0; at++) {
        mass += weight(keys[at], best.x, 1.0);
    }
    let least = least_key();
    var sum = 0.0;
    for (var at = 0u; at < k; at++) {
        if keys[at] < least {
            return at;
        }
        sum += weight(keys[at], best.x, 1.0);
        if choice.top_p < 1.0 && sum >= choice.top_p * mass {
            return at + 1u;
        }
    }
    return select(NONE, k, total == 0.0);
}

// A token drawn of the first `left` candidates.
fn draw_candidate(left: u32) -> u32 {
    var total = 0.0;
    for (var at = 0u; at < left; at++) {
        total += weight(keys[at], best.x, choice.temperature);
    }
    let goal = uniform_number() * total;
    var sum = 0.0;
    var chosen = best.y;
    for (var at = 0u; at < left && sum <= goal; at++) {
        let part = weight(keys[at], best.x, choice.temperature);
        sum += part;
        chosen = select(chosen, members[at], part > 0.0);
    }
    return chosen;
}

// A token drawn in the order of likelihood, of those that are left of all or of the k likeliest; NONE if they are many.
fn draw_of_few(local: u32, all_stay: bool) -> u32 {
    let k = select(choice.top_k, min(NUCLEUS, params.vocab), all_stay);
    if k > CAPACITY {
        return NONE;
    }
    var total = 0.0;
    if all_stay && k < params.vocab {
        total = total_mass(local);
    }
    set_domain(local, k);
    let count = gather(local, k);
    if count > CAPACITY {
        return NONE;
    }
    sort(local, count);
    if local == 0u {
        let left = candidates_left(k, total);
        found = NONE;
        if left != NONE {
            found = draw_candidate(left);
        }
    }
    return workgroupUniformLoad(&found);
}

// The same, however many they are.
fn draw_of_many(local: u32, all_stay: bool) -> u32 {
    var last = vec2<u32>(0u, NONE);
    if !all_stay {
        last = descend(local, last, COUNTS, 0.0, false, choice.top_k - 1u);
    }
    if choice.top_p < 1.0 {
        last = descend(local, last, 1.0, choice.top_p, true, 0u);
    }
    let least = least_key();
    if last.x < least {
        last = vec2<u32>(least, NONE);
    }
    return descend(local, last, choice.temperature, uniform_number(), false, 0u).y;
}

// Sum of the weights of a block.
fn block_weight(block: u32, least: u32) -> f32 {
    var sum = 0.0;
    for (var v = block * BLOCK; v < min((block + 1u) * BLOCK, params.vocab); v++) {
        let key = key_of_bits(logits[v]);
        sum += select(0.0, weight(key, best.x, choice.temperature), key >= least);
    }
    return sum;
}

// A token drawn of all but those that min-p leaves out, in the order of ids: one invocation's part, with the weights of
// the blocks in `keys`.
fn pick_by_id(least: u32) -> u32 {
    var total = 0.0;
    for (var b = 0u; b < params.blocks; b++) {
        total += bitcast<f32>(keys[b]);
    }
    let goal = uniform_number() * total;
    var sum = 0.0;
    var block = 0u;
    var before_block = 0.0;
    for (var b = 0u; b < params.blocks && sum <= goal; b++) {
        if bitcast<f32>(keys[b]) > 0.0 {
            block = b;
            before_block = sum;
            sum += bitcast<f32>(keys[b]);
        }
    }
    sum = before_block;
    var chosen = best.y;
    for (var v = block * BLOCK; v < min((block + 1u) * BLOCK, params.vocab) && sum <= goal; v++) {
        let key = key_of_bits(logits[v]);
        let part = select(0.0, weight(key, best.x, choice.temperature), key >= least);
        sum += part;
        chosen = select(chosen, v, part > 0.0);
    }
    return chosen;
}

fn draw_by_id(local: u32) -> u32 {
    let least = least_key();
    for (var b = local; b < params.blocks; b += WORKGROUP) {
        keys[b] = bitcast<u32>(block_weight(b, least));
    }
    workgroupBarrier();
    if local == 0u {
        found = pick_by_id(least);
    }
    return workgroupUniformLoad(&found);
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(local_invocation_index) local: u32) {
    let top = find_best(local);
    let all_stay = choice.top_k == 0u || choice.top_k >= params.vocab;
    var chosen = top.y;
    if choice.temperature > 0.0 && top.x > LOWEST_KEY {
        if all_stay && choice.top_p >= 1.0 {
            chosen = draw_by_id(local);
        } else {
            chosen = draw_of_few(local, all_stay);
            if chosen == NONE {
                chosen = draw_of_many(local, all_stay);
            }
        }
    }
    if local == 0u {
        sampled[step_rows[params.last].slot] = Sampled(chosen, bits_of_key(top.x));
    }
}
