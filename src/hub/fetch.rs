//! One file from the hub to its place in the cache: what is there already is used, what broke off goes on, and nothing
//! is put in its place before its hash was checked.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use sha1::Sha1;
use sha2::{Digest, Sha256};
use ureq::Body;
use ureq::http::{Response, header};

use super::cache::RepoCache;
use super::http::{Attempt, HttpFault, HubClient, go_on, next_piece, pieces};
use super::listing::{BlobId, HubFile};
use super::names::as_path;
use super::{HubEvent, HubStage, OnEvent};
use crate::error::{Error, Result};
use crate::format::digest_of_file;

/// Bytes after which a try that broke off has brought the file forward.
const PROGRESS_BYTES: u64 = 1 << 20;

/// Files of one commit on their way to the cache.
pub(super) struct FileFetch<'a> {
    /// `None` where the network is not to be used.
    pub client: Option<&'a HubClient>,
    /// The address of the commit's files, without a slash at its end.
    pub base: String,
    pub cache: &'a RepoCache,
    pub commit: &'a str,
    /// Bytes of all files, and those of the files before this one.
    pub total: u64,
    pub before: u64,
    pub on_event: OnEvent<'a>,
}

impl FileFetch<'_> {
    /// Brings `file` into the commit's snapshot; whether it had to be fetched.
    pub fn bring(&mut self, file: &HubFile) -> Result<bool> {
        let pointer = self.cache.snapshot(self.commit).join(&file.name);
        if self.is_sound(&pointer, file)? {
            return Ok(false);
        }
        let (Some(client), Some(blob)) = (self.client, &file.blob) else {
            let expected = "a sound file in the cache, as the network is not to be used";
            return Err(Error::damaged(pointer, "content", expected, "none"));
        };
        let _locked = self.cache.lock(blob.text(), self.on_event)?;
        let path = self.cache.blob(blob);
        // Whoever had the lock may have fetched it.
        let fetched = !self.is_sound(&path, file)?;
        if fetched {
            self.download(client, file, blob)?;
        }
        self.cache.link(self.commit, file, blob)?;
        Ok(fetched)
    }

    /// Whether `path` is the file, by its length and, where it is known, by its hash.
    fn is_sound(&mut self, path: &Path, file: &HubFile) -> Result<bool> {
        let found = fs::metadata(path).ok().filter(|found| found.is_file() && found.len() == file.bytes);
        match &file.blob {
            _ if found.is_none() => Ok(false),
            None => Ok(true),
            Some(blob) => Ok(self.hash(path, file, blob)? == blob.text()),
        }
    }

    fn download(&mut self, client: &HubClient, file: &HubFile, blob: &BlobId) -> Result<()> {
        let (partial, whole) = (self.cache.partial(blob), self.cache.blob(blob));
        let folder = self.cache.dir().join("blobs");
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let url = format!("{}/{}", self.base, as_path(&file.name));
        let mut tries = client.tries();
        // Bytes that somebody else left may be wrong; then the file is fetched once more from its beginning.
        let mut left_over = length(&partial) > 0;
        let mut longest = length(&partial);
        loop {
            let had = length(&partial);
            if (had < file.bytes || !partial.exists())
                && let Err(fault) = self.append(client, &url, file, &partial, had)
            {
                // Bytes that were fetched before and lost count once, so that a server cannot keep this going for ever.
                if length(&partial) >= longest + PROGRESS_BYTES {
                    longest = length(&partial);
                    tries.came_on();
                }
                tries.again(&url, fault, self.on_event)?;
                continue;
            }
            let hash = if length(&partial) == file.bytes { self.hash(&partial, file, blob)? } else { String::new() };
            if hash == blob.text() {
                return fs::rename(&partial, &whole).map_err(Error::io("create", whole));
            }
            fs::remove_file(&partial).map_err(Error::io("remove", &partial))?;
            if !left_over {
                return Err(Error::damaged(url, blob.kind(), blob.text(), hash));
            }
            left_over = false;
            go_on(
                self.on_event,
                HubEvent::Note(&format!("{}: what was there is not sound: from the beginning", file.name)),
            )?;
        }
    }

    /// One try to fetch what is missing behind the `had` bytes of `partial`.
    fn append(&mut self, client: &HubClient, url: &str, file: &HubFile, partial: &Path, had: u64) -> Attempt<()> {
        self.tell(file, had)?;
        let response = client.get(url, had, self.on_event)?;
        let Some(mut done) = start_of(&response, url, file, had)? else {
            // The server has another file there, or counts otherwise: from the beginning.
            fs::remove_file(partial).map_err(Error::io("remove", partial))?;
            return Err(HttpFault::Passing {
                message: "the server does not go on where it was asked to".into(),
                wait: None,
            });
        };
        let failed = |fault| HttpFault::from(Error::io("write", partial)(fault));
        let to = File::options().create(true).truncate(false).write(true).open(partial);
        let mut to = to.map_err(Error::io("create", partial))?;
        to.set_len(done).and_then(|()| to.seek(SeekFrom::Start(done))).map_err(failed)?;
        let pieces = pieces(response.into_body())?;
        while let Some(piece) = next_piece(&pieces, self.on_event)? {
            done += piece.len() as u64;
            if done > file.bytes {
                to.set_len(0).map_err(failed)?;
                return Err(Error::damaged(url, "length", format!("{} bytes", file.bytes), "more").into());
            }
            to.write_all(&piece).map_err(failed)?;
            self.tell(file, done)?;
        }
        if done < file.bytes {
            let message = format!("the connection ended after {done} of {} bytes", file.bytes);
            return Err(HttpFault::Passing { message, wait: None });
        }
        to.sync_all().map_err(failed)
    }

    fn tell(&mut self, file: &HubFile, done: u64) -> Result<()> {
        let (done, total) = (self.before + done, self.total);
        go_on(self.on_event, HubEvent::Progress { stage: HubStage::Download, name: &file.name, done, total })
    }

    /// The hash of the file at `path` of the kind that `blob` is.
    fn hash(&mut self, path: &Path, file: &HubFile, blob: &BlobId) -> Result<String> {
        let (name, total) = (file.name.as_str(), file.bytes);
        let mut done = 0;
        let mut on_piece = |length| {
            done += length;
            (self.on_event)(HubEvent::Progress { stage: HubStage::Check, name, done, total })
        };
        let hash = match blob {
            BlobId::Sha256(_) => digest_of_file(path, Sha256::new(), &mut on_piece)?,
            BlobId::Git(_) => {
                let hasher = Sha1::new().chain_update(format!("blob {total}\0"));
                digest_of_file(path, hasher, &mut on_piece)?
            }
        };
        hash.ok_or(Error::Stopped("pull"))
    }
}

/// The byte of the file that an answer begins with; `None` where it is not the one after the `had` first ones, nor the
/// first. Fails where the file has another length.
fn start_of(response: &Response<Body>, url: &str, file: &HubFile, had: u64) -> Result<Option<u64>> {
    match response.status().as_u16() {
        200 => match response.body().content_length() {
            Some(length) if length != file.bytes => {
                let (expected, got) = (format!("{} bytes", file.bytes), format!("{length} bytes"));
                Err(Error::damaged(url, "length", expected, got))
            }
            _ => Ok(Some(0)),
        },
        206 => {
            let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
            let expected = format!("bytes {had}-{}/{}", file.bytes.saturating_sub(1), file.bytes);
            Ok(range.filter(|range| *range == expected).map(|_| had))
        }
        _ => Ok(None),
    }
}

/// The length of the file at `path`, 0 of one that is not there.
fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}
