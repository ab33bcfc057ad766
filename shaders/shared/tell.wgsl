// How a kernel tells a router of its part of the site's input: what it comes to in each hidden unit. It declares `w1`,
// [HIDDEN, input] f16 of the site, eight to an entry, and `told`, where it leaves the numbers, four to an entry.

// Invocations for one unit.
override SHARES: u32 = WORKGROUP / HIDDEN;
// Entries of w1 that an invocation loads early.
const EARLY: u32 = 4u;

var<workgroup> terms: array<f32, WORKGROUP>;

// The first entries of w1 that an invocation needs to tell of numbers `first` on, of rows of so many eights.
fn early_weights(local: u32, row_eights: u32, first: u32, eights: u32) -> array<vec4<u32>, EARLY> {
    var early: array<vec4<u32>, EARLY>;
    for (var e = 0u; e < EARLY; e++) {
        let at = local % SHARES + e * SHARES;
        if at < eights {
            early[e] = w1[local / SHARES * row_eights + first / 8u + at];
        }
    }
    return early;
}

// Tells of 8 * `eights` numbers of the input, from `first` on.
fn tell_router(local: u32, row_eights: u32, first: u32, eights: u32, early: array<vec4<u32>, EARLY>) {
    let unit = local / SHARES;
    let share = local % SHARES;
    var sum = 0.0;
    workgroupBarrier();
    for (var e = 0u; e < EARLY; e++) {
        let eight = share + e * SHARES;
        if eight < eights {
            sum += dot_eight(early[e], told[2u * eight], told[2u * eight + 1u]);
        }
    }
    for (var eight = share + EARLY * SHARES; eight < eights; eight += SHARES) {
        let weights = w1[unit * row_eights + first / 8u + eight];
        sum += dot_eight(weights, told[2u * eight], told[2u * eight + 1u]);
    }
    terms[local] = sum;
    workgroupBarrier();
    if local < HIDDEN {
        var term = 0.0;
        for (var s = 0u; s < SHARES; s++) {
            term += terms[local * SHARES + s];
        }
        add_term(local, term);
    }
}
