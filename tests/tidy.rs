//! The house rules that a machine can check. Every check is a function from text to findings, and every test shows
//! first, on a made-up text, that its check can fail.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Module families by level, lowest first: a file may name modules of lower levels and of its own family.
const LEVELS: &[&[&str]] = &[
    &["cancel", "encoding", "error", "filetype", "json", "precision", "routing", "sampling", "shape"],
    &["recording", "format", "power", "text"],
    &["engine", "kernels"],
    &["gpu", "cpu"],
    &["residency"],
    &["model"],
    &["session"],
    &["bench", "eval", "quantize", "calibrate"],
    &["cli", "server", "lib", "main"],
];

/// (family, other family of its level that it may name all the same).
const SIBLINGS: &[(&str, &str)] = &[
    ("cancel", "error"),
    ("filetype", "error"),
    ("json", "encoding"),
    ("json", "error"),
    ("json", "filetype"),
    ("precision", "error"),
    ("routing", "precision"),
    ("routing", "shape"),
    ("sampling", "error"),
    ("text", "format"),
    ("calibrate", "quantize"),
    ("kernels", "engine"),
    ("main", "cli"),
    ("main", "lib"),
];

/// Files of `src/kernels` that are no kernel.
const KERNEL_SUPPORT: &[&str] =
    &["mod", "packed", "parts", "product", "project", "quantized_cache", "routers", "shaders", "sliced", "telling"];

const RUST_LINES_MAX: usize = 400;
const WGSL_LINES_MAX: usize = 260;
const FUNCTION_LINES_MAX: usize = 80;
const WIDTH_MAX: usize = 120;

/// A text file, its path from the repository's root with forward slashes.
struct File {
    path: String,
    text: String,
}

// The rules, each with its negative control.

#[test]
fn imports_point_down() {
    let up =
        file("src/recording.rs", "//! A [link](crate::gpu::open).\nuse crate::{error::{Error, Result}, engine};\n");
    assert_eq!(imports(&up), ["src/recording.rs:2: names `engine`, which is not below `recording`"]);
    let sideways = file("src/gpu/pool.rs", "use crate::gpu::open;\nfn f() { crate::cpu::open() }\n");
    assert_eq!(imports(&sideways), ["src/gpu/pool.rs:2: names `cpu`, which is not below `gpu`"]);
    let hidden = file("src/model/mod.rs", "use super::session::Session;\n");
    assert_eq!(imports(&hidden), ["src/model/mod.rs:1: names `session`, which is not below `model`"]);
    let climbing = file("src/model/cache.rs", "use super::super::eval;\nuse super::eval;\n");
    assert_eq!(imports(&climbing), ["src/model/cache.rs:1: names `eval`, which is not below `model`"]);
    assert_eq!(imports(&file("src/odd.rs", "")), ["src/odd.rs:1: `odd` has no level in tests/tidy.rs"]);
    assert_eq!(imports(&file("src/cpu.rs", "use crate::Error;\n")).len(), 1);
    assert!(imports(&file("src/cpu.rs", "use crate::{engine::Engine, kernels};\n")).is_empty());

    assert_tidy(rust_sources().iter().flat_map(imports));
}

#[test]
fn files_and_functions_stay_short() {
    let long = file("src/a.rs", &"//\n".repeat(RUST_LINES_MAX + 1));
    assert_eq!(sizes(&long), ["src/a.rs:1: 401 lines, at most 400"]);
    let long = file("shaders/a.wgsl", &"//\n".repeat(WGSL_LINES_MAX + 1));
    assert_eq!(sizes(&long), ["shaders/a.wgsl:1: 261 lines, at most 260"]);
    let body = "    let _brace = (\"{\", '{'); // {\n".repeat(FUNCTION_LINES_MAX - 1);
    let long =
        file("src/a.rs", &format!("trait T {{\n    fn short(a: [u8; 2]);\n}}\nfn long(a: [u8; 2]) {{\n{body}}}\n"));
    assert_eq!(sizes(&long), ["src/a.rs:4: a function of 81 lines, at most 80"]);

    assert_tidy(rust_sources().iter().chain(&shaders()).flat_map(sizes));
}

