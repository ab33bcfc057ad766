// The few likeliest tokens, sorted; for one workgroup.
//
// The k blocks with the greatest peaks hold the k likeliest tokens, because before any token of another block come
// those k peaks. So only these blocks are read, and of them only tokens that are not less than the least of the peaks.

// Tokens, and blocks, at most.
const CAPACITY: u32 = 1024u;

// The candidates. Before they are gathered, scratch with an entry for each block.
var<workgroup> keys: array<u32, CAPACITY>;
var<workgroup> members: array<u32, CAPACITY>;
// The blocks that are read, and the least of their peaks.
var<workgroup> domain: array<u32, CAPACITY>;
var<workgroup> domain_least: u32;
var<workgroup> counter: atomic<u32>;
var<workgroup> found: u32;

// Makes the `most` blocks with the greatest peaks the domain.
fn set_domain(local: u32, most: u32) {
    for (var b = local; b < params.blocks; b += WORKGROUP) {
        keys[b] = peaks[b].key;
    }
    if local == 0u {
        atomicStore(&counter, 0u);
        domain_least = 0u;
    }
    workgroupBarrier();
    for (var b = local; b < params.blocks; b += WORKGROUP) {
        let key = keys[b];
        var rank = 0u;
        if most < params.blocks {
            for (var other = 0u; other < params.blocks; other++) {
                rank += u32(before(keys[other], other, key, b));
            }
            if rank + 1u == most {
                domain_least = key;
            }
        }
        if rank < most {
            domain[atomicAdd(&counter, 1u)] = b;
        }
    }
    workgroupBarrier();
}

// Takes the tokens of the domain, as many as fit; how many there are.
fn gather(local: u32, most: u32) -> u32 {
    if local == 0u {
        atomicStore(&counter, 0u);
    }
    workgroupBarrier();
    for (var at = local; at < min(most, params.blocks) * BLOCK; at += WORKGROUP) {
        let id = domain[at / BLOCK] * BLOCK + at % BLOCK;
        if id < params.vocab {
            let key = key_of_bits(logits[id]);
            if key >= domain_least {
                let place = atomicAdd(&counter, 1u);
                if place < CAPACITY {
                    keys[place] = key;
                    members[place] = id;
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

// Sorts the first `count` candidates, likelier ones first.
fn sort(local: u32, count: u32) {
    var own: array<vec3<u32>, CAPACITY / WORKGROUP>;
    for (var i = 0u; i < CAPACITY / WORKGROUP; i++) {
        let at = local + i * WORKGROUP;
        if at < count {
            var rank = 0u;
            for (var other = 0u; other < count; other++) {
                rank += u32(before(keys[other], members[other], keys[at], members[at]));
            }
            own[i] = vec3<u32>(keys[at], members[at], rank);
        }
    }
    workgroupBarrier();
    for (var i = 0u; i < CAPACITY / WORKGROUP; i++) {
        if local + i * WORKGROUP < count {
            keys[own[i].z] = own[i].x;
            members[own[i].z] = own[i].y;
        }
    }
    workgroupBarrier();
}
