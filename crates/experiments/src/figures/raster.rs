//! PNG from the SVG, and files on disk.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use resvg::{tiny_skia, usvg};

use super::{Figure, FigureError, Result, text};

/// A file format to save.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Format {
    /// The drawing itself.
    Svg,
    /// A bitmap; scale 1 is 96 dots per inch, 3 suits print.
    Png {
        /// Pixels per CSS pixel, above 0 and at most 16.
        scale: f32,
    },
}

/// Pixels that a bitmap may have; bounds memory at 256 MiB.
const MOST_PIXELS: f64 = 64.0 * 1024.0 * 1024.0;

impl Figure {
    /// The figure as PNG bytes, drawn from the SVG with the embedded font.
    ///
    /// # Errors
    /// [`FigureError::Invalid`] for a scale outside (0, 16] or a bitmap of more than 64 Mi pixels,
    /// [`FigureError::Render`] when the renderer refuses.
    pub fn png(&self, scale: f32) -> Result<Vec<u8>> {
        let render = |why: String| FigureError::Render { name: self.name.clone(), why };
        if !(scale > 0.0 && scale <= 16.0) {
            return Err(super::invalid("scale", "a number above 0 and at most 16", scale));
        }
        let options = usvg::Options {
            font_family: "Liberation Sans".to_owned(),
            fontdb: fonts(),
            ..usvg::Options::default()
        };
        let tree = usvg::Tree::from_str(&self.svg, &options).map_err(|e| render(e.to_string()))?;
        let (w, h) = (tree.size().width() * scale, tree.size().height() * scale);
        if f64::from(w) * f64::from(h) > MOST_PIXELS {
            return Err(super::invalid(
                "scale",
                format!("a bitmap of at most {MOST_PIXELS} pixels"),
                format!("{w:.0} x {h:.0}"),
            ));
        }
        let (w, h) = (w.ceil().max(1.0) as u32, h.ceil().max(1.0) as u32);
        let mut pixels = tiny_skia::Pixmap::new(w, h)
            .ok_or_else(|| render(format!("no bitmap of {w} x {h} pixels")))?;
        pixels.fill(tiny_skia::Color::WHITE);
        resvg::render(&tree, tiny_skia::Transform::from_scale(scale, scale), &mut pixels.as_mut());
        pixels.encode_png().map_err(|e| render(e.to_string()))
    }

    /// Writes `<name>.json` (the side file) and `<name>` in each of `formats` into `dir`.
    ///
    /// Each file appears whole or not at all: it is written beside its place, synced and renamed.
    /// Returns the paths, side file last.
    ///
    /// # Errors
    /// As [`Figure::png`], and [`FigureError::Io`] with the path. What was there before stays.
    pub fn save(&self, dir: &Path, formats: &[Format]) -> Result<Vec<PathBuf>> {
        fs::create_dir_all(dir)
            .map_err(|source| FigureError::Io { path: dir.to_owned(), source })?;
        // Everything is rendered before anything is written.
        let mut files = Vec::with_capacity(formats.len() + 1);
        for format in formats {
            files.push(match format {
                Format::Svg => ("svg", self.svg.clone().into_bytes()),
                Format::Png { scale } => ("png", self.png(*scale)?),
            });
        }
        files.push(("json", format!("{:#}\n", self.data).into_bytes()));
        files
            .into_iter()
            .map(|(extension, bytes)| {
                let path = dir.join(format!("{}.{extension}", self.name));
                write_whole(&path, &bytes)
                    .map_err(|source| FigureError::Io { path: path.clone(), source })?;
                Ok(path)
            })
            .collect()
    }
}

/// A font database with the embedded font only: bitmaps do not depend on the machine.
fn fonts() -> Arc<usvg::fontdb::Database> {
    static FONTS: OnceLock<Arc<usvg::fontdb::Database>> = OnceLock::new();
    let fonts = FONTS.get_or_init(|| {
        let mut db = usvg::fontdb::Database::new();
        db.load_font_data(text::FONT.to_vec());
        db.set_sans_serif_family("Liberation Sans");
        Arc::new(db)
    });
    Arc::clone(fonts)
}

fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = fs::File::create(&part)
        .and_then(|mut f| f.write_all(bytes).and_then(|()| f.sync_all()))
        .and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        // The half-written file is ours; failing to remove it changes nothing for the caller.
        let _ = fs::remove_file(&part);
    }
    written
}
