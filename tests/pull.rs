//! `pull`, `list`, `rm` and names of models, from outside, against a hub on this machine.

mod common;
#[path = "common/hub_server.rs"]
#[allow(dead_code, reason = "each test program uses a part of this")]
mod hub_server;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::gguf::GgufType;
use common::{TinyModel, tiny_hf_folder, tiny_shape};
use edge_run::internals::format::ModelFolder;
use hub_server::{HubServer, REPO, Trick};
use safetensors::Dtype;
use serde_json::Value;

const COMMIT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// A user with a home of their own, and a hub.
struct User {
    home: tempfile::TempDir,
    server: HubServer,
}

impl User {
    /// A hub with what `write` puts into a folder.
    fn new(write: impl FnOnce(&Path)) -> User {
        let source = tempfile::tempdir().unwrap();
        write(source.path());
        User { home: tempfile::tempdir().unwrap(), server: HubServer::of_folder(source.path()) }
    }

    /// A hub with a tiny model in safetensors.
    fn of_tiny() -> User {
        User::new(|dir| {
            tiny_hf_folder(dir, 51, true);
            fs::write(dir.join("README.md"), "---\nlicense: mit\n---\n").unwrap();
        })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edge-run"));
        for variable in [
            "HF_TOKEN",
            "HF_TOKEN_PATH",
            "HUGGING_FACE_HUB_TOKEN",
            "HF_HUB_CACHE",
            "HF_HUB_OFFLINE",
            "HUGGINGFACE_HUB_CACHE",
        ] {
            command.env_remove(variable);
        }
        for proxy in ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"] {
            command.env_remove(proxy).env_remove(proxy.to_lowercase());
        }
        for home in ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "APPDATA", "LOCALAPPDATA"] {
            command.env(home, self.home.path());
        }
        command.env("USERPROFILE", self.home.path()).env("HF_ENDPOINT", &self.server.url);
        command.env("HF_HOME", self.home.path().join("hf")).args(args).stdin(Stdio::null());
        command
    }

    /// Runs the program; its exit code, and what it wrote to standard output and standard error.
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        told(self.command(args).output().unwrap())
    }

    /// As [`User::run`], which must succeed; standard output.
    fn done(&self, args: &[&str]) -> String {
        let (code, out, errors) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {errors}");
        out
    }

    /// As [`User::run`], which must fail with the code and an error that has all of `words`.
    fn fails(&self, args: &[&str], code: i32, words: &[&str]) {
        let (got, out, errors) = self.run(args);
        assert_eq!((got, out.as_str()), (code, ""), "{args:?}: {errors}");
        assert!(errors.contains("error: ") && !errors.contains("panicked"), "{errors}");
        words.iter().for_each(|word| assert!(errors.contains(word), "{args:?}: `{word}` is not in: {errors}"));
    }

    fn models(&self) -> PathBuf {
        self.home.path().join("edge-run/models")
    }

    fn cache(&self) -> PathBuf {
        self.home.path().join("hf/hub/models--tiny--Llama-Test")
    }

    fn snapshot(&self) -> PathBuf {
        self.cache().join("snapshots").join(COMMIT)
    }

    fn partial(&self) -> PathBuf {
        self.cache().join("blobs").join(format!("{}.incomplete", self.server.blob("model.safetensors").0))
    }

    /// The answer of a model on the processor.
    fn answer(&self, model: &str) -> String {
        self.done(&["-m", model, "--device", "cpu", "--temp", "0", "-n", "8", "-c", "64", "the thin thing"])
    }

    /// Starts a pull that is slow, and waits until some of the weights are there.
    fn start_slow(&self) -> std::process::Child {
        self.server.trick(&self.server.blob("model.safetensors").0, [Trick::Slow(Duration::from_millis(100))]);
        let mut command = self.command(&["pull", REPO]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let begin = Instant::now();
        while fs::metadata(self.partial()).map_or(0, |found| found.len()) < 8192 {
            assert!(begin.elapsed() < Duration::from_secs(60), "no byte came");
            std::thread::sleep(Duration::from_millis(5));
        }
        child
    }
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_model_is_pulled_and_answers_by_its_name() {
    let user = User::of_tiny();
    let dir = user.models().join("tiny--Llama-Test");
    let (code, out, errors) = user.run(&["pull", REPO]);
    assert_eq!((code, out.trim_end()), (0, dir.to_str().unwrap()), "{errors}");
    assert!(errors.contains("edge-run -m tiny/Llama-Test") && errors.contains("models--tiny--Llama-Test"), "{errors}");
    assert_eq!(ModelFolder::open(&dir).unwrap().manifest().source.name, REPO);
    assert_eq!(ModelFolder::open(&dir).unwrap().manifest().source.licence.as_deref(), Some("mit"));

    // The same as `quantize` makes of the same files.
    let other = user.home.path().join("other");
    user.done(&["quantize", user.snapshot().to_str().unwrap(), "-o", other.to_str().unwrap()]);
    let files = |dir: &Path| ModelFolder::open(dir).unwrap().manifest().files.clone();
    assert_eq!(files(&dir), files(&other));
    let answer = user.answer(other.to_str().unwrap());
    assert!(!answer.is_empty());
    for name in [REPO, "Llama-Test", "llama-test", "tiny--Llama-Test", dir.to_str().unwrap()] {
        assert_eq!(user.answer(name), answer, "{name}");
    }
    for args in [&["inspect", REPO][..], &["verify", "Llama-Test"]] {
        user.done(args);
    }
    let text = user.home.path().join("text");
    fs::write(&text, "the thin thing in the inn ".repeat(20)).unwrap();
    user.done(&["eval", "-m", REPO, "--device", "cpu", "--text", text.to_str().unwrap(), "--window", "16"]);
    user.done(&["bench", "-m", REPO, "--device", "cpu", "-p", "4", "-n", "2", "-r", "1"]);

    // It is there, and nothing is fetched or made again.
    let before = fs::metadata(dir.join("edge-run.json")).unwrap().modified().unwrap();
    user.server.take_log();
    let (code, out, errors) = user.run(&["pull", REPO]);
    assert!(code == 0 && out.trim_end() == dir.to_str().unwrap() && errors.contains("is here already"), "{errors}");
    assert_eq!(user.server.take_log().len(), 1);
    assert_eq!(fs::metadata(dir.join("edge-run.json")).unwrap().modified().unwrap(), before);
    // Without the network too.
    let offline = user.command(&["pull", REPO]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!((told(offline).0, user.server.take_log().len()), (0, 0));
}

#[test]
fn a_path_counts_before_a_name() {
    let user = User::of_tiny();
    user.done(&["pull", REPO]);
    let here = user.home.path().join("here");
    fs::create_dir_all(here.join(REPO)).unwrap();
    let (code, _, errors) = told(user.command(&["inspect", REPO]).current_dir(&here).output().unwrap());
    assert_eq!(code, 3, "{errors}");
    assert!(errors.contains("there is no model at `tiny/Llama-Test`: `edge-run quantize SRC"), "{errors}");
    for (name, pull) in [("tiny/Other", "pull tiny/Other`"), ("x", "pull OWNER/MODEL`"), ("a/b:Q8_0", "pull a/b:Q8_0`")]
    {
        user.fails(&["inspect", name], 3, &["neither a folder nor a name of `edge-run list`", pull]);
    }
}

#[test]
fn models_are_listed_and_removed() {
    let user = User::of_tiny();
    let (code, out, errors) = user.run(&["list"]);
    assert!(code == 0 && out.is_empty() && errors.contains("there are no models"), "{errors}");
    user.done(&["pull", REPO]);
    let (models, own) = (user.models(), user.models().join("own"));
    user.done(&["quantize", user.snapshot().to_str().unwrap(), "-o", own.to_str().unwrap()]);
    fs::create_dir(models.join("broken")).unwrap();
    fs::write(models.join("broken/edge-run.json"), "{").unwrap();
    let table = user.done(&["list"]);
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows.len() == 4 && rows[0].starts_with("NAME") && rows[1].contains("damaged"), "{table}");
    assert!(rows[2].starts_with("own") && rows[2].contains("huggingface"), "{table}");
    assert!(rows[3].starts_with("tiny/Llama-Test") && rows[3].contains("tiny/Llama-Test@aaaaaaa"), "{table}");
    let lines = json_lines(&user.done(&["list", "--json"]));
    assert!(lines[0]["fault"].as_str().unwrap().contains("edge-run.json"));
    assert_eq!((&lines[1]["name"], &lines[1]["origin"]), (&"own".into(), &Value::Null));
    assert_eq!((&lines[2]["origin"]["commit"], &lines[2]["licence"]), (&COMMIT.into(), &"mit".into()));
    let bytes = ModelFolder::open(&own).unwrap().summary().total_bytes;
    assert_eq!((&lines[2]["bytes"], &lines[2]["family"]), (&bytes.into(), &"llama".into()));

    // Nobody can be asked here.
    user.fails(&["rm", REPO], 2, &["--yes"]);
    user.fails(&["rm", "--yes", "other/Model"], 3, &["it is no name of `edge-run list`"]);
    for path in [user.models().join("tiny--Llama-Test"), user.home.path().join("hf"), "../hf".into(), ".".into()] {
        user.fails(&["rm", "--yes", path.to_str().unwrap()], 3, &["no name"]);
    }
    assert!(models.join("tiny--Llama-Test/edge-run.json").exists());
    let (code, out, errors) = user.run(&["rm", "--yes", "Llama-Test"]);
    assert!(code == 0 && out.is_empty() && errors.contains("tiny/Llama-Test is removed"), "{errors}");
    assert!(!models.join("tiny--Llama-Test").exists() && user.snapshot().exists());

    // Files of others stay, as does what a link leads to.
    fs::write(own.join("notes.txt"), "mine").unwrap();
    let (_, _, errors) = user.run(&["rm", "-y", "own"]);
    assert!(errors.contains("has other files, which stay"), "{errors}");
    assert_eq!(fs::read_dir(&own).unwrap().count(), 1);
    user.done(&["rm", "-y", "broken"]);
    assert_eq!(user.done(&["list"]), "");
    #[cfg(unix)]
    {
        let elsewhere = user.home.path().join("elsewhere");
        user.done(&["quantize", user.snapshot().to_str().unwrap(), "-o", elsewhere.to_str().unwrap()]);
        std::os::unix::fs::symlink(&elsewhere, models.join("link")).unwrap();
        user.done(&["inspect", "link"]);
        user.done(&["rm", "-y", "link"]);
        assert!(!models.join("link").exists());
        ModelFolder::verify(&elsewhere, &mut |_, _| std::ops::ControlFlow::Continue(())).unwrap();
    }
}

#[test]
fn a_model_that_is_being_written_is_not_removed() {
    let user = User::of_tiny();
    user.done(&["pull", REPO]);
    let holder = user.models().join("tiny--Llama-Test/.edge-run.partial");
    fs::create_dir(&holder).unwrap();
    let lock = fs::File::create(holder.join("lock")).unwrap();
    lock.lock().unwrap();
    user.fails(&["rm", "--yes", REPO], 2, &["one that another run is writing to"]);
    lock.unlock().unwrap();
    user.done(&["rm", "--yes", REPO]);
    assert!(!user.models().join("tiny--Llama-Test").exists());
}

#[test]
fn a_new_commit_takes_the_old_one_s_place() {
    let user = User::of_tiny();
    let dir = user.models().join("tiny--Llama-Test");
    user.done(&["pull", REPO, "--group-size", "64"]);
    let old = ModelFolder::open(&dir).unwrap().manifest().clone();
    let other = tempfile::tempdir().unwrap();
    tiny_hf_folder(other.path(), 52, true);
    user.server.commit('b', "model.safetensors", fs::read(other.path().join("model.safetensors")).unwrap());
    user.done(&["pull", REPO]);
    let new = ModelFolder::open(&dir).unwrap().manifest().clone();
    assert_ne!(old.files["base.safetensors"], new.files["base.safetensors"]);
    assert_eq!(json_lines(&user.done(&["list", "--json"]))[0]["origin"]["commit"], "b".repeat(40));
    // The texts of both commits are one file each.
    assert_eq!(user.server.requests("tokenizer.json").iter().filter(|request| !request.to_store).count(), 1);

    // What was not pulled is not replaced.
    fs::remove_file(dir.join("pulled.json")).unwrap();
    user.fails(&["pull", REPO], 2, &["a model that was not pulled: --force replaces it"]);
    user.done(&["pull", REPO, "--force"]);
}

#[test]
fn shards_and_gguf_files_are_pulled() {
    let user = User::new(|dir| TinyModel::new(tiny_shape(false), 53).write_hf(dir, Dtype::F32, 3));
    user.done(&["pull", REPO]);
    assert_eq!(user.answer("Llama-Test").lines().count(), 1);

    let user = User::new(|dir| {
        let model = TinyModel::new(tiny_shape(true), 54);
        model.write_gguf(&dir.join("Tiny-Q8_0.gguf"), GgufType::Q8_0);
        model.write_gguf(&dir.join("Tiny-F16.gguf"), GgufType::F16);
    });
    user.fails(&["pull", REPO], 2, &["one of its GGUF files, as tiny/Llama-Test:FILE", "Tiny-F16.gguf (1 MB)"]);
    user.done(&["pull", "tiny/Llama-Test:q8_0"]);
    let names = |user: &User| -> Vec<String> {
        json_lines(&user.done(&["list", "--json"])).iter().map(|l| l["name"].as_str().unwrap().into()).collect()
    };
    assert_eq!(names(&user), ["tiny/Llama-Test:Tiny-Q8_0"]);
    let answer = user.answer("Llama-Test");
    user.done(&["pull", "tiny/Llama-Test:Tiny-F16.gguf"]);
    assert_eq!(names(&user), ["tiny/Llama-Test:Tiny-F16", "tiny/Llama-Test:Tiny-Q8_0"]);
    user.fails(&["-m", "Llama-Test", "Hi"], 2, &["the name of one model: tiny/Llama-Test:Tiny-F16, tiny/"]);
    assert_eq!(user.answer("Llama-Test:Q8_0"), answer);
    user.fails(&["pull", "tiny/Llama-Test:Q2_K"], 2, &["expected one of Tiny-F16.gguf"]);
    user.fails(&["pull", "Llama-Test"], 2, &["expected OWNER/MODEL", "`Llama-Test`"]);
}

#[test]
fn what_cannot_run_is_refused_before_its_weights_come() {
    let user = User::new(|dir| {
        tiny_hf_folder(dir, 55, true);
        let config = fs::read_to_string(dir.join("config.json")).unwrap();
        fs::write(dir.join("config.json"), config.replace("LlamaForCausalLM", "NoSuchForCausalLM")).unwrap();
    });
    user.fails(&["pull", REPO], 5, &["NoSuchForCausalLM"]);
    assert!(!user.server.requests("config.json").is_empty());
    assert_eq!(user.server.requests("model.safetensors"), []);
    assert!(!user.models().exists());
}

#[test]
fn the_source_alone_is_for_quantize_and_calibrate() {
    let user = User::of_tiny();
    let out = user.done(&["pull", REPO, "--source-only"]);
    assert_eq!(out.trim_end(), user.snapshot().to_str().unwrap());
    assert!(!user.models().exists());
    user.done(&["quantize", out.trim_end(), "-o", user.home.path().join("m").to_str().unwrap()]);
}

#[test]
fn the_variables_of_the_hub_s_own_programs_count() {
    let user = User::of_tiny();
    user.server.require_token("hf_secret");
    user.fails(&["pull", REPO], 1, &["set HF_TOKEN"]);
    let pull = || user.command(&["pull", REPO, "--force"]);
    assert_eq!(told(pull().env("HF_TOKEN", "hf_secret").output().unwrap()).0, 0);
    fs::write(user.home.path().join("hf/token"), "hf_secret\n").unwrap();
    assert_eq!(told(pull().output().unwrap()).0, 0);
    let other = user.home.path().join("other");
    assert_eq!(told(pull().env("HF_HUB_CACHE", &other).output().unwrap()).0, 0);
    assert!(other.join("models--tiny--Llama-Test/refs/main").exists());
    assert_eq!(user.done(&["paths", "hub-cache"]).trim_end(), user.home.path().join("hf/hub").to_str().unwrap());
    let home = user.command(&["paths", "hub-cache"]).env_remove("HF_HOME").env_remove("XDG_CACHE_HOME").output();
    let expected = user.home.path().join(".cache/huggingface/hub");
    assert_eq!(told(home.unwrap()).1.trim_end(), expected.to_str().unwrap());
    // A proxy that refuses is asked, and not gone around.
    user.server.take_log();
    let proxy = User::of_tiny().server;
    let proxied = pull().env("HTTP_PROXY", &proxy.url).env("HF_TOKEN", "hf_secret").output().unwrap();
    let (code, _, errors) = told(proxied);
    assert_eq!((code, user.server.take_log(), proxy.take_log().len()), (1, Vec::new(), 1), "{errors}");
}

#[cfg(unix)]
#[test]
fn a_pull_that_was_killed_goes_on() {
    let user = User::of_tiny();
    let mut child = user.start_slow();
    child.kill().unwrap();
    child.wait().unwrap();
    let had = fs::metadata(user.partial()).unwrap().len() as usize;
    user.server.take_log();
    user.done(&["pull", REPO]);
    let ranges: Vec<_> = user.server.requests(&user.server.blob("model.safetensors").0);
    assert_eq!(ranges.iter().map(|request| request.range).collect::<Vec<_>>(), [Some(had)]);
    assert!(!user.answer(REPO).is_empty());
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_what_is_there() {
    let user = User::of_tiny();
    let child = user.start_slow();
    let begin = Instant::now();
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let (code, _, errors) = told(child.wait_with_output().unwrap());
    // The download itself would take longer.
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(code, 130, "{errors}");
    assert!(errors.contains("stopped before pull was done"), "{errors}");
    assert!(fs::metadata(user.partial()).unwrap().len() >= 8192);
    user.done(&["pull", REPO]);
}

#[test]
fn pulls_of_one_model_at_once_wait_for_each_other() {
    let user = User::of_tiny();
    let first = user.start_slow();
    let second = user.command(&["pull", REPO]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (code, _, errors) = told(second.wait_with_output().unwrap());
    assert_eq!(code, 0, "{errors}");
    assert!(errors.contains("waiting for it") && errors.contains("is here already"), "{errors}");
    assert_eq!(told(first.wait_with_output().unwrap()).0, 0);
    assert_eq!(user.server.requests(&user.server.blob("model.safetensors").0).len(), 1);
}

/// A limit of the size of files stands for the end of a disk: both are errors of a write.
#[cfg(unix)]
#[test]
fn a_write_that_fails_is_told_and_loses_nothing() {
    let user = User::of_tiny();
    let mut shell = Command::new("sh");
    let program = user.command(&["pull", REPO]);
    shell.args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$0\" pull \"$1\""]).arg(program.get_program()).arg(REPO);
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let (code, _, errors) = told(shell.output().unwrap());
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("error: cannot write `") && errors.contains(".incomplete"), "{errors}");
    assert!(fs::metadata(user.partial()).unwrap().len() >= 50_000, "{errors}");
    user.done(&["pull", REPO]);
    assert!(user.server.requests(&user.server.blob("model.safetensors").0)[1].range.is_some());
}
