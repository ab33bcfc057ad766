//! Downloads from a hub on this machine that misbehaves in every way that hubs do.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::hub_server::{HubServer, REPO, Trick};
use crate::names::names;
use edge_run::Error;
use edge_run::internals::hub::{Hub, HubEvent, HubOptions, HubReport, HubSelection, RepoName};
use serde_json::json;

const WEIGHTS: &str = "model.safetensors";
const WEIGHT_BYTES: usize = 300_000;

/// A hub, and a cache that it fills.
struct Work {
    server: HubServer,
    home: tempfile::TempDir,
    options: HubOptions,
}

impl Work {
    fn new() -> Work {
        Work::with(&[])
    }

    /// With more files than a model needs.
    fn with(more: &[(&str, Vec<u8>)]) -> Work {
        let mut files = BTreeMap::from([
            ("config.json".to_string(), b"{}".to_vec()),
            ("tokenizer.json".to_string(), noise(9000, 1)),
            ("README.md".to_string(), b"---\nlicense: mit\n---\n".to_vec()),
            ("pytorch_model.bin".to_string(), noise(5000, 2)),
            (WEIGHTS.to_string(), noise(WEIGHT_BYTES, 3)),
        ]);
        files.extend(more.iter().map(|(name, bytes)| (name.to_string(), bytes.clone())));
        let (server, home) = (HubServer::new(files), tempfile::tempdir().unwrap());
        let mut options = HubOptions::new(home.path().join("hub"));
        options.endpoint = server.url.clone();
        options.proxies = false;
        options.first_wait = Duration::from_millis(2);
        options.patience = Duration::from_secs(1);
        Work { server, home, options }
    }

    fn pull(&self) -> edge_run::Result<HubReport> {
        self.pull_with(&mut |_| ControlFlow::Continue(()))
    }

    fn pull_with(&self, on_event: &mut dyn FnMut(HubEvent) -> ControlFlow<()>) -> edge_run::Result<HubReport> {
        let hub = Hub::new(self.options.clone())?;
        let mut selection = hub.select(&repo(), "main", None, on_event)?;
        hub.fetch_texts(&mut selection, on_event)?;
        hub.fetch_weights(&selection, on_event)
    }

    fn select(&self, file: Option<&str>) -> edge_run::Result<HubSelection> {
        let hub = Hub::new(self.options.clone())?;
        hub.select(&repo(), "main", file, &mut |_| ControlFlow::Continue(()))
    }

    fn cache(&self) -> PathBuf {
        self.options.cache.join("models--tiny--Llama-Test")
    }

    fn partial(&self) -> PathBuf {
        self.cache().join("blobs").join(format!("{}.incomplete", self.server.blob(WEIGHTS).0))
    }

    /// Pulls, and checks that the weights are what the hub has; the ranges that were asked of the store for them.
    fn pull_whole(&self) -> Vec<Option<usize>> {
        let report = self.pull().unwrap_or_else(|fault| panic!("{fault}"));
        let (hash, bytes) = self.server.blob(WEIGHTS);
        assert_eq!(fs::read(report.source.join(WEIGHTS)).unwrap(), bytes);
        assert!(!self.partial().exists());
        self.server.requests(&hash).iter().map(|request| request.range).collect()
    }

    fn refusal(&self) -> String {
        let message = self.pull().unwrap_err().to_string();
        assert!(!self.cache().join("snapshots").join("a".repeat(40)).join(WEIGHTS).exists(), "{message}");
        message
    }
}

fn repo() -> RepoName {
    REPO.parse().unwrap()
}

