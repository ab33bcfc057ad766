// The products of 2, 4 or 8 tokens, which read the weights once. `x` has the tokens' packed inputs, as project_pack
// makes them. A token's products are bit for bit those that it has alone: a lane has the same chunks, adds them up in
// the same order, and lanes are added in the same order. A kernel says by `row_of` which rows are its workgroup's, two
// for each team, and by `finish_two` what becomes of a token's products with them. `depth` has the tokens' depths.
//
// The slices of a chunk are read, and made codes, once for all tokens. Where these read to different depths, the slices
// are read as far as the deepest token reads, as codes of eight bits, and a token masks what is deeper than its own. As
// all is whole numbers within a chunk, what the token's own codes come to follows exactly, also where these have four
// bits.

// Tokens: 1, where there is another way, or 2, 4 or 8.
override TOKENS: u32 = 1u;
// vec4s of a token's input: four planes of high int8s, four of low ones, what is known of each chunk, and the factor.
override INPUT_VEC4S: u32 = 9u * CHUNKS + 1u;

// A sum for each token and invocation; of length one for a single token.
override KEPT_SUMS: u32 = 1u + (TOKENS * WORKGROUP - 1u) * (1u - ALONE);

// A token's products with two rows, as far as an invocation has summed them up.
var<workgroup> kept_sums: array<vec2<f32>, KEPT_SUMS>;
// Of each token (mask of its codes, what they are to be shifted by, and the bits of `scale_at`).
var<workgroup> rules: array<vec4<u32>, TOKENS>;

// The codes of two rows in a chunk, and their ranges at depths 1 to 4, as far as any token reads them.
struct Two {
    first: array<vec4<u32>, 4>,
    second: array<vec4<u32>, 4>,
    ranges_x: vec4<u32>,
    ranges_y: vec4<u32>,
}

// A token's depth at this site, at least 1 whatever the buffer has.
fn depth_of_token(token: u32) -> u32 {
    return clamp(depth[token], 1u, 4u);
}

fn write_rules(local: u32) {
    if local < TOKENS {
        let slices = depth_of_token(local);
        let bits = 8u - 2u * slices;
        let mask = ((0xffu << bits) & 0xffu) * 0x01010101u;
        let scale = bitcast<vec2<u32>>(scale_at(slices));
        // Codes that are of eight bits alone too are not shifted.
        rules[local] = vec4<u32>(mask, select(bits, 0u, is_wide(slices)) | (slices << 8u), scale.x, scale.y);
    }
    workgroupBarrier();
}

fn codes_in(at: u32, deepest: u32) -> array<vec4<u32>, 4> {
    let base = base_slice[at];
    var first: vec4<u32>;
    var second: vec4<u32>;
    var third: vec4<u32>;
    if deepest > 1u {
        first = first_slice[at];
    }
    if deepest > 2u {
        second = second_slice[at];
    }
    if deepest > 3u {
        third = third_slice[at];
    }
    return codes_of(base, first, second, third);
}

// The ranges of two groups at each depth of which `present` has the bit; pairs are the same at all depths.
fn ranges_in(two: Two, groups: vec2<u32>, present: u32) -> Two {
    var all = two;
    if WORD_RANGES == 0u {
        all.ranges_x = vec4<u32>(ranges_1[groups.x]);
        all.ranges_y = vec4<u32>(ranges_1[groups.y]);
        return all;
    }
    if (present & 2u) != 0u {
        all.ranges_x.x = ranges_1[groups.x];
        all.ranges_y.x = ranges_1[groups.y];
    }
    if (present & 4u) != 0u {
        all.ranges_x.y = ranges_2[groups.x];
        all.ranges_y.y = ranges_2[groups.y];
    }
    if (present & 8u) != 0u {
        all.ranges_x.z = ranges_3[groups.x];
        all.ranges_y.z = ranges_3[groups.y];
    }
    if (present & 16u) != 0u {
        all.ranges_x.w = ranges_4[groups.x];
        all.ranges_y.w = ranges_4[groups.y];
    }
    return all;
}

