// y = W x for one token, at the depth in `depth`: the head.
#import invocation
#import bins
#import sliced
#import packed_dot
#import partials
#import packed_input
#import projection

@group(0) @binding(10) var<storage, read> depth: array<u32>;
@group(0) @binding(11) var<storage, read_write> y: array<f32>;

fn row_of(workgroup: u32, own: u32) -> u32 {
    return workgroup * OWN_ROWS + own;
}

fn ahead(team: Team) -> vec4<f32> {
    return vec4<f32>();
}

fn finish(team: Team, sums: vec4<f32>, beside: vec4<f32>) {
    let row = team.first + team.lane;
    if team.lane < ROWS && row < params.rows {
        y[params.first_row + row] = sums[team.lane];
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(here: Invocation) {
    project(here, depth[0]);
}
