// A token drawn of the few likeliest by the leaders of the blocks alone; for one workgroup, of which each invocation has
// EACH leaders of one block.
//
// The likeliest ones of k invocations are not below the k-th likeliest of these, so that the k likeliest leaders are
// among those not below it. Those are few, and are compared with each other. They are the k likeliest tokens unless the
// last leader of a block is before the k-th of them: then the block may have more.

// In place of a token: leaders do not tell which one is drawn, or it is one of many.
const UNKNOWN: u32 = 0xfffffffeu;
const MANY: u32 = 0xfffffffdu;
// Leaders that are loaded at one time to be compared.
const COMPARED: u32 = 8u;

// The invocation's leaders, and the last one of their block.
var<private> own_leaders: array<vec2<u32>, EACH>;
var<private> own_last: vec2<u32>;

// The likeliest token, and what the k likeliest are not after, both (key, id).
var<workgroup> best: vec2<u32>;
var<workgroup> bound: vec2<u32>;
// Of each candidate in the order of likelihood, the weight as it is and at the temperature.
var<workgroup> weights: array<vec2<f32>, WORKGROUP>;
var<workgroup> inexact: atomic<u32>;
var<workgroup> drawn: u32;

fn leader_at(at: u32) -> vec2<u32> {
    let end = params.blocks * LEADERS;
    return select(vec2<u32>(0u, NONE), leaders[row * end + min(at, end - 1u)], at < end);
}

// Makes room for candidates.
fn clear(local: u32) {
    tokens[local] = vec2<u32>(0u, NONE);
    tokens[WORKGROUP + local] = vec2<u32>(0u, NONE);
    weights[local] = vec2<f32>();
    if local == 0u {
        atomicStore(&counter, 0u);
        atomicStore(&inexact, 0u);
        atomicStore(&passing_at, NONE);
    }
}

// Loads the leaders, and finds the likeliest token and, where k is at most WORKGROUP, the bound of the k likeliest.
fn load_leaders(local: u32, k: u32) {
    for (var i = 0u; i < EACH; i++) {
        own_leaders[i] = leader_at(local * EACH + i);
    }
    own_last = leader_at((local * EACH) | (LEADERS - 1u));
    if local < FOURS {
        let first = 4u * local * EACH;
        fours[local] = vec4<u32>(
            leader_at(first).x, leader_at(first + EACH).x,
            leader_at(first + 2u * EACH).x, leader_at(first + 3u * EACH).x,
        );
    }
    clear(local);
    workgroupBarrier();
    let rank = rank_of(own_leaders[0].x, local);
    if rank == 0u {
        best = own_leaders[0];
    }
    if rank + 1u == k {
        bound = own_leaders[0];
    }
    workgroupBarrier();
}

// Takes the leaders that are not after the bound, as many as fit; how many there are.
fn take_leaders(local: u32) -> u32 {
    for (var i = 0u; i < EACH * params.one; i++) {
        let own = own_leaders[0];
        // In the end they are where they were.
        own_leaders = array<vec2<u32>, EACH>(own_leaders[1], own_leaders[2], own_leaders[3], own);
        if own.y != NONE && !before(bound.x, bound.y, own.x, own.y) {
            let place = atomicAdd(&counter, 1u);
            if place < WORKGROUP {
                tokens[place] = own;
            }
        }
    }
    workgroupBarrier();
    return atomicLoad(&counter);
}

// Sorts the candidates, at most WORKGROUP and from 0 on, to where WORKGROUP begins, and weighs them.
fn rank_candidates(local: u32, count: u32) {
    if local < count {
        let own = tokens[local];
        var place = 0u;
        for (var first = 0u; first < count; first += COMPARED) {
            for (var i = 0u; i < COMPARED; i++) {
                let other = tokens[first + i];
                place += select(0u, 1u, before(other.x, other.y, own.x, own.y));
            }
        }
        tokens[WORKGROUP + place] = own;
        weights[place] = vec2<f32>(weight(own.x, best.x, 1.0), weight(own.x, best.x, choice.temperature));
    }
    workgroupBarrier();
}

// Whether the line of the first candidates' weights, which `summands` sums up, passes a goal before an entry's end.
fn passes(at: u32, goal: f32, whole: f32) -> bool {
    return summands[at] > goal || summands[at] >= whole;
}

// A token drawn of the k likeliest of the candidates. MANY where top-p leaves more, of which all have the mass `total`, if
// that is not 0; UNKNOWN where the last leader of a block, `last_of_block`, is before the k-th candidate.
fn draw_of_candidates(local: u32, count: u32, k: u32, total: f32, last_of_block: vec2<u32>) -> u32 {
    rank_candidates(local, count);
    let last = tokens[WORKGROUP + min(k, WORKGROUP) - 1u];
    if before(last_of_block.x, last_of_block.y, last.x, last.y) {
        atomicStore(&inexact, 1u);
    }
    let few = min(k, count);
    if local < few {
        var sums = vec2<f32>();
        var mass = 0.0;
        for (var first = 0u; first < few; first += COMPARED) {
            for (var i = 0u; i < COMPARED; i++) {
                let other = select(vec2<f32>(), weights[first + i], first + i < few);
                mass += other.x;
                sums += select(vec2<f32>(), other, first + i <= local);
            }
        }
        summands[local] = sums.y;
        if tokens[WORKGROUP + local].x < least_key() {
            atomicMin(&passing_at, local);
        } else if choice.top_p < 1.0 && sums.x >= choice.top_p * select(total, mass, total == 0.0) {
            atomicMin(&passing_at, local + 1u);
        }
    }
    workgroupBarrier();
    if atomicLoad(&inexact) == 1u {
        return UNKNOWN;
    }
    let cut = atomicLoad(&passing_at);
    if cut == NONE && total != 0.0 && few == k {
        return MANY;
    }
    // Hardware without numbers below the normal ones may leave even the likeliest out.
    let left = max(min(cut, few), 1u);
    let whole = summands[left - 1u];
    let goal = uniform_number() * whole;
    if local < left && passes(local, goal, whole) && (local == 0u || !passes(local - 1u, goal, whole)) {
        drawn = tokens[WORKGROUP + local].y;
    }
    return workgroupUniformLoad(&drawn);
}

// A token drawn of the k likeliest leaders; UNKNOWN where these may not be the k likeliest tokens.
fn draw_of_leaders(local: u32, k: u32, total: f32) -> u32 {
    let count = take_leaders(local);
    if count > WORKGROUP {
        return UNKNOWN;
    }
    return draw_of_candidates(local, count, k, total, own_last);
}

// The least key of the k likeliest leaders, or less, after draw_of_leaders.
fn least_leader(local: u32, k: u32) -> u32 {
    if atomicLoad(&counter) > WORKGROUP {
        return least_of(local, k);
    }
    return tokens[WORKGROUP + k - 1u].x;
}
