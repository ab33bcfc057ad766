//! The user's models: the folders in the place of models, found by their names.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::paths::models_dir;
use edge_run::internals::error::{Error, Result};
use edge_run::internals::format::{MANIFEST_FILE, sha256, write_whole};
use edge_run::internals::hub::{RepoName, has_quantization};

/// The file beside a model's own that says where `edge-run pull` had it from.
pub const ORIGIN_FILE: &str = "pulled.json";
/// What stands between the parts of a model's name in that of its folder.
const PARTS: &str = "--";

/// A model in the place of models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredModel {
    /// The name of its folder.
    pub folder: String,
    /// Its folder.
    pub dir: PathBuf,
}

/// Where a model was pulled from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// OWNER/MODEL
    pub repository: String,
    /// The GGUF file, of a model that is one.
    pub file: Option<String>,
    /// The branch, tag or commit that was asked for.
    pub revision: String,
    /// The commit that it was.
    pub commit: String,
    /// When, in seconds since 1970.
    pub pulled: i64,
    /// SHA-256 of the manifest of the model that this is about: another model may have taken its place.
    pub manifest_sha256: String,
}

impl StoredModel {
    /// OWNER/MODEL, with :FILE of one GGUF file of several; of a folder that was not pulled its own name.
    pub fn name(&self) -> String {
        let (repo, file) = self.parts();
        file.map_or(repo.clone(), |file| format!("{repo}:{file}"))
    }

    /// OWNER/MODEL, or the folder's own name, and the file.
    fn parts(&self) -> (String, Option<&str>) {
        match self.folder.split_once(PARTS) {
            None => (self.folder.clone(), None),
            Some((owner, rest)) => {
                let (model, file) = rest.split_once(PARTS).map_or((rest, None), |(model, file)| (model, Some(file)));
                (format!("{owner}/{model}"), file)
            }
        }
    }

    /// Where the model was pulled from, if it was.
    pub fn origin(&self) -> Option<Origin> {
        let origin: Origin = serde_json::from_slice(&fs::read(self.dir.join(ORIGIN_FILE)).ok()?).ok()?;
        let manifest = fs::read(self.dir.join(MANIFEST_FILE)).ok()?;
        (sha256(&manifest) == origin.manifest_sha256).then_some(origin)
    }
}

impl Origin {
    /// Notes the origin of the model in `dir`.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(ORIGIN_FILE);
        let text = serde_json::to_vec_pretty(self).expect("an origin is plain data");
        write_whole(&path, &text).map_err(Error::io("write", path))
    }
}

/// A pulled model in the place of models, whether it is there or not: its folder is OWNER--MODEL, and --FILE of a GGUF
/// file.
pub fn pulled(repo: &RepoName, gguf: Option<&str>) -> Result<StoredModel> {
    let mut folder = format!("{}{PARTS}{}", repo.owner(), repo.model());
    if let Some(file) = gguf {
        folder = format!("{folder}{PARTS}{}", in_folder_name(file));
    }
    let dir = models_dir()?.join(&folder);
    Ok(StoredModel { folder, dir })
}

/// A GGUF file of a repository as the name of its model's folder has it.
fn in_folder_name(file: &str) -> String {
    without_ending(file).replace('/', PARTS)
}

fn without_ending(file: &str) -> &str {
    const ENDING: &str = ".gguf";
    let stem = file.len().checked_sub(ENDING.len()).and_then(|at| file.split_at_checked(at));
    stem.filter(|(_, ending)| ending.eq_ignore_ascii_case(ENDING)).map_or(file, |(stem, _)| stem)
}

/// The models in the folder `root`, by name. What is no model is left out.
pub fn stored(root: &Path) -> Result<Vec<StoredModel>> {
    let entries = match fs::read_dir(root) {
        Err(fault) if fault.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::io("read", root))?,
    };
    let mut models = Vec::new();
    for entry in entries {
        let dir = entry.map_err(Error::io("read", root))?.path();
        let Some(folder) = dir.file_name().and_then(|name| name.to_str()).map(String::from) else { continue };
        // A model that is on its way is in a hidden folder.
        if !folder.starts_with('.') && dir.join(MANIFEST_FILE).is_file() {
            models.push(StoredModel { folder, dir });
        }
    }
    models.sort_by_key(StoredModel::name);
    Ok(models)
}

/// The model of `models` that is called `asked`: by its whole name, else by OWNER/MODEL or MODEL alone, or these with
/// a quantization, where only one fits. Case does not count. `None` where none fits.
pub fn find<'a>(models: &'a [StoredModel], asked: &str) -> Result<Option<&'a StoredModel>> {
    let same = |one: &str, other: &str| one.eq_ignore_ascii_case(other);
    let whole = |model: &StoredModel, asked: &str| {
        let name = match asked.split_once(':') {
            Some((repo, file)) => format!("{repo}:{}", in_folder_name(file)),
            None => without_ending(asked).to_string(),
        };
        same(&model.folder, asked) || same(&model.name(), &name)
    };
    let repo = |model: &StoredModel, asked: &str| same(&model.parts().0, asked);
    let short = |model: &StoredModel, asked: &str| {
        let repo = model.parts().0;
        same(repo.rsplit('/').next().unwrap_or(&repo), asked)
    };
    let quantized = |model: &StoredModel, asked: &str| {
        let Some((name, quantization)) = asked.split_once(':') else { return false };
        let file = model.parts().1.is_some_and(|file| has_quantization(file, quantization));
        file && (repo(model, name) || short(model, name))
    };
    type Way<'a> = &'a dyn Fn(&StoredModel, &str) -> bool;
    for way in [&whole as Way<'_>, &repo, &short, &quantized] {
        let found: Vec<&StoredModel> = models.iter().filter(|model| way(model, asked)).collect();
        match found[..] {
            [] => {}
            [model] => return Ok(Some(model)),
            _ => {
                let names: Vec<String> = found.iter().map(|model| model.name()).collect();
                let expected = format!("the name of one model: {}", names.join(", "));
                return Err(Error::argument("model", expected, format!("`{asked}`, which is that of several")));
            }
        }
    }
    Ok(None)
}

