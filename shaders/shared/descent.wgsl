// The token at which a sum along the order of likelihood passes a goal, whatever the number of tokens; for one
// workgroup.
//
// Tokens are told apart by eight bits of (key, not id) at a time, the greatest values first: a round sums up the tokens
// of each value and goes on with the value at which the goal is passed. Sums are whole numbers, so that the order in
// which invocations add does not matter; weights are scaled so that all of them are about FIXED together.

const FIXED: f32 = 2147483648.0;
// In place of a temperature, where tokens are counted.
const COUNTS: f32 = 0.0;

struct Round {
    // What is known of the token: it agrees with `prefix` under `mask`.
    prefix: vec2<u32>,
    mask: vec2<u32>,
    // What the sum must pass, less the values passed before.
    goal: u32,
    // Tokens that agree.
    tokens: u32,
}

var<workgroup> bin_sums: array<atomic<u32>, WORKGROUP>;
var<workgroup> bin_tokens: array<atomic<u32>, WORKGROUP>;
var<workgroup> descent: Round;
var<workgroup> passing: vec2<u32>;

// Sum of the invocations' numbers, which may be asked for again and again.
fn sum_up(local: u32, number: f32) -> f32 {
    let sum = sum_of_workgroup(number, local);
    workgroupBarrier();
    return sum;
}

// Whether a token is one of those up to `last`, (key, id), in the order of likelihood.
fn stays(key: u32, id: u32, last: vec2<u32>) -> bool {
    return !before(last.x, last.y, key, id);
}

// Sum of the weights of the tokens up to `last`.
fn weight_up_to(local: u32, last: vec2<u32>, temperature: f32) -> f32 {
    var own = 0.0;
    for (var v = local; v < params.vocab; v += WORKGROUP) {
        let key = key_at(v);
        own += select(0.0, weight(key, best.x, temperature), stays(key, v, last));
    }
    return sum_up(local, own);
}

// What the sum must pass, less than all of it: a share of it, or what is just below the share, to reach it.
fn goal_of(share: f32, at_least: bool) -> u32 {
    var total = 0u;
    for (var bin = 0u; bin < WORKGROUP; bin++) {
        total += atomicLoad(&bin_sums[bin]);
    }
    let goal = share * f32(total);
    return min(select(u32(goal), u32(max(ceil(goal), 1.0)) - 1u, at_least), total - 1u);
}

// One round's end: the value at which the goal is passed becomes known.
fn choose_bin(word: u32, shift: u32) {
    var r = descent;
    var bin = 255u;
    for (; bin > 0u && atomicLoad(&bin_sums[bin]) <= r.goal; bin--) {
        r.goal -= atomicLoad(&bin_sums[bin]);
    }
    r.tokens = atomicLoad(&bin_tokens[bin]);
    r.prefix[word] |= bin << shift;
    r.mask[word] |= 255u << shift;
    descent = r;
}

// The token, (key, id), of those up to `last`, at which the sum of the weights at the temperature passes a share of the
// whole, or with `at_least` reaches it. At COUNTS, the one that comes after `count` others.
fn descend(local: u32, last: vec2<u32>, temperature: f32, share: f32, at_least: bool, count: u32) -> vec2<u32> {
    let counts = temperature == COUNTS;
    var scale = 1.0;
    if !counts {
        scale = FIXED / weight_up_to(local, last, temperature);
    }
    if local == 0u {
        descent = Round(vec2<u32>(), vec2<u32>(), count, params.vocab);
    }
    for (var round = 0u; round < 8u; round++) {
        let word = round / 4u;
        let shift = 24u - 8u * (round % 4u);
        let now = workgroupUniformLoad(&descent);
        if now.tokens == 1u {
            break;
        }
        atomicStore(&bin_sums[local], 0u);
        atomicStore(&bin_tokens[local], 0u);
        workgroupBarrier();
        for (var v = local; v < params.vocab; v += WORKGROUP) {
            let key = key_at(v);
            let code = vec2<u32>(key, ~v);
            if stays(key, v, last) && all((code & now.mask) == now.prefix) {
                let part = select(u32(weight(key, best.x, temperature) * scale + 0.5), 1u, counts);
                let bin = (code[word] >> shift) & 255u;
                atomicAdd(&bin_sums[bin], part);
                atomicAdd(&bin_tokens[bin], 1u);
            }
        }
        workgroupBarrier();
        if local == 0u {
            if round == 0u && !counts {
                descent.goal = goal_of(share, at_least);
            }
            choose_bin(word, shift);
        }
    }
    let end = workgroupUniformLoad(&descent);
    for (var v = local; v < params.vocab; v += WORKGROUP) {
        let key = key_at(v);
        if stays(key, v, last) && all((vec2<u32>(key, ~v) & end.mask) == end.prefix) {
            passing = vec2<u32>(key, v);
        }
    }
    return workgroupUniformLoad(&passing);
}
