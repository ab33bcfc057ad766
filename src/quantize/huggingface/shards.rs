//! The safetensors files of a folder, and which of them holds which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo};
use serde::Deserialize;

use crate::checkpoint_files::{INDEX_FILE, WHOLE_FILE};
use crate::error::{Error, Result};
use crate::filetype::{self, FileType};
use crate::format::{HEADER_BYTES_MAX, parse_header};
use crate::json;

/// A safetensors file.
#[derive(Debug)]
pub struct Shard {
    pub path: PathBuf,
    pub file: File,
    pub data_start: u64,
    metadata: Metadata,
}

/// The safetensors files of a folder. Where there is an index, it decides which tensor is in which of them.
#[derive(Debug)]
pub struct Shards {
    /// The file to blame for a tensor that is missing.
    pub listing: PathBuf,
    pub files: Vec<Shard>,
    /// The file of each tensor; `None` of a model in one piece.
    index: Option<BTreeMap<String, usize>>,
}

impl Shards {
    /// Opens the files of the folder `dir`. As in transformers, an index counts only where there is no file of the
    /// whole model.
    pub fn open(dir: &Path, warnings: &mut Vec<String>) -> Result<Shards> {
        let (whole, index) = (dir.join(WHOLE_FILE), dir.join(INDEX_FILE));
        let is_there = |path: &Path| std::fs::symlink_metadata(path).is_ok();
        if is_there(&whole) || !is_there(&index) {
            let same = |weight_map: BTreeMap<String, String>| weight_map.values().all(|file| file == WHOLE_FILE);
            if is_there(&index) && !read_index(&index).is_ok_and(same) {
                warnings
                    .push(format!("{INDEX_FILE} is left out: {WHOLE_FILE} is there, and counts in transformers too"));
            }
            return Ok(Shards { files: vec![Shard::open(whole.clone())?], listing: whole, index: None });
        }
        let weight_map = read_index(&index)?;
        let names: Vec<&String> = weight_map.values().collect::<BTreeSet<_>>().into_iter().collect();
        check_files(dir, &index, &names)?;
        let places: BTreeMap<&String, usize> = names.iter().enumerate().map(|(at, name)| (*name, at)).collect();
        let tensors = weight_map.iter().map(|(tensor, file)| (tensor.clone(), places[file])).collect();
        let files = names.iter().map(|name| Shard::open(dir.join(name))).collect::<Result<_>>()?;
        Ok(Shards { listing: index, files, index: Some(tensors) })
    }

    /// The tensor `name` and the number of its file. `None` where there is none; an error where the index names a file
    /// that does not have it.
    pub fn find(&self, name: &str) -> Result<Option<(usize, &TensorInfo)>> {
        let Some(index) = &self.index else {
            return Ok(self.files[0].metadata.info(name).map(|info| (0, info)));
        };
        let Some(at) = index.get(name).copied() else { return Ok(None) };
        let shard = &self.files[at];
        let info = shard.metadata.info(name);
        let expected = format!("the tensor, as {INDEX_FILE} says");
        info.map(|info| Some((at, info))).ok_or_else(|| Error::damaged(&shard.path, name, expected, "no tensor"))
    }

    /// The names of all tensors in all files, and of those that the index has, sorted.
    pub fn names(&self) -> BTreeSet<String> {
        let held = self.files.iter().flat_map(|shard| shard.metadata.offset_keys());
        held.chain(self.index.iter().flat_map(|index| index.keys().cloned())).collect()
    }

    /// A sentence about tensors that are in another file than the one that the index names, too.
    pub fn copies(&self) -> Option<String> {
        let index = self.index.as_ref()?;
        let mut copies = self.files.iter().enumerate().flat_map(|(at, shard)| {
            let elsewhere = move |name: &String| index.get(name).is_some_and(|decided| *decided != at);
            shard.metadata.offset_keys().into_iter().filter(elsewhere).map(move |name| (name, at))
        });
        let (name, at) = copies.next()?;
        let others = match copies.count() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let file = |at: usize| self.files[at].path.file_name().unwrap_or_default().to_string_lossy();
        Some(format!(
            "`{name}`{others}: the copy in {} is left out, as {INDEX_FILE} names {}",
            file(at),
            file(index[&name])
        ))
    }
}

impl Shard {
    fn open(path: PathBuf) -> Result<Shard> {
        let (mut file, file_bytes) = filetype::open(&path, FileType::Safetensors, "a safetensors file")?;
        let mut length = [0; 8];
        if file_bytes < 8 {
            return Err(filetype::wrong_length(&path, 8, file_bytes));
        }
        file.read_exact(&mut length).map_err(Error::io("read", &path))?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_BYTES_MAX {
            let expected = format!("at most {HEADER_BYTES_MAX} bytes, as in a safetensors file");
            return Err(Error::damaged(path, "header length", expected, length));
        }
        let data_start = 8 + length;
        if data_start > file_bytes {
            return Err(filetype::wrong_length(&path, data_start, file_bytes));
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header).map_err(Error::io("read", &path))?;
        let metadata = parse_header(&path, &header)?;
        let end = data_start + metadata.data_len() as u64;
        if end != file_bytes {
            return Err(filetype::wrong_length(&path, end, file_bytes));
        }
        Ok(Shard { path, file, data_start, metadata })
    }
}

/// The file of each tensor, by the index at `path`.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Index {
        #[serde(deserialize_with = "json::unique")]
        weight_map: BTreeMap<String, String>,
    }

    let Index { weight_map } = json::read(path)?;
    if weight_map.is_empty() {
        return Err(Error::damaged(path, "weight_map", "tensors and their files", "none"));
    }
    match weight_map.iter().find(|(_, file)| file.contains(['/', '\\', ':']) || !file.ends_with(".safetensors")) {
        Some((tensor, file)) => {
            let expected = "the name of a safetensors file in the folder";
            Err(Error::damaged(path, format!("weight_map.{tensor}"), expected, format!("`{file}`")))
        }
        None => Ok(weight_map),
    }
}

/// Fails where files that the index names are not in the folder.
fn check_files(dir: &Path, index: &Path, names: &[&String]) -> Result<()> {
    /// Missing files that are named.
    const NAMED: usize = 4;

    let missing = names.iter().filter(|name| std::fs::symlink_metadata(dir.join(name)).is_err());
    let missing: Vec<&str> = missing.map(|name| name.as_str()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let more = if missing.len() > NAMED { format!(" and {} more", missing.len() - NAMED) } else { String::new() };
    let shown = missing[..missing.len().min(NAMED)].join(", ");
    let got = format!("{} of them missing: {shown}{more}; download them", missing.len());
    Err(Error::damaged(index, "weight_map", format!("{} files that are in the folder", names.len()), got))
}
