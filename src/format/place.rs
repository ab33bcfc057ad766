//! Puts a finished folder or file where it belongs, and finds out at the beginning whether it can be put there.
//!
//! A model is made in a [`Holder`]: beside its place, where nothing is there, and in it, where it is a folder already.
//! The holder is locked, so that a second run for the same place is refused at once, and what a killed run left is
//! cleared by the next. A folder that is there keeps its other files, its owner and the links to it, and may be a mount
//! point.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::holder::{Holder, last, move_all, names};
use super::reader::is_plain_name;
use super::{CHAT_TEMPLATE_FILE, CHAT_TEMPLATES_FILE, GENERATION_FILE, MANIFEST_FILE, TOKENIZER_FILE, layout};
use crate::error::{Error, Result};
use crate::json;
use crate::precision::SLICES;

/// Links that are followed from one to the next.
const LINKS_MAX: usize = 40;
/// The holder's name in a folder that is there.
const INNER_HOLDER: &str = ".edge-run.partial";

/// Writes a file that appears whole or not at all, whoever else writes it; its folder is there. A link is followed.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = &link_target(path).unwrap_or(path.to_path_buf());
    let mut file = tempfile::NamedTempFile::new_in(folder_of(path))?;
    io::Write::write_all(&mut file, bytes)?;
    file.persist(path)?;
    Ok(())
}

/// The path that `path` leads to when links at its end are followed; the last one may lead to nothing that is there.
pub fn follow_links(path: &Path) -> Result<PathBuf> {
    let real = link_target(path).ok_or_else(|| refused(path, "a path", "links that lead in a circle"))?;
    if real != plain(path) && !folder_of(&real).is_dir() {
        let got = format!("a link to `{}`, whose folder is not there", real.display());
        return Err(refused(path, "a path", got));
    }
    Ok(real)
}

/// Where a file that is written at the end of long work will be: `path` with links followed. Fails where it could not
/// be written; its folder is made.
pub fn file_place(path: &Path) -> Result<PathBuf> {
    let real = follow_links(path)?;
    let other = match fs::metadata(&real) {
        Ok(found) if found.is_dir() => Some("a folder"),
        Ok(found) if !found.is_file() => Some("a device, a pipe or a socket"),
        Err(fault) if fault.kind() != io::ErrorKind::NotFound => return Err(Error::io("write", path)(fault)),
        Ok(_) | Err(_) => None,
    };
    if let Some(other) = other {
        return Err(refused(path, "the path of a file", other));
    }
    let folder = folder_of(&real);
    fs::create_dir_all(folder).map_err(Error::io("create", path))?;
    let tried = tempfile::Builder::new().prefix(".edge-run.").tempfile_in(folder);
    tried.map_err(|fault| Error::io("write", path)(without_path(fault)))?;
    Ok(real)
}

/// The system's words without the path of a hidden file, which `tempfile` puts behind them.
pub(super) fn without_path(fault: io::Error) -> io::Error {
    let words = fault.to_string();
    match words.split_once(" at path ") {
        Some((words, _)) => io::Error::new(fault.kind(), words),
        None => fault,
    }
}

/// Removes the model in the folder `dir`, and the files `with_it` of the folder; whether the folder is gone too, as
/// other files in it stay. Fails where another run is writing there. A removal that was killed is taken back, or
/// finished, by the next run that writes there.
pub fn remove_model(dir: &Path, with_it: &[&str]) -> Result<bool> {
    if !dir.join(MANIFEST_FILE).is_file() {
        return Err(refused(dir, "a model", "a folder that holds none"));
    }
    let place = Place::claim(dir, true)?;
    let old = place.holder.old();
    fs::create_dir(&old).map_err(Error::io("create", &old))?;
    // Without its manifest the folder is no model: nobody reads half of one.
    let mut names = last(place.old.clone(), MANIFEST_FILE);
    names.reverse();
    names.extend(with_it.iter().map(|name| name.to_string()));
    let mut moved = Vec::new();
    if let Err(fault) = move_all(&place.dir, &old, &names, &mut moved) {
        // Where this fails too, the next run that writes there moves them back.
        let _ = move_all(&old, &place.dir, &last(moved, MANIFEST_FILE), &mut Vec::new());
        return Err(fault);
    }
    fs::remove_file(old.join(MANIFEST_FILE)).map_err(Error::io("remove", old.join(MANIFEST_FILE)))?;
    let dir = place.dir.clone();
    drop(place);
    Ok(fs::remove_dir(dir).is_ok())
}

