//! Places that are free, taken, linked, held and left behind.

use super::*;

fn write(dir: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(dir).unwrap();
    files.iter().for_each(|(name, text)| fs::write(dir.join(name), text).unwrap());
}

fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap()
}

/// Fills the place with a manifest and these files.
fn put(dir: &Path, replace: bool, files: &[(&str, &str)]) -> Result<()> {
    let place = Place::claim(dir, replace)?;
    files.iter().try_for_each(|(name, _)| place.check_name(name))?;
    write(&place.model(), files);
    write(&place.model(), &[(MANIFEST_FILE, "new")]);
    place.fill()
}

const OLD_MANIFEST: &str = r#"{"files": {"base.safetensors": {}, "slice-1.safetensors": {}, "../up": {}}}"#;

#[test]
fn a_place_where_nothing_is_gets_the_folder_and_nothing_else_is_left() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("a/b/model");
    drop(Place::claim(&dir, false).unwrap());
    assert_eq!(names(home.path()).unwrap(), [""; 0], "folders made for the place go with it");
    put(&dir, false, &[("base.safetensors", "1")]).unwrap();
    assert_eq!(names(&dir).unwrap(), ["base.safetensors", MANIFEST_FILE]);
    assert_eq!(names(&home.path().join("a/b")).unwrap(), ["model"]);
}

#[test]
fn what_cannot_be_the_place_is_refused_at_the_beginning() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("dir");
    write(&dir, &[("notes.txt", "mine")]);
    let fault = |path: &Path, replace| Place::claim(path, replace).unwrap_err().to_string();
    assert!(fault(&dir, true).contains("holds no model"));
    assert!(fault(&dir, false).contains("with files in it"));
    assert!(fault(&dir.join("notes.txt"), false).contains("got a file"));
    assert!(fault(&dir.join("notes.txt/model"), false).contains("a path through a file"));
    write(&dir, &[(MANIFEST_FILE, "{}")]);
    assert!(fault(&dir, false).contains("a model, which was not to be replaced"));
    assert_eq!(names(&dir).unwrap(), [MANIFEST_FILE, "notes.txt"]);
}

#[test]
fn foreign_files_survive_a_replacement_or_stop_it() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("model");
    let mine = [("README.md", "mine"), ("chat_template.jinja", "mine too")];
    write(&dir, &[("base.safetensors", "old"), ("slice-1.safetensors", "old"), (MANIFEST_FILE, OLD_MANIFEST)]);
    write(&dir, &mine);
    write(&dir.join("kept"), &[("a", "b")]);

    let stopped = put(&dir, true, &[("chat_template.jinja", "new")]).unwrap_err().to_string();
    assert!(stopped.contains("chat_template.jinja"), "{stopped}");
    assert_eq!(read(&dir, MANIFEST_FILE), OLD_MANIFEST);

    put(&dir, true, &[("base.safetensors", "new")]).unwrap();
    let expected = ["README.md", "base.safetensors", "chat_template.jinja", MANIFEST_FILE, "kept"];
    assert_eq!(names(&dir).unwrap(), expected);
    assert_eq!((read(&dir, "base.safetensors"), read(&dir, "README.md")), ("new".into(), "mine".into()));
    assert_eq!((read(&dir, MANIFEST_FILE), read(&dir, "chat_template.jinja")), ("new".into(), "mine too".into()));
}

#[test]
fn a_model_whose_manifest_cannot_be_read_is_replaced_all_the_same() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("model");
    let its_own = ["base.safetensors", "chat_template.jinja", "chat_templates.json"];
    write(&dir, &its_own.map(|name| (name, "old")));
    write(&dir, &[(MANIFEST_FILE, "{cut")]);
    put(&dir, true, &[("base.safetensors", "new"), ("chat_templates.json", "new")]).unwrap();
    assert_eq!(names(&dir).unwrap(), ["base.safetensors", "chat_templates.json", MANIFEST_FILE]);
    assert_eq!((read(&dir, "base.safetensors"), read(&dir, MANIFEST_FILE)), ("new".into(), "new".into()));
}

#[test]
fn a_second_run_for_the_same_place_is_refused_and_the_first_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let (absent, there) = (home.path().join("absent"), home.path().join("there"));
    fs::create_dir(&there).unwrap();
    for dir in [absent, there] {
        let first = Place::claim(&dir, false).unwrap();
        let second = Place::claim(&dir, false).unwrap_err().to_string();
        assert!(second.contains("another run is writing"), "{second}");
        write(&first.model(), &[(MANIFEST_FILE, "first")]);
        first.fill().unwrap();
        assert_eq!(names(&dir).unwrap(), [MANIFEST_FILE]);
        put(&dir, true, &[]).unwrap();
    }
}

