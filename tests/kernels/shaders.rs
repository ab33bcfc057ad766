//! Every shader against its Rust side, and through every back end, with no GPU.

use edge_run::internals::kernels;
use edge_run::internals::kernels::product::MATRIX_WORKGROUP_BYTES;
use edge_run::internals::recording::{Access, Kernel};
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, TypeInner};

/// Every kernel, and those that not every adapter can run.
fn all() -> impl Iterator<Item = &'static Kernel> {
    kernels::ALL.into_iter().chain(kernels::BY_MATRICES)
}

/// The kernel's module, validated under the capabilities that every adapter must have, or its own.
fn checked(kernel: &Kernel) -> (Module, ModuleInfo) {
    let module = kernels::module(kernel).unwrap_or_else(|e| panic!("{}: {e}", kernel.name));
    let more = match kernel.name {
        "matmul_matrix" | "matmul_split" | "attention_matrix" => kernels::MATRICES,
        "matvec_vector" | "route_vector" | "probe_subgroups" | "attention_quantized" | "attention_split" => {
            kernels::SUBGROUPS
        }
        name if name.starts_with("project_") => kernels::SUBGROUPS,
        _ => Capabilities::empty(),
    };
    let mut validator = Validator::new(ValidationFlags::all(), kernels::BASELINE | more);
    let info = validator.validate(&module).unwrap_or_else(|e| panic!("{}: {e:?}", kernel.name));
    (module, info)
}

/// The shader's `Params`, as (name, offset, bytes) of each field.
fn shader_params(module: &Module) -> Vec<(String, usize, usize)> {
    let immediate = module.global_variables.iter().find(|(_, v)| v.space == AddressSpace::Immediate);
    let (_, variable) = immediate.expect("a kernel has parameters");
    let TypeInner::Struct { members, .. } = &module.types[variable.ty].inner else { panic!("parameters are a struct") };
    let bytes = |ty| module.types[ty].inner.size(module.to_ctx()) as usize;
    members.iter().map(|m| (m.name.clone().expect("a name"), m.offset as usize, bytes(m.ty))).collect()
}

fn rust_params(kernel: &Kernel) -> Vec<(String, usize, usize)> {
    kernel.params.iter().map(|f| (f.name.to_string(), f.offset, f.bytes)).collect()
}

/// The access of each storage binding, by number.
fn shader_bindings(module: &Module) -> Vec<Access> {
    let mut bindings: Vec<(u32, Access)> = module
        .global_variables
        .iter()
        .filter_map(|(_, v)| {
            let AddressSpace::Storage { access } = v.space else { return None };
            let written = access.contains(naga::StorageAccess::STORE);
            Some((v.binding.as_ref()?.binding, if written { Access::Write } else { Access::Read }))
        })
        .collect();
    bindings.sort_by_key(|(number, _)| *number);
    assert!(bindings.iter().enumerate().all(|(at, (number, _))| at as u32 == *number), "bindings count from 0");
    bindings.into_iter().map(|(_, access)| access).collect()
}

#[test]
fn kernels_bind_no_more_than_devices_must() {
    let most = |projections: bool| {
        let of_kind = all().filter(|kernel| kernel.name.starts_with("project_") == projections);
        of_kind.map(|kernel| kernel.bindings.len() as u32).max()
    };
    assert_eq!(most(false), Some(kernels::STORAGE_BUFFERS));
    assert_eq!(most(true), Some(kernels::project::STORAGE_BUFFERS));
}

#[test]
fn parameters_lie_where_the_shader_reads_them() {
    for kernel in all() {
        assert_eq!(rust_params(kernel), shader_params(&checked(kernel).0), "{}", kernel.name);
    }
}

#[test]
fn a_parameter_that_moved_is_noticed() {
    let module = kernels::module(&kernels::rms_norm::KERNEL).unwrap();
    let moved = naga::front::wgsl::parse_str(
        "struct Params { eps: f32, row_vec4s: u32 } var<immediate> params: Params;
         @compute @workgroup_size(1) fn main() { _ = params.eps; }",
    );
    assert_ne!(shader_params(&moved.unwrap()), shader_params(&module));
}

