//! Slices from their files to the model's thread: a thread that reads, and a ring of chunks between the two.
//!
//! Files are read at positions and never through a map: a file that is cut short while the model runs is then an error,
//! where a map would end the process. They are the files that the model folder opened: what takes their names later is
//! of another model and not read.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use crate::error::{Error, Result};
use crate::format::TensorPlace;

/// Bytes of a chunk at most, and chunks of the ring: all the memory that there is between file and device.
const CHUNK_BYTES: u64 = 4 << 20;
const CHUNKS: usize = 4;
/// Bytes of the ring.
pub const RING_BYTES: u64 = CHUNK_BYTES * CHUNKS as u64;

/// Tensors to be read, in order, under a number that their deliveries carry.
struct ReadRequest {
    number: u64,
    tensors: Vec<TensorPlace>,
}

/// What comes of a request.
#[derive(Debug)]
pub enum Delivery {
    /// Bytes of a tensor.
    Chunk {
        /// The request.
        number: u64,
        /// The tensor's place in the request.
        tensor: usize,
        /// Byte of the tensor that the chunk begins at.
        offset: u64,
        /// The chunk, to be given back by [`SliceStream::give_back`].
        bytes: Vec<u8>,
    },
    /// All tensors of the request came.
    Whole(u64),
    /// No more comes of the request.
    Failed(u64, Error),
}

/// A thread that reads tensors, until this is dropped.
pub struct SliceStream {
    /// Dropped first, with `empty`, which ends the thread.
    requests: Option<Sender<ReadRequest>>,
    empty: Option<Sender<Vec<u8>>>,
    ready: Receiver<Delivery>,
    read_bytes: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    next: u64,
}

