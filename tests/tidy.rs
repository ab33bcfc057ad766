//! The house rules that a machine can check. Every check is a function from text to findings, and every test shows
//! first, on a made-up text, that its check can fail.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Module families by level, lowest first: a file may name modules of lower levels and of its own family.
const LEVELS: &[&[&str]] = &[
    &[
        "arch",
        "cancel",
        "checkpoint_files",
        "constraint",
        "encoding",
        "error",
        "filetype",
        "json",
        "precision",
        "routing",
        "sampling",
        "shape",
    ],
    &["recording", "format", "power", "text"],
    &["engine", "kernels"],
    &["gpu", "cpu"],
    &["residency", "devices"],
    &["model"],
    &["session"],
    &["language_model", "bench", "eval", "hub", "quantize", "calibrate", "unquantized", "export"],
    &["cli", "server", "internals", "lib", "main"],
];

/// (family, other family of its level that it may name all the same).
const SIBLINGS: &[(&str, &str)] = &[
    ("arch", "error"),
    ("arch", "shape"),
    ("cancel", "error"),
    ("constraint", "error"),
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
    ("calibrate", "unquantized"),
    ("unquantized", "quantize"),
    ("export", "quantize"),
    ("kernels", "engine"),
    ("main", "cli"),
    ("main", "lib"),
];

/// Type names that more than one file declares, with these files below `src/`. The list only gets shorter.
const DUPLICATE_TYPES: &[(&str, &[&str])] = &[];
/// A type that every kernel has: a macro declares it, as the shader's struct of that name is its other side.
const KERNEL_PARAMS: &str = "Params";

const RUST_LINES_MAX: usize = 400;
const WGSL_LINES_MAX: usize = 280;
const FUNCTION_LINES_MAX: usize = 80;
/// Files whose functions may be longer, with the reason in them.
const LONG_FUNCTIONS: &[(&str, usize)] = &[("shaders/matmul_matrix.wgsl", 95), ("shaders/matmul_split.wgsl", 100)];
const WIDTH_MAX: usize = 120;

/// Where the kernels are.
const KERNELS: &str = "src/kernels/";

/// A text file, its path from the repository's root with forward slashes.
#[derive(Clone)]
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
    assert!(imports(&file("src/cli/a.rs", "use edge_run::internals::{error, model::Model};\n")).is_empty());
    assert_eq!(imports(&file("src/gpu/a.rs", "use edge_run::internals::{error, model::Model};\n")).len(), 1);

    assert_tidy(rust_sources().iter().flat_map(imports));
}

#[test]
fn files_and_functions_stay_short() {
    let long = file("src/a.rs", &"//\n".repeat(RUST_LINES_MAX + 1));
    assert_eq!(sizes(&long), ["src/a.rs:1: 401 lines, at most 400"]);
    let long = file("shaders/a.wgsl", &"//\n".repeat(WGSL_LINES_MAX + 1));
    assert_eq!(sizes(&long), ["shaders/a.wgsl:1: 281 lines, at most 280"]);
    let body = "    let _brace = (\"{\", '{'); // {\n".repeat(FUNCTION_LINES_MAX - 1);
    let long =
        file("src/a.rs", &format!("trait T {{\n    fn short(a: [u8; 2]);\n}}\nfn long(a: [u8; 2]) {{\n{body}}}\n"));
    assert_eq!(sizes(&long), ["src/a.rs:4: a function of 81 lines, at most 80"]);

    let body = "    a = 1u;\n".repeat(FUNCTION_LINES_MAX - 1);
    let long = format!("@compute @workgroup_size(64)\nfn main(@builtin(workgroup_id) a: vec3<u32>) {{\n{body}}}\n");
    assert_eq!(sizes(&file("shaders/a.wgsl", &long)), ["shaders/a.wgsl:2: a function of 81 lines, at most 80"]);

    assert_tidy(all_rust_sources().iter().chain(&shaders()).flat_map(sizes));
}

#[test]
fn every_module_opens_with_a_sentence() {
    assert_eq!(opening(&file("src/a.rs", "use std::fmt;\n")), ["src/a.rs:1: opens without a `//!` sentence"]);
    assert_eq!(opening(&file("src/a.rs", "//! no end\n\nuse std::fmt;\n")).len(), 1);
    assert!(opening(&file("src/a.rs", "//! One: a sentence\n//! over two lines.\n//!\n//! | a |\n")).is_empty());

    assert_tidy(all_rust_sources().iter().flat_map(opening));
}

