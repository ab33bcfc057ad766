// Chooses the next token and writes it where the next step reads it; a workgroup for each choice. src/sampling.rs has
// the rules.
//
// As a rule the tokens that stay in the draw are few, and leaders tell them (leaders). Where they do not, logits are read
// and sorted (candidates). Where the tokens turn out to be many, they are searched, never sorted (descent). Where only
// min-p cuts, they are taken in the order of their ids (draw_by_id). No invocation walks along all tokens: Mesa's
// llvmpipe ends all loops of an invocation after 65535 rounds of them together.
//
// The workgroup is alone, so that what it waits for takes the time, and not what it computes: loads come several at a
// time, barriers are few, and loops on the common way are not unrolled, as each instruction is fetched for one run.
#import step_rows
#import sampling
#import ranks
#import leaders
#import candidates
#import workgroup_sum
#import running_sum
#import descent
#import draw_by_id

struct Params {
    vocab: u32,
    // The token in `step_rows` that the first choice follows; the others follow the tokens after it.
    first_row: u32,
    blocks: u32,
    // 1, which no compiler knows, so that none unrolls a loop whose bound it is part of.
    one: u32,
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

var<immediate> params: Params;
@group(0) @binding(0) var<storage, read> choices: array<Choice>;
@group(0) @binding(1) var<storage, read> step_rows: array<StepRow>;
// [S, V], bits of f32, finite and penalized.
@group(0) @binding(2) var<storage, read> logits: array<u32>;
// [S, blocks]
@group(0) @binding(3) var<storage, read> peaks: array<Peak>;
// [S, blocks, LEADERS]
@group(0) @binding(4) var<storage, read> leaders: array<vec2<u32>>;
// An entry for each sequence.
@group(0) @binding(5) var<storage, read_write> sampled: array<Sampled>;

// Which choice the workgroup makes, and its settings.
var<private> row: u32;
var<private> choice: Choice;

fn key_at(v: u32) -> u32 {
    return key_of_bits(logits[row * params.vocab + v]);
}

// Sum of the probabilities of all tokens, as parts of the likeliest one's.
fn total_mass(local: u32) -> f32 {
    var own = 0.0;
    if local < params.blocks {
        let peak = peaks[row * params.blocks + local];
        own = peak.mass * weight(peak.key, best.x, 1.0);
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

// How many of the first `k` candidates top-p and min-p leave, where `some` there are; NONE if that hangs on tokens after
// them. Those have a `total` together with the candidates; without a total there are none.
fn candidates_left(local: u32, k: u32, some: u32, total: f32) -> u32 {
    var own = vec4<f32>();
    for (var i = 0u; i < EACH; i++) {
        let at = local * EACH + i;
        if at < some {
            own[i] = weight(tokens[at].x, best.x, 1.0);
        }
    }
    let line = running_sum(own, local);
    let mass = select(total, line.total, total == 0.0);
    let least = least_key();
    begin_pick(local);
    for (var i = 0u; i < EACH; i++) {
        let at = local * EACH + i;
        if at < some {
            if tokens[at].x < least {
                atomicMin(&passing_at, at);
            } else if choice.top_p < 1.0 && line.sums[i] >= choice.top_p * mass {
                atomicMin(&passing_at, at + 1u);
            }
        }
    }
    let left = end_pick(local).x;
    return select(left, min(left, some), total == 0.0 || some < k);
}

// A token drawn of the first `left` candidates.
fn draw_candidate(local: u32, left: u32) -> u32 {
    var own = vec4<f32>();
    for (var i = 0u; i < EACH; i++) {
        let at = local * EACH + i;
        if at < left {
            own[i] = weight(tokens[at].x, best.x, choice.temperature);
        }
    }
    let line = running_sum(own, local);
    let at = pick(local, own, uniform_number() * line.total);
    return tokens[select(at.x, max(at.y, 1u) - 1u, at.x == NONE)].y;
}

// A token drawn in the order of likelihood, of the k likeliest that are left; MANY if those are many. Leaders that are
// not less than `least` are k or some more, or all of them where that is 0.
fn draw_of_few(local: u32, k: u32, least: u32, total: f32) -> u32 {
    let count = gather(local, set_domain(local, least), least);
    if count > CAPACITY {
        return MANY;
    }
    if count <= WORKGROUP {
        // No block has tokens that are not among these.
        return draw_of_candidates(local, count, k, total, vec2<u32>(0u, NONE));
    }
    sort(local, count);
    let left = candidates_left(local, k, min(k, count), total);
    if left == NONE {
        return MANY;
    }
    return draw_candidate(local, left);
}

// A token drawn in the order of likelihood, of those that are left of all or of the k likeliest.
fn draw_by_likelihood(local: u32, k: u32, all_stay: bool) -> u32 {
    var chosen = MANY;
    var total = 0.0;
    if all_stay && k < params.vocab {
        total = total_mass(local);
    }
    if k <= WORKGROUP {
        chosen = draw_of_leaders(local, k, total);
        if chosen == UNKNOWN {
            chosen = draw_of_few(local, k, least_leader(local, k), total);
        }
    } else if k <= CAPACITY {
        chosen = draw_of_few(local, k, least_of(local, k), total);
    }
    if chosen == MANY {
        chosen = draw_of_many(local, all_stay);
    }
    return chosen;
}

// The same, however many are left.
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

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) local: u32) {
    row = workgroup.x;
    choice = choices[row];
    let slot = step_rows[params.first_row + row].slot;
    let all_stay = choice.top_k == 0u || choice.top_k >= params.vocab;
    let k = select(choice.top_k, min(NUCLEUS, params.vocab), all_stay);
    load_leaders(local, k);
    // Token 0 where no logit is above minus infinity.
    let top = select(best, vec2<u32>(LOWEST_KEY, 0u), best.y == NONE);
    var chosen = top.y;
    if choice.temperature > 0.0 && best.y != NONE {
        if all_stay && choice.top_p >= 1.0 {
            chosen = draw_by_id(local);
        } else {
            chosen = draw_by_likelihood(local, k, all_stay);
        }
    }
    if local == 0u {
        sampled[slot] = Sampled(chosen, bits_of_key(top.x));
    }
}
