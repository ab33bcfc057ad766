// The sum of a number of each invocation of a workgroup. WORKGROUP is a power of two.

var<workgroup> summands: array<f32, WORKGROUP>;

fn sum_of_workgroup(own: f32, local: u32) -> f32 {
    summands[local] = own;
    for (var half = WORKGROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if local < half {
            summands[local] += summands[local + half];
        }
    }
    workgroupBarrier();
    return summands[0];
}
