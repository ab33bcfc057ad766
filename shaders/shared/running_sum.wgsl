// Sums along a line on which each invocation of a workgroup has four neighbours, always added in the same order, and
// where on such a line a goal lies. A kernel imports `workgroup_sum`.

// Entries of an invocation.
const EACH: u32 = 4u;

// The first entry of a line at which a sum passes a goal, and one more than the last entry that has a part in the sum.
var<workgroup> passing_at: atomic<u32>;
var<workgroup> last_end: atomic<u32>;
var<workgroup> picked: vec2<u32>;
var<workgroup> goal_left: f32;

struct Running {
    // The sum up to each of an invocation's four numbers, which counts.
    sums: vec4<f32>,
    // The sum of what lies before the first of them.
    before: f32,
    // The sum of all numbers.
    total: f32,
}

fn running_sum(own: vec4<f32>, local: u32) -> Running {
    let two = own.x + own.y;
    let three = two + own.z;
    var sum = three + own.w;
    for (var back = 1u; back < WORKGROUP * params.one; back *= 2u) {
        summands[local] = sum;
        workgroupBarrier();
        if local >= back {
            sum += summands[local - back];
        }
        workgroupBarrier();
    }
    summands[local] = sum;
    workgroupBarrier();
    var before = 0.0;
    if local > 0u {
        before = summands[local - 1u];
    }
    let total = summands[WORKGROUP - 1u];
    workgroupBarrier();
    return Running(vec4<f32>(before) + vec4<f32>(own.x, two, three, three + own.w), before, total);
}

// The least of the entries that the invocations name, by `picked.x`; and the greatest, by `picked.y`, one more than it.
fn begin_pick(local: u32) {
    if local == 0u {
        atomicStore(&passing_at, NONE);
        atomicStore(&last_end, 0u);
    }
    workgroupBarrier();
}

fn end_pick(local: u32) -> vec2<u32> {
    workgroupBarrier();
    if local == 0u {
        picked = vec2<u32>(atomicLoad(&passing_at), atomicLoad(&last_end));
    }
    return workgroupUniformLoad(&picked);
}

// Where on a line of stretches, four of them an invocation's, the goal lies: the first stretch that ends behind it, or
// NONE; and one more than the last stretch that is not empty. What is left of the goal there, or behind the line, goes
// to `goal_left`.
fn pick(local: u32, own: vec4<f32>, goal: f32) -> vec2<u32> {
    let line = running_sum(own, local);
    begin_pick(local);
    var numbers = own;
    var sums = line.sums;
    for (var i = 0u; i < EACH * params.one; i++) {
        if numbers.x > 0.0 {
            atomicMax(&last_end, local * EACH + i + 1u);
            if sums.x > goal {
                atomicMin(&passing_at, local * EACH + i);
            }
        }
        numbers = numbers.yzwx;
        sums = sums.yzwx;
    }
    let at = end_pick(local);
    if at.x == NONE {
        if local == 0u {
            goal_left = goal - line.total;
        }
    } else if at.x / EACH == local {
        let i = at.x % EACH;
        goal_left = goal - select(line.sums[max(i, 1u) - 1u], line.before, i == 0u);
    }
    workgroupBarrier();
    return at;
}
