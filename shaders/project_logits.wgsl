// y = W x for one token, at the depth that is told: the head.
#import place
#import bins
#import sliced
#import router
#import router_sums
#import packed_dot
#import packed_input
#import projection

@group(0) @binding(12) var<storage, read_write> depth: array<u32>;
@group(0) @binding(13) var<storage, read_write> y: array<f32>;

fn row_of(workgroup: u32, own: u32) -> u32 {
    return workgroup * OWN_ROWS + own;
}

fn ahead(team: Team) -> Beside {
    return Beside();
}

fn finish(team: Team, sums: vec4<f32>, beside: Beside) {
    let row = team.first + team.lane;
    if team.lane < ROWS && row < params.rows {
        y[params.first_row + row] = sums[team.lane];
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(place: Place) {
    multiply(place);
}
