//! The hub's cache on this machine, in the layout of Hugging Face's own programs, which find what is in it.
//!
//! | path | what |
//! |---|---|
//! | `models--OWNER--MODEL/blobs/HASH` | a whole file; `HASH.incomplete` is one on its way |
//! | `models--OWNER--MODEL/refs/REVISION` | the commit that the revision was when it was looked up |
//! | `models--OWNER--MODEL/snapshots/COMMIT/FILE` | a link to the blob, or the file itself on systems without links |
//! | `.locks/models--OWNER--MODEL/HASH.lock` | locked while the blob is being written |

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::http::go_on;
use super::listing::{BlobId, HubFile, Listing, is_commit};
use super::names::{RepoName, is_inner_path};
use super::{HubEvent, OnEvent};
use crate::error::{Error, Result};
use crate::format::write_whole;

/// How often a lock that another program holds is tried.
const LOCK_GLANCE: Duration = Duration::from_millis(200);
/// Folders within folders that a snapshot may have.
const DEPTH_MAX: usize = 8;

/// The part of the cache that one repository has.
#[derive(Debug)]
pub(super) struct RepoCache {
    dir: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    /// The repository's part of the cache in the folder `cache`; nothing is made yet.
    pub fn new(cache: &Path, repo: &RepoName) -> RepoCache {
        RepoCache { dir: cache.join(repo.folder()), locks: cache.join(".locks").join(repo.folder()) }
    }

    /// The repository's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the files of a commit are.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.dir.join("snapshots").join(commit)
    }

    /// Where a whole file is.
    pub fn blob(&self, blob: &BlobId) -> PathBuf {
        self.dir.join("blobs").join(blob.text())
    }

    /// Where a file is while it comes.
    pub fn partial(&self, blob: &BlobId) -> PathBuf {
        self.dir.join("blobs").join(format!("{}.incomplete", blob.text()))
    }

    /// Bytes that are still to come of a file that is not there whole.
    pub fn missing_bytes(&self, commit: &str, file: &HubFile) -> u64 {
        let length = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
        let Some(blob) = &file.blob else { return 0 };
        let whole = [self.snapshot(commit).join(&file.name), self.blob(blob)];
        if whole.iter().any(|path| path.exists() && length(path) == file.bytes) {
            return 0;
        }
        file.bytes.saturating_sub(length(&self.partial(blob)))
    }

    /// Locks `name` for as long as the file that is returned lives, and waits while another program has it. A file
    /// system without locks has none to wait for.
    pub fn lock(&self, name: &str, on_event: OnEvent) -> Result<File> {
        fs::create_dir_all(&self.locks).map_err(Error::io("create", &self.locks))?;
        let path = self.locks.join(format!("{name}.lock"));
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(Error::io("create", &path))?;
        let mut told = false;
        while let Err(TryLockError::WouldBlock) = file.try_lock() {
            if !told {
                go_on(on_event, HubEvent::Note("another program is fetching this model: waiting for it"))?;
                told = true;
            }
            std::thread::sleep(LOCK_GLANCE);
            go_on(on_event, HubEvent::Waiting)?;
        }
        Ok(file)
    }

    /// Puts the blob into the commit's snapshot under the file's name: as a link, or where the system makes none as the
    /// file itself.
    pub fn link(&self, commit: &str, file: &HubFile, blob: &BlobId) -> Result<()> {
        let (snapshot, blob) = (self.snapshot(commit), self.blob(blob));
        let pointer = snapshot.join(&file.name);
        let folder = pointer.parent().unwrap_or(&snapshot);
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        match fs::remove_file(&pointer) {
            Err(fault) if fault.kind() != ErrorKind::NotFound => return Err(Error::io("remove", &pointer)(fault)),
            _ => {}
        }
        let up = "../".repeat(2 + file.name.matches('/').count());
        let target = Path::new(&up).join("blobs").join(blob.file_name().unwrap_or_default());
        let made = symlink(&target, &pointer)
            .or_else(|fault| unless_there(fault, || fs::hard_link(&blob, &pointer)))
            .or_else(|fault| unless_there(fault, || fs::rename(&blob, &pointer)));
        made.map_err(Error::io("create", pointer))
    }

    /// Notes that `revision` is `commit`.
    pub fn write_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = self.dir.join("refs").join(revision);
        let folder = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        write_whole(&path, commit.as_bytes()).map_err(Error::io("write", path))
    }

    /// What is here of a revision, or `None`.
    pub fn listing(&self, revision: &str) -> Result<Option<Listing>> {
        let noted = fs::read_to_string(self.dir.join("refs").join(revision)).ok();
        let commit = noted.map_or(revision.to_string(), |text| text.trim().to_string());
        let snapshot = self.snapshot(&commit);
        if !is_commit(&commit) || !snapshot.is_dir() {
            return Ok(None);
        }
        let mut files = Vec::new();
        collect(&snapshot, "", 0, &mut files).map_err(Error::io("read", &snapshot))?;
        files.sort_by(|one: &HubFile, other| one.name.cmp(&other.name));
        Ok(Some(Listing { commit, files }))
    }
}

