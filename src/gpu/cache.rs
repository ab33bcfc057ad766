//! Compiled pipelines, kept in a file between runs where the driver hands them out, which is on Vulkan.
//!
//! The file is a help and nothing more: where it cannot be read, is of another driver or cannot be written, pipelines
//! are compiled as without it.

use std::path::{Path, PathBuf};

use crate::format::write_whole;

/// The pipelines that the driver has compiled, and the file they came from and go to.
pub(super) struct PipelineCache {
    cache: wgpu::PipelineCache,
    file: PathBuf,
    /// What was read, so that nothing is written that is there.
    read: Vec<u8>,
}

impl PipelineCache {
    /// The cache of an adapter in `folder`; none where the device has no such thing.
    pub fn open(device: &wgpu::Device, adapter: &wgpu::AdapterInfo, folder: &Path) -> Option<PipelineCache> {
        if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let file = folder.join(wgpu::util::pipeline_cache_key(adapter)?);
        let read = std::fs::read(&file).unwrap_or_default();
        let data = if read.is_empty() { None } else { Some(read.as_slice()) };
        let descriptor = wgpu::PipelineCacheDescriptor { label: Some("pipelines"), data, fallback: true };
        #[allow(unsafe_code, reason = "drivers trust what is in a pipeline cache")]
        // SAFETY: the file lies in a folder of the user's own, is written by `keep` alone, and takes its name when it
        // is whole. wgpu begins anew where its length or its header, which names adapter and driver, is another.
        let cache = unsafe { device.create_pipeline_cache(&descriptor) };
        Some(PipelineCache { cache, file, read })
    }

    /// What pipelines are compiled with.
    pub fn get(&self) -> &wgpu::PipelineCache {
        &self.cache
    }

    /// Writes what was compiled, if anything was that had not been read.
    pub fn keep(&self) -> std::io::Result<()> {
        let Some(data) = self.cache.get_data().filter(|data| *data != self.read) else { return Ok(()) };
        std::fs::create_dir_all(self.file.parent().expect("a file in a folder"))?;
        write_whole(&self.file, &data)
    }
}