// One of four, by the depth.
fn at_depth(ranges: vec4<u32>, slices: u32) -> u32 {
    return select(select(ranges.x, ranges.y, slices == 2u), select(ranges.z, ranges.w, slices == 4u), slices > 2u);
}

// A token's numbers in a chunk, and their sums as whole numbers.
struct FewInput {
    input: Input,
    ints: vec2<i32>,
}

fn load_few(token: u32, chunk: u32) -> FewInput {
    let at = token * INPUT_VEC4S + chunk;
    let about_chunk = x[at + 8u * CHUNKS];
    let unit = bitcast<f32>(about_chunk.x);
    let halves = bitcast<vec2<i32>>(about_chunk.yz);
    var ints = halves;
    if WORD_RANGES == 0u {
        ints = vec2<i32>(halves.x + halves.y, 0);
    }
    let input = Input(
        array<vec4<u32>, 4>(x[at], x[at + CHUNKS], x[at + 2u * CHUNKS], x[at + 3u * CHUNKS]),
        array<vec4<u32>, 4>(x[at + 4u * CHUNKS], x[at + 5u * CHUNKS], x[at + 6u * CHUNKS], x[at + 7u * CHUNKS]),
        unit,
        unit * vec2<f32>(ints),
    );
    return FewInput(input, ints);
}

// Codes as far as the token reads them, times its numbers: what its own codes come to.
fn own_dots(codes: array<vec4<u32>, 4>, rule: vec4<u32>, few: FewInput) -> vec2<i32> {
    let mask = vec4<u32>(rule.x);
    let own = array<vec4<u32>, 4>(codes[0] & mask, codes[1] & mask, codes[2] & mask, codes[3] & mask);
    let shift = rule.y & 0xffu;
    let offset = select(0, 128, shift > 0u);
    return (dot_planes(own, rule.y >> 8u, few.input) + offset * few.ints) >> vec2<u32>(shift);
}

// The parts of a token's products with two rows that lie in a chunk.
fn parts_of(rule: vec4<u32>, few: FewInput, two: Two) -> vec2<f32> {
    let slices = rule.y >> 8u;
    let scale = bitcast<vec2<f32>>(rule.zw);
    let first = affine_of(at_depth(two.ranges_x, slices), scale.x, scale.y);
    let second = affine_of(at_depth(two.ranges_y, slices), scale.x, scale.y);
    let input = few.input;
    return vec2<f32>(
        part_of(first, scale.x, input.unit, own_dots(two.first, rule, few), input.sums),
        part_of(second, scale.x, input.unit, own_dots(two.second, rule, few), input.sums),
    );
}

// A row's chunk where all tokens read to one depth: its codes, as a single token has them, and what they stand for.
struct Alike {
    codes: array<vec4<u32>, 4>,
    affine: Affine,
}

fn load_alike(row: u32, chunk: u32, slices: u32) -> Alike {
    let at = row * CHUNKS + chunk;
    let group = row * (CHUNKS / GROUP_CHUNKS) + chunk / GROUP_CHUNKS;
    let scale = scale_at(slices);
    return Alike(codes_at(at, base_slice[at], slices), affine_of(load_range(group, slices), scale.x, scale.y));
}

fn part_alike(row: Alike, input: Input, slices: u32, one: f32) -> f32 {
    return part_of(row.affine, one, input.unit, dot_planes(row.codes, slices, input), input.sums);
}

// Adds up what the lanes of a team have, in the order of `sum_lanes`, but so that a lane ends with the sums of two
// tokens: the first half of the lanes with those of the first half of the tokens, and so on.
fn scatter_sums(sums: array<vec4<f32>, 4>, lane: u32) -> vec4<f32> {
    var own = sums[0];
    var other = LANES / 2u;
    if TOKENS > 4u {
        let even = swap_and_add(sums[0], sums[2], lane, other);
        let odd = swap_and_add(sums[1], sums[3], lane, other);
        other /= 2u;
        own = swap_and_add(even, odd, lane, other);
        other /= 2u;
    } else if TOKENS > 2u {
        own = swap_and_add(sums[0], sums[1], lane, other);
        other /= 2u;
    }
    for (; other > 0u; other /= 2u) {
        own += subgroupShuffleXor(own, other);
    }
    return own;
}

