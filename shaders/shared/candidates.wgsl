// The few likeliest tokens, sorted; for one workgroup.
//
// The k blocks with the greatest peaks hold the k likeliest tokens, because before any token of another block come
// those k peaks. So only blocks are read whose peaks are not less than the k-th greatest one, and of them only tokens
// that are not less. A lower bound of that peak will do as well: the blocks and tokens are some more then.

// Tokens, and blocks, at most: EACH for each invocation.
const CAPACITY: u32 = 1024u;
// Blocks beyond those asked for that cost less than another round of the search.
const MORE_BLOCKS: u32 = 16u;
// Logits that an invocation loads at one time.
const AT_ONCE: u32 = 8u;

// The candidates. Before they are gathered, the keys of the blocks' peaks.
var<workgroup> keys: array<u32, CAPACITY>;
var<workgroup> members: array<u32, CAPACITY>;
// The blocks that are read, and what none of their peaks is below.
var<workgroup> domain: array<u32, CAPACITY>;
var<workgroup> domain_least: u32;
var<workgroup> counter: atomic<u32>;
var<workgroup> found: u32;
// A digit of the peak that is searched, the peaks above all with that digit, and these together.
var<workgroup> narrowed: vec3<u32>;

// The peak of block `local` + i * WORKGROUP; past the end it is the last one's.
fn own_peak(local: u32, i: u32) -> Peak {
    return peaks[row * params.blocks + min(local + i * WORKGROUP, params.blocks - 1u)];
}

// What no more than `most` peaks and a few more are not less than, and at least that many: the beginning of the peak of
// rank `most`, eight bits at a time. `keys` has the peaks.
fn least_of(local: u32, most: u32) -> u32 {
    if most >= params.blocks {
        return 0u;
    }
    var prefix = 0u;
    var mask = 0u;
    var above = 0u;
    for (var round = 0u; round < 4u; round++) {
        let shift = 24u - 8u * round;
        atomicStore(&bin_tokens[local], 0u);
        workgroupBarrier();
        for (var i = 0u; i < EACH; i++) {
            let b = local + i * WORKGROUP;
            if b < params.blocks && (keys[b] & mask) == prefix {
                // The greatest digit first.
                atomicAdd(&bin_tokens[255u - ((keys[b] >> shift) & 255u)], 1u);
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
        let sums = vec4<u32>(running_sum(own, local).sums) + vec4<u32>(above);
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
        if known.z <= most + MORE_BLOCKS {
            break;
        }
    }
    return prefix;
}

// Makes the `most` blocks with the greatest peaks the domain, and maybe a few more; how many they are.
fn set_domain(local: u32, most: u32) -> u32 {
    let least = least_of(local, most);
    if local == 0u {
        atomicStore(&counter, 0u);
        domain_least = least;
    }
    workgroupBarrier();
    for (var i = 0u; i < EACH; i++) {
        let b = local + i * WORKGROUP;
        if b < params.blocks && keys[b] >= least {
            domain[atomicAdd(&counter, 1u)] = b;
        }
    }
    return uniform_count(local);
}

// The counter, once all have counted.
fn uniform_count(local: u32) -> u32 {
    workgroupBarrier();
    if local == 0u {
        found = atomicLoad(&counter);
    }
    return workgroupUniformLoad(&found);
}

// Takes the tokens of the domain, as many as fit; how many there are, or more than fit.
fn gather(local: u32, blocks: u32) -> u32 {
    if local == 0u {
        atomicStore(&counter, 0u);
    }
    workgroupBarrier();
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
            if first + i * WORKGROUP < end && ids[i] < params.vocab && own[i] >= domain_least {
                let place = atomicAdd(&counter, 1u);
                if place < CAPACITY {
                    keys[place] = own[i];
                    members[place] = ids[i];
                }
            }
        }
    }
    return uniform_count(local);
}

// Sorts the first `count` candidates, likelier ones first: a bitonic network (Batcher, 1968), whose length is filled up
// by what comes after any token.
fn sort(local: u32, count: u32) {
    var length = 2u;
    while length < count {
        length *= 2u;
    }
    for (var at = count + local; at < length; at += WORKGROUP) {
        keys[at] = 0u;
        members[at] = NONE;
    }
    workgroupBarrier();
    for (var run = 2u; run <= length; run *= 2u) {
        for (var stride = run / 2u; stride > 0u; stride /= 2u) {
            for (var pair = local; pair < length / 2u; pair += WORKGROUP) {
                let a = 2u * pair - (pair & (stride - 1u));
                let b = a + stride;
                let swaps = before(keys[b], members[b], keys[a], members[a]);
                let equal = keys[a] == keys[b] && members[a] == members[b];
                if !equal && swaps == ((a & run) == 0u) {
                    let other = vec2<u32>(keys[a], members[a]);
                    keys[a] = keys[b];
                    members[a] = members[b];
                    keys[b] = other.x;
                    members[b] = other.y;
                }
            }
            workgroupBarrier();
        }
    }
}
