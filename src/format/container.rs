//! One safetensors file: mapped for reading with every offset checked, or written piece by piece.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytemuck::cast_slice;
use memmap2::Mmap;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::header::{HEADER_BYTES_MAX, parse_header};
use super::layout::TensorSpec;
use super::mapped::{MappedTensor, map_open_file};
use super::open_file::OpenFile;
use crate::error::{Error, Result};
use crate::filetype;

/// Bytes of the field before a header, which holds the header's length.
const LENGTH_BYTES: usize = 8;
/// What a header is padded to, with spaces.
const HEADER_ALIGNMENT: usize = 8;
/// Data begins at multiples of this, so that it can be read where it lies.
const WORD_BYTES: usize = 4;

/// A file that is mapped, its header read and found to fit the file's length.
#[derive(Debug)]
pub struct Container {
    file: OpenFile,
    map: Mmap,
    header_bytes: usize,
    metadata: Metadata,
}

impl Container {
    /// Maps the file. `check` sees the bytes of its length field and header before they are read as anything.
    pub fn open(file: OpenFile, check: impl FnOnce(&[u8]) -> Result<()>) -> Result<Container> {
        let map = map_open_file(&file)?;
        let path = file.path();
        // A copy, so that what was checked is what is read.
        let header = header_of(path, &map)?.to_vec();
        check(&header)?;
        let metadata = parse_header(path, &header[LENGTH_BYTES..])?;
        let end = header.len() as u64 + metadata.data_len() as u64;
        if end != map.len() as u64 {
            return Err(filetype::wrong_length(path, end, map.len() as u64));
        }
        Ok(Container { file, map, header_bytes: header.len(), metadata })
    }

    /// The text of `key` among the file's own facts, its `__metadata__`.
    pub fn fact(&self, key: &str) -> Option<&str> {
        self.metadata.metadata().as_ref()?.get(key).map(String::as_str)
    }

    /// The tensors of `specs`, which must be those of the file, each as specified.
    pub fn tensors(self, specs: &[TensorSpec]) -> Result<Tensors> {
        let Container { file, map, header_bytes, metadata } = self;
        let path = file.path();
        let mut found = metadata.tensors();
        let mut ranges = HashMap::with_capacity(specs.len());
        for spec in specs {
            let described = |info: &TensorInfo| format!("{} {:?}", info.dtype, info.shape);
            let expected = || format!("{} {:?}", spec.dtype, spec.shape);
            let info = found.remove(&spec.name);
            let info = info.ok_or_else(|| Error::damaged(path, &spec.name, expected(), "no tensor"))?;
            if info.dtype != spec.dtype || info.shape != spec.shape {
                return Err(Error::damaged(path, &spec.name, expected(), described(info)));
            }
            // `Metadata` has checked that offsets ascend and agree with the shapes, and `open` where the last one ends.
            let (start, end) = info.data_offsets;
            if !(header_bytes + start).is_multiple_of(WORD_BYTES) {
                let at = format!("byte {}", header_bytes + start);
                return Err(Error::damaged(path, &spec.name, "data that begins at a multiple of 4", at));
            }
            ranges.insert(spec.name.clone(), header_bytes + start..header_bytes + end);
        }
        match found.keys().min() {
            Some(extra) => Err(Error::damaged(path, extra, "no such tensor", "one")),
            None => Ok(Tensors { file: Arc::new(file), map: Arc::new(map), ranges }),
        }
    }
}

/// Where a tensor lies in its file, for reading it without a map: of a file that was cut short since, a read tells,
/// where a map would end the process.
#[derive(Debug, Clone)]
pub struct TensorPlace {
    /// The file, open: another model that takes the folder's place later is not read.
    pub file: Arc<OpenFile>,
    /// The tensor's name.
    pub name: String,
    /// First byte in the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

impl TensorPlace {
    /// The tensor, mapped by itself: what maps it again later reads the same bytes. Fails where the file was written to
    /// since it was opened.
    pub fn map(&self) -> Result<MappedTensor> {
        self.file.check_unchanged()?;
        MappedTensor::of_file(&self.file, self.offset, self.bytes)
    }
}

/// The tensors of a mapped file.
#[derive(Debug)]
pub struct Tensors {
    file: Arc<OpenFile>,
    map: Arc<Mmap>,
    ranges: HashMap<String, Range<usize>>,
}

impl Tensors {
    /// The file.
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// The whole file.
    pub fn file_bytes(&self) -> &[u8] {
        &self.map
    }

    /// The data of the tensor `name`, if there is one.
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        Some(&self.map[self.ranges.get(name)?.clone()])
    }

    /// The tensor `name`, sharing the map.
    pub fn tensor(&self, name: &str) -> Result<MappedTensor> {
        Ok(MappedTensor::new(self.map.clone(), self.range(name)?))
    }

    /// Where the tensor `name` lies.
    pub fn place(&self, name: &str) -> Result<TensorPlace> {
        let range = self.range(name)?;
        Ok(TensorPlace {
            file: Arc::clone(&self.file),
            name: name.to_string(),
            offset: range.start as u64,
            bytes: range.len() as u64,
        })
    }

