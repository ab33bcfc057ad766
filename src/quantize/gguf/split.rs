//! Models that are split over several GGUF files, as `llama-gguf-split` of llama.cpp does it.
//!
//! The files are named `NAME-00001-of-0000N.gguf` and so on. All state how many they are and which one they are; only
//! the first has the other metadata. Each has tensors of its own.

use std::path::{Path, PathBuf};

use super::file::{self, GgufFile};
use crate::error::{Error, Result};
use crate::format::map_file;

/// Keys of every file of a split model: the files, which of them it is, from 0 on, and the tensors of all.
const COUNT: &str = "split.count";
const NUMBER: &str = "split.no";
const TENSORS: &str = "split.tensors.count";
/// Files that a model is split over at most; five digits count them.
const FILES_MAX: u32 = 99_999;
/// Digits of a number in a name.
const DIGITS: usize = 5;

/// The files of the model that the file at `path` is of, and their headers as one.
pub fn read(path: &Path) -> Result<(Vec<PathBuf>, GgufFile)> {
    // The map lives only while the header is read: rows are read through the file, so that the pages of a large one do
    // not count as this process's memory.
    let one = file::parse(path, &map_file(path)?)?;
    let Some(count) = one.metadata.u32(COUNT)?.filter(|count| *count > 1) else {
        return Ok((vec![path.to_path_buf()], one));
    };
    let paths = siblings(path, count)?;
    let mut all: Option<GgufFile> = None;
    for (part, path) in paths.iter().enumerate() {
        if !path.is_file() {
            let expected = format!("{count} files of one model");
            let got = format!("no `{}`: get it, or merge all with `llama-gguf-split --merge`", path.display());
            return Err(Error::damaged(&paths[0], COUNT, expected, got));
        }
        let mut header = file::parse(path, &map_file(path)?)?;
        check_part(&header, part, count)?;
        header.tensors.values_mut().for_each(|tensor| tensor.part = part);
        match &mut all {
            None => all = Some(header),
            Some(all) => add(all, header)?,
        }
    }
    let all = all.expect("a split model has a file");
    check_tensors(&all)?;
    Ok((paths, all))
}

/// The paths of all files, by the name of one.
fn siblings(path: &Path, count: u32) -> Result<Vec<PathBuf>> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let ending = format!("-of-{count:05}.gguf");
    let stem = name.strip_suffix(&ending).filter(|_| count <= FILES_MAX);
    let stem = stem.and_then(|stem| stem.split_at_checked(stem.len().checked_sub(DIGITS)?));
    let prefix = stem.filter(|(_, number)| number.bytes().all(|digit| digit.is_ascii_digit()));
    let prefix = prefix.and_then(|(prefix, _)| prefix.strip_suffix('-'));
    let Some(prefix) = prefix else {
        let expected = format!("NAME-00001{ending}, by which the other files are found");
        return Err(Error::damaged(path, "file name", expected, format!("`{name}`")));
    };
    Ok((1..=count).map(|number| path.with_file_name(format!("{prefix}-{number:05}{ending}"))).collect())
}

/// Fails where a file is not the one that its name says.
fn check_part(header: &GgufFile, part: usize, count: u32) -> Result<()> {
    for (key, expected) in [(COUNT, count), (NUMBER, part as u32)] {
        let got = header.metadata.u32(key)?;
        if got != Some(expected) {
            let got = got.map_or("none: it is of another model".into(), |got| got.to_string());
            return Err(Error::damaged(header.metadata.path(), key, format!("{expected}, by its name"), got));
        }
    }
    Ok(())
}

/// Adds the tensors of a file to those before it.
fn add(all: &mut GgufFile, header: GgufFile) -> Result<()> {
    let path = header.metadata.path().to_path_buf();
    for (name, tensor) in header.tensors {
        if all.tensors.contains_key(&name) {
            return Err(Error::damaged(path, name, "one tensor in all files", "another of this name in a file before"));
        }
        all.tensors.insert(name, tensor);
    }
    Ok(())
}

/// Fails where the files together have other tensors than the first says.
fn check_tensors(all: &GgufFile) -> Result<()> {
    let stated = all.metadata.u32(TENSORS)?;
    match stated.filter(|stated| *stated as usize != all.tensors.len()) {
        Some(stated) => {
            let got = format!("{} in all files: they are not of one model", all.tensors.len());
            Err(Error::damaged(all.metadata.path(), TENSORS, format!("{stated} tensors"), got))
        }
        None => Ok(()),
    }
}
