//! A hub on this machine: one port answers as the Hugging Face hub does, another one as the store of large files that
//! it redirects to. Each request can be answered wrongly in a way that a test chooses.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use edge_run::internals::format::sha256;
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

/// The repository that is served.
pub const REPO: &str = "tiny/Llama-Test";
/// Files from this length on are in the store of large files.
const LARGE: usize = 4096;

/// A way to answer a request wrongly.
#[derive(Debug, Clone)]
pub enum Trick {
    /// The connection ends after so many bytes of the body.
    Break(usize),
    /// This status with these headers, and no file.
    Status(u16, Vec<(&'static str, String)>),
    /// The whole file, whatever range was asked for.
    NoRange,
    /// A range from one byte later than asked for.
    WrongRange,
    /// So many bytes more are stated, or fewer, and sent.
    Length(i64),
    /// The first byte sent is another one.
    WrongByte,
    /// A pause before every 4 KiB.
    Slow(Duration),
    /// Nothing more after so many bytes, and no end.
    Stall(usize),
}

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub path: String,
    pub range: Option<usize>,
    pub token: Option<String>,
    /// Whether it went to the store of large files.
    pub to_store: bool,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    commit: String,
    /// A listing in place of the right one.
    listing: Option<Value>,
    /// Tricks for the next requests whose path has this in it.
    tricks: Vec<(String, VecDeque<Trick>)>,
    log: Vec<Request>,
    store: String,
    /// The token without which all is refused.
    token: Option<String>,
}

/// The hub. Its threads end with the test's process.
#[derive(Clone)]
pub struct HubServer {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl HubServer {
    /// A hub with the files of the folder `dir`.
    pub fn of_folder(dir: &Path) -> HubServer {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            files.insert(path.file_name().unwrap().to_str().unwrap().to_string(), fs::read(path).unwrap());
        }
        HubServer::new(files)
    }

    /// A hub with these files.
    pub fn new(files: BTreeMap<String, Vec<u8>>) -> HubServer {
        // Git's own example: the empty file.
        assert_eq!(git_hash(b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        let state = Arc::new(Mutex::new(State { files, commit: "a".repeat(40), ..State::default() }));
        let (url, store) = (listen(&state, false), listen(&state, true));
        state.lock().unwrap().store = store;
        HubServer { url, state }
    }

    /// Another commit, in which the file has these bytes.
    pub fn commit(&self, commit: char, name: &str, bytes: Vec<u8>) {
        let mut state = self.state.lock().unwrap();
        state.commit = commit.to_string().repeat(40);
        state.files.insert(name.to_string(), bytes);
    }

    /// The next requests whose path contains `path` are answered so, one after the other.
    pub fn trick(&self, path: &str, tricks: impl IntoIterator<Item = Trick>) {
        self.state.lock().unwrap().tricks.push((path.to_string(), tricks.into_iter().collect()));
    }

    /// This listing is told in place of the right one.
    pub fn tell(&self, listing: Value) {
        self.state.lock().unwrap().listing = Some(listing);
    }

    /// The right listing.
    pub fn listing(&self) -> Value {
        listing(&self.state.lock().unwrap())
    }

    /// Whoever has another token is refused.
    pub fn require_token(&self, token: &str) {
        self.state.lock().unwrap().token = Some(token.to_string());
    }

    /// The requests so far, which are forgotten.
    pub fn take_log(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    /// The requests so far whose path contains `path`.
    pub fn requests(&self, path: &str) -> Vec<Request> {
        let state = self.state.lock().unwrap();
        state.log.iter().filter(|request| request.path.contains(path)).cloned().collect()
    }

    /// The hash by which a file is called, and the file.
    pub fn blob(&self, name: &str) -> (String, Vec<u8>) {
        let bytes = self.state.lock().unwrap().files[name].clone();
        (hash(&bytes), bytes)
    }
}

fn listen(state: &Arc<Mutex<State>>, to_store: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let state = state.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let state = state.clone();
            // Clients go away in the middle, which is what is tested.
            thread::spawn(move || drop(serve(stream.unwrap(), &state, to_store)));
        }
    });
    url
}

fn serve(mut stream: TcpStream, state: &Mutex<State>, to_store: bool) -> std::io::Result<()> {
    let request = read_request(&stream, to_store)?;
    let (trick, refused) = {
        let mut state = state.lock().unwrap();
        state.log.push(request.clone());
        let refused = !to_store && state.token.is_some() && state.token != request.token;
        let mut waiting = state.tricks.iter_mut().filter(|(path, _)| request.path.contains(path.as_str()));
        (waiting.find_map(|(_, tricks)| tricks.pop_front()), refused)
    };
    if refused {
        return answer(&mut stream, 401, &[("x-error-message", "Invalid username or password.".into())]);
    }
    if let Some(Trick::Status(status, headers)) = &trick {
        return answer(&mut stream, *status, headers);
    }
    let state = state.lock().unwrap();
    let prefix = format!("/{REPO}/resolve/{}/", state.commit);
    let body = if request.path.starts_with("/api/models/") {
        if !request.path.starts_with(&format!("/api/models/{REPO}/revision/")) {
            return answer(&mut stream, 404, &[("x-error-code", "RepoNotFound".into())]);
        }
        Some(state.listing.clone().unwrap_or_else(|| listing(&state)).to_string().into_bytes())
    } else if let Some(name) = request.path.strip_prefix(&prefix) {
        let name = name.replace("%20", " ");
        match state.files.get(&name) {
            Some(bytes) if bytes.len() >= LARGE => {
                let location = format!("{}/{}?signed=1&name={}", state.store, hash(bytes), name.replace(' ', "%20"));
                return answer(&mut stream, 302, &[("location", location)]);
            }
            bytes => bytes.cloned(),
        }
    } else if to_store {
        state.files.values().find(|bytes| request.path.starts_with(&format!("/{}", hash(bytes)))).cloned()
    } else {
        None
    };
    drop(state);
    match body {
        Some(body) => send(&mut stream, &body, request.range, trick),
        None => answer(&mut stream, 404, &[("x-error-code", "EntryNotFound".into())]),
    }
}

fn read_request(stream: &TcpStream, to_store: bool) -> std::io::Result<Request> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_string();
    let mut request = Request { path, range: None, token: None, to_store };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "range" => {
                let from = value.strip_prefix("bytes=").and_then(|value| value.strip_suffix('-'));
                request.range = Some(from.unwrap().parse().unwrap());
            }
            "authorization" => request.token = value.strip_prefix("Bearer ").map(String::from),
            _ => {}
        }
    }
    Ok(request)
}