impl SliceStream {
    /// Starts the thread. Fails where the system has none.
    pub fn start() -> Result<SliceStream> {
        let (requests, asked) = channel::<ReadRequest>();
        let (empty, emptied) = channel();
        let (deliver, ready) = channel();
        let read_bytes = Arc::new(AtomicU64::new(0));
        for _ in 0..CHUNKS {
            // Filled when they are first read into: small models never need whole chunks.
            empty.send(Vec::new()).expect("the other end is here");
        }
        let counter = Arc::clone(&read_bytes);
        let work = move || {
            for ReadRequest { number, tensors } in asked {
                let last = match read(number, &tensors, &emptied, &deliver, &counter) {
                    Ok(true) => Delivery::Whole(number),
                    // Nobody is there any more.
                    Ok(false) => return,
                    Err(fault) => Delivery::Failed(number, fault),
                };
                if deliver.send(last).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("slices".into()).spawn(work);
        let thread = thread.map_err(Error::io("start", "the thread that reads slices"))?;
        let (requests, empty, thread) = (Some(requests), Some(empty), Some(thread));
        Ok(SliceStream { requests, empty, ready, read_bytes, thread, next: 0 })
    }

    /// Asks for tensors; the number that their deliveries will carry. Fails where the thread has ended.
    pub fn request(&mut self, tensors: Vec<TensorPlace>) -> Result<u64> {
        let number = self.next;
        self.next += 1;
        let requests = self.requests.as_ref().expect("there until this is dropped");
        requests.send(ReadRequest { number, tensors }).map_err(|_| ended())?;
        Ok(number)
    }

    /// The next delivery, if there is one. Fails where the thread has ended.
    pub fn try_next(&mut self) -> Result<Option<Delivery>> {
        match self.ready.try_recv() {
            Ok(delivery) => Ok(Some(delivery)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(ended()),
        }
    }

    /// Waits for the next delivery. Fails where the thread has ended.
    pub fn wait_next(&mut self) -> Result<Delivery> {
        self.ready.recv().map_err(|_| ended())
    }

    /// Gives a chunk back to be filled again.
    pub fn give_back(&mut self, chunk: Vec<u8>) {
        let empty = self.empty.as_ref().expect("there until this is dropped");
        let _ = empty.send(chunk);
    }

    /// Bytes read from files so far.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for SliceStream {
    fn drop(&mut self) {
        (self.requests, self.empty) = (None, None);
        if let Some(thread) = self.thread.take() {
            // A panic there has said so already.
            let _ = thread.join();
        }
    }
}

/// The thread is there as long as the stream, unless it panicked.
fn ended() -> Error {
    Error::io("read from", "the thread that reads slices")(ErrorKind::BrokenPipe.into())
}

/// Reads the tensors, chunk by chunk; whether anybody still wants them.
fn read(
    number: u64,
    tensors: &[TensorPlace],
    empty: &Receiver<Vec<u8>>,
    deliver: &Sender<Delivery>,
    counter: &AtomicU64,
) -> Result<bool> {
    for (tensor, place) in tensors.iter().enumerate() {
        for offset in (0..place.bytes).step_by(CHUNK_BYTES as usize) {
            let Ok(mut bytes) = empty.recv() else { return Ok(false) };
            let roomy = make_long(&mut bytes, CHUNK_BYTES.min(place.bytes - offset) as usize);
            if let Err(fault) = roomy.and_then(|()| place.file.read_exact_at(&mut bytes, place.offset + offset)) {
                // The chunk is the ring's, whatever came of it.
                let _ = deliver.send(Delivery::Chunk { number: u64::MAX, tensor, offset, bytes });
                if fault.kind() != ErrorKind::UnexpectedEof {
                    return Err(Error::io("read", place.file.path())(fault));
                }
                let expected = format!("{} bytes from byte {} on", place.bytes, place.offset);
                return Err(Error::damaged(place.file.path(), &place.name, expected, fault));
            }
            counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if deliver.send(Delivery::Chunk { number, tensor, offset, bytes }).is_err() {
                return Ok(false);
            }
        }
        // After the bytes were read, so that what was written meanwhile is found too.
        place.file.check_unchanged()?;
    }
    Ok(true)
}

/// Makes a chunk so long. Fails where memory is short.
fn make_long(chunk: &mut Vec<u8>, bytes: usize) -> std::io::Result<()> {
    chunk.try_reserve_exact(bytes.saturating_sub(chunk.len())).map_err(|_| ErrorKind::OutOfMemory)?;
    chunk.resize(bytes, 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::format::OpenFile;

    impl SliceStream {
        /// A stream whose thread has ended, as after a panic.
        pub fn ended_for_test() -> SliceStream {
            let (requests, empty, ready) = (channel().0, channel().0, channel().1);
            let read_bytes = Arc::new(AtomicU64::new(7));
            SliceStream { requests: Some(requests), empty: Some(empty), ready, read_bytes, thread: None, next: 0 }
        }
    }

    fn open(file: &Path) -> Arc<OpenFile> {
        Arc::new(OpenFile::open(file).unwrap())
    }

    fn place(file: &Arc<OpenFile>, offset: u64, bytes: u64) -> TensorPlace {
        TensorPlace { file: Arc::clone(file), name: "layers.0.o.slice1".into(), offset, bytes }
    }

    /// All that a request yields, tensors joined.
    fn collect(stream: &mut SliceStream, tensors: &[TensorPlace]) -> Result<Vec<Vec<u8>>> {
        let number = stream.request(tensors.to_vec())?;
        let mut all = vec![Vec::new(); tensors.len()];
        loop {
            match stream.wait_next()? {
                Delivery::Chunk { number: of, tensor, offset, bytes } => {
                    if of == number {
                        assert_eq!(all[tensor].len() as u64, offset);
                        all[tensor].extend(&bytes);
                    }
                    stream.give_back(bytes);
                }
                Delivery::Whole(of) if of == number => return Ok(all),
                Delivery::Failed(of, fault) if of == number => return Err(fault),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn tensors_come_in_chunks_as_they_lie_in_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..3 * CHUNK_BYTES / 2 + 100).map(|at| (at % 251) as u8).collect();
        std::fs::write(file.path(), &bytes).unwrap();
        let (file, long) = (open(file.path()), 3 * CHUNK_BYTES / 2);
        let mut stream = SliceStream::start().unwrap();
        for _ in 0..3 {
            let tensors = [place(&file, 100, long), place(&file, 7, 13)];
            assert_eq!(collect(&mut stream, &tensors).unwrap(), [&bytes[100..], &bytes[7..20]]);
        }
        assert_eq!(stream.read_bytes(), 3 * (long + 13));
    }

    #[test]
    fn a_chunk_that_memory_does_not_hold_is_a_fault() {
        let mut chunk = vec![1, 2];
        let fault = make_long(&mut chunk, usize::MAX / 2).unwrap_err();
        assert_eq!((fault.kind(), &chunk[..]), (ErrorKind::OutOfMemory, &[1, 2][..]));
        make_long(&mut chunk, 3).unwrap();
        make_long(&mut chunk, 1).unwrap();
        assert_eq!(chunk, [1]);
    }

    #[test]
    fn what_cannot_be_read_is_named_and_the_next_request_is_served() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slice-1.safetensors");
        std::fs::write(&path, [1; 64]).unwrap();
        let file = open(&path);
        let mut stream = SliceStream::start().unwrap();
        // More often than there are chunks: none is lost by a failure.
        for _ in 0..2 * CHUNKS {
            let message = collect(&mut stream, &[place(&file, 32, 64)]).unwrap_err().to_string();
            assert!(message.contains("slice-1.safetensors") && message.contains("layers.0.o.slice1"), "{message}");
        }
        assert_eq!(collect(&mut stream, &[place(&file, 0, 4)]).unwrap(), [[1; 4]]);
        // Another file of its length and name is not it.
        std::fs::rename(&path, dir.path().join("aside")).unwrap();
        std::fs::write(&path, [2; 64]).unwrap();
        assert_eq!(collect(&mut stream, &[place(&file, 0, 4)]).unwrap(), [[1; 4]]);
        std::fs::write(dir.path().join("aside"), [2; 32]).unwrap();
        let message = collect(&mut stream, &[place(&file, 0, 4)]).unwrap_err().to_string();
        assert!(message.ends_with("length: expected 64 bytes, got 32 bytes"), "{message}");
        // A request that nobody waits for does not keep the thread.
        stream.request(vec![place(&file, 0, 64); 40]).unwrap();
    }

    #[test]
    fn a_thread_that_has_ended_is_told() {
        let mut stream = SliceStream::ended_for_test();
        assert!(stream.try_next().unwrap_err().to_string().contains("the thread that reads slices"));
        assert!(stream.wait_next().is_err() && stream.request(Vec::new()).is_err());
    }
}