#[test]
fn nothing_is_left_unfinished() {
    let text =
        "fn f() {\n    todo!()\n}\nfn g() {\n    dbg!(unimplemented!());\n}\n// FIXME\n// XXX\n// not a todo!()\n";
    assert_eq!(unfinished(&file("src/a.rs", text)).len(), 5, "{:?}", unfinished(&file("src/a.rs", text)));

    assert_tidy(all_rust_sources().iter().chain(&shaders()).flat_map(unfinished));
}

#[test]
fn only_tests_unwrap() {
    let text =
        "fn f() {\n    g().unwrap();\n}\n\n#[cfg(test)]\nmod tests {\n    fn h() {\n        g().unwrap();\n    }\n}\n";
    assert_eq!(unwraps(&file("src/a.rs", text)), ["src/a.rs:2: `.unwrap()` outside of tests"]);
    assert!(unwraps(&file("src/a/b_tests.rs", text)).is_empty());

    assert_tidy(all_rust_sources().iter().flat_map(unwraps));
}

#[test]
fn shaders_are_files() {
    let text = "const SHADER: &str = \"@compute @workgroup_size(64) fn main() {}\";\n";
    assert_eq!(inline_shaders(&file("src/a.rs", text)), ["src/a.rs:1: a shader in a Rust string"]);

    assert_tidy(rust_sources().iter().flat_map(inline_shaders));
}

#[test]
fn every_shader_has_its_kernel_and_every_kernel_its_shader() {
    let kernel = |path: &str, name: &str| {
        let wgsl = format!("include_str!(\"../shaders/{name}.wgsl\")");
        file(path, &format!("pub static KERNEL: Kernel = Kernel {{\n    name: \"{name}\",\n    wgsl: {wgsl},\n"))
    };
    let sound = [
        file("shaders/a_b.wgsl", ""),
        file("shaders/c_a.wgsl", ""),
        file("shaders/d.wgsl", ""),
        file("shaders/shared/e.wgsl", ""),
        kernel("src/kernels/a/b.rs", "a_b"),
        kernel("src/kernels/a/c.rs", "c_a"),
        kernel("src/kernels/a/d.rs", "d"),
        file("src/kernels/a/mod.rs", ""),
    ];
    assert!(unpaired(&sound).is_empty(), "{:?}", unpaired(&sound));
    let alone = [file("shaders/a.wgsl", ""), kernel("src/kernels/c.rs", "c")];
    let expected = ["shaders/a.wgsl: 0 kernels have its name", "src/kernels/c.rs: no shaders/c.wgsl"];
    assert_eq!(unpaired(&alone), expected);
    let misnamed = [file("shaders/a.wgsl", ""), kernel("src/kernels/x/b.rs", "a")];
    assert_eq!(unpaired(&misnamed), ["src/kernels/x/b.rs: `a` is not the name of this file and its folder"]);

    assert_tidy(unpaired(&tree()));
}

#[test]
fn no_kernel_file_needs_one_that_needs_it() {
    let module = |path: &str, text: &str| file(path, text);
    let upward = [
        module("src/kernels/mod.rs", "pub mod a;\n"),
        module("src/kernels/a/mod.rs", "pub mod b;\n"),
        module("src/kernels/a/b.rs", "use super::Parameters;\n"),
    ];
    assert_eq!(circles(&upward), ["src/kernels/a/b.rs > src/kernels/a/mod.rs > src/kernels/a/b.rs"]);
    let sideways = [
        module("src/kernels/a.rs", "use super::b::{X, Y};\n"),
        module("src/kernels/b.rs", "use crate::{engine, kernels::{c::Z, d}};\n"),
        module("src/kernels/c.rs", "fn f() {\n    super::a::f();\n}\n"),
    ];
    assert_eq!(circles(&sideways), ["src/kernels/a.rs > src/kernels/b.rs > src/kernels/c.rs > src/kernels/a.rs"]);
    let sound = [
        module("src/kernels/mod.rs", "pub mod a;\npub mod c;\n"),
        module("src/kernels/a/mod.rs", "pub mod b;\nmod d;\nuse super::c::X;\npub use d::D;\n"),
        module("src/kernels/a/b.rs", "//! [`Y`](super::Y)\nuse super::d::D;\nuse crate::kernels::c::X;\n"),
        module("src/kernels/a/d.rs", "#[cfg(test)]\nmod tests {\n    use super::*;\n}\n"),
        module("src/kernels/c.rs", "use crate::engine::Traits;\n"),
    ];
    assert!(circles(&sound).is_empty(), "{:?}", circles(&sound));

    assert_tidy(circles(&some(rust_sources().into_iter().filter(|f| f.path.starts_with(KERNELS)).collect())));
}

