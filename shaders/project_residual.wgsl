// y += W x for one token: what attention and feed-forward add to the residual stream. The router of the site whose
// input is the norm of y is told of it.
#import place
#import bins
#import sliced
#import router
#import router_sums
#import add_term
#import packed_dot
#import packed_input
#import projection
#import tell_by_teams

// The next site's: [HIDDEN, rows] f16, and [rows].
@group(0) @binding(12) var<storage, read> w1: array<u32>;
@group(0) @binding(13) var<storage, read> next_norm: array<f32>;
@group(0) @binding(14) var<storage, read_write> depth: array<u32>;
@group(0) @binding(15) var<storage, read_write> sums: array<atomic<u32>>;
@group(0) @binding(16) var<storage, read_write> y: array<f32>;

fn row_of(workgroup: u32, own: u32) -> u32 {
    return workgroup * OWN_ROWS + own;
}

fn ahead(team: Team) -> Beside {
    var beside = Beside();
    for (var r = 0u; r < ROWS; r++) {
        beside.before[r] = y[team.rows[r]];
        beside.weight[r] = next_norm[team.rows[r]];
    }
    if TELLS == 1u {
        beside.told = fetch_told(team.lane, team.rows.x, team.rows.z, params.rows);
    }
    return beside;
}

fn finish(team: Team, sums: vec4<f32>, beside: Beside) {
    let after = beside.before + sums;
    for (var r = 0u; r < ROWS; r++) {
        if team.first + r < params.rows {
            if team.lane == r {
                y[team.first + r] = after[r];
            }
            if TELLS == 1u {
                tell_number(beside.told, r, team.first + r, after[r] * beside.weight[r]);
            }
        }
    }
}

@compute @workgroup_size(WORKGROUP)
fn main(place: Place) {
    multiply(place);
    if TELLS == 1u {
        end_telling(local_of(place));
    }
}
