// Where a number of each invocation of a workgroup comes in their order: greater ones first, of equal ones that of the
// invocation before. WORKGROUP is a multiple of 32.

const FOURS_AT_ONCE: u32 = 4u;
override FOURS: u32 = WORKGROUP / 4u;

// The numbers, those of four invocations together.
var<workgroup> fours: array<vec4<u32>, FOURS>;

// How many come before the invocation's own number, which is less than 2^32 - 1.
fn rank_of(own: u32, local: u32) -> u32 {
    var counts = vec4<u32>();
    for (var first = 0u; first < FOURS * params.one; first += FOURS_AT_ONCE) {
        for (var i = 0u; i < FOURS_AT_ONCE; i++) {
            let least = own + select(1u, 0u, first + i < local / 4u);
            counts += select(vec4<u32>(), vec4<u32>(1u), fours[first + i] >= vec4<u32>(least));
        }
    }
    // Of the invocation's own four, also equal ones before it.
    let precedes = vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(local % 4u);
    counts += select(vec4<u32>(), vec4<u32>(1u), (fours[local / 4u] == vec4<u32>(own)) & precedes);
    return counts.x + counts.y + counts.z + counts.w;
}
