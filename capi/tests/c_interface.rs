//! The C interface as its users have it: the header is what the code says, and programs in C and in Python run.

#[cfg(unix)]
#[path = "../../tests/common/mod.rs"]
mod common;

use std::path::Path;

/// Set to write the header anew.
const WRITE_HEADER: &str = "EDGE_RUN_WRITE_HEADER";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_header_is_what_the_code_says() {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).unwrap();
    let mut made = Vec::new();
    cbindgen::Builder::new().with_crate(root()).with_config(config).generate().unwrap().write(&mut made);
    let (made, file) = (String::from_utf8(made).unwrap(), root().join("include/edge_run.h"));
    if std::env::var_os(WRITE_HEADER).is_some() {
        std::fs::write(&file, &made).unwrap();
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default().replace("\r\n", "\n");
    assert!(made == committed, "{WRITE_HEADER}=1 writes include/edge_run.h as the code now says");
    // Control: what is not of the interface is not in it.
    assert!(made.contains("edge_run_chat(") && !made.contains("Handle") && !made.contains("Outcome"), "{made}");
}

#[test]
fn the_version_is_that_of_edge_run() {
    let version = |manifest: &Path| {
        let text = std::fs::read_to_string(manifest).unwrap();
        text.lines().find_map(|line| line.strip_prefix("version = ").map(String::from)).expect("a version")
    };
    assert_eq!(version(&root().join("Cargo.toml")), version(&root().join("../Cargo.toml")));
    assert_eq!(version(&root().join("Cargo.toml")), format!("{:?}", env!("CARGO_PKG_VERSION")));
}

/// Programs that are compiled and run as on Unix.
#[cfg(unix)]
mod programs {
    use std::io::Write;
    use std::path::PathBuf;
    use std::process::{Command, Output};

    use safetensors::Dtype;

    use super::*;

    /// The folder where this build put the libraries.
    fn libraries() -> PathBuf {
        let test = std::env::current_exe().expect("this program has a path");
        test.parent().expect("a folder").to_path_buf()
    }