#[test]
fn what_a_killed_run_left_is_cleared_and_what_it_took_away_is_put_back() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("model");
    write(&home.path().join(".model.partial/model"), &[("base.safetensors", "half")]);
    put(&dir, false, &[("base.safetensors", "whole")]).unwrap();
    assert_eq!(names(home.path()).unwrap(), ["model"]);
    assert_eq!(read(&dir, "base.safetensors"), "whole");

    // Killed between the moves: the old manifest is away, and one new file is there.
    let holder = dir.join(INNER_HOLDER);
    write(&holder.join("model"), &[(MANIFEST_FILE, "never")]);
    write(&holder.join("old"), &[(MANIFEST_FILE, OLD_MANIFEST), ("base.safetensors", "old")]);
    fs::remove_file(dir.join(MANIFEST_FILE)).unwrap();
    let fault = Place::claim(&dir, false).unwrap_err().to_string();
    assert!(fault.contains("a model, which was not"), "{fault}");
    assert_eq!(names(&dir).unwrap(), ["base.safetensors", MANIFEST_FILE]);
    assert_eq!((read(&dir, MANIFEST_FILE), read(&dir, "base.safetensors")), (OLD_MANIFEST.into(), "old".into()));
}

#[test]
fn a_file_is_not_written_over_a_folder_or_through_a_file() {
    let home = tempfile::tempdir().unwrap();
    write(home.path(), &[("file", "x")]);
    assert!(file_place(home.path()).unwrap_err().to_string().contains("got a folder"));
    assert!(file_place(&home.path().join("file/pack")).is_err());
    assert!(file_place(&home.path().join("a".repeat(300))).unwrap_err().to_string().contains("aaa"));
    if cfg!(unix) {
        assert!(file_place(Path::new("/dev/null")).unwrap_err().to_string().contains("got a device"));
    }
    assert_eq!(file_place(&home.path().join("new/pack")).unwrap(), home.path().join("new/pack"));
    assert_eq!(names(&home.path().join("new")).unwrap(), [""; 0]);
}

#[cfg(unix)]
mod links {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_stays_and_the_folder_is_where_it_leads() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::create_dir(at("disk")).unwrap();
        // To nothing yet, by way of another link, then to a model.
        symlink("disk/model", at("one")).unwrap();
        symlink(at("one"), at("two")).unwrap();
        put(&at("two"), false, &[("base.safetensors", "1")]).unwrap();
        put(&at("two"), true, &[("base.safetensors", "2")]).unwrap();
        put(&PathBuf::from(format!("{}/", at("one").display())), true, &[("base.safetensors", "3")]).unwrap();
        assert!(at("one").is_symlink() && at("two").is_symlink());
        assert_eq!(names(&at("disk")).unwrap(), ["model"]);
        assert_eq!(names(&at("disk/model")).unwrap(), ["base.safetensors", MANIFEST_FILE]);
        assert_eq!(read(&at("disk/model"), "base.safetensors"), "3");

        fs::create_dir(at("empty")).unwrap();
        symlink("empty", at("three")).unwrap();
        put(&at("three"), false, &[]).unwrap();
        assert!(at("three").is_symlink() && at("empty").join(MANIFEST_FILE).is_file());
    }

    #[test]
    fn links_that_lead_nowhere_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        symlink("no/such/folder", at("dangling")).unwrap();
        symlink("circle", at("circle")).unwrap();
        for (name, named) in [("dangling", "whose folder is not there"), ("circle", "in a circle")] {
            let fault = Place::claim(&at(name), true).unwrap_err().to_string();
            assert!(fault.contains(named), "{fault}");
            assert!(file_place(&at(name)).unwrap_err().to_string().contains(named));
        }
    }

    #[test]
    fn a_file_that_is_written_whole_follows_its_link() {
        let home = tempfile::tempdir().unwrap();
        symlink("real", home.path().join("link")).unwrap();
        write_whole(&home.path().join("link"), b"new").unwrap();
        assert!(home.path().join("link").is_symlink());
        assert_eq!(read(home.path(), "real"), "new");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_refused_at_the_beginning() {
        use std::os::unix::fs::PermissionsExt;

        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o500)).unwrap();
        // Whoever may write everywhere is refused nothing.
        if fs::write(home.path().join("probe"), "").is_err() {
            for dir in [home.path().to_path_buf(), home.path().join("model"), home.path().join("a/b")] {
                assert!(matches!(Place::claim(&dir, false), Err(Error::Io { .. })), "{dir:?}");
            }
            assert!(file_place(&home.path().join("pack")).is_err());
        }
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
    }
}