/// Bytes without a pattern.
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn a_model_comes_into_the_layout_of_the_hub_s_own_programs() {
    let work = Work::with(&[("additional_chat_templates/rag.jinja", b"x".to_vec())]);
    let report = work.pull().unwrap();
    let snapshot = work.cache().join("snapshots").join("a".repeat(40));
    assert_eq!((&report.source, &report.repo_dir), (&snapshot, &work.cache()));
    assert_eq!((report.bytes, report.fetched_bytes), (WEIGHT_BYTES as u64, WEIGHT_BYTES as u64));
    assert_eq!(fs::read_to_string(work.cache().join("refs/main")).unwrap(), "a".repeat(40));
    let expected = ["README.md", "additional_chat_templates", "config.json", WEIGHTS, "tokenizer.json"];
    assert_eq!(names(&snapshot), expected);
    for name in ["README.md", "config.json", WEIGHTS, "tokenizer.json", "additional_chat_templates/rag.jinja"] {
        let (hash, bytes) = work.server.blob(name);
        assert_eq!(fs::read(snapshot.join(name)).unwrap(), bytes, "{name}");
        assert_eq!(fs::read(work.cache().join("blobs").join(hash)).unwrap(), bytes, "{name}");
        #[cfg(unix)]
        assert!(fs::read_link(snapshot.join(name)).unwrap().starts_with(".."), "{name}");
    }
    assert_eq!(names(&work.cache().join("blobs")).len(), 5);

    // All is there: only the listing is asked for.
    work.server.take_log();
    assert_eq!(work.pull().unwrap().fetched_bytes, 0);
    let paths: Vec<String> = work.server.take_log().into_iter().map(|request| request.path).collect();
    assert_eq!(paths, ["/api/models/tiny/Llama-Test/revision/main?blobs=true"]);
}

#[test]
fn files_that_another_program_fetched_are_used_if_they_are_sound() {
    let work = Work::new();
    let (hash, bytes) = work.server.blob(WEIGHTS);
    fs::create_dir_all(work.cache().join("blobs")).unwrap();
    fs::write(work.cache().join("blobs").join(&hash), &bytes).unwrap();
    assert_eq!(work.pull_whole(), []);
    // The same length, other bytes.
    let mut wrong = bytes.clone();
    wrong[7] ^= 1;
    fs::write(work.cache().join("blobs").join(&hash), wrong).unwrap();
    assert_eq!(work.pull_whole(), [None]);
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let mut work = Work::new();
    work.server.require_token("hf_secret");
    let message = work.refusal();
    assert!(message.contains("set HF_TOKEN") && message.contains("401"), "{message}");
    work.options.token = Some("hf_other".into());
    let message = work.refusal();
    assert!(message.contains("the token in HF_TOKEN") && message.contains("Invalid username"), "{message}");
    assert!(!message.contains("hf_other"), "{message}");
    work.server.take_log();
    work.options.token = Some("hf_secret".into());
    work.pull_whole();
    let log = work.server.take_log();
    assert!(log.iter().any(|request| request.to_store) && log.iter().any(|request| !request.to_store));
    for request in log {
        assert_eq!(request.token.is_none(), request.to_store, "{request:?}");
    }
    work.options.token = Some("line\nbreak".into());
    assert!(work.pull().unwrap_err().to_string().contains("HF_TOKEN"));
}

#[test]
fn a_redirect_within_the_hub_keeps_the_token() {
    let mut work = Work::new();
    work.options.token = Some("hf_secret".into());
    work.server.require_token("hf_secret");
    let renamed = vec![("location", format!("/api/models/{REPO}/revision/main?blobs=true&again"))];
    work.server.trick("/api/", [Trick::Status(307, renamed)]);
    work.pull_whole();
    let endless = || Trick::Status(302, vec![("location", "/api/models/x".to_string())]);
    work.server.trick("/api/", std::iter::repeat_with(endless).take(30));
    assert!(work.pull().unwrap_err().to_string().contains("more than 10 redirects"));
}

#[test]
fn a_download_that_breaks_off_goes_on() {
    let work = Work::new();
    let (hash, _) = work.server.blob(WEIGHTS);
    work.server.trick(&hash, [Trick::Break(100_000), Trick::Break(0), Trick::Break(50_000)]);
    assert_eq!(work.pull_whole(), [None, Some(100_000), Some(100_000), Some(150_000)]);
}

#[test]
fn a_connection_that_hangs_is_broken() {
    let work = Work::new();
    work.server.trick(&work.server.blob(WEIGHTS).0, [Trick::Stall(1000)]);
    assert_eq!(work.pull_whole(), [None, Some(1000)]);
    work.server.trick("/api/", [Trick::Stall(3)]);
    work.pull_whole();
}

#[test]
fn a_server_without_ranges_is_asked_from_the_beginning() {
    let work = Work::new();
    let (hash, _) = work.server.blob(WEIGHTS);
    work.server.trick(&hash, [Trick::Break(100_000), Trick::NoRange]);
    assert_eq!(work.pull_whole(), [None, Some(100_000)]);
    let work = Work::new();
    work.server.trick(&hash, [Trick::Break(100_000), Trick::WrongRange]);
    assert_eq!(work.pull_whole(), [None, Some(100_000), None]);
    let work = Work::new();
    work.server.trick(&hash, [Trick::Break(100_000), Trick::Status(416, Vec::new())]);
    assert_eq!(work.pull_whole(), [None, Some(100_000), None]);
}