/// Where a folder with a manifest is to appear, held until it is dropped.
#[derive(Debug)]
pub struct Place {
    /// Name of the file that lists the folder's files: a folder without it is not whole.
    manifest: &'static str,
    /// As it was asked for.
    shown: PathBuf,
    /// Links followed.
    dir: PathBuf,
    /// Whether `dir` is a folder that was there before.
    there: bool,
    /// Files of the model that is replaced.
    old: Vec<String>,
    holder: Holder,
    /// Folders that were made for the place.
    _parents: NewFolders,
}

impl Place {
    /// Takes the place `dir` for a model folder, following links. It must be absent or an empty folder, or with
    /// `replace` a model, and no other run may be writing to it.
    pub fn claim(dir: &Path, replace: bool) -> Result<Place> {
        Place::claim_for(dir, replace, MANIFEST_FILE)
    }

    /// As [`claim`](Place::claim), for a folder whose manifest is `manifest`: with `replace` a folder may be there that
    /// has one.
    pub fn claim_for(dir: &Path, replace: bool, manifest: &'static str) -> Result<Place> {
        let real = follow_links(dir)?;
        match fs::metadata(&real) {
            Ok(found) if found.is_dir() => Place::claim_folder(dir, real, replace, manifest),
            Ok(_) => Err(refused(dir, expected(replace), "a file")),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => Place::claim_nothing(dir, real, manifest),
            Err(fault) if fault.kind() == io::ErrorKind::NotADirectory => {
                Err(refused(dir, expected(replace), "a path through a file"))
            }
            Err(fault) => Err(Error::io("read", dir)(fault)),
        }
    }

    /// The folder to write to.
    pub fn model(&self) -> PathBuf {
        self.holder.inside()
    }

    /// Fails where a file `name` is there already that is not the replaced model's.
    pub fn check_name(&self, name: &str) -> Result<()> {
        let taken = self.there && fs::symlink_metadata(self.dir.join(name)).is_ok();
        if !taken || name == self.manifest || self.old.iter().any(|old| old == name) {
            return Ok(());
        }
        let expected = format!("no file `{name}` but the model's own");
        Err(refused(&self.shown, expected, "one that the model does not list: move it away first"))
    }

    /// Moves what was written to the place. Where that fails the model that was there is there again.
    pub fn fill(mut self) -> Result<()> {
        if !self.there {
            // Some systems do not rename over an empty folder, which somebody may have made meanwhile.
            let _ = fs::remove_dir(&self.dir);
            fs::rename(self.model(), &self.dir).map_err(Error::io("create", &self.dir))?;
            self._parents.0.clear();
            sync_dir(folder_of(&self.dir));
            return Ok(());
        }
        let (model, old) = (self.model(), self.holder.old());
        fs::create_dir(&old).map_err(Error::io("create", &old))?;
        let new = last(names(&model).map_err(Error::io("read", &model))?, self.manifest);
        // Without its manifest the folder is no model: nobody reads one half of each.
        let mut old_names = last(self.old.clone(), self.manifest);
        old_names.reverse();
        let (mut out, mut into) = (Vec::new(), Vec::new());
        let moved =
            move_all(&self.dir, &old, &old_names, &mut out).and_then(|()| move_all(&model, &self.dir, &new, &mut into));
        if let Err(fault) = moved {
            let back = move_all(&self.dir, &model, &into, &mut Vec::new())
                .and_then(|()| move_all(&old, &self.dir, &last(out, self.manifest), &mut Vec::new()));
            if back.is_err() {
                self.holder.keep();
            }
            return Err(fault);
        }
        sync_dir(&self.dir);
        Ok(())
    }