/// The folder that `asked` means: a path that is there, else the user's model of that name. Fails where it is neither.
pub fn model_dir(asked: &Path) -> Result<PathBuf> {
    if fs::symlink_metadata(asked).is_ok() {
        return Ok(asked.to_path_buf());
    }
    let missing = |advice: String| Error::ModelMissing { path: asked.to_path_buf(), advice };
    let Some(name) = asked.to_str() else { return Err(missing("nothing is there".into())) };
    // Without a home folder there are no models.
    let models = models_dir().map_or(Ok(Vec::new()), |root| stored(&root))?;
    if let Some(model) = find(&models, name)? {
        return Ok(model.dir.clone());
    }
    let repo = name.split(':').next().unwrap_or(name).parse::<RepoName>();
    let pull = repo.map_or("OWNER/MODEL".to_string(), |_| name.to_string());
    Err(missing(format!(
        "it is neither a folder nor a name of `edge-run list`; `edge-run pull {pull}` gets a model from the hub, and \
         `edge-run quantize SRC -o DIR` makes one"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn models(folders: &[&str]) -> Vec<StoredModel> {
        let model = |folder: &&str| StoredModel { folder: folder.to_string(), dir: folder.into() };
        folders.iter().map(model).collect()
    }

    const FOLDERS: [&str; 6] = [
        "SmolLM2-135M",
        "Qwen--Qwen3-4B",
        "Qwen--Qwen3-4B-GGUF--Qwen3-4B-Q8_0",
        "Qwen--Qwen3-4B-GGUF--Qwen3-4B-Q4_K_M",
        "other--Qwen3-4B",
        "unsloth--Mini-GGUF--UD-Q2_K--a-00001-of-00002",
    ];

    #[test]
    fn names_are_those_of_repositories() {
        let names: Vec<String> = models(&FOLDERS).iter().map(StoredModel::name).collect();
        assert_eq!(names[..3], ["SmolLM2-135M", "Qwen/Qwen3-4B", "Qwen/Qwen3-4B-GGUF:Qwen3-4B-Q8_0"]);
        assert_eq!(names[5], "unsloth/Mini-GGUF:UD-Q2_K--a-00001-of-00002");
    }

    #[test]
    fn a_name_finds_its_model() {
        let models = models(&FOLDERS);
        for (asked, at) in [
            ("SmolLM2-135M", 0),
            ("smollm2-135m", 0),
            ("Qwen/Qwen3-4B", 1),
            ("Qwen--Qwen3-4B", 1),
            ("Qwen/Qwen3-4B-GGUF:Qwen3-4B-Q8_0.gguf", 2),
            ("Qwen/Qwen3-4B-GGUF:Qwen3-4B-Q8_0.GGUF", 2),
            ("Qwen/Qwen3-4B-GGUF:q4_k_m", 3),
            ("unsloth/Mini-GGUF:UD-Q2_K/a-00001-of-00002.gguf", 5),
            ("Qwen3-4B-GGUF:Q8_0", 2),
            ("unsloth/Mini-GGUF", 5),
            ("mini-gguf", 5),
        ] {
            assert_eq!(find(&models, asked).unwrap(), Some(&models[at]), "{asked}");
        }
        for asked in ["", "Qwen", "Qwen3", "../SmolLM2-135M", "Qwen/Qwen3-4B:Q8_0", "Qwen/Qwen3-4B-GGUF:Q4_K"] {
            assert_eq!(find(&models, asked).unwrap(), None, "{asked}");
        }
        for (asked, others) in [
            ("Qwen3-4B", "Qwen/Qwen3-4B, other/Qwen3-4B"),
            ("Qwen/Qwen3-4B-GGUF", "Qwen/Qwen3-4B-GGUF:Qwen3-4B-Q8_0, Qwen/Qwen3-4B-GGUF:Qwen3-4B-Q4_K_M"),
        ] {
            let message = find(&models, asked).unwrap_err().to_string();
            assert!(message.contains(&format!("one model: {others}, got `{asked}`")), "{message}");
        }
    }

    #[test]
    fn only_models_are_listed() {
        let root = tempfile::tempdir().unwrap();
        for folder in ["b", "a--m", ".c.partial", "empty"] {
            fs::create_dir(root.path().join(folder)).unwrap();
            if folder != "empty" {
                fs::write(root.path().join(folder).join(MANIFEST_FILE), "{}").unwrap();
            }
        }
        fs::write(root.path().join("file"), "").unwrap();
        let names: Vec<String> = stored(root.path()).unwrap().iter().map(StoredModel::name).collect();
        assert_eq!(names, ["a/m", "b"]);
        assert_eq!(stored(&root.path().join("absent")).unwrap(), []);
    }

    #[test]
    fn an_origin_is_that_of_one_model() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(MANIFEST_FILE), "{}").unwrap();
        let origin = Origin {
            repository: "a/m".into(),
            file: None,
            revision: "main".into(),
            commit: "c".repeat(40),
            pulled: 7,
            manifest_sha256: sha256(b"{}"),
        };
        let model = StoredModel { folder: "a--m".into(), dir: root.path().into() };
        assert_eq!(model.origin(), None);
        origin.write(root.path()).unwrap();
        assert_eq!(model.origin(), Some(origin));
        fs::write(root.path().join(MANIFEST_FILE), "{ }").unwrap();
        assert_eq!(model.origin(), None);
    }
}