#[test]
fn passing_refusals_are_waited_for() {
    let work = Work::new();
    let status = |status| Trick::Status(status, Vec::new());
    work.server.trick("/api/", [500, 502, 503, 504].map(status));
    work.server.trick(WEIGHTS, [status(500), Trick::Status(429, vec![("retry-after", "1".into())])]);
    let begin = Instant::now();
    let mut notes = Vec::new();
    let pulled = work.pull_with(&mut |event| {
        if let HubEvent::Note(note) = event {
            notes.push(note.to_string());
        }
        ControlFlow::Continue(())
    });
    pulled.unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(1));
    assert_eq!(notes.len(), 6, "{notes:?}");
    assert_eq!(notes[5], "too many requests: the server answers 429; another try in 1 s");

    let work = Work::new();
    work.server.trick("/api/", std::iter::repeat_n(status(503), 99));
    let message = work.refusal();
    assert!(message.contains("the server answers 503; tried 6 times"), "{message}");
    assert_eq!(work.server.take_log().len(), 6);
    let work = Work::new();
    work.server.trick("/api/", [Trick::Status(429, vec![("retry-after", "86400".into())])]);
    assert!(work.refusal().contains("it asks for a wait of 86400 s"));
}

#[test]
fn a_host_that_is_not_there_is_told() {
    let mut work = Work::new();
    work.options.endpoint = "http://hub.invalid".into();
    let message = work.pull().unwrap_err().to_string();
    assert!(message.contains("cannot get `http://hub.invalid/api/models/tiny/Llama-Test"), "{message}");
    // A port that nobody listens at.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    work.options.endpoint = format!("http://{free}");
    let message = work.pull().unwrap_err().to_string();
    assert!(message.contains("no answer") && message.contains("tried 6 times"), "{message}");
    work.options.endpoint = "huggingface.co".into();
    assert!(work.pull().unwrap_err().to_string().contains("HF_ENDPOINT"));
}

#[test]
fn lasting_refusals_say_what_to_do() {
    let work = Work::new();
    let gated = || vec![("x-error-code", "GatedRepo".to_string()), ("x-error-message", "Ask first.".to_string())];
    for (path, status, headers, word) in [
        ("/api/", 403, gated(), "accept its conditions"),
        ("/api/", 403, gated(), "(Ask first.)"),
        ("/api/", 404, Vec::new(), "no such repository"),
        (WEIGHTS, 404, Vec::new(), "/tiny/Llama-Test/resolve/"),
        (WEIGHTS, 404, Vec::new(), "model.safetensors`: there is no such"),
        ("/api/", 418, Vec::new(), "the server answers 418"),
    ] {
        work.server.trick(path, [Trick::Status(status, headers)]);
        let message = work.refusal();
        assert!(message.contains(word), "{status}: {message}");
    }
    let hub = Hub::new(work.options.clone()).unwrap();
    let missing = hub.select(&"no/Such".parse().unwrap(), "main", None, &mut |_| ControlFlow::Continue(()));
    assert!(missing.unwrap_err().to_string().contains("no/Such"));
    for revision in ["../main", "", "/x"] {
        let wrong = hub.select(&repo(), revision, None, &mut |_| ControlFlow::Continue(()));
        assert!(wrong.unwrap_err().to_string().contains("revision"));
    }
}

#[test]
fn lengths_are_checked() {
    let work = Work::new();
    let (hash, _) = work.server.blob(WEIGHTS);
    for change in [-1, 1] {
        work.server.trick(&hash, [Trick::Length(change)]);
        let message = work.refusal();
        let got = format!("length: expected 300000 bytes, got {} bytes", 300_000 + change);
        assert!(message.contains(&got), "{message}");
    }
    // The answer to a range is too short, and the next one has the rest.
    work.server.trick(&hash, [Trick::Break(1000), Trick::Length(-500)]);
    work.server.take_log();
    assert_eq!(work.pull_whole(), [None, Some(1000), Some(299_500)]);
    // And too long.
    let work = Work::new();
    work.server.trick(&hash, [Trick::Break(1000), Trick::Length(500)]);
    assert!(work.refusal().contains("expected 300000 bytes, got more"));
    assert_eq!(fs::metadata(work.partial()).unwrap().len(), 0);
}