// Multiplies a team's rows with all tokens, which read to one depth. Called with each depth as a constant, so that each
// gets a loop of its own, in which a token does nothing that all tokens share.
fn sum_up_alike(team: Team, local: u32, slices: u32) {
    let one = scale_at(slices).x;
    for (var chunk = team.lane; chunk < CHUNKS; chunk += LANES) {
        let first = load_alike(team.rows.x, chunk, slices);
        let second = load_alike(team.rows.y, chunk, slices);
        for (var token = 0u; token < params.tokens; token++) {
            let input = load_few(token, chunk).input;
            kept_sums[token * WORKGROUP + local] +=
                vec2<f32>(part_alike(first, input, slices, one), part_alike(second, input, slices, one));
        }
    }
}

// The chunk of two rows as far as any token reads it.
fn load_two(rows: vec2<u32>, chunk: u32, deepest: u32, present: u32) -> Two {
    let at = rows * CHUNKS + chunk;
    let groups = rows * (CHUNKS / GROUP_CHUNKS) + chunk / GROUP_CHUNKS;
    var two: Two;
    two.first = codes_in(at.x, deepest);
    two.second = codes_in(at.y, deepest);
    return ranges_in(two, groups, present);
}

// Multiplies a team's rows with all tokens, which read to different depths.
fn sum_up_apart(team: Team, local: u32, deepest: u32, present: u32) {
    for (var chunk = team.lane; chunk < CHUNKS; chunk += LANES) {
        let two = load_two(team.rows.xy, chunk, deepest, present);
        for (var token = 0u; token < params.tokens; token++) {
            kept_sums[token * WORKGROUP + local] += parts_of(rules[token], load_few(token, chunk), two);
        }
    }
}

// The same for any depths. Sums are in workgroup memory, so that the compiler need not unroll the loops over tokens,
// which takes far more instructions.
fn sum_up_few(team: Team, local: u32, deepest: u32, present: u32) {
    for (var token = 0u; token < params.tokens; token++) {
        kept_sums[token * WORKGROUP + local] = vec2<f32>();
    }
    if countOneBits(present) > 1u {
        sum_up_apart(team, local, deepest, present);
        return;
    }
    switch deepest {
        case 1u: { sum_up_alike(team, local, 1u); }
        case 2u: { sum_up_alike(team, local, 2u); }
        case 3u: { sum_up_alike(team, local, 3u); }
        default: { sum_up_alike(team, local, 4u); }
    }
}

// The sums of two tokens that an invocation has kept.
fn kept_of_two(token: u32, local: u32) -> vec4<f32> {
    return vec4<f32>(kept_sums[token * WORKGROUP + local], kept_sums[(token + 1u) * WORKGROUP + local]);
}

// Adds up what the lanes of a team have kept, and finishes each token's products.
fn finish_few(team: Team, local: u32) {
    var sums: array<vec4<f32>, 4>;
    sums[0] = kept_of_two(0u, local);
    if TOKENS > 2u {
        sums[1] = kept_of_two(2u, local);
    }
    if TOKENS > 4u {
        sums[2] = kept_of_two(4u, local);
        sums[3] = kept_of_two(6u, local);
    }
    let own = scatter_sums(sums, team.lane);
    // Lanes with the same two tokens, of which each finishes one, or the only one both.
    let with_two = 2u * LANES / TOKENS;
    for (var i = team.lane % with_two; i < 2u; i += with_two) {
        let token = team.lane / with_two * 2u + i;
        let factor = bitcast<f32>(x[token * INPUT_VEC4S + 9u * CHUNKS].x);
        finish_two(team, token, select(own.xy, own.zw, i == 1u) * factor);
    }
}

// Multiplies the workgroup's rows with all tokens.
fn project_few(here: Invocation) {
    let local = local_of(here);
    write_rules(local);
    var deepest = 1u;
    var present = 0u;
    for (var token = 0u; token < TOKENS; token++) {
        let slices = rules[token].y >> 8u;
        deepest = max(deepest, slices);
        present |= 1u << slices;
    }
    let team = team_in(here.workgroup.x, local, 0u);
    sum_up_few(team, local, deepest, present);
    finish_few(team, local);
}