/// Adds the files below `dir`, whose names begin with `prefix`. A link to a blob that is gone is none.
fn collect(dir: &Path, prefix: &str, depth: usize, files: &mut Vec<HubFile>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let (name, Ok(found)) = (format!("{prefix}{name}"), fs::metadata(&path)) else { continue };
        if found.is_dir() && depth < DEPTH_MAX {
            collect(&path, &format!("{name}/"), depth + 1, files)?;
        } else if found.is_file() && is_inner_path(&name) {
            let target = fs::read_link(&path).ok();
            let blob = target.and_then(|target| BlobId::of_name(target.file_name()?.to_str()?));
            files.push(HubFile { name, bytes: found.len(), blob });
        }
    }
    Ok(())
}

/// Another way, where the first failed; a file that another program has put there meanwhile is as good.
fn unless_there(fault: io::Error, other: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    if fault.kind() == ErrorKind::AlreadyExists { Ok(()) } else { other() }
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_found_again() {
        let home = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(home.path(), &"a/b".parse().unwrap());
        let (commit, blob) = ("c".repeat(40), BlobId::Git("d".repeat(40)));
        fs::create_dir_all(cache.dir().join("blobs")).unwrap();
        fs::write(cache.blob(&blob), "text").unwrap();
        for name in ["config.json", "x/y.gguf"] {
            let file = HubFile { name: name.into(), bytes: 4, blob: Some(blob.clone()) };
            assert_eq!(cache.missing_bytes(&commit, &file), 0);
            cache.link(&commit, &file, &blob).unwrap();
            // Once more over itself.
            cache.link(&commit, &file, &blob).unwrap();
            assert_eq!(fs::read_to_string(cache.snapshot(&commit).join(name)).unwrap(), "text");
        }
        assert_eq!(cache.listing("main").unwrap(), None);
        cache.write_ref("main", &commit).unwrap();
        cache.write_ref("refs/pr/1", &commit).unwrap();
        for revision in ["main", "refs/pr/1", &commit] {
            let listing = cache.listing(revision).unwrap().unwrap();
            let names: Vec<&str> = listing.files.iter().map(|file| file.name.as_str()).collect();
            assert_eq!((names, listing.commit.as_str()), (vec!["config.json", "x/y.gguf"], commit.as_str()));
            assert!(cfg!(not(unix)) || listing.files.iter().all(|file| file.blob.as_ref() == Some(&blob)));
        }
        fs::remove_file(cache.blob(&blob)).unwrap();
        if cfg!(unix) {
            assert_eq!(cache.listing("main").unwrap().unwrap().files, []);
        }
        fs::write(cache.dir().join("refs/main"), "../../elsewhere").unwrap();
        assert_eq!(cache.listing("main").unwrap(), None);
    }

    #[test]
    fn what_is_to_come_is_less_by_what_is_there() {
        let home = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(home.path(), &"a/b".parse().unwrap());
        let blob = BlobId::Sha256("e".repeat(64));
        let file = HubFile { name: "w".into(), bytes: 10, blob: Some(blob.clone()) };
        assert_eq!(cache.missing_bytes("c", &file), 10);
        fs::create_dir_all(cache.dir().join("blobs")).unwrap();
        fs::write(cache.partial(&blob), "1234").unwrap();
        assert_eq!(cache.missing_bytes("c", &file), 6);
    }
}