#[test]
fn every_type_name_means_one_type() {
    let twice = [
        file("src/a.rs", "pub struct Odd {\n}\nenum Even {}\n"),
        file("src/b.rs", "    pub(super) enum Odd {}\nimpl X {\n    type Even = u8;\n}\n"),
    ];
    assert_eq!(duplicate_types(&twice, &[]), ["`Odd` is declared in a.rs, b.rs"]);
    assert!(duplicate_types(&twice, &[("Odd", &["a.rs", "b.rs"])]).is_empty());
    let shorter = duplicate_types(&twice[..1], &[("Odd", &["a.rs", "b.rs"])]);
    assert_eq!(shorter, ["`Odd` is in DUPLICATE_TYPES with a.rs, b.rs, and is not declared in all of these"]);
    let third = [&twice[..], &[file("src/c.rs", "trait Odd {}\n")]].concat();
    assert_eq!(duplicate_types(&third, &[("Odd", &["a.rs", "b.rs"])]), ["`Odd` is declared in a.rs, b.rs, c.rs"]);
    let in_tests = [file("src/a.rs", "struct Odd;\n"), file("src/b_tests.rs", "struct Odd;\n")];
    assert!(duplicate_types(&in_tests, &[]).is_empty());

    assert_tidy(duplicate_types(&rust_sources(), DUPLICATE_TYPES));
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

    assert_tidy(all_rust_sources().iter().flat_map(widths));
}

#[test]
fn no_path_of_one_machine_is_left() {
    let text = concat!("see /ho", "me/someone/model\nand C:\\Us", "ers\\someone\nthe home/ folder\n");
    assert_eq!(machine_paths(&file("README.md", text)).len(), 2);

    assert_tidy(tree().iter().flat_map(machine_paths));
}

