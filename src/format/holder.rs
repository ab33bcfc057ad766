//! The locked folder in which a model or a pack is made, and the moves out of it and back.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::{Error, Result};

/// Age from which a leftover cannot belong to a run that is still writing, where files cannot be locked.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// The file that is locked while a run writes; the system unlocks it when the run is killed.
const LOCK_FILE: &str = "lock";
/// Where the model is made, and where the files go that it replaces.
const MODEL_FOLDER: &str = "model";
const OLD_FOLDER: &str = "old";

/// A folder of one run, removed when dropped.
#[derive(Debug)]
pub struct Holder {
    path: PathBuf,
    lock: Option<File>,
    keep: bool,
}

impl Holder {
    /// Makes the folder `path`, or takes one over that a killed run left, whose files stay. `shown` is the place that
    /// it is for. Fails where another run has it.
    pub fn take(path: PathBuf, shown: &Path) -> Result<Holder> {
        let left = match fs::create_dir(&path) {
            Ok(()) => false,
            Err(fault) if fault.kind() == io::ErrorKind::AlreadyExists => true,
            Err(fault) => return Err(Error::io("create", path)(fault)),
        };
        let refused = |got: String| {
            let expected = "a place that no other run is writing to";
            Error::argument(format!("output `{}`", shown.display()), expected, got)
        };
        if left && !is_left_over(&path) {
            return Err(refused(format!("`{}`, which is in the way and no run's; move it away", path.display())));
        }
        let lock = path.join(LOCK_FILE);
        let lock = File::options().create(true).truncate(false).write(true).open(&lock);
        let lock = lock.map_err(Error::io("create", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(refused("one that another run is writing to".into())),
            // A file system without locks: time is all that tells a run from what it left.
            Err(TryLockError::Error(_)) if left && !newest(&path).is_some_and(|time| is_older(time, LEFTOVER_AGE)) => {
                return Err(refused(format!("`{}`; remove it if no run is writing there", path.display())));
            }
            Err(TryLockError::Error(_)) => {}
        }
        Ok(Holder { path, lock: Some(lock), keep: false })
    }

    /// Takes the folder beside `place`, where links have been followed, in which what will be there is made. What a
    /// killed run left in it is removed. Fails as [`take`](Holder::take) does.
    pub fn beside(place: &Path, shown: &Path) -> Result<Holder> {
        let holder = Holder::take(path_beside(place), shown)?;
        holder.make_inside()?;
        Ok(holder)
    }

    /// The folder in which what the place is for is made.
    pub fn inside(&self) -> PathBuf {
        self.path.join(MODEL_FOLDER)
    }

    /// The folder for the files of the model that is replaced.
    pub fn old(&self) -> PathBuf {
        self.path.join(OLD_FOLDER)
    }

    /// Makes that folder, empty, whatever a killed run left.
    pub fn make_inside(&self) -> Result<()> {
        for dir in [self.inside(), self.old()] {
            match fs::remove_dir_all(&dir) {
                Err(fault) if fault.kind() != io::ErrorKind::NotFound => return Err(Error::io("remove", dir)(fault)),
                _ => {}
            }
        }
        fs::create_dir(self.inside()).map_err(Error::io("create", self.inside()))
    }

    /// Puts files back that a run was replacing in the folder `dir`, whose manifest is `manifest`, when it was killed.
    pub fn restore(&self, dir: &Path, manifest: &str) -> Result<()> {
        if dir.join(manifest).exists() || !self.old().join(manifest).exists() {
            return Ok(());
        }
        let names = names(&self.old()).map_err(Error::io("read", self.old()))?;
        move_all(&self.old(), dir, &last(names, manifest), &mut Vec::new())
    }

    /// Leaves the folder when dropped: what is in it is wanted.
    pub fn keep(&mut self) {
        self.keep = true;
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Windows does not remove a file that is open; elsewhere the lock is held to the end.
        if cfg!(windows) || self.keep {
            drop(self.lock.take());
        }
        if !self.keep {
            // What cannot be removed is cleared by the next run.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Where the folder for `place` lies.
fn path_beside(place: &Path) -> PathBuf {
    let mut hidden = OsString::from(".");
    hidden.push(place.file_name().unwrap_or_default());
    hidden.push(".partial");
    place.with_file_name(hidden)
}

/// Whether a run left what is at `path`: a folder with nothing in it but what a run makes there.
fn is_left_over(path: &Path) -> bool {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let of_run = |name: &String| [LOCK_FILE, MODEL_FOLDER, OLD_FOLDER].contains(&name.as_str());
    is_folder && names(path).is_ok_and(|names| names.iter().all(of_run))
}

/// Moves the files `names` from one folder to another; those moved are added to `moved`. A file that is not there is
/// left out.
pub fn move_all(from: &Path, to: &Path, names: &[String], moved: &mut Vec<String>) -> Result<()> {
    for name in names {
        match fs::rename(from.join(name), to.join(name)) {
            Ok(()) => moved.push(name.clone()),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound && !from.join(name).exists() => {}
            Err(fault) => return Err(Error::io("create", to.join(name))(fault)),
        }
    }
    Ok(())
}

/// The names in a folder, sorted; those that are not UTF-8 as well as can be.
pub fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// The names, that of the manifest at the end: a folder is a model from when it has one.
pub fn last(mut names: Vec<String>, manifest: &str) -> Vec<String> {
    names.sort_by_key(|name| name == manifest);
    names
}

/// When the folder or a file in it last changed: a run that is still writing keeps this recent.
fn newest(dir: &Path) -> Option<SystemTime> {
    let files = fs::read_dir(dir).ok()?.flatten();
    let inner = files.filter_map(|file| {
        let within = if file.path().is_dir() { newest(&file.path()) } else { None };
        within.max(file.metadata().ok()?.modified().ok())
    });
    inner.chain(fs::metadata(dir).ok()?.modified().ok()).max()
}

fn is_older(time: SystemTime, age: Duration) -> bool {
    time.elapsed().is_ok_and(|elapsed| elapsed >= age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_run_left_is_neither_followed_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".model.partial");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("notes"), "mine").unwrap();
        let fault = Holder::take(path.clone(), dir.path()).unwrap_err().to_string();
        assert!(fault.contains(".model.partial") && fault.contains("in the way"), "{fault}");
        assert_eq!(fs::read_to_string(path.join("notes")).unwrap(), "mine");

        // What a killed run left is cleared.
        fs::remove_file(path.join("notes")).unwrap();
        fs::create_dir(path.join(MODEL_FOLDER)).unwrap();
        drop(Holder::take(path.clone(), dir.path()).unwrap());
        assert!(!path.exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join(".model.partial"), dir.path().join("other"));
        fs::create_dir(&other).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(Holder::take(path, dir.path()).unwrap_err().to_string().contains("in the way"));
        assert!(names(&other).unwrap().is_empty());
    }
}
