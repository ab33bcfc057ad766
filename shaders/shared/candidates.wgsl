// The likeliest tokens, sorted, where the leaders alone do not tell them; for one workgroup.
//
// The k likeliest leaders are k tokens, so that none of the k likeliest tokens is less than the least of these leaders.
// A block whose last leader is less has all such tokens among its leaders; only the logits of other blocks are read. A
// lower bound of the least leader will do as well: the blocks and tokens are some more then.

// Tokens at most: EACH for each invocation.
const CAPACITY: u32 = 1024u;
// Blocks at most.
const BLOCKS: u32 = CAPACITY / LEADERS;
// Leaders beyond those asked for that cost less than another round of the search.
const MORE_LEADERS: u32 = 16u;
// Logits that an invocation loads at one time.
const AT_ONCE: u32 = 8u;

// The candidates, (key, id).
var<workgroup> tokens: array<vec2<u32>, CAPACITY>;
// The blocks whose logits are read.
var<workgroup> domain: array<u32, BLOCKS>;
var<workgroup> counter: atomic<u32>;
var<workgroup> block_counter: atomic<u32>;
var<workgroup> found: u32;
// A digit of the leader that is searched, the leaders above all with that digit, and these together.
var<workgroup> narrowed: vec3<u32>;

// What no more than `most` leaders and a few more are not less than, and at least that many: the beginning of the key of
// the leader of rank `most`, eight bits at a time; 0 where there are fewer leaders.
fn least_of(local: u32, most: u32) -> u32 {
    var prefix = 0u;
    var mask = 0u;
    var above = 0u;
    for (var round = 0u; round < 4u; round++) {
        let shift = 24u - 8u * round;
        atomicStore(&bin_tokens[local], 0u);
        workgroupBarrier();
        for (var i = 0u; i < EACH; i++) {
            let key = own_leaders[i].x;
            if own_leaders[i].y != NONE && (key & mask) == prefix {
                // The greatest digit first.
                atomicAdd(&bin_tokens[255u - ((key >> shift) & 255u)], 1u);
            }
        }
        workgroupBarrier();
        // Of numbers this small f32 has the exact sums.
        var own = vec4<f32>();
        if local < WORKGROUP / EACH {
            for (var i = 0u; i < EACH; i++) {
                own[i] = f32(atomicLoad(&bin_tokens[local * EACH + i]));
            }
        }
        let line = running_sum(own, local);
        if above + u32(line.total) < most {
            return 0u;
        }
        let sums = vec4<u32>(line.sums) + vec4<u32>(above);
        for (var i = 0u; i < EACH; i++) {
            let before_bin = sums[i] - u32(own[i]);
            if before_bin < most && sums[i] >= most {
                narrowed = vec3<u32>(255u - (local * EACH + i), before_bin, sums[i]);
            }
        }
        let known = workgroupUniformLoad(&narrowed);
        prefix |= known.x << shift;
        mask |= 255u << shift;
        above = known.y;
        if known.z <= most + MORE_LEADERS {
            break;
        }
    }
    return prefix;
}

// Makes the blocks the domain of which leaders do not tell all tokens that are not less than `least`; how many they are.
// Takes the leaders of the others.
fn set_domain(local: u32, least: u32) -> u32 {
    workgroupBarrier();
    clear(local);
    if local == 0u {
        atomicStore(&block_counter, 0u);
    }
    workgroupBarrier();
    if own_last.y != NONE && own_last.x >= least {
        if local % (LEADERS / EACH) == 0u {
            domain[atomicAdd(&block_counter, 1u)] = local / (LEADERS / EACH);
        }
    } else {
        for (var i = 0u; i < EACH; i++) {
            if own_leaders[i].y != NONE && own_leaders[i].x >= least {
                tokens[atomicAdd(&counter, 1u)] = own_leaders[i];
            }
        }
    }
    workgroupBarrier();
    if local == 0u {
        found = atomicLoad(&block_counter);
    }
    return workgroupUniformLoad(&found);
}

// Takes the tokens of the blocks of the domain that are not less than `least`, as many as fit; how many there are with
// those that were taken before, or more than fit.
fn gather(local: u32, blocks: u32, least: u32) -> u32 {
    let end = blocks * BLOCK;
    for (var first = local; first < end && atomicLoad(&counter) <= CAPACITY; first += AT_ONCE * WORKGROUP) {
        var ids: array<u32, AT_ONCE>;
        var own: array<u32, AT_ONCE>;
        for (var i = 0u; i < AT_ONCE; i++) {
            let at = min(first + i * WORKGROUP, end - 1u);
            ids[i] = domain[at / BLOCK] * BLOCK + at % BLOCK;
            own[i] = key_at(min(ids[i], params.vocab - 1u));
        }
        for (var i = 0u; i < AT_ONCE; i++) {
            if first + i * WORKGROUP < end && ids[i] < params.vocab && own[i] >= least && own[i] > LOWEST_KEY {
                let place = atomicAdd(&counter, 1u);
                if place < CAPACITY {
                    tokens[place] = vec2<u32>(own[i], ids[i]);
                }
            }
        }
    }
    workgroupBarrier();
    if local == 0u {
        found = atomicLoad(&counter);
    }
    return workgroupUniformLoad(&found);
}

// Sorts the first `count` candidates, likelier ones first: a bitonic network (Batcher, 1968), whose length is filled up
// by what comes after any token.
fn sort(local: u32, count: u32) {
    var length = 2u;
    while length < count {
        length *= 2u;
    }
    for (var at = count + local; at < length; at += WORKGROUP) {
        tokens[at] = vec2<u32>(0u, NONE);
    }
    workgroupBarrier();
    for (var run = 2u; run <= length; run *= 2u) {
        for (var stride = run / 2u; stride > 0u; stride /= 2u) {
            for (var pair = local; pair < length / 2u; pair += WORKGROUP) {
                let at = 2u * pair - (pair & (stride - 1u));
                let a = tokens[at];
                let b = tokens[at + stride];
                if any(a != b) && before(b.x, b.y, a.x, a.y) == ((at & run) == 0u) {
                    tokens[at] = b;
                    tokens[at + stride] = a;
                }
            }
            workgroupBarrier();
        }
    }
}
