//! What most applications need of a model: open it, and start sessions.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cancel::CancelToken;
use crate::devices::Device;
use crate::engine::Engine;
use crate::error::Result;
use crate::format::ModelFolder;
use crate::gpu::{self, HostDevice};
use crate::model::{CacheOptions, Model};
use crate::power::PowerMode;
use crate::precision::{CacheType, PrecisionPlan};
use crate::session::{Restored, Session};
use crate::text::{SamplerSettings, TextModel};

/// Tokens of a context where nothing else is asked for and the model was trained for as many.
const CONTEXT: u32 = 4096;

/// How a model is opened: [`OpenOptions::default`], and what is to be otherwise.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct OpenOptions {
    /// The device; at first the best one.
    pub device: Device,
    /// Tokens of a session at most; at first 4096, or as many as the model was trained for.
    pub context: Option<u32>,
    /// Sessions that may be open at one time; at first one. Memory for all of their contexts is taken at once.
    pub sessions: u32,
    /// How keys and values of the context are stored; at first in f16.
    pub cache_type: CacheType,
    /// Bytes of device memory that the model may take in all. Slices are then only as deep as they fit.
    pub memory_budget: Option<u64>,
    /// A folder for what is found out about the device once: compiled pipelines, and which kernels are faster.
    pub cache_dir: Option<PathBuf>,
    /// Time without use after which slices leave the device; the base leaves after as long again. At first never. See
    /// [`LanguageModel::unload_after`].
    pub unload_after: Option<Duration>,
    /// What stops loading and all sessions.
    pub cancel: CancelToken,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions {
            device: Device::Best,
            context: None,
            sessions: 1,
            cache_type: CacheType::default(),
            memory_budget: None,
            cache_dir: None,
            unload_after: None,
            cancel: CancelToken::new(),
        }
    }
}

/// A language model on a device, with its tokenizer and its chat template. Clones share it, on any threads.
#[derive(Clone)]
pub struct LanguageModel {
    model: Model,
    text: Arc<TextModel>,
}

impl LanguageModel {
    /// Opens the model in a folder that `edge-run quantize` made, on the best device.
    ///
    /// Fails as [`LanguageModel::open_with`] does.
    pub fn open(folder: impl AsRef<Path>) -> Result<LanguageModel> {
        LanguageModel::open_with(folder, OpenOptions::default(), &mut |_, _| ())
    }

    /// Opens the model in a folder that `edge-run quantize` made. The 2-bit base is loaded; `on_bytes(done, total)`
    /// follows it. Residual slices come as sessions' plans want them.
    ///
    /// Fails where a file of the folder is missing or damaged, naming it; where the device is not there or cannot hold
    /// the model, the contexts or the budget; where [`OpenOptions::unload_after`] is zero; and where
    /// [`OpenOptions::cancel`] asks for a stop.
    pub fn open_with(
        folder: impl AsRef<Path>,
        options: OpenOptions,
        on_bytes: &mut dyn FnMut(u64, u64),
    ) -> Result<LanguageModel> {
        let engine = |options: &OpenOptions| options.device.open(options.cache_dir.as_deref());
        LanguageModel::open_engine(folder.as_ref(), options, engine, on_bytes)
    }

    /// Opens the model as [`LanguageModel::open_with`] does, but on a device that the application opened for itself;
    /// [`OpenOptions::device`] does not count. The module [`host_gpu`](crate::host_gpu) says what such a device needs.
    ///
    /// Fails where the device lacks what models need, and as [`LanguageModel::open_with`] does.
    pub fn open_on(
        host: HostDevice,
        folder: impl AsRef<Path>,
        options: OpenOptions,
        on_bytes: &mut dyn FnMut(u64, u64),
    ) -> Result<LanguageModel> {
        let engine = |options: &OpenOptions| gpu::open_on(host, options.cache_dir.as_deref());
        LanguageModel::open_engine(folder.as_ref(), options, engine, on_bytes)
    }

