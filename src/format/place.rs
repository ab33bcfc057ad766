//! Puts a finished folder or file where it belongs in one step, and clears what killed runs left.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::MANIFEST_FILE;
use crate::error::{Error, Result};

/// Age from which a leftover cannot belong to a run that is still writing.
pub const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// Writes a file that appears whole or not at all, whoever else writes it; its folder is there.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    io::Write::write_all(&mut file, bytes)?;
    file.persist(path)?;
    Ok(())
}

/// Where a folder is to appear.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    parent: PathBuf,
    name: String,
    replace: bool,
}

impl Place {
    /// The place `dir`. Unless it is absent or an empty folder, it is an error; with `replace` it may be a model folder
    /// too.
    pub fn new(dir: &Path, replace: bool) -> Result<Place> {
        let argument = |got: String| {
            let expected = if replace { "no folder, an empty one or a model" } else { "no folder or an empty one" };
            Error::argument(format!("output folder `{}`", dir.display()), expected, got)
        };
        let name = dir.file_name().ok_or_else(|| argument("no name".into()))?;
        let name = name.to_str().ok_or_else(|| argument("a name that is not UTF-8".into()))?.to_string();
        let parent = match dir.parent() {
            Some(parent) if parent != Path::new("") => parent.to_path_buf(),
            _ => PathBuf::from("."),
        };
        match fs::read_dir(dir) {
            Ok(mut entries) => {
                let empty = entries.next().is_none();
                let replaceable = replace && dir.join(MANIFEST_FILE).is_file();
                if !(empty || replaceable) {
                    let what = if replace { "a folder that holds no model" } else { "a folder with files in it" };
                    return Err(argument(what.into()));
                }
            }
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => {}
            Err(fault) if fault.kind() == io::ErrorKind::NotADirectory => return Err(argument("a file".into())),
            Err(fault) => return Err(Error::io("read", dir)(fault)),
        }
        Ok(Place { dir: dir.to_path_buf(), parent, name, replace })
    }

    /// A new folder beside the place, removed when dropped.
    pub fn aside(&self) -> Result<TempDir> {
        fs::create_dir_all(&self.parent).map_err(Error::io("create", &self.parent))?;
        self.sibling("partial")
    }

    /// Removes folders that runs for this place left when they were killed, if they are older than `age`; what cannot
    /// be removed stays.
    pub fn sweep(&self, age: Duration) {
        let Ok(entries) = fs::read_dir(&self.parent) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // A replaced folder is a leftover only once its successor is there.
            let partial = name.starts_with(&self.prefix("partial"));
            let replaced = name.starts_with(&self.prefix("replaced")) && self.dir.join(MANIFEST_FILE).is_file();
            if (partial || replaced) && newest(&entry.path()).is_some_and(|time| is_older(time, age)) {
                // Nobody waits for the room, so a refusal is no reason to stop.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// Moves `aside` to the place. The folder that it replaces is removed only then.
    pub fn fill(&self, aside: TempDir) -> Result<()> {
        let rename = |from: &Path, to: &Path| fs::rename(from, to).map_err(Error::io("create", to));
        if self.replace && self.dir.join(MANIFEST_FILE).is_file() {
            let holder = self.sibling("replaced")?;
            let old = holder.path().join(&self.name);
            rename(&self.dir, &old)?;
            if let Err(fault) = rename(aside.path(), &self.dir) {
                // The first error is the one to report, whether or not the old folder could be put back.
                if fs::rename(&old, &self.dir).is_err() {
                    let _ = holder.keep();
                }
                return Err(fault);
            }
        } else {
            // Some systems do not rename over an empty folder.
            if self.dir.is_dir() {
                fs::remove_dir(&self.dir).map_err(Error::io("replace", &self.dir))?;
            }
            rename(aside.path(), &self.dir)?;
        }
        // There is nothing at the old name any more that the handle could remove.
        let _ = aside.keep();
        sync_dir(&self.parent);
        Ok(())
    }

    fn prefix(&self, kind: &str) -> String {
        format!(".{}.{kind}-", self.name)
    }

    fn sibling(&self, kind: &str) -> Result<TempDir> {
        tempfile::Builder::new()
            .prefix(&self.prefix(kind))
            .tempdir_in(&self.parent)
            .map_err(Error::io("create", &self.parent))
    }
}

/// Makes renames and new files in `dir` outlive a power cut, where the file system knows how.
pub fn sync_dir(dir: &Path) {
    if cfg!(unix) {
        // The folder is complete either way, and a file system that refuses has nothing better to offer.
        let _ = fs::File::open(dir).and_then(|dir| dir.sync_all());
    }
}

/// When the folder or a file in it last changed: a run that is still writing keeps this recent.
fn newest(dir: &Path) -> Option<SystemTime> {
    let files = fs::read_dir(dir).ok()?.flatten().filter_map(|file| file.metadata().ok()?.modified().ok());
    files.chain(fs::metadata(dir).ok()?.modified().ok()).max()
}

fn is_older(time: SystemTime, age: Duration) -> bool {
    time.elapsed().is_ok_and(|elapsed| elapsed >= age)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn only_old_leftovers_of_the_same_place_are_swept() {
        let parent = tempfile::tempdir().unwrap();
        for name in [".model.partial-1", ".model.replaced-1", ".other.partial-1", "model.partial-1"] {
            fs::create_dir(parent.path().join(name)).unwrap();
            fs::write(parent.path().join(name).join("base.safetensors"), "x").unwrap();
        }
        let place = Place::new(&parent.path().join("model"), false).unwrap();

        place.sweep(LEFTOVER_AGE);
        assert_eq!(names(parent.path()).len(), 4, "all are new");

        place.sweep(Duration::ZERO);
        assert_eq!(names(parent.path()), [".model.replaced-1", ".other.partial-1", "model.partial-1"]);
    }

    #[test]
    fn a_replaced_folder_goes_and_a_foreign_one_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("model");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("notes.txt"), "mine").unwrap();
        assert!(Place::new(&dir, true).unwrap_err().to_string().contains("holds no model"));
        assert!(Place::new(&dir, false).unwrap_err().to_string().contains("with files in it"));

        fs::write(dir.join(MANIFEST_FILE), "old").unwrap();
        let place = Place::new(&dir, true).unwrap();
        let aside = place.aside().unwrap();
        fs::write(aside.path().join(MANIFEST_FILE), "new").unwrap();
        place.fill(aside).unwrap();
        assert_eq!(names(parent.path()), ["model"]);
        assert_eq!(names(&dir), [MANIFEST_FILE]);
        assert_eq!(fs::read_to_string(dir.join(MANIFEST_FILE)).unwrap(), "new");
    }
}