    fn claim_folder(shown: &Path, dir: PathBuf, replace: bool, manifest: &'static str) -> Result<Place> {
        let inner = dir.join(INNER_HOLDER);
        let mut holder = None;
        if inner.is_dir() {
            let left = Holder::take(inner.clone(), shown)?;
            left.restore(&dir, manifest)?;
            holder = Some(left);
        }
        let found = names(&dir).map_err(Error::io("read", shown))?;
        let is_model = found.iter().any(|name| name == manifest);
        let empty = found.iter().all(|name| name == INNER_HOLDER);
        let got = match (empty, is_model) {
            (true, _) => None,
            (false, true) => (!replace).then_some("a model, which was not to be replaced"),
            (false, false) if replace => Some("a folder that holds no model"),
            (false, false) => Some("a folder with files in it"),
        };
        if let Some(got) = got {
            return Err(refused(shown, expected(replace), got));
        }
        let holder = holder.map_or_else(|| Holder::take(inner, shown), Ok)?;
        holder.make_inside()?;
        let old = if is_model { model_files(&dir, manifest) } else { Vec::new() };
        let _parents = NewFolders(Vec::new());
        Ok(Place { manifest, shown: shown.to_path_buf(), dir, there: true, old, holder, _parents })
    }

    fn claim_nothing(shown: &Path, dir: PathBuf, manifest: &'static str) -> Result<Place> {
        dir.file_name().ok_or_else(|| refused(shown, "a folder's name", "none"))?;
        let parents = NewFolders::make(folder_of(&dir))?;
        let holder = Holder::beside(&dir, shown)?;
        let (shown, old) = (shown.to_path_buf(), Vec::new());
        Ok(Place { manifest, shown, dir, there: false, old, holder, _parents: parents })
    }
}

/// Folders that were made, outermost first; those that are empty are removed when dropped.
#[derive(Debug)]
struct NewFolders(Vec<PathBuf>);

impl NewFolders {
    fn make(dir: &Path) -> Result<NewFolders> {
        let mut made = NewFolders(Vec::new());
        let mut absent: Vec<&Path> = dir.ancestors().take_while(|dir| !dir.as_os_str().is_empty()).collect();
        absent.retain(|dir| fs::symlink_metadata(dir).is_err());
        for dir in absent.into_iter().rev() {
            match fs::create_dir(dir) {
                Ok(()) => made.0.push(dir.to_path_buf()),
                Err(fault) if fault.kind() == io::ErrorKind::AlreadyExists => {}
                Err(fault) => return Err(Error::io("create", dir)(fault)),
            }
        }
        Ok(made)
    }
}

impl Drop for NewFolders {
    fn drop(&mut self) {
        for dir in self.0.iter().rev() {
            // One that somebody else uses meanwhile is not empty and stays.
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Makes renames and new files in `dir` outlive a power cut, where the file system knows how.
pub fn sync_dir(dir: &Path) {
    if cfg!(unix) {
        // The folder is complete either way, and a file system that refuses has nothing better to offer.
        let _ = fs::File::open(dir).and_then(|dir| dir.sync_all());
    }
}

/// The files of the model in `dir`, its manifest too, as that lists them; of one that cannot be read, those that a
/// model may have.
fn model_files(dir: &Path, manifest: &str) -> Vec<String> {
    let fields = json::read_object(&dir.join(manifest)).ok();
    let listed = fields.and_then(|fields| Some(fields.get("files")?.as_object()?.keys().cloned().collect()));
    let usual = || {
        let texts = [TOKENIZER_FILE, GENERATION_FILE, CHAT_TEMPLATE_FILE, CHAT_TEMPLATES_FILE].map(String::from);
        (0..SLICES).map(layout::slice_file).chain(texts).collect()
    };
    let mut files: Vec<String> = listed.unwrap_or_else(usual);
    files.retain(|name| is_plain_name(name) && name != manifest);
    files.push(manifest.into());
    files
}

fn expected(replace: bool) -> &'static str {
    if replace { "no folder, an empty one or a model" } else { "no folder or an empty one" }
}

fn refused(path: &Path, expected: impl ToString, got: impl ToString) -> Error {
    Error::argument(format!("output `{}`", path.display()), expected, got)
}

/// The folder that a path is in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The path without a slash at its end, which would make a link its target.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

fn link_target(path: &Path) -> Option<PathBuf> {
    let mut real = plain(path);
    for _ in 0..LINKS_MAX {
        match fs::read_link(&real) {
            Ok(target) => real = plain(&folder_of(&real).join(target)),
            Err(_) => return Some(real),
        }
    }
    None
}

#[cfg(test)]
#[path = "place_tests.rs"]
mod tests;