#[test]
fn hashes_are_checked() {
    let work = Work::new();
    let (hash, bytes) = work.server.blob(WEIGHTS);
    work.server.trick(&hash, [Trick::WrongByte]);
    let message = work.refusal();
    assert!(message.contains(&format!("SHA-256: expected {hash}, got ")), "{message}");
    assert!(!work.partial().exists() && !work.cache().join("blobs").join(&hash).exists());
    // Of a small file it is Git's hash.
    let (small, _) = work.server.blob("config.json");
    fs::remove_dir_all(work.cache()).unwrap();
    work.server.trick("config.json", [Trick::WrongByte]);
    assert!(work.refusal().contains(&format!("Git's hash: expected {small}, got ")));

    // What a killed run left may be wrong: then the file comes once more from its beginning.
    for left in [&b"wrong"[..], &vec![7; WEIGHT_BYTES], &vec![7; WEIGHT_BYTES + 1]] {
        fs::write(work.partial(), left).unwrap();
        work.server.take_log();
        let ranges = work.pull_whole();
        assert_eq!(ranges, if left.len() < WEIGHT_BYTES { vec![Some(5), None] } else { vec![None] });
        fs::remove_dir_all(work.cache().join("snapshots")).unwrap();
        fs::remove_file(work.cache().join("blobs").join(&hash)).unwrap();
    }
    // And may be right.
    fs::write(work.partial(), &bytes).unwrap();
    work.server.take_log();
    assert_eq!(work.pull_whole(), []);
}

#[test]
fn a_file_that_changed_between_two_runs_starts_over() {
    let work = Work::new();
    let old = work.server.blob(WEIGHTS).0;
    work.server.trick(&old, [Trick::Break(100_000)]);
    let stopped = work.pull_with(&mut |event| match event {
        HubEvent::Note(_) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert!(matches!(stopped, Err(Error::Stopped("pull"))));
    work.server.commit('b', WEIGHTS, noise(WEIGHT_BYTES, 9));
    assert_eq!(work.pull_whole(), [None]);
    assert_eq!(fs::read_to_string(work.cache().join("refs/main")).unwrap(), "b".repeat(40));
}

#[test]
fn a_stop_is_heard_soon_and_loses_nothing() {
    let work = Work::new();
    let (hash, _) = work.server.blob(WEIGHTS);
    // The connection hangs, for longer than the test waits.
    let options = HubOptions { patience: Duration::from_secs(60), ..work.options.clone() };
    let work = Work { options, ..work };
    work.server.trick(&hash, [Trick::Stall(20_000)]);
    let (mut since, mut done_bytes) = (None, 0);
    let stopped = work.pull_with(&mut |event| {
        if let HubEvent::Progress { name: WEIGHTS, done, .. } = event {
            done_bytes = done;
        }
        if done_bytes < 20_000 {
            return ControlFlow::Continue(());
        }
        since.get_or_insert_with(Instant::now);
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(Error::Stopped("pull"))));
    assert!(since.unwrap().elapsed() < Duration::from_secs(10));
    assert_eq!(work.pull_whole(), [None, Some(20_000)]);
}

#[test]
fn pulls_at_once_fetch_each_file_once() {
    let work = Work::new();
    let (hash, _) = work.server.blob(WEIGHTS);
    work.server.trick(&hash, [Trick::Slow(Duration::from_millis(5))]);
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4).map(|_| scope.spawn(|| work.pull().unwrap())).collect();
        let fetched: u64 = runs.into_iter().map(|run| run.join().unwrap().fetched_bytes).sum();
        assert_eq!(fetched, WEIGHT_BYTES as u64);
    });
    assert_eq!(work.server.requests(&hash).len(), 1);
    assert_eq!(work.server.requests("/resolve/").len(), 4);
}