fn answer(stream: &mut TcpStream, status: u16, headers: &[(&str, String)]) -> std::io::Result<()> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(stream, "HTTP/1.1 {status} Said\r\n{headers}content-length: 0\r\nconnection: close\r\n\r\n")
}

fn send(stream: &mut TcpStream, body: &[u8], range: Option<usize>, trick: Option<Trick>) -> std::io::Result<()> {
    let total = body.len();
    let from = match trick {
        Some(Trick::NoRange) => None,
        Some(Trick::WrongRange) => range.map(|from| from + 1),
        _ => range,
    };
    if from.is_some_and(|from| from >= total) {
        return answer(stream, 416, &[("content-range", format!("bytes */{total}"))]);
    }
    let mut sent = body[from.unwrap_or(0)..].to_vec();
    match trick {
        Some(Trick::Length(change)) => sent.resize((sent.len() as i64 + change) as usize, 0),
        Some(Trick::WrongByte) => sent[0] ^= 1,
        _ => {}
    }
    let status = match from {
        Some(from) => format!("206 Partial Content\r\ncontent-range: bytes {from}-{}/{total}", total - 1),
        None => "200 OK".into(),
    };
    write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", sent.len())?;
    match trick {
        Some(Trick::Break(bytes)) => stream.write_all(&sent[..bytes]),
        Some(Trick::Stall(bytes)) => {
            stream.write_all(&sent[..bytes])?;
            thread::sleep(Duration::from_secs(600));
            Ok(())
        }
        Some(Trick::Slow(pause)) => sent.chunks(4096).try_for_each(|piece| {
            thread::sleep(pause);
            stream.write_all(piece)
        }),
        _ => stream.write_all(&sent),
    }
}

fn listing(state: &State) -> Value {
    let sibling = |(name, bytes): (&String, &Vec<u8>)| {
        let size = bytes.len();
        match size >= LARGE {
            true => json!({"rfilename": name, "size": size, "blobId": git_hash(b"pointer"),
                "lfs": {"sha256": sha256(bytes), "size": size, "pointerSize": 7}}),
            false => json!({"rfilename": name, "size": size, "blobId": git_hash(bytes)}),
        }
    };
    let siblings: Vec<Value> = state.files.iter().map(sibling).collect();
    json!({"id": REPO, "sha": state.commit, "gated": false, "siblings": siblings})
}

fn hash(bytes: &[u8]) -> String {
    if bytes.len() >= LARGE { sha256(bytes) } else { git_hash(bytes) }
}

fn git_hash(bytes: &[u8]) -> String {
    let hash = Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize();
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
