// How a projection tells the next site's router of what its teams make, number by number: each lane of a team tells of
// some of the hidden units. The kernel declares `w1`, [HIDDEN, count] f16 of the site, two to an entry.

override TEAM_TERMS: u32 = WORKGROUP / LANES * HIDDEN;

// What each team's numbers come to in each unit.
var<workgroup> team_terms: array<f32, TEAM_TERMS>;
// Of the invocation's team, in its own units, 8 at most: unit u * LANES + lane is the one at u.
var<private> terms: array<f32, 8>;

// Fetches w1 for an invocation to tell by: in each of its units of number `first` and its neighbour, and where a team
// makes four numbers, of number `second` and its neighbour. Neighbours are the two that share an entry.
fn fetch_told(lane: u32, first: u32, second: u32, count: u32) -> array<vec2<u32>, 8> {
    var told: array<vec2<u32>, 8>;
    for (var u = 0u; u < HIDDEN / LANES; u++) {
        let row = (u * LANES + lane) * (count / 2u);
        told[u].x = w1[row + first / 2u];
        if ROWS > 2u {
            told[u].y = w1[row + second / 2u];
        }
    }
    return told;
}

// Tells of number `at` of all, the `own` one that the team makes; all its lanes come here.
fn tell_number(told: array<vec2<u32>, 8>, own: u32, at: u32, number: f32) {
    for (var u = 0u; u < HIDDEN / LANES; u++) {
        terms[u] += unpack2x16float(told[u][own / 2u])[at % 2u] * number;
    }
}

// Adds up what the teams told.
fn end_telling(local: u32) {
    for (var u = 0u; u < HIDDEN / LANES; u++) {
        team_terms[local / LANES * HIDDEN + u * LANES + local % LANES] = terms[u];
    }
    workgroupBarrier();
    if local < HIDDEN {
        var four = vec4<f32>();
        for (var i = local; i < TEAM_TERMS; i += 4u * HIDDEN) {
            four += vec4<f32>(
                team_terms[i], team_terms[i + HIDDEN], team_terms[i + 2u * HIDDEN], team_terms[i + 3u * HIDDEN],
            );
        }
        add_term(local, four.x + four.y + four.z + four.w);
    }
}