#[test]
fn names_that_lead_out_of_the_folder_are_left_out_and_hashes_that_do_are_refused() {
    let work = Work::with(&[]);
    let mut listing = work.server.listing();
    for name in ["../../../evil.gguf", "/evil.gguf", "a/../../evil.gguf", "C:\\evil.gguf"] {
        let sibling = json!({"rfilename": name, "size": 4, "blobId": "1".repeat(40)});
        listing["siblings"].as_array_mut().unwrap().push(sibling);
    }
    work.server.tell(listing);
    work.pull_whole();
    assert!(work.server.requests("evil").is_empty());
    assert!(work.select(Some("../../../evil.gguf")).is_err());
    let work = Work::with(&[]);
    for (field, value) in
        [("sha", json!("../../x")), ("siblings", json!([{"rfilename": "a", "size": 1, "blobId": "../x"}]))]
    {
        let mut listing = work.server.listing();
        listing[field] = value;
        work.server.tell(listing);
        assert!(work.refusal().contains("is damaged"));
    }
    assert_eq!(names(work.home.path()), Vec::<String>::new());

    // An index can name what it wants; only files of the listing are fetched.
    let index = br#"{"weight_map": {"x": "../evil.safetensors"}}"#.to_vec();
    let mut listing = work.server.listing();
    work.server.commit('a', "model.safetensors.index.json", index);
    listing["siblings"] = work.server.listing()["siblings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|sibling| sibling["rfilename"] != WEIGHTS)
        .cloned()
        .collect();
    work.server.tell(listing);
    let message = work.refusal();
    assert!(message.contains("weight_map: expected files of the repository, got `../evil.safetensors`"), "{message}");
}

#[test]
fn an_answer_that_is_no_listing_is_refused() {
    let work = Work::new();
    for listing in [json!("<html>"), json!({}), json!({"sha": "a".repeat(40), "siblings": [{"rfilename": "a"}]})] {
        work.server.tell(listing);
        let message = work.refusal();
        assert!(message.contains("/api/models/tiny/Llama-Test/revision/main?blobs=true` is damaged"), "{message}");
    }
}

#[test]
fn a_file_of_several_is_chosen_by_its_name() {
    let gguf = ["a-Q4_K_M.gguf", "a-Q8_0-00001-of-00002.gguf", "a-Q8_0-00002-of-00002.gguf"];
    let more: Vec<(&str, Vec<u8>)> = gguf.iter().map(|name| (*name, noise(6000, name.len() as u32))).collect();
    let work = Work::with(&more);
    let hub = Hub::new(work.options.clone()).unwrap();
    let mut on_event = |_: HubEvent| ControlFlow::Continue(());
    for (asked, file) in [("Q8_0", gguf[1]), ("a-Q4_K_M.gguf", gguf[0])] {
        let mut selection = work.select(Some(asked)).unwrap();
        assert_eq!(selection.gguf.as_deref(), Some(file));
        hub.fetch_texts(&mut selection, &mut on_event).unwrap();
        let report = hub.fetch_weights(&selection, &mut on_event).unwrap();
        assert_eq!(report.source, work.cache().join("snapshots").join("a".repeat(40)).join(file));
        assert_eq!(fs::read(&report.source).unwrap(), work.server.blob(file).1);
    }
    let snapshot = work.cache().join("snapshots").join("a".repeat(40));
    assert_eq!(names(&snapshot), gguf);
    let message = work.select(Some("Q2_K")).unwrap_err().to_string();
    assert!(message.contains("tiny/Llama-Test:Q2_K: expected one of a-Q4_K_M.gguf (1 MB)"), "{message}");
}

#[test]
fn without_the_network_the_cache_is_used() {
    let mut work = Work::new();
    work.options.offline = true;
    let message = work.pull().unwrap_err().to_string();
    assert!(message.contains("revision main of tiny/Llama-Test is not in the cache"), "{message}");
    work.options.offline = false;
    work.pull_whole();
    work.server.take_log();
    work.options.offline = true;
    let report = work.pull().unwrap();
    assert_eq!((report.bytes, report.fetched_bytes), (WEIGHT_BYTES as u64, 0));
    assert_eq!(work.server.take_log(), []);
    // Other programs may have left a part of the repository there.
    let weights = work.cache().join("snapshots").join("a".repeat(40)).join(WEIGHTS);
    fs::rename(&weights, work.cache().join("aside")).unwrap();
    let message = work.pull().unwrap_err().to_string();
    assert!(message.contains("what a model of tiny/Llama-Test needs is not in the cache"), "{message}");
    fs::rename(work.cache().join("aside"), &weights).unwrap();
    // What is there is checked here too, where links tell the hashes.
    let blob = work.cache().join("blobs").join(work.server.blob(WEIGHTS).0);
    let mut bytes = fs::read(&blob).unwrap();
    bytes[0] ^= 1;
    fs::write(&blob, bytes).unwrap();
    if cfg!(unix) {
        assert!(work.pull().unwrap_err().to_string().contains("a sound file in the cache"));
    }
}
