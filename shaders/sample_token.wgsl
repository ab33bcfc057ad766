// Chooses the next token and writes it where the next step reads it; a workgroup for each choice. src/sampling.rs has
// the rules.
//
// As a rule the tokens that stay in the draw are few, and are sorted (candidates); where they turn out to be many, they
// are searched, never sorted (descent). Where only min-p cuts, they are taken in the order of their ids. No invocation
// walks along all tokens: Mesa's llvmpipe ends all loops of an invocation after 65535 rounds of them together.
//
// The workgroup is alone, so that what it waits for takes the time, and not what it computes: loads come several at a
// time, and sums are made by all invocations.
#import step_rows
#import sampling
#import candidates
#import workgroup_sum
#import running_sum
#import descent

struct Params {
    vocab: u32,
    // The token in `step_rows` that the first choice follows; the others follow the tokens after it.
    first_row: u32,
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
@group(0) @binding(0) var<storage, read> choices: array<Choice>;
@group(0) @binding(1) var<storage, read> step_rows: array<StepRow>;
// [S, V], bits of f32, finite and penalized.
@group(0) @binding(2) var<storage, read> logits: array<u32>;
// [S, blocks]
@group(0) @binding(3) var<storage, read> peaks: array<Peak>;
// An entry for each sequence.
@group(0) @binding(4) var<storage, read_write> sampled: array<Sampled>;

// Which choice the workgroup makes, and its settings.
var<private> row: u32;
var<private> choice: Choice;
// The likeliest token, (key, id).
var<workgroup> best: vec2<u32>;

fn key_at(v: u32) -> u32 {
    return key_of_bits(logits[row * params.vocab + v]);
}

// The likeliest token, (key, id); the keys of all peaks go to `keys`.
fn find_best(local: u32) -> vec2<u32> {
    var own = vec2<u32>(0u, NONE);
    for (var i = 0u; i < EACH; i++) {
        let peak = own_peak(local, i);
        keys[local + i * WORKGROUP] = peak.key;
        if before(peak.key, peak.id, own.x, own.y) {
            own = vec2<u32>(peak.key, peak.id);
        }
    }
    domain[local] = own.x;
    members[local] = own.y;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half && before(domain[local + half], members[local + half], domain[local], members[local]) {
            domain[local] = domain[local + half];
            members[local] = members[local + half];
        }
    }
    if local == 0u {
        best = vec2<u32>(domain[0], members[0]);
    }
    return workgroupUniformLoad(&best);
}

// Sum of the probabilities of all tokens, as parts of the likeliest one's.
fn total_mass(local: u32) -> f32 {
    var own = 0.0;
    for (var i = 0u; i < EACH; i++) {
        let peak = own_peak(local, i);
        let mass = peak.mass * weight(peak.key, best.x, 1.0);
        own += select(0.0, mass, local + i * WORKGROUP < params.blocks);
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
fn candidates_left(local: u32, k: u32, total: f32) -> u32 {
    var own = vec4<f32>();
    for (var i = 0u; i < EACH; i++) {
        let at = local * EACH + i;
        if at < k {
            own[i] = weight(keys[at], best.x, 1.0);
        }
    }
    let line = running_sum(own, local);
    let mass = select(total, line.total, total == 0.0);
    let least = least_key();
    begin_pick(local);
    for (var i = 0u; i < EACH; i++) {
        let at = local * EACH + i;
        if at < k {
            if keys[at] < least {
                atomicMin(&passing_at, at);
            } else if choice.top_p < 1.0 && line.sums[i] >= choice.top_p * mass {
                atomicMin(&passing_at, at + 1u);
            }
        }
    }
    let left = end_pick(local).x;
    return select(left, min(left, k), total == 0.0);
}

// A token drawn of the first `left` candidates.
fn draw_candidate(local: u32, left: u32) -> u32 {
    var own = vec4<f32>();
    for (var i = 0u; i < EACH; i++) {
        let at = local * EACH + i;
        if at < left {
            own[i] = weight(keys[at], best.x, choice.temperature);
        }
    }
    let line = running_sum(own, local);
    let at = pick(local, own, uniform_number() * line.total);
    return members[select(at.x, max(at.y, 1u) - 1u, at.x == NONE)];
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
    let count = gather(local, set_domain(local, k));
    if count > CAPACITY {
        return NONE;
    }
    sort(local, count);
    let left = candidates_left(local, k, total);
    if left == NONE {
        return NONE;
    }
    return draw_candidate(local, left);
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

// The weight of a token, unless min-p leaves it out, or it is past the end.
fn weight_at(v: u32, end: u32, least: u32) -> f32 {
    let key = key_at(min(v, params.vocab - 1u));
    return select(0.0, weight(key, best.x, choice.temperature), v < end && key >= least);
}

// Sum of the weights of a block. A block without a token that min-p leaves is not read, and neither is one if min-p
// leaves all tokens.
fn block_weight(block: u32, least: u32) -> f32 {
    if block >= params.blocks {
        return 0.0;
    }
    let peak = peaks[row * params.blocks + block];
    if least == 0u {
        return peak.tempered_mass * weight(peak.key, best.x, choice.temperature);
    }
    var sum = 0.0;
    if peak.key >= least {
        let end = min((block + 1u) * BLOCK, params.vocab);
        for (var v = block * BLOCK; v < end; v += AT_ONCE) {
            for (var i = 0u; i < AT_ONCE; i++) {
                sum += weight_at(v + i, end, least);
            }
        }
    }
    return sum;
}

// A token drawn of all but those that min-p leaves out, in the order of ids: first its block, and then itself.
fn draw_by_id(local: u32) -> u32 {
    let least = least_key();
    var own: vec4<f32>;
    for (var i = 0u; i < EACH; i++) {
        own[i] = block_weight(local * EACH + i, least);
    }
    let line = running_sum(own, local);
    let at = pick(local, own, uniform_number() * line.total);
    let first = select(at.x, max(at.y, 1u) - 1u, at.x == NONE) * BLOCK;
    let end = min(first + BLOCK, params.vocab);
    var chosen = best.y;
    for (var piece = first; piece < end; piece += CAPACITY) {
        let goal = workgroupUniformLoad(&goal_left);
        for (var i = 0u; i < EACH; i++) {
            own[i] = weight_at(piece + local * EACH + i, end, least);
        }
        let token = pick(local, own, goal);
        if token.y > 0u {
            chosen = piece + min(token.x, token.y - 1u);
        }
        if token.x != NONE {
            break;
        }
    }
    return chosen;
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    row = workgroup.x;
    choice = choices[row];
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
        sampled[step_rows[params.first_row + row].slot] = Sampled(chosen, bits_of_key(top.x));
    }
}