    fn shared_library() -> PathBuf {
        libraries().join(format!("{}edge_run_capi{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX))
    }

    /// A folder with a tiny model whose answers do not end, and a place for what is compiled.
    struct Home {
        dir: tempfile::TempDir,
        model: PathBuf,
    }

    impl Home {
        fn new() -> Home {
            let dir = tempfile::tempdir().unwrap();
            let (source, model) = (dir.path().join("source"), dir.path().join("model"));
            common::TinyModel::new(common::tiny_shape(false), 7).write_hf(&source, Dtype::F32, 1);
            let endless = r#"{"bos_token_id": 1, "eos_token_id": []}"#;
            std::fs::write(source.join("generation_config.json"), endless).unwrap();
            common::quantize_tiny(&source, &model).unwrap();
            Home { dir, model }
        }
    }

    /// What a program printed; it must have ended well, with the line `passed`.
    fn passes(command: &mut Command) {
        let Output { status, stdout, stderr } = command.output().unwrap_or_else(|fault| panic!("{command:?}: {fault}"));
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(status.success() && stdout.ends_with("passed\n"), "{command:?}: {status}\n{stdout}{stderr}");
    }

    fn is_there(program: &str) -> bool {
        Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
    }

    fn skip(reason: &str) {
        writeln!(std::io::stderr(), "skipped: {reason}").expect("standard error is open");
    }

    /// Compiles the C program of the tests against the shared or the static library.
    fn compile(home: &Home, statically: bool) -> PathBuf {
        compile_file(&root().join("tests/c/chat.c"), home, statically)
    }

    fn compile_file(source: &Path, home: &Home, statically: bool) -> PathBuf {
        let program = home.dir.path().join(if statically { "static" } else { "shared" });
        let mut command = Command::new("cc");
        command.args([
            "-std=c11",
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Werror",
            "-O1",
            "-g",
            "-D_POSIX_C_SOURCE=200809L",
        ]);
        command.arg("-I").arg(root().join("include")).arg("-o").arg(&program).arg(source);
        if statically {
            command.arg(libraries().join("libedge_run_capi.a"));
        } else {
            command.arg(shared_library()).arg(format!("-Wl,-rpath,{}", libraries().display()));
        }
        if cfg!(target_os = "macos") {
            let frameworks =
                ["Foundation", "CoreFoundation", "CoreGraphics", "IOKit", "Metal", "QuartzCore", "Security"];
            command.args(frameworks.iter().flat_map(|name| ["-framework", name])).args(["-lobjc", "-liconv"]);
        } else {
            command.args(["-lm", "-ldl", "-lpthread", "-lgcc_s"]);
        }
        let output = command.output().expect("the C compiler, which Rust links with");
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        program
    }

    fn chat(program: &mut Command, home: &Home) {
        passes(program.arg(&home.model).arg(home.dir.path().join("nothing")));
    }

    #[test]
    fn a_c_program_chats_and_errs_with_either_library() {
        let home = Home::new();
        for statically in [false, true] {
            chat(&mut Command::new(compile(&home, statically)), &home);
        }
    }

    #[test]
    fn the_readme_s_program_chats() {
        let home = Home::new();
        let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
        let (_, after) = readme.split_once("```c\n").expect("a program in C");
        let (program, _) = after.split_once("```\n").expect("its end");
        let named = program.replace("path/to/model", home.model.to_str().expect("a path in UTF-8"));
        assert_ne!(named, program);
        let source = home.dir.path().join("readme.c");
        std::fs::write(&source, named).unwrap();
        let output = Command::new(compile_file(&source, &home, false)).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !output.stdout.is_empty(), "{errors}");
    }

    #[test]
    fn a_c_program_leaves_no_memory_and_touches_none_that_is_not_its_own() {
        if !is_there("valgrind") {
            return skip("valgrind is not installed");
        }
        let home = Home::new();
        let mut command = Command::new("valgrind");
        command.args(["--quiet", "--leak-check=full", "--error-exitcode=9", "--num-callers=40"]);
        // What is only pointed into is possibly lost to valgrind. Rust points so into hash tables and into what it counts
        // references of, and what lives as long as the process has both. What nobody points to at all is lost.
        command.args(["--show-leak-kinds=definite,indirect", "--errors-for-leak-kinds=definite,indirect"]);
        // Fewer threads, as all of them share one processor there.
        command.env("RAYON_NUM_THREADS", "2").arg(compile(&home, false)).arg(&home.model);
        passes(command.arg(home.dir.path().join("nothing")).arg("cpu-only"));
    }

    #[test]
    fn a_python_script_chats_and_errs() {
        if !is_there("python3") {
            return skip("python3 is not installed");
        }
        let home = Home::new();
        passes(Command::new("python3").arg(root().join("tests/python/chat.py")).arg(shared_library()).arg(&home.model));
    }

    #[test]
    fn the_shared_library_has_its_name_and_stays_loaded() {
        if !cfg!(target_os = "linux") || !is_there("readelf") {
            return skip("readelf of the GNU binutils is not installed");
        }
        let output = Command::new("readelf").args(["-d", "-W"]).arg(shared_library()).output().unwrap();
        let entries = String::from_utf8(output.stdout).unwrap();
        let (soname, flags) = ("[libedge_run_capi.so]", "NODELETE");
        assert!(entries.lines().any(|line| line.contains("(SONAME)") && line.contains(soname)), "{entries}");
        assert!(entries.lines().any(|line| line.contains("(FLAGS_1)") && line.contains(flags)), "{entries}");
    }

    #[test]
    fn the_shared_library_exports_the_interface_and_nothing_else() {
        if !cfg!(target_os = "linux") || !is_there("nm") {
            return skip("nm of the GNU binutils is not installed");
        }
        let output = Command::new("nm").args(["-D", "--defined-only", "--format=posix"]).arg(shared_library()).output();
        let symbols = String::from_utf8(output.unwrap().stdout).unwrap();
        let exported: Vec<&str> = symbols.lines().filter_map(|line| line.split(' ').next()).collect();
        let header = std::fs::read_to_string(root().join("include/edge_run.h")).unwrap();
        let odd: Vec<&&str> = exported.iter().filter(|name| !header.contains(&format!("{name}("))).collect();
        assert!(odd.is_empty(), "{odd:?} are exported and not in the header");
        for needed in ["edge_run_open", "edge_run_chat", "edge_run_last_error", "edge_run_session_free"] {
            assert!(exported.contains(&needed), "{needed} of {exported:?}");
        }
    }
}