    fn range(&self, name: &str) -> Result<Range<usize>> {
        self.ranges.get(name).cloned().ok_or_else(|| Error::damaged(self.path(), name, "a tensor", "none"))
    }

    /// Fails at the first number of these F16, F32 and U16 tensors, which the file must have, that is not finite.
    pub fn check_finite(&self, specs: &[TensorSpec]) -> Result<()> {
        for spec in specs {
            let bytes = self.bytes(&spec.name).unwrap_or_default();
            // Branches on the whole only, so that the compiler can look at many numbers at once.
            let finite = match spec.dtype {
                Dtype::F16 => cast_slice(bytes).iter().fold(true, |all, bits: &u16| all & (bits & 0x7c00 != 0x7c00)),
                Dtype::F32 => cast_slice(bytes).iter().fold(true, |all, x: &f32| all & x.is_finite()),
                // Words are ranges, all of which are finite.
                Dtype::U16 => true,
                other => unreachable!("{} is {other}", spec.name),
            };
            if !finite {
                return Err(Error::damaged(self.path(), &spec.name, "finite numbers", "one that is not"));
            }
        }
        Ok(())
    }
}

/// The length field and the header of a file.
fn header_of<'a>(path: &Path, map: &'a [u8]) -> Result<&'a [u8]> {
    let short = |wanted: String| Error::damaged(path, "header", wanted, format!("a file of {} bytes", map.len()));
    let (length, _) = map.split_first_chunk::<LENGTH_BYTES>().ok_or_else(|| short("8 bytes of length".into()))?;
    let length = u64::from_le_bytes(*length);
    if length > HEADER_BYTES_MAX {
        return Err(Error::damaged(path, "header length", format!("at most {HEADER_BYTES_MAX} bytes"), length));
    }
    let end = usize::try_from(length).ok().and_then(|length| length.checked_add(LENGTH_BYTES));
    end.and_then(|end| map.get(..end)).ok_or_else(|| short(format!("{length} bytes")))
}

/// A file in the making, its header written and its data to come.
#[derive(Debug)]
pub struct ContainerWriter {
    path: PathBuf,
    file: File,
    header: Vec<u8>,
    /// Offset in the data and length of each tensor.
    tensors: HashMap<String, (u64, u64)>,
    data_bytes: u64,
    written: u64,
}

impl ContainerWriter {
    /// Begins a file of the tensors of `specs`, in their order, with `facts` as its `__metadata__`. It must not exist.
    pub fn create(
        path: PathBuf,
        specs: &[TensorSpec],
        facts: Option<HashMap<String, String>>,
    ) -> Result<ContainerWriter> {
        let mut tensors = HashMap::with_capacity(specs.len());
        let mut infos = Vec::with_capacity(specs.len());
        let mut at = 0;
        for spec in specs {
            let bytes = spec.bytes();
            let (start, end) = (at as usize, (at + bytes) as usize);
            let info = TensorInfo { dtype: spec.dtype, shape: spec.shape.clone(), data_offsets: (start, end) };
            infos.push((spec.name.clone(), info));
            tensors.insert(spec.name.clone(), (at, bytes));
            at += bytes;
        }
        let header = header(facts, infos);
        let mut file = File::create_new(&path).map_err(Error::io("create", &path))?;
        file.write_all(&header).map_err(Error::io("write", &path))?;
        Ok(ContainerWriter { path, file, header, tensors, data_bytes: at, written: 0 })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The length field and the header.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Bytes of the file when it is whole.
    pub fn bytes(&self) -> u64 {
        self.header.len() as u64 + self.data_bytes
    }

    /// Writes `bytes` to the tensor `name`, from byte `offset` of the tensor on. Panics where they leave the tensor or
    /// the file has none of that name.
    pub fn write(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<()> {
        let (start, length) = self.tensors[name];
        let end = offset + bytes.len() as u64;
        assert!(end <= length, "{name}: bytes {offset} to {end} leave a tensor of {length}");
        let at = self.header.len() as u64 + start + offset;
        self.file
            .seek(SeekFrom::Start(at))
            .and_then(|_| self.file.write_all(bytes))
            .map_err(Error::io("write", &self.path))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Hands the data to the disk; panics where a tensor was not written wholly.
    pub fn sync(&self) -> Result<()> {
        assert_eq!(self.written, self.data_bytes, "bytes written to {}", self.path.display());
        self.file.sync_all().map_err(Error::io("write", &self.path))
    }
}

/// The length field and the header of a file of these facts and tensors.
fn header(facts: Option<HashMap<String, String>>, infos: Vec<(String, TensorInfo)>) -> Vec<u8> {
    let metadata = Metadata::new(facts, infos).expect("tensors follow one another and have the bytes of their shapes");
    let mut json = serde_json::to_vec(&metadata).expect("a header has only text and numbers");
    json.resize(json.len().next_multiple_of(HEADER_ALIGNMENT), b' ');
    [(json.len() as u64).to_le_bytes().as_slice(), &json].concat()
}
