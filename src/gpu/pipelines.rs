//! Compiled kernels, each compiled once for each set of its constants.

use std::collections::HashMap;
use std::sync::Arc;

use super::cache::PipelineCache;
use super::context::Context;
use super::poison::poison;
use crate::error::Result;
use crate::kernels;
use crate::recording::{Access, Dispatch, Kernel};

/// A compiled kernel and the layout of its bindings.
pub(super) struct Pipeline {
    pub compute: wgpu::ComputePipeline,
    pub bindings: wgpu::BindGroupLayout,
}

type Constants = Vec<(&'static str, u32)>;

/// Every pipeline compiled so far.
pub(super) struct Pipelines {
    cache: Option<PipelineCache>,
    modules: HashMap<&'static str, wgpu::ShaderModule>,
    pipelines: HashMap<(&'static str, Constants), Arc<Pipeline>>,
}

impl Pipelines {
    /// No pipelines yet; with a cache, from which they are taken and in which they are kept at the end.
    pub fn new(cache: Option<PipelineCache>) -> Pipelines {
        Pipelines { cache, modules: HashMap::new(), pipelines: HashMap::new() }
    }

    /// The pipeline of a dispatch, compiled if it is the first of its kind.
    pub fn get(&mut self, context: &Context, dispatch: &Dispatch) -> Result<Arc<Pipeline>> {
        let key = (dispatch.kernel.name, dispatch.constants.clone());
        if let Some(pipeline) = self.pipelines.get(&key) {
            return Ok(pipeline.clone());
        }
        let pipeline = Arc::new(self.compile(context, dispatch)?);
        self.pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
    }

    fn compile(&mut self, context: &Context, dispatch: &Dispatch) -> Result<Pipeline> {
        context.make(|_| self.build(context, dispatch))?
    }

    fn build(&mut self, context: &Context, dispatch: &Dispatch) -> Result<Pipeline> {
        let kernel = dispatch.kernel;
        let bindings = binding_layout(context, kernel);
        let layout = context.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.name),
            bind_group_layouts: &[Some(&bindings)],
            immediate_size: dispatch.params.len() as u32,
        });
        let constants: Vec<(&str, f64)> = dispatch.constants.iter().map(|(name, v)| (*name, f64::from(*v))).collect();
        let module = self.module(context, kernel)?;
        let compute = context.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(&layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                // Every kernel writes its workgroup memory before it reads it; with checks, poison shows where not.
                zero_initialize_workgroup_memory: false,
            },
            cache: self.cache.as_ref().map(PipelineCache::get),
        });
        Ok(Pipeline { compute, bindings })
    }

    fn module(&mut self, context: &Context, kernel: &'static Kernel) -> Result<wgpu::ShaderModule> {
        if !self.modules.contains_key(kernel.name) {
            let mut module = kernels::module(kernel).map_err(|message| context.fault(message))?;
            if context.options.checks {
                poison(&mut module);
            }
            let descriptor = wgpu::ShaderModuleDescriptor {
                label: Some(kernel.name),
                source: wgpu::ShaderSource::Naga(std::borrow::Cow::Owned(module)),
            };
            self.modules.insert(kernel.name, create_module(context, descriptor));
        }
        Ok(self.modules[kernel.name].clone())
    }
}

impl Drop for Pipelines {
    fn drop(&mut self) {
        if let Some(cache) = &self.cache {
            // What could not be written is compiled again.
            let _ = cache.keep();
        }
    }
}

fn create_module(context: &Context, descriptor: wgpu::ShaderModuleDescriptor<'_>) -> wgpu::ShaderModule {
    if context.options.checks {
        return context.device.create_shader_module(descriptor);
    }
    #[allow(unsafe_code, reason = "bounds checks cost a measurable share of every product")]
    // SAFETY: the shaders are this crate's own. Every index in them is bounded by the parameters of the dispatch, which
    // `record` derives from the shapes that the bound buffers were made for; token ids and positions are checked
    // against the vocabulary and the context before they are written, depths against the number of slices, and deals
    // are permutations. Routers write depths in range whatever they compute, orders name tokens of the step, and a
    // token that was chosen here is the place of a logit.
    unsafe {
        context.device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
    }
}

fn binding_layout(context: &Context, kernel: &Kernel) -> wgpu::BindGroupLayout {
    let entries: Vec<_> = kernel.bindings.iter().enumerate().map(|(at, access)| entry(at as u32, *access)).collect();
    let descriptor = wgpu::BindGroupLayoutDescriptor { label: Some(kernel.name), entries: &entries };
    context.device.create_bind_group_layout(&descriptor)
}

fn entry(binding: u32, access: Access) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only: access == Access::Read },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    }
}
