// A token drawn in the order of ids, of all that min-p leaves; for one workgroup. A kernel imports `candidates`,
// `leaders` and `running_sum`.

// Invocations that add up the weights of a block.
const STRIPS: u32 = 8u;

// The weight of a token, unless min-p leaves it out, or it is past the end.
fn weight_at(v: u32, end: u32, least: u32) -> f32 {
    let key = key_at(min(v, params.vocab - 1u));
    return select(0.0, weight(key, best.x, choice.temperature), v < end && key >= least);
}

// The sum of the weights of each invocation's block. A block is read only where its leaders do not tell all tokens that
// min-p leaves: STRIPS invocations share it.
fn block_weight(local: u32, least: u32) -> f32 {
    var sum = 0.0;
    let is_there = local < params.blocks;
    let peak = peaks[row * params.blocks + min(local, params.blocks - 1u)];
    if least == 0u {
        return select(0.0, peak.tempered_mass * weight(peak.key, best.x, choice.temperature), is_there);
    }
    let last = leader_at(local * LEADERS + LEADERS - 1u);
    let is_read = is_there && last.y != NONE && last.x >= least;
    if is_there && !is_read {
        for (var i = 0u; i < LEADERS; i++) {
            let leader = leader_at(local * LEADERS + i);
            sum += select(0.0, weight(leader.x, best.x, choice.temperature), leader.y != NONE && leader.x >= least);
        }
    }
    var place = 0u;
    if is_read {
        place = atomicAdd(&counter, 1u);
        domain[place] = local;
    }
    workgroupBarrier();
    let strips = atomicLoad(&counter) * STRIPS;
    for (var strip = local; strip < strips; strip += WORKGROUP) {
        let first = domain[strip / STRIPS] * BLOCK + strip % STRIPS * (BLOCK / STRIPS);
        let end = min(first + BLOCK / STRIPS, params.vocab);
        var own = 0.0;
        for (var v = first; v < end; v += AT_ONCE) {
            for (var i = 0u; i < AT_ONCE; i++) {
                own += weight_at(v + i, end, least);
            }
        }
        tokens[strip].x = bitcast<u32>(own);
    }
    workgroupBarrier();
    for (var i = 0u; is_read && i < STRIPS; i++) {
        sum += bitcast<f32>(tokens[place * STRIPS + i].x);
    }
    return sum;
}

// A token drawn of all but those that min-p leaves out, in the order of ids: first its block, and then itself.
fn draw_by_id(local: u32) -> u32 {
    let least = least_key();
    // A block is the first of its invocation's entries.
    var own = vec4<f32>(block_weight(local, least), 0.0, 0.0, 0.0);
    let line = running_sum(own, local);
    let at = pick(local, own, uniform_number() * line.total);
    let first = select(at.x, max(at.y, 1u) - 1u, at.x == NONE) / EACH * BLOCK;
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