#[test]
fn every_module_opens_with_a_sentence() {
    assert_eq!(opening(&file("src/a.rs", "use std::fmt;\n")), ["src/a.rs:1: opens without a `//!` sentence"]);
    assert_eq!(opening(&file("src/a.rs", "//! no end\n\nuse std::fmt;\n")).len(), 1);
    assert!(opening(&file("src/a.rs", "//! One: a sentence\n//! over two lines.\n//!\n//! | a |\n")).is_empty());

    assert_tidy(rust_sources().iter().flat_map(opening));
}

#[test]
fn nothing_is_left_unfinished() {
    let text =
        "fn f() {\n    todo!()\n}\nfn g() {\n    dbg!(unimplemented!());\n}\n// FIXME\n// XXX\n// not a todo!()\n";
    assert_eq!(unfinished(&file("src/a.rs", text)).len(), 5, "{:?}", unfinished(&file("src/a.rs", text)));

    assert_tidy(rust_sources().iter().chain(&shaders()).flat_map(unfinished));
}

#[test]
fn only_tests_unwrap() {
    let text =
        "fn f() {\n    g().unwrap();\n}\n\n#[cfg(test)]\nmod tests {\n    fn h() {\n        g().unwrap();\n    }\n}\n";
    assert_eq!(unwraps(&file("src/a.rs", text)), ["src/a.rs:2: `.unwrap()` outside of tests"]);
    assert!(unwraps(&file("src/a/b_tests.rs", text)).is_empty());

    assert_tidy(rust_sources().iter().flat_map(unwraps));
}

#[test]
fn shaders_are_files() {
    let text = "const SHADER: &str = \"@compute @workgroup_size(64) fn main() {}\";\n";
    assert_eq!(inline_shaders(&file("src/a.rs", text)), ["src/a.rs:1: a shader in a Rust string"]);

    assert_tidy(rust_sources().iter().flat_map(inline_shaders));
}

#[test]
fn every_shader_has_its_kernel_and_every_kernel_its_shader() {
    let found = unpaired(["shaders/a.wgsl", "shaders/b.wgsl", "src/kernels/b.rs", "src/kernels/c.rs"].into_iter());
    assert_eq!(found, ["shaders/a.wgsl: no src/kernels/a.rs", "src/kernels/c.rs: no shaders/c.wgsl"]);
    let other = ["shaders/shared/a.wgsl", "src/kernels/mod.rs"];
    assert!(unpaired(other.into_iter()).is_empty());

    assert_tidy(unpaired(tree().iter().map(|f| f.path.as_str())));
}

#[test]
fn lines_fit_the_width() {
    let wide = file("src/a.rs", &format!("{}\n{}\n", "é".repeat(WIDTH_MAX), "e".repeat(WIDTH_MAX + 1)));
    assert_eq!(widths(&wide), ["src/a.rs:2: 121 columns, at most 120"]);
    let word = "e".repeat(WIDTH_MAX);
    let rigid = file("src/a.rs", &format!("//! | {word} |\nconst A: &str = r\"{word}\";\n"));
    assert!(widths(&rigid).is_empty());
    let breakable = file("src/a.rs", &format!("//! {word}\nconst A: &str = \"{word}\";\n"));
    assert_eq!(widths(&breakable).len(), 2);

    assert_tidy(rust_sources().iter().flat_map(widths));
}

#[test]
fn no_path_of_one_machine_is_left() {
    let text = concat!("see /ho", "me/someone/model\nand C:\\Us", "ers\\someone\nthe home/ folder\n");
    assert_eq!(machine_paths(&file("README.md", text)).len(), 2);

    assert_tidy(tree().iter().flat_map(machine_paths));
}

#[test]
fn only_code_is_left_of_a_text() {
    let text = r##"a /* b /* c */ d */ e 'f' '\'' 'é' <'g> "h\"" r#"i " j"# br"k" k // l"##;
    let code = code_of(text);
    assert_eq!(code.split_whitespace().collect::<Vec<_>>(), ["a", "e", "<'g>", "b", "k"]);
    assert_eq!(code.len(), text.len());
}

// The checks.

