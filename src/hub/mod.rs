//! Models from the Hugging Face hub, fetched into the cache that Hugging Face's own programs use.
//!
//! [`Hub::select`] asks the hub what a revision has and chooses the files of a model. [`Hub::fetch_texts`] brings the
//! small ones, so that a model that cannot run is refused before its weights are fetched, and [`Hub::fetch_weights`]
//! the rest. A file is named in the cache by its hash, and is put there when its length and its hash are right. So a
//! download that broke off goes on where it ended, and a file that changed on the hub is another file.
//!
//! The access token goes to the hub alone, not to where it redirects. Passing failures are tried again: six times in a
//! row, after 1, 2, 4, 8 and 16 seconds, or after the time that the server asks for, up to ten minutes. A try that
//! brought at least 1 MiB begins a new count.

mod cache;
mod choose;
mod fetch;
mod http;
mod listing;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use self::cache::RepoCache;
use self::choose::FileChoice;
use self::fetch::FileFetch;
use self::http::HubClient;
use self::listing::Listing;
use self::names::{as_part, is_inner_path};
use crate::error::{Error, Result};
use crate::format::check_space;
use crate::json;

pub use choose::has_quantization;
pub use listing::{BlobId, HubFile};
pub use names::RepoName;

/// Which hub, and where its files go.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// The hub's address, without a slash at its end.
    pub endpoint: String,
    /// The folder of the cache.
    pub cache: PathBuf,
    /// The access token, for repositories that not everybody may read.
    pub token: Option<String>,
    /// Whether only what is in the cache is used.
    pub offline: bool,
    /// Whether to go through the proxies that the environment names.
    pub proxies: bool,
    /// Wait after the first failure; each further one doubles it.
    pub first_wait: Duration,
    /// Time without a byte after which a connection counts as broken.
    pub patience: Duration,
}

impl HubOptions {
    /// Hugging Face's own hub, without a token, with its cache in the folder `cache`.
    pub fn new(cache: impl Into<PathBuf>) -> HubOptions {
        HubOptions {
            endpoint: "https://huggingface.co".into(),
            cache: cache.into(),
            token: None,
            offline: false,
            proxies: true,
            first_wait: Duration::from_secs(1),
            patience: Duration::from_secs(60),
        }
    }
}

/// What happens during a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubEvent<'a> {
    /// So many bytes are done.
    Progress {
        /// What is being done.
        stage: HubStage,
        /// The file.
        name: &'a str,
        /// Bytes done.
        done: u64,
        /// Bytes of all files that are fetched together, or of the file that is checked.
        total: u64,
    },
    /// Something that a person may want to know, in a sentence.
    Note(&'a str),
    /// Nothing yet.
    Waiting,
}

/// What is being done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubStage {
    /// It is fetched.
    Download,
    /// It is hashed.
    Check,
}

/// What is told of events; it may break off, which is [`Error::Stopped`], several times a second.
pub type OnEvent<'a> = &'a mut dyn FnMut(HubEvent) -> ControlFlow<()>;

/// A hub, with its cache.
#[derive(Debug)]
pub struct Hub {
    options: HubOptions,
    client: Option<HubClient>,
}

/// The files of a model in one commit of its repository.
#[derive(Debug)]
pub struct HubSelection {
    /// The repository.
    pub repo: RepoName,
    /// What was asked for: a branch, a tag or a commit.
    pub revision: String,
    /// The commit that it is.
    pub commit: String,
    /// The first GGUF file by its name in the repository, of a model that is one.
    pub gguf: Option<String>,
    cache: RepoCache,
    listing: Listing,
    texts: Vec<HubFile>,
    weights: Vec<HubFile>,
    index: Option<HubFile>,
}

/// What [`Hub::fetch_weights`] brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubReport {
    /// The model's folder or GGUF file in the cache.
    pub source: PathBuf,
    /// The repository's folder in the cache.
    pub repo_dir: PathBuf,
    /// Bytes of the weights.
    pub bytes: u64,
    /// Bytes of those of them that were fetched and not there before.
    pub fetched_bytes: u64,
}

impl Hub {
    /// A hub that nothing was asked of yet. Fails where the address or the token cannot be one.
    pub fn new(options: HubOptions) -> Result<Hub> {
        let client = if options.offline { None } else { Some(HubClient::new(&options)?) };
        Ok(Hub { options, client })
    }

    /// Locks the repository against other runs of edge-run until the file that is returned is dropped, and waits while
    /// one of them has it.
    pub fn lock(&self, repo: &RepoName, on_event: OnEvent) -> Result<File> {
        RepoCache::new(&self.options.cache, repo).lock("edge-run", on_event)
    }