    fn open_engine(
        folder: &Path,
        options: OpenOptions,
        open: impl FnOnce(&OpenOptions) -> Result<Box<dyn Engine>>,
        on_bytes: &mut dyn FnMut(u64, u64),
    ) -> Result<LanguageModel> {
        Model::check_unload_after(options.unload_after)?;
        let folder = ModelFolder::open(folder)?;
        let text = TextModel::open(&folder)?;
        let context = options.context.unwrap_or(CONTEXT.min(folder.shape().max_context));
        let (sequences, cache_type) = (options.sessions, options.cache_type);
        let cache = CacheOptions { sequences, cache_type, ..CacheOptions::from(context) };
        let mut engine = open(&options)?;
        engine.set_cancel(options.cancel);
        let model = Model::load_base(&folder, engine, cache, options.memory_budget, on_bytes)?;
        let measurements = options.cache_dir.map(|dir| dir.join("activations.json"));
        model.choose_activations(measurements.as_deref())?;
        model.unload_after(options.unload_after)?;
        Ok(LanguageModel { model, text: Arc::new(text) })
    }

    /// Starts a session that reads eight bits of each weight, and samples as the model's makers recommend. Waits until
    /// the slices are there that it reads.
    ///
    /// Fails as [`LanguageModel::session_with`] does.
    pub fn session(&self) -> Result<Session> {
        self.session_with(self.plan(PowerMode::High), self.recommended_sampling())
    }

    /// Starts a session that reads what `plan` says, and samples by these settings. Waits until the slices are there
    /// that it reads, or no more can be had or fit in the budget: which could not be had is told with the next token of
    /// a session, in [`Token::faults`](crate::Token::faults), unless [`Session::settle`] tells it before. When the plan
    /// changes later, slices come while the session speaks, unless [`Session::settle`] waits for them.
    ///
    /// Fails where [`OpenOptions::sessions`] are open, where the plan is routed and the model has no routers, where a
    /// setting is out of its range, and where a stop is asked for.
    pub fn session_with(&self, plan: PrecisionPlan, sampling: SamplerSettings) -> Result<Session> {
        let session = Session::new(&self.model, Arc::clone(&self.text), sampling, plan)?;
        // What could not be had stays untold.
        session.sequence().settle(None)?;
        Ok(session)
    }

    /// Gives the memory of the weights back at once. They come again at the next use, which waits for them as opening
    /// did. Sessions keep their contexts, whose memory stays, and answer as if the weights had stayed too.
    ///
    /// Fails where the device fails.
    pub fn unload(&self) -> Result<()> {
        self.model.unload()
    }

    /// Gives the memory back by itself, of the slices after this time without use and of the base after as long again;
    /// never with `None`. They come again as after [`LanguageModel::unload`]. In the time between, while only the
    /// slices are gone, a use waits for them alone.
    ///
    /// Fails where the time is zero, and where no thread can be started.
    pub fn unload_after(&self, idle: Option<Duration>) -> Result<()> {
        self.model.unload_after(idle)
    }

    /// Whether the weights are on the device, or come again at the next use.
    pub fn is_loaded(&self) -> bool {
        self.model.is_loaded()
    }

    /// A session that goes on where the saved one at `path` ended, with plan and sampling of
    /// [`LanguageModel::session`], and what [`Session::restore`] found. Fails as these do.
    pub fn restore(&self, path: impl AsRef<Path>) -> Result<(Session, Restored)> {
        let mut session = self.session()?;
        let restored = session.restore(path)?;
        Ok((session, restored))
    }

    /// A session that goes on where one of this model's folder ended that was opened before, such as one whose device
    /// was lost: its tokens are computed again before the next ones run. Waits for slices as
    /// [`LanguageModel::session_with`] does. Fails as [`Session::resume_on`] and `session_with` do.
    pub fn resume(&self, lost: &Session) -> Result<Session> {
        let session = lost.resume_on(&self.model)?;
        session.sequence().settle(None)?;
        Ok(session)
    }

    /// The plan of a power mode for this model. That of [`PowerMode::Auto`] is what a device on AC reads; to follow the
    /// power state, see [`Session::follow_system_power`].
    pub fn plan(&self, mode: PowerMode) -> PrecisionPlan {
        mode.plan(self.has_routers())
    }

    /// How the model's makers recommend to sample, where they say; the rest is as [`SamplerSettings::default`] has it.
    pub fn recommended_sampling(&self) -> SamplerSettings {
        self.text.defaults().sampling()
    }

    /// Whether the model has routers, so that plans of any number of bits from 2 to 8 can be followed.
    pub fn has_routers(&self) -> bool {
        self.model.has_routers()
    }

    /// The tokenizer and the chat template.
    pub fn text(&self) -> &TextModel {
        &self.text
    }

    /// The weights, for what a session does not do.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What stops loading and all sessions.
    pub fn cancel_token(&self) -> &CancelToken {
        self.model.cancel_token()
    }
}