fn imports(file: &File) -> Vec<String> {
    let family = family(&file.path);
    let Some(own) = level(family) else {
        return vec![format!("{}:1: `{family}` has no level in tests/tidy.rs", file.path)];
    };
    let code = code_of(&file.text);
    let mut named: Vec<(usize, &str)> = Vec::new();
    for root in ["crate::", "edge_run::"] {
        named.extend(words(&code, root).flat_map(|at| heads(&code, at + root.len()).map(move |name| (at, name))));
    }
    // As many `super`s as the module is deep lead to the crate.
    let climb = "super::".repeat(depth(&file.path));
    let climbed = words(&code, &climb).flat_map(|at| heads(&code, at + climb.len()).map(move |name| (at, name)));
    named.extend(climbed.filter(|(_, name)| level(name).is_some()));
    named.sort_unstable();
    let wrong = |(at, name): (usize, &str)| {
        // What is not a module is an item that lib.rs exports, and lib.rs is above all.
        let other = if name.starts_with(char::is_lowercase) { name } else { "lib" };
        let down = level(other).is_some_and(|level| level < own);
        let allowed = down || other == family || SIBLINGS.contains(&(family, other));
        (!allowed).then(|| finding(file, at, &format!("names `{name}`, which is not below `{family}`")))
    };
    named.into_iter().filter_map(wrong).collect()
}

fn sizes(file: &File) -> Vec<String> {
    let rust = file.path.ends_with(".rs");
    let (lines, most) = (file.text.lines().count(), if rust { RUST_LINES_MAX } else { WGSL_LINES_MAX });
    let mut found = Vec::new();
    if lines > most {
        found.push(format!("{}:1: {lines} lines, at most {most}", file.path));
    }
    if rust {
        let code = code_of(&file.text);
        for (start, end) in functions(&code) {
            let lines = code[start..end].lines().count();
            if lines > FUNCTION_LINES_MAX {
                let message = format!("a function of {lines} lines, at most {FUNCTION_LINES_MAX}");
                found.push(finding(file, start, &message));
            }
        }
    }
    found
}

fn opening(file: &File) -> Vec<String> {
    let lines = file.text.lines().map_while(|line| line.strip_prefix("//! "));
    let paragraph = lines.collect::<Vec<_>>().join(" ");
    let sentence = paragraph.ends_with(['.', ':']) || paragraph.contains(". ");
    if sentence { vec![] } else { vec![format!("{}:1: opens without a `//!` sentence", file.path)] }
}

fn unfinished(file: &File) -> Vec<String> {
    let code = code_of(&file.text);
    let macros = ["todo!", "unimplemented!", "dbg!"].into_iter().map(|word| (&code, word));
    let notes = ["FIXME", "XXX"].into_iter().map(|word| (&file.text, word));
    macros
        .chain(notes)
        .flat_map(|(text, word)| words(text, word).map(move |at| finding(file, at, &format!("`{word}`"))))
        .collect()
}

fn unwraps(file: &File) -> Vec<String> {
    if file.path.ends_with("tests.rs") {
        return vec![];
    }
    let code = without_tests(code_of(&file.text));
    code.match_indices(".unwrap()").map(|(at, _)| finding(file, at, "`.unwrap()` outside of tests")).collect()
}

fn inline_shaders(file: &File) -> Vec<String> {
    file.text.match_indices("@compute").map(|(at, _)| finding(file, at, "a shader in a Rust string")).collect()
}

fn unpaired<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<String> {
    let paths: Vec<&str> = paths.collect();
    let stems = |folder, ending| {
        let names = paths.iter().filter_map(move |p| p.strip_prefix(folder)?.strip_suffix(ending));
        names.filter(|stem| !stem.contains('/')).collect::<Vec<_>>()
    };
    let (shaders, kernels) = (stems("shaders/", ".wgsl"), stems("src/kernels/", ".rs"));
    let alone = shaders.iter().filter(|s| !kernels.contains(s));
    let blind = kernels.iter().filter(|k| !KERNEL_SUPPORT.contains(k) && !shaders.contains(k));
    alone
        .map(|s| format!("shaders/{s}.wgsl: no src/kernels/{s}.rs"))
        .chain(blind.map(|k| format!("src/kernels/{k}.rs: no shaders/{k}.wgsl")))
        .collect()
}

