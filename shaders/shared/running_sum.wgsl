// Sums along a line on which each invocation of a workgroup has four neighbours, always added in the same order.
// A kernel imports `workgroup_sum`.

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
    for (var back = 1u; back < WORKGROUP; back *= 2u) {
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
