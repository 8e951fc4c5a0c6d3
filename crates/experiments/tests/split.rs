//! Split files and what a stage may read of them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use experiments::{
    plan::Stage,
    spec::Split,
    split::{Access, AccessError, SplitFile, readable},
    trial::Request,
};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/spec/data").join(name)
}

#[test]
fn choosing_stages_never_see_the_test_split() {
    let file = SplitFile::read(fixture("spiral.split.toml")).unwrap();
    assert_eq!(file.parts(), [Split::Train, Split::Validation, Split::Test]);
    assert!(file.datasets[0].generated);
    for stage in Stage::ALL {
        let access = Access::of_stage(file.clone(), stage);
        let open = access.members("spiral", Split::Test);
        if matches!(stage, Stage::Tune | Stage::Pilot) {
            assert!(!readable(stage).contains(&Split::Test));
            let error = open.unwrap_err();
            assert!(matches!(error, AccessError::Closed { asked: "test", .. }), "{error}");
            assert!(error.to_string().contains("train, validation"));
        } else {
            assert_eq!(open.unwrap().count(), 200);
        }
        assert_eq!(access.members("spiral", Split::Train).unwrap().count(), 1000);
    }
}

#[test]
fn a_request_opens_what_it_names() {
    let request: Request = serde_json::from_value(serde_json::json!({
        "trial_key": "0".repeat(32), "cell": {}, "rep": 0, "seeds": {},
        "budget": {"unit": "steps", "amount": 1.0}, "splits": ["train"],
        "split_file": fixture("spiral.split.toml"), "out_dir": ".", "threads": 1, "device": "cpu",
    }))
    .unwrap();
    let access = Access::of_request(&request).unwrap();
    assert!(access.members("spiral", Split::Train).unwrap().contains(999));
    assert!(access.members("spiral", Split::Validation).is_err());
    let error = access.members("spirla", Split::Train).unwrap_err().to_string();
    assert!(error.contains("did you mean `spiral`"), "{error}");
    let none = Request { split_file: None, ..request };
    assert!(matches!(Access::of_request(&none), Err(AccessError::NoFile)));
}

#[test]
fn index_files_and_data_are_held_against_their_hashes() {
    let folder = tempfile::tempdir().unwrap();
    let hash = experiments::identity::sha256_hex;
    std::fs::write(folder.path().join("rows.txt"), "5\n3\n4\n").unwrap();
    let write = |sha: &str| {
        let text = format!(
            "schema = 1\n[[dataset]]\nname = \"d\"\nsha256 = \"{}\"\n\
             train = {{ file = \"rows.txt\", sha256 = \"{sha}\" }}\n\
             test = {{ indices = [[0, 3]] }}\n",
            hash(b"data")
        );
        let path = folder.path().join("split.toml");
        std::fs::write(&path, text).unwrap();
        SplitFile::read(path)
    };
    let file = write(&hash(b"5\n3\n4\n")).unwrap();
    let access = Access::of_stage(file, Stage::Main);
    let rows: Vec<u64> = access.members("d", Split::Train).unwrap().iter().collect();
    assert_eq!(rows, [3, 4, 5]);
    access.verify("d", b"data").unwrap();
    assert!(matches!(access.verify("d", b"other"), Err(AccessError::Hash { .. })));
    let error = write(&hash(b"something else")).unwrap_err();
    assert_eq!(error.diagnostics()[0].line, 5, "{error}");
    assert!(error.to_string().contains("expected"), "{error}");
}

#[test]
fn overlaps_are_errors() {
    let error = SplitFile::read(fixture("overlap.split.toml")).unwrap_err();
    assert!(error.to_string().contains("row 99 lies in `train`"), "{error}");
}