    /// Chooses the files of a model in `revision` of the repository: without `file` the safetensors with their texts,
    /// or the only GGUF file; else the GGUF file of that name or quantization. Of a GGUF file in parts all are taken.
    pub fn select(
        &self,
        repo: &RepoName,
        revision: &str,
        file: Option<&str>,
        on_event: OnEvent,
    ) -> Result<HubSelection> {
        if !is_inner_path(revision) {
            return Err(Error::argument("revision", "a branch, a tag or a commit", format!("`{revision}`")));
        }
        let cache = RepoCache::new(&self.options.cache, repo);
        let not_cached = |what: &str| {
            let advice = format!("{what} is not in the cache, and the network is not to be used");
            Error::ModelMissing { path: cache.dir().to_path_buf(), advice }
        };
        let listing = match &self.client {
            Some(client) => {
                let url = format!("{}/api/models/{repo}/revision/{}?blobs=true", self.endpoint(), as_part(revision));
                Listing::parse(&url, &client.text(&url, on_event)?)?
            }
            None => cache.listing(revision)?.ok_or_else(|| not_cached(&format!("revision {revision} of {repo}")))?,
        };
        let choice = choose::choose(repo, &listing.files, file).map_err(|fault| match &self.client {
            // The cache may have a part of what the repository has.
            None if !listing.files.iter().any(choose::has_weights) => {
                not_cached(&format!("what a model of {repo} needs"))
            }
            _ => fault,
        });
        let (texts, weights, index, gguf) = match choice? {
            FileChoice::Folder { texts, weights, index } => (texts, weights, index, None),
            FileChoice::Gguf(parts) => {
                let first = parts[0].name.clone();
                (Vec::new(), parts, None, Some(first))
            }
        };
        let (repo, revision, commit) = (repo.clone(), revision.to_string(), listing.commit.clone());
        Ok(HubSelection { repo, revision, commit, gguf, cache, listing, texts, weights, index })
    }

    /// Brings the files beside the weights, and finds the weights' shards; returns the folder that they are in.
    pub fn fetch_texts(&self, selection: &mut HubSelection, on_event: OnEvent) -> Result<PathBuf> {
        let small: Vec<HubFile> = selection.texts.iter().chain(&selection.index).cloned().collect();
        self.fetch(selection, &small, on_event)?;
        let folder = selection.cache.snapshot(&selection.commit);
        if let Some(index) = &selection.index {
            selection.weights = shards(&folder.join(&index.name), &selection.listing)?;
        }
        Ok(folder)
    }

    /// Brings the weights, after [`Hub::fetch_texts`].
    pub fn fetch_weights(&self, selection: &HubSelection, on_event: OnEvent) -> Result<HubReport> {
        let fetched_bytes = self.fetch(selection, &selection.weights, on_event)?;
        if self.client.is_some() {
            selection.cache.write_ref(&selection.revision, &selection.commit)?;
        }
        let folder = selection.cache.snapshot(&selection.commit);
        Ok(HubReport {
            source: selection.gguf.as_ref().map_or(folder.clone(), |file| folder.join(file)),
            repo_dir: selection.cache.dir().to_path_buf(),
            bytes: selection.weights.iter().map(|file| file.bytes).sum(),
            fetched_bytes,
        })
    }

    /// Brings `files`; the bytes of those that had to be fetched.
    fn fetch(&self, selection: &HubSelection, files: &[HubFile], on_event: OnEvent) -> Result<u64> {
        let HubSelection { repo, commit, cache, .. } = selection;
        if self.client.is_some() {
            let missing = files.iter().map(|file| cache.missing_bytes(commit, file)).sum();
            check_space(cache.dir(), missing, "the files take")?;
        }
        let mut fetch = FileFetch {
            client: self.client.as_ref(),
            base: format!("{}/{repo}/resolve/{commit}", self.endpoint()),
            cache,
            commit,
            total: files.iter().map(|file| file.bytes).sum(),
            before: 0,
            on_event,
        };
        let mut fetched = 0;
        for file in files {
            if fetch.bring(file)? {
                fetched += file.bytes;
            }
            fetch.before += file.bytes;
        }
        Ok(fetched)
    }

    fn endpoint(&self) -> &str {
        self.options.endpoint.trim_end_matches('/')
    }
}

/// The files that the index at `path` names.
fn shards(path: &Path, listing: &Listing) -> Result<Vec<HubFile>> {
    #[derive(Deserialize)]
    struct ShardIndex {
        weight_map: BTreeMap<String, String>,
    }

    let ShardIndex { weight_map } = json::read(path)?;
    let names: BTreeSet<String> = weight_map.into_values().collect();
    let find = |name: &String| {
        let found = listing.files.iter().find(|file| file.name == *name).cloned();
        found.ok_or_else(|| Error::damaged(path, "weight_map", "files of the repository", format!("`{name}`")))
    };
    names.iter().map(find).collect()
}
