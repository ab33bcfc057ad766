// y += W x for one token: what attention and feed-forward add to the residual stream. Where routers choose, one workgroup
// more than the rows have chooses the depths of the two sites that come next, by hidden units that are there.
#import place
#import bins
#import sliced
#import router
#import packed_dot
#import parts
#import packed_input
#import projection

// Sites that the workgroup without rows chooses for.
override CHOSEN: u32 = 0u;

// Of all routers, [4 L, REST].
@group(0) @binding(7) var<storage, read> rest: array<f32>;
@group(0) @binding(8) var<storage, read> control: array<Control>;
// The hidden units of the routers that choose.
@group(0) @binding(9) var<storage, read> told: array<f32>;
// The depth here, and every `depth_row` entries that of a site that comes next.
@group(0) @binding(10) var<storage, read_write> depth: array<u32>;
@group(0) @binding(11) var<storage, read_write> y: array<f32>;

fn row_of(workgroup: u32, own: u32) -> u32 {
    return workgroup * OWN_ROWS + own;
}

// What is added to.
fn ahead(team: Team) -> vec4<f32> {
    var before = vec4<f32>();
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

// Chooses, a subgroup for a site.
fn choose(place: Place) {
    for (var at = place.subgroup; at < CHOSEN; at += place.subgroups) {
        let site = params.site + at;
        var sum = vec3<f32>();
        for (var unit = place.lane; unit < HIDDEN; unit += place.size) {
            sum += told[at * HIDDEN + unit] * w2_of(site * REST, unit);
        }
        let slices = depth_of(subgroupAdd(sum) + b2_of(site * REST), control[site]);
        if place.lane == 0u {
            depth[(1u + at) * params.depth_row] = slices;
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(place: Place) {
    if place.workgroup.x >= ROW_WORKGROUPS {
        choose(place);
    } else {
        project(place, depth[0]);
    }
}