#[test]
fn bindings_are_those_that_the_kernel_declares() {
    for kernel in all() {
        assert_eq!(kernel.bindings, shader_bindings(&checked(kernel).0), "{}", kernel.name);
    }
}

#[test]
fn a_shader_that_needs_more_than_the_baseline_is_refused() {
    let module = naga::front::wgsl::parse_str(
        "@compute @workgroup_size(32) fn main(@builtin(subgroup_size) lanes: u32) { _ = subgroupAdd(lanes); }",
    );
    let module = module.unwrap();
    assert!(Validator::new(ValidationFlags::all(), kernels::BASELINE).validate(&module).is_err());
    assert!(Validator::new(ValidationFlags::all(), Capabilities::all()).validate(&module).is_ok());
}

/// The module with its `override` constants at their defaults, as the writers of Metal and DX12 want it.
fn resolved(kernel: &Kernel) -> (Module, ModuleInfo) {
    let (module, info) = checked(kernel);
    let constants = naga::back::PipelineConstants::default();
    let entry = Some((naga::ShaderStage::Compute, "main"));
    let (module, info) = naga::back::pipeline_constants::process_overrides(&module, &info, entry, &constants)
        .unwrap_or_else(|e| panic!("{}: {e:?}", kernel.name));
    (module.into_owned(), info.into_owned())
}

/// Vulkan is the only back end with such matrices of this size.
#[test]
fn what_is_by_matrices_can_be_written_for_vulkan_and_needs_what_it_says() {
    for (kernel, products) in kernels::BY_MATRICES.into_iter().zip([16, 8, 4]) {
        let (module, info) = resolved(kernel);
        let spirv = spv::write_vec(&module, &info, &spv::Options { lang_version: (1, 6), ..Default::default() }, None);
        const MULTIPLY_ADD: u32 = 4459;
        let words = spirv.unwrap_or_else(|e| panic!("{}: {e}", kernel.name));
        let written = words.iter().filter(|word| **word == 6 << 16 | MULTIPLY_ADD).count();
        assert_eq!(written, products, "{}", kernel.name);

        let module = kernels::module(kernel).unwrap();
        assert!(Validator::new(ValidationFlags::all(), kernels::BASELINE).validate(&module).is_err());
    }
}

#[test]
fn products_by_matrices_need_the_memory_that_devices_are_asked_for() {
    let products = kernels::BY_MATRICES.into_iter().filter(|kernel| kernel.name.starts_with("matmul"));
    let needed = products.map(|kernel| {
        let (module, _) = resolved(kernel);
        let shared = module.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::WorkGroup);
        shared.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx())).sum::<u32>()
    });
    assert_eq!(needed.max(), Some(MATRIX_WORKGROUP_BYTES));
}

#[test]
fn every_back_end_can_write_every_shader() {
    for kernel in kernels::ALL {
        let (module, info) = resolved(kernel);
        let name = kernel.name;

        let spirv = spv::write_vec(&module, &info, &spv::Options::default(), None);
        assert!(spirv.unwrap_or_else(|e| panic!("{name}: {e}")).len() > 100, "{name}");

        let options = msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
        let metal = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default());
        assert!(metal.unwrap_or_else(|e| panic!("{name}: {e}")).0.contains("kernel void main_"), "{name}");

        let target = hlsl::BindTarget { space: 0, register: 99, ..Default::default() };
        let options = hlsl::Options {
            shader_model: hlsl::ShaderModel::V6_0,
            fake_missing_bindings: true,
            immediates_target: Some(target),
            ..Default::default()
        };
        let mut text = String::new();
        let pipeline_options = hlsl::PipelineOptions::default();
        let written = hlsl::Writer::new(&mut text, &options, &pipeline_options).write(&module, &info, None);
        written.unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert!(text.contains("[numthreads("), "{name}");
    }
}
