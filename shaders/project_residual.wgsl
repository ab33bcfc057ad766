// y += W x for one token or few: what attention and feed-forward add to the residual stream; or y = W x, where that is
// normalized first. With a routed plan, one workgroup more than the rows have selects the depths of the two sites that
// come next, by hidden units that are there.
#import step_rows
#import invocation
#import bins
#import sliced
#import router
#import packed_dot
#import partials
#import packed_input
#import projection
#import few_tokens

// Sites whose depth the workgroup without rows selects.
override SELECTED: u32 = 0u;
// 1: nothing is added to.
override OVERWRITE: u32 = 0u;

// [4 L, REST] of all routers.
@group(0) @binding(10) var<storage, read> rest: array<f32>;
@group(0) @binding(11) var<storage, read> control: array<Control>;
// The hidden units of the routers that select depths, [T, SELECTED, HIDDEN].
@group(0) @binding(12) var<storage, read> hidden: array<f32>;
@group(0) @binding(13) var<storage, read> step_rows: array<StepRow>;
// The tokens' depths here, and every `depth_row` entries those of a site that comes next.
@group(0) @binding(14) var<storage, read_write> depth: array<u32>;
@group(0) @binding(15) var<storage, read_write> y: array<f32>;

fn row_of(workgroup: u32, own: u32) -> u32 {
    return workgroup * OWN_ROWS + own;
}

// What is added to.
fn ahead(team: Team) -> vec4<f32> {
    var before = vec4<f32>();
    if OVERWRITE == 1u {
        return before;
    }
    for (var r = 0u; r < ROWS; r++) {
        before[r] = y[team.rows[r]];
    }
    return before;
}

fn finish(team: Team, sums: vec4<f32>, before: vec4<f32>) {
    let after = before + sums;
    for (var r = 0u; r < ROWS; r++) {
        if team.lane == r && team.first + r < params.rows {
            y[team.first + r] = after[r];
        }
    }
}

fn finish_two(team: Team, token: u32, products: vec2<f32>) {
    for (var r = 0u; r < 2u; r++) {
        let row = team.first + r;
        if row < params.rows {
            let at = token * params.rows + row;
            if OVERWRITE == 1u {
                y[at] = products[r];
            } else {
                y[at] += products[r];
            }
        }
    }
}

// Selects the depths of the sites that come next, a subgroup for each of each token.
fn select_depths(here: Invocation) {
    for (var at = here.subgroup; at < SELECTED * TOKENS; at += here.subgroups) {
        let token = at / max(SELECTED, 1u);
        let next = at % max(SELECTED, 1u);
        let site = params.site + next;
        var sum = vec3<f32>();
        for (var unit = here.lane; unit < HIDDEN; unit += here.size) {
            sum = fma(vec3<f32>(hidden[at * HIDDEN + unit]), w2_of(site * REST, unit), sum);
        }
        let slices = depth_of(subgroupAdd(sum) + b2_of(site * REST), control[step_rows[token].first_control + site]);
        if here.lane == 0u {
            // One token's depths have one place.
            let place = select(0u, step_rows[token].depth_row, TOKENS > 1u);
            depth[(1u + next) * params.depth_row + place] = slices;
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(here: Invocation) {
    if here.workgroup.x >= ROW_WORKGROUPS {
        select_depths(here);
    } else if TOKENS > 1u {
        project_few(here);
    } else {
        project(here, depth[0]);
    }
}