#[test]
fn every_page_with_rust_in_it_is_compiled() {
    let pages = [file("a.md", "```rust,no_run\nlet x;\n```"), file("b.md", "```rust,ignore\nlet x;\n```")];
    let library = file("src/lib.rs", "#[doc = include_str!(\"../docs/a.md\")]");
    assert_eq!(uncompiled_pages(&pages, &library), ["a.md: src/lib.rs does not compile its Rust"]);
    let library = file("src/lib.rs", "#[doc = include_str!(\"../a.md\")]");
    assert!(uncompiled_pages(&pages, &library).is_empty());

    let library = rust_sources().into_iter().find(|file| file.path == "src/lib.rs").expect("the library is there");
    assert_tidy(uncompiled_pages(&tree(), &library));
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
    // What the program takes of the library is gathered in one module, which says nothing of levels.
    const GATHERED: &str = "edge_run::internals::";
    for root in ["crate::", "edge_run::", GATHERED] {
        named.extend(words(&code, root).flat_map(|at| heads(&code, at + root.len()).map(move |name| (at, name))));
    }
    // As many `super`s as the module is deep lead to the crate.
    let climb = "super::".repeat(depth(&file.path));
    let climbed = words(&code, &climb).flat_map(|at| heads(&code, at + climb.len()).map(move |name| (at, name)));
    named.extend(climbed.filter(|(_, name)| level(name).is_some()));
    named.retain(|(at, name)| *name != "internals" || !code[*at..].starts_with(GATHERED));
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
    // The comments of WGSL are those of Rust, and it has no strings.
    let code = code_of(&file.text);
    let long = LONG_FUNCTIONS.iter().find(|(path, _)| *path == file.path);
    let most = long.map_or(FUNCTION_LINES_MAX, |(_, most)| *most);
    for (start, end) in functions(&code) {
        let lines = code[start..end].lines().count();
        if lines > most {
            let message = format!("a function of {lines} lines, at most {most}");
            found.push(finding(file, start, &message));
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

/// A kernel's name is that of its shader, and its file has that name, alone or before or after that of the folder.
fn unpaired(files: &[File]) -> Vec<String> {
    let shaders = files.iter().filter_map(|f| f.path.strip_prefix("shaders/")?.strip_suffix(".wgsl"));
    let shaders: Vec<&str> = shaders.filter(|name| !name.contains('/')).collect();
    let rust = files.iter().filter(|f| f.path.starts_with(KERNELS));
    let kernels: Vec<(&str, &str)> = rust.filter_map(|f| Some((f.path.as_str(), kernel_name(&f.text)?))).collect();
    let mut found = Vec::new();
    for shader in &shaders {
        let count = kernels.iter().filter(|(_, name)| name == shader).count();
        if count != 1 {
            found.push(format!("shaders/{shader}.wgsl: {count} kernels have its name"));
        }
    }
    for (path, name) in kernels {
        let mut parts = path.trim_end_matches(".rs").rsplit('/');
        let (stem, folder) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        if !shaders.contains(&name) {
            found.push(format!("{path}: no shaders/{name}.wgsl"));
        } else if ![stem.to_string(), format!("{folder}_{stem}"), format!("{stem}_{folder}")].contains(&name.into()) {
            found.push(format!("{path}: `{name}` is not the name of this file and its folder"));
        }
    }
    found
}

/// The name of the kernel that a file declares, if its shader has that name too.
fn kernel_name(text: &str) -> Option<&str> {
    let declared = &text[text.find("static KERNEL: Kernel")?..];
    let name = declared.split_once("name: \"")?.1.split_once('"')?.0;
    text.contains(&format!("shaders/{name}.wgsl")).then_some(name)
}

/// Circles of files of which each names one that it needs: by a path, or as its own module.
fn circles(files: &[File]) -> Vec<String> {
    let needs: Vec<Vec<usize>> = files.iter().map(|file| needed(file, files)).collect();
    let mut found: Vec<Vec<usize>> = Vec::new();
    for start in 0..files.len() {
        // The shortest way back to a file, by way of those that no circle has yet.
        let mut ways = vec![vec![start]];
        let mut seen = vec![false; files.len()];
        while let Some(way) = (!ways.is_empty()).then(|| ways.remove(0)) {
            let last = way[way.len() - 1];
            if needs[last].contains(&start) && last != start {
                if !found.iter().any(|circle| circle.contains(&start)) {
                    found.push(way);
                }
                break;
            }
            for next in needs[last].iter().filter(|next| **next != start) {
                if !std::mem::replace(&mut seen[*next], true) {
                    ways.push([&way[..], &[*next]].concat());
                }
            }
        }
    }
    let path = |at: &usize| files[*at].path.as_str();
    let line = |circle: Vec<usize>| {
        let least = (0..circle.len()).min_by_key(|at| path(&circle[*at])).unwrap_or(0);
        let ordered = circle.iter().cycle().skip(least).take(circle.len() + 1);
        ordered.map(path).collect::<Vec<_>>().join(" > ")
    };
    let mut lines: Vec<String> = found.into_iter().map(line).collect();
    lines.sort();
    lines.dedup();
    lines
}

/// The files that a file of a module tree names: in paths from the crate, by `super`, and as modules of its own.
fn needed(file: &File, files: &[File]) -> Vec<usize> {
    let code = without_tests(code_of(&file.text));
    let own = module_path(&file.path);
    let mut paths: Vec<Vec<String>> = Vec::new();
    for at in words(&code, "crate::") {
        paths.extend(leaves(&code, at + "crate::".len(), &[]));
    }
    for at in words(&code, "super::").filter(|at| !code[..*at].ends_with("super::")) {
        let climbs = code[at..].split("super::").take_while(|between| between.is_empty()).count();
        let climbs = climbs.min(own.len());
        let base: Vec<String> = own[..own.len() - climbs].to_vec();
        paths.extend(leaves(&code, at + climbs * "super::".len(), &base));
    }
    for at in words(&code, "mod ") {
        let name: String = code[at + 4..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if code[at + 4 + name.len()..].starts_with(';') {
            paths.push([&own[..], &[name]].concat());
        }
    }
    let modules: Vec<Vec<String>> = files.iter().map(|f| module_path(&f.path)).collect();
    // The deepest module that a path goes through has what it names.
    let deepest = |path: &Vec<String>| {
        let fits = (0..files.len()).filter(|at| path.starts_with(&modules[*at]));
        fits.max_by_key(|at| modules[*at].len()).filter(|at| modules[*at] != own)
    };
    let mut found: Vec<usize> = paths.iter().filter_map(deepest).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// The names of a file's module, from the crate on.
fn module_path(path: &str) -> Vec<String> {
    let inside = path.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    inside.split('/').map(String::from).collect()
}

/// All paths that begin at `at` behind `base`, those of groups in braces apart.
fn leaves(code: &str, at: usize, base: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for name in heads(code, at) {
        let end = name.as_ptr() as usize - code.as_ptr() as usize + name.len();
        let path = [base, &[name.to_string()]].concat();
        if code[end..].starts_with("::") && code[end + 2..].starts_with(|c: char| c.is_alphabetic() || c == '{') {
            found.extend(leaves(code, end + 2, &path));
        } else {
            found.push(path);
        }
    }
    found
}

fn duplicate_types(files: &[File], allowed: &[(&str, &[&str])]) -> Vec<String> {
    let mut declared: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for file in files.iter().filter(|file| !file.path.ends_with("tests.rs")) {
        let path = file.path.trim_start_matches("src/");
        let in_kernels = file.path.starts_with(KERNELS);
        for name in declared_types(&without_tests(code_of(&file.text))) {
            if !(in_kernels && name == KERNEL_PARAMS) {
                declared.entry(name).or_default().insert(path);
            }
        }
    }
    let mut found = Vec::new();
    for (name, files) in &declared {
        let allowed = allowed.iter().find(|(other, _)| other == name).map_or(&[][..], |(_, files)| files);
        if files.len() > 1 && !files.iter().all(|file| allowed.contains(file)) {
            let files: Vec<&str> = files.iter().copied().collect();
            found.push(format!("`{name}` is declared in {}", files.join(", ")));
        }
    }
    for (name, files) in allowed {
        if !files.iter().all(|file| declared.get(*name).is_some_and(|known| known.contains(file))) {
            let files = files.join(", ");
            found.push(format!("`{name}` is in DUPLICATE_TYPES with {files}, and is not declared in all of these"));
        }
    }
    found
}

/// The names of the types that a file declares. What is indented after `type` belongs to a trait.
fn declared_types(code: &str) -> Vec<String> {
    let name = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let line = |line: &str| {
        let bare = line.trim_start();
        let indented = bare.len() < line.len();
        let bare = match bare.strip_prefix("pub") {
            Some(rest) if rest.starts_with('(') => rest.split_once(") ").map_or(bare, |(_, rest)| rest),
            Some(rest) => rest.trim_start(),
            None => bare,
        };
        let rest = ["struct ", "enum ", "union ", "trait "].iter().find_map(|word| bare.strip_prefix(word));
        let rest = rest.or_else(|| bare.strip_prefix("type ").filter(|_| !indented));
        rest.map(name).filter(|name| !name.is_empty())
    };
    code.lines().filter_map(line).collect()
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

/// Pages whose Rust is no example of the library's documentation.
fn uncompiled_pages(files: &[File], library: &File) -> Vec<String> {
    let has_rust = |file: &&File| {
        let mut fences = file.text.lines().filter_map(|line| line.trim_start().strip_prefix("```rust"));
        file.path.ends_with(".md") && fences.any(|how| !how.contains("ignore"))
    };
    let compiled = |file: &File| library.text.contains(&format!("include_str!(\"../{}\")", file.path));
    let uncompiled = files.iter().filter(has_rust).filter(|file| !compiled(file));
    uncompiled.map(|file| format!("{}: src/lib.rs does not compile its Rust", file.path)).collect()
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

/// Those of the library and the program, and those of the C interface, which is a crate of its own.
fn all_rust_sources() -> Vec<File> {
    let interface = tree().into_iter().filter(|f| f.path.starts_with("capi/src/") && f.path.ends_with(".rs"));
    [rust_sources(), some(interface.collect())].concat()
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
