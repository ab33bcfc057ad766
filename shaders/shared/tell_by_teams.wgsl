// How a projection tells the next site's router of what its teams make, number by number. It declares `w1`,
// [HIDDEN, input] f16 of the site, eight to an entry, and NUMBERS, how many numbers a workgroup makes.

override TILE_WORDS: u32 = NUMBERS / 2u * HIDDEN;
override TEAM_TERMS: u32 = WORKGROUP / LANES * HIDDEN;

// w1 of the workgroup's numbers: units side by side, of two numbers each.
var<workgroup> w1_tile: array<u32, TILE_WORDS>;
// What each team's numbers come to in each unit.
var<workgroup> team_terms: array<f32, TEAM_TERMS>;

// Fetches w1 of `count` numbers from `first` on, of rows of so many eights, and begins the terms. The last invocations
// do it, as the first ones may have more to pack.
fn begin_telling(local: u32, row_eights: u32, first: u32, count: u32) {
    for (var i = WORKGROUP - 1u - local; i < count / 8u * HIDDEN; i += WORKGROUP) {
        let unit = i % HIDDEN;
        let eight = i / HIDDEN;
        let words = w1[unit * row_eights + first / 8u + eight];
        for (var c = 0u; c < 4u; c++) {
            w1_tile[(4u * eight + c) * HIDDEN + unit] = words[c];
        }
    }
    for (var i = local; i < TEAM_TERMS; i += WORKGROUP) {
        team_terms[i] = 0.0;
    }
}

// Tells of number `own` of the workgroup's; all lanes of the team come here.
fn tell_number(team: u32, lane: u32, own: u32, number: f32) {
    for (var unit = lane; unit < HIDDEN; unit += LANES) {
        let weight = unpack2x16float(w1_tile[own / 2u * HIDDEN + unit])[own % 2u];
        team_terms[team * HIDDEN + unit] += weight * number;
    }
}

// Adds up what the teams told.
fn end_telling(local: u32) {
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