fn widths(file: &File) -> Vec<String> {
    // Tables in docs and raw strings, patterns mostly, cannot be broken.
    let rigid = |line: &str| {
        let doc = line.trim_start().strip_prefix("//").and_then(|doc| doc.strip_prefix(['!', '/']));
        doc.map_or(line.contains("r\"") || line.contains("r#\""), |doc| doc.starts_with(" |"))
    };
    let columns = file.text.lines().map(|line| if rigid(line) { 0 } else { line.chars().count() }).enumerate();
    let wide = columns.filter(|(_, columns)| *columns > WIDTH_MAX);
    wide.map(|(n, columns)| format!("{}:{}: {columns} columns, at most {WIDTH_MAX}", file.path, n + 1)).collect()
}

fn machine_paths(file: &File) -> Vec<String> {
    // In halves, so that this file does not find itself.
    let places = [
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/Us", "ers/"),
        concat!(":\\Us", "ers\\"),
        concat!("/tm", "p/"),
        concat!("/wo", "rk/"),
    ];
    let found = places.iter().flat_map(|place| file.text.match_indices(place));
    found.map(|(at, place)| finding(file, at, &format!("`{place}` is a path of one machine"))).collect()
}

// Reading Rust, as far as rustfmt leaves it readable.

/// The text with comments, strings and characters blanked, every byte and line in its place.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match opaque_end(bytes, at) {
            Some(end) => {
                code.extend(bytes[at..end].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
                at = end;
            }
            None => {
                code.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(code).expect("whole characters are blanked or kept")
}

/// Where the comment or literal that begins at `at` ends, if one begins there.
fn opaque_end(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let length = match rest {
        [b'/', b'/', ..] => rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => {
            let mut depth = 0;
            let closing = (0..rest.len()).find(|i| {
                depth += i32::from(rest[*i..].starts_with(b"/*")) - i32::from(rest[..*i + 1].ends_with(b"*/"));
                depth == 0
            });
            closing.map_or(rest.len(), |i| i + 1)
        }
        [b'"', ..] => quoted_length(rest, b'"'),
        [b'\'', b'\\', ..] => quoted_length(rest, b'\''),
        // A character of one to four bytes; else the quote begins a lifetime.
        [b'\'', ..] => 1 + (2..=5).find(|i| rest.get(*i) == Some(&b'\'') && is_one_char(&rest[1..*i]))?,
        [b'r', ..] if at == 0 || !is_name(bytes[at - 1]) || bytes[at - 1] == b'b' => {
            let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
            (rest.get(1 + hashes) == Some(&b'"')).then_some(())?;
            let closing = [b"\"".as_slice(), &rest[1..1 + hashes]].concat();
            let body = 2 + hashes;
            let end = rest[body..].windows(closing.len()).position(|w| w == closing);
            end.map_or(rest.len(), |i| body + i + closing.len())
        }
        _ => return None,
    };
    Some(at + length)
}

fn quoted_length(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn is_one_char(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|s| s.chars().count() == 1)
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Places of `word` where no name runs into it.
fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let before = |at: usize| at.checked_sub(1).map(|i| text.as_bytes()[i]);
    let starts = text.match_indices(word).map(|(at, _)| at);
    starts.filter(move |at| before(*at).is_none_or(|b| !is_name(b)))
}

/// The first name of each path that begins at `at`: one, or those of a group in braces.
fn heads(code: &str, at: usize) -> impl Iterator<Item = &str> {
    let rest = &code[at..];
    let group = rest.starts_with('{').then(|| &rest[1..closing_brace(code, at).map_or(rest.len(), |end| end - at)]);
    let mut depth = 0;
    let parts = group.unwrap_or(rest).split(move |c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let name = |part: &str| part.len() - part.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_').len();
    let names = parts.map(str::trim_start).map(move |part| &part[..name(part)]).filter(|name| !name.is_empty());
    names.take(if group.is_some() { usize::MAX } else { 1 })
}

/// Where the brace that opens at `open` closes.
fn closing_brace(code: &str, open: usize) -> Option<usize> {
    let mut depth = 0;
    let closes = code.as_bytes()[open..].iter().position(|byte| {
        depth += i32::from(*byte == b'{') - i32::from(*byte == b'}');
        depth == 0
    });
    closes.map(|length| open + length)
}

/// Where the body that follows `at` opens, unless a semicolon ends the item before.
fn body_after(code: &str, at: usize) -> Option<usize> {
    let mut depth = 0;
    let stop = code.as_bytes()[at..].iter().position(|byte| {
        depth += i32::from(matches!(byte, b'(' | b'[')) - i32::from(matches!(byte, b')' | b']'));
        depth == 0 && matches!(byte, b'{' | b';')
    })?;
    (code.as_bytes()[at + stop] == b'{').then_some(at + stop)
}

/// Start and end of every function that has a body.
fn functions(code: &str) -> Vec<(usize, usize)> {
    let starts = words(code, "fn ").filter(|at| code.as_bytes().get(at + 3).is_some_and(|b| is_name(*b)));
    starts.filter_map(|at| Some((at, closing_brace(code, body_after(code, at)?)? + 1))).collect()
}

/// The code with every item under `#[cfg(test)]` blanked.
fn without_tests(mut code: String) -> String {
    const TEST: &str = "#[cfg(test)]";
    while let Some(at) = code.find(TEST) {
        let from = at + TEST.len();
        let end = body_after(&code, from).and_then(|open| closing_brace(&code, open)).map_or(from, |close| close + 1);
        let blank: String = code[at..end].bytes().map(|b| if b == b'\n' { '\n' } else { ' ' }).collect();
        code.replace_range(at..end, &blank);
    }
    code
}

// The tree.

fn family(path: &str) -> &str {
    let inside = path.strip_prefix("src/").unwrap_or(path);
    inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
}

fn level(family: &str) -> Option<usize> {
    LEVELS.iter().position(|families| families.contains(&family))
}

/// How deep the file's module lies in the crate, which is 0.
fn depth(path: &str) -> usize {
    path.trim_end_matches("/mod.rs").matches('/').count()
}

fn finding(file: &File, at: usize, message: &str) -> String {
    let line = file.text.bytes().take(at).filter(|b| *b == b'\n').count() + 1;
    format!("{}:{line}: {message}", file.path)
}

fn file(path: &str, text: &str) -> File {
    File { path: path.into(), text: text.into() }
}

fn rust_sources() -> Vec<File> {
    some(tree().into_iter().filter(|f| f.path.starts_with("src/") && f.path.ends_with(".rs")).collect())
}

fn shaders() -> Vec<File> {
    some(tree().into_iter().filter(|f| f.path.starts_with("shaders/") && f.path.ends_with(".wgsl")).collect())
}

fn some(files: Vec<File>) -> Vec<File> {
    assert!(!files.is_empty(), "no files to check");
    files
}

fn assert_tidy(findings: impl IntoIterator<Item = String>) {
    let findings: Vec<String> = findings.into_iter().collect();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

/// Every text file that git tracks or would add, or every one there is where git can't tell.
fn tree() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = git_files(root).unwrap_or_else(|| walk(root));
    paths.sort();
    let read = |path: PathBuf| {
        let text = String::from_utf8(std::fs::read(root.join(&path)).ok()?).ok()?;
        let path = path.to_str()?.replace('\\', "/");
        Some(File { path, text: text.replace("\r\n", "\n") })
    };
    some(paths.into_iter().filter_map(read).collect())
}

fn git_files(root: &Path) -> Option<Vec<PathBuf>> {
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(list).current_dir(root).output().ok().filter(|o| o.status.success())?;
    let paths: Vec<PathBuf> =
        String::from_utf8(output.stdout).ok()?.split_terminator('\0').map(PathBuf::from).collect();
    (!paths.is_empty()).then_some(paths)
}

fn walk(root: &Path) -> Vec<PathBuf> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the repository is readable").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if name == "target" || name == ".git" {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(path),
                Ok(kind) if kind.is_file() => {
                    files.push(path.strip_prefix(root).expect("below the root").to_path_buf())
                }
                _ => {}
            }
        }
    }
    files
}
