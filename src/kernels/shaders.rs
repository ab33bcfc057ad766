//! From a kernel's WGSL, with its imports, to a module.

use naga::valid::Capabilities;

use crate::format::sha256;
use crate::recording::Kernel;

/// What every shader may rely on; adapters that lack it are not used.
pub const BASELINE: Capabilities = Capabilities::IMMEDIATES.union(Capabilities::SHADER_FLOAT16_IN_FLOAT32);

/// What the kernels need beyond that multiply by cooperative matrices.
pub const MATRICES: Capabilities =
    Capabilities::SHADER_FLOAT16.union(Capabilities::COOPERATIVE_MATRIX).union(Capabilities::SUBGROUP);

/// What the kernels of packed activations need beyond.
pub const SUBGROUPS: Capabilities = Capabilities::SUBGROUP;

/// Pieces that shaders import by a line `#import NAME`.
const SHARED: [(&str, &str); 35] = [
    ("workgroup_sum", include_str!("../../shaders/shared/workgroup_sum.wgsl")),
    ("row_norm", include_str!("../../shaders/shared/row_norm.wgsl")),
    ("gelu", include_str!("../../shaders/shared/gelu.wgsl")),
    ("step_rows", include_str!("../../shaders/shared/step_rows.wgsl")),
    ("cells", include_str!("../../shaders/shared/cells.wgsl")),
    ("scores", include_str!("../../shaders/shared/scores.wgsl")),
    ("invocation", include_str!("../../shaders/shared/invocation.wgsl")),
    ("order", include_str!("../../shaders/shared/order.wgsl")),
    ("rotation", include_str!("../../shaders/shared/rotation.wgsl")),
    ("splits", include_str!("../../shaders/shared/splits.wgsl")),
    ("bins", include_str!("../../shaders/shared/bins.wgsl")),
    ("squares", include_str!("../../shaders/shared/squares.wgsl")),
    ("f16_weights", include_str!("../../shaders/shared/f16_weights.wgsl")),
    ("sliced", include_str!("../../shaders/shared/sliced.wgsl")),
    ("product", include_str!("../../shaders/shared/product.wgsl")),
    ("matvec", include_str!("../../shaders/shared/matvec.wgsl")),
    ("router", include_str!("../../shaders/shared/router.wgsl")),
    ("routed", include_str!("../../shaders/shared/routed.wgsl")),
    ("router_hidden", include_str!("../../shaders/shared/router_hidden.wgsl")),
    ("packed_dot", include_str!("../../shaders/shared/packed_dot.wgsl")),
    ("partials", include_str!("../../shaders/shared/partials.wgsl")),
    ("write_partial", include_str!("../../shaders/shared/write_partial.wgsl")),
    ("packed_input", include_str!("../../shaders/shared/packed_input.wgsl")),
    ("projection", include_str!("../../shaders/shared/projection.wgsl")),
    ("few_tokens", include_str!("../../shaders/shared/few_tokens.wgsl")),
    ("quantized_cache", include_str!("../../shaders/shared/quantized_cache.wgsl")),
    ("quantized_token", include_str!("../../shaders/shared/quantized_token.wgsl")),
    ("team_sums", include_str!("../../shaders/shared/team_sums.wgsl")),
    ("sampling", include_str!("../../shaders/shared/sampling.wgsl")),
    ("running_sum", include_str!("../../shaders/shared/running_sum.wgsl")),
    ("ranks", include_str!("../../shaders/shared/ranks.wgsl")),
    ("leaders", include_str!("../../shaders/shared/leaders.wgsl")),
    ("candidates", include_str!("../../shaders/shared/candidates.wgsl")),
    ("descent", include_str!("../../shaders/shared/descent.wgsl")),
    ("draw_by_id", include_str!("../../shaders/shared/draw_by_id.wgsl")),
];

/// The kernel's shader, imports resolved; fails with the compiler's message, which shows the line.
pub fn module(kernel: &Kernel) -> Result<naga::Module, String> {
    let text = with_imports(kernel.wgsl)?;
    naga::front::wgsl::parse_str(&text).map_err(|e| e.emit_to_string_with_path(&text, kernel.name))
}

/// A hash of the shaders of these kernels and of all shared pieces, which changes with any of them.
pub(super) fn fingerprint(kernels: impl Iterator<Item = &'static Kernel>) -> String {
    let kernels = kernels.map(|kernel| kernel.wgsl);
    let texts: Vec<&str> = kernels.chain(SHARED.map(|(_, text)| text)).collect();
    sha256(texts.join("\n").as_bytes())
}

/// The text with each import line replaced by the piece it names.
fn with_imports(wgsl: &str) -> Result<String, String> {
    let line = |line: &str| match line.strip_prefix("#import ") {
        None => Ok(format!("{line}\n")),
        Some(name) => {
            let piece = SHARED.iter().find(|(piece, _)| *piece == name.trim());
            piece.map(|(_, text)| text.to_string()).ok_or_else(|| format!("no shared piece `{name}`"))
        }
    };
    wgsl.lines().map(line).collect()
}
