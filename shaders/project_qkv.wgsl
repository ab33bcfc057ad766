// The queries, keys and values of one token or few, rotated by their positions: queries go to `q`, keys and values as
// f16 into the cache; or the products as they are, where more becomes of them by another kernel. q: [T, H, A] f32, or
// [T, H + 2K, A], keys and values: [K, C, A/2] words of two f16.
#import step_rows
#import cells
#import invocation
#import bins
#import sliced
#import router
#import packed_dot
#import partials
#import packed_input
#import projection
#import few_tokens
#import router_hidden
#import rotation

@group(0) @binding(10) var<storage, read> depth: array<u32>;
// [4 L, REST] of all routers.
@group(0) @binding(11) var<storage, read> rest: array<f32>;
@group(0) @binding(12) var<storage, read> w1: array<vec2<u32>>;
@group(0) @binding(13) var<storage, read> step_rows: array<StepRow>;
// [C, A/2] of (cos, sin), two to an entry.
@group(0) @binding(14) var<storage, read> rope_table: array<vec4<f32>>;
@group(0) @binding(15) var<storage, read_write> hidden: array<f32>;
@group(0) @binding(16) var<storage, read_write> q: array<vec2<f32>>;
@group(0) @binding(17) var<storage, read_write> keys: array<u32>;
@group(0) @binding(18) var<storage, read_write> values: array<u32>;

// 1: the products go to `q` as they are.
override RAW: u32 = 0u;

// The products of the workgroup's rows, one token after the other.
override OUTCOME: u32 = OWN_ROWS * TOKENS;
var<workgroup> outcome: array<f32, OUTCOME>;

// Four rows that are rotated together: dimensions 2j, 2j + 1 and their partners half a head further on.
struct Four {
    // The head's place among queries, keys and values.
    slot: u32,
    j: u32,
}

fn four_of(workgroup: u32, at: u32) -> Four {
    let four = workgroup * (OWN_ROWS / 4u) + at;
    let quarter = HEAD_DIM / 4u;
    return Four(four / quarter, four % quarter);
}

fn row_of(workgroup: u32, own: u32) -> u32 {
    let four = four_of(workgroup, own / 4u);
    return four.slot * HEAD_DIM + 2u * four.j + own % 2u + own / 2u % 2u * (HEAD_DIM / 2u);
}

fn ahead(team: Team) -> vec4<f32> {
    return vec4<f32>();
}

fn finish(team: Team, sums: vec4<f32>, beside: vec4<f32>) {
    if team.lane < ROWS {
        outcome[team.own + team.lane] = sums[team.lane];
    }
}

fn finish_two(team: Team, token: u32, products: vec2<f32>) {
    outcome[token * OWN_ROWS + team.own] = products.x;
    outcome[token * OWN_ROWS + team.own + 1u] = products.y;
}

// Puts four of the workgroup's products, from `at` on in `outcome`, where they belong as they are.
fn store_raw(four: Four, at: u32, token: u32) {
    let heads = params.heads + 2u * params.kv_heads;
    let to = (token * heads + four.slot) * (HEAD_DIM / 2u) + four.j;
    q[to] = vec2<f32>(outcome[at], outcome[at + 1u]);
    q[to + HEAD_DIM / 4u] = vec2<f32>(outcome[at + 2u], outcome[at + 3u]);
}

// Rotates four of the workgroup's products, and puts them where they belong.
fn store_rotated(four: Four, at: u32, token: u32, cell: u32, by: vec4<f32>) {
    let quarter = HEAD_DIM / 4u;
    let low = vec2<f32>(outcome[at], outcome[at + 1u]);
    let high = vec2<f32>(outcome[at + 2u], outcome[at + 3u]);
    let first = rotate(low.x, high.x, by.xy);
    let second = rotate(low.y, high.y, by.zw);
    if four.slot < params.heads {
        let to = (token * params.heads + four.slot) * 2u * quarter + four.j;
        q[to] = vec2<f32>(first.x, second.x);
        q[to + quarter] = vec2<f32>(first.y, second.y);
    } else if four.slot < params.heads + params.kv_heads {
        let to = ((four.slot - params.heads) * params.cells + cell) * 2u * quarter + four.j;
        keys[to] = pack2x16float(vec2<f32>(first.x, second.x));
        keys[to + quarter] = pack2x16float(vec2<f32>(first.y, second.y));
    } else {
        let to = ((four.slot - params.heads - params.kv_heads) * params.cells + cell) * 2u * quarter + four.j;
        values[to] = pack2x16float(low);
        values[to + quarter] = pack2x16float(high);
    }
}

// Puts four products of a token, number `at` of its fours, where they belong.
fn store(four: Four, at: u32, token: u32, by: vec4<f32>) {
    let first = token * OWN_ROWS + 4u * at;
    if four.slot >= params.heads + 2u * params.kv_heads {
        return;
    }
    if RAW == 1u {
        store_raw(four, first, token);
    } else {
        let row = step_rows[token];
        store_rotated(four, first, token, cell_of(row, row.position), by);
    }
}

fn rotation_of(four: Four, token: u32) -> vec4<f32> {
    return rope_table[step_rows[token].position * (HEAD_DIM / 4u) + four.j];
}

@compute @workgroup_size(WORKGROUP)
fn main(here: Invocation) {
    let local = local_of(here);
    let workgroup = here.workgroup.x;
    if TOKENS > 1u {
        project_few(here);
        workgroupBarrier();
        for (var at = local; at < OUTCOME / 4u; at += WORKGROUP) {
            let token = at / (OWN_ROWS / 4u);
            let own = at % (OWN_ROWS / 4u);
            let four = four_of(workgroup, own);
            store(four, own, token, rotation_of(four, token));
        }
        return;
    }
    if workgroup >= ROW_WORKGROUPS {
        router_hidden(here);
        return;
    }
    let four = four_of(workgroup, min(local, OWN_ROWS / 4u - 1u));
    let by = rotation_of(four, 0u);
    project(here, depth[0]);
    workgroupBarrier();
    if local < OWN_ROWS / 4u {
        store(four, local, 0u, by);
    }
}
