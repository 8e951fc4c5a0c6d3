//! PNG files, and animated GIFs of an episode with the switch gate under the picture.

use super::Image;
use super::canvas::{Canvas, Colour, GRID, INK, PAPER};
use crate::error::{Error, Result, ensure};
use crate::file::write_atomic;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

/// Height of the strip that shows the gate, in pixels.
const STRIP: usize = 28;
/// Colour of the gate's bars.
const GATE: Colour = [213, 94, 0];
/// Most frames of an animation.
const MOST_FRAMES: usize = 100_000;

fn encode_error(what: &str, error: impl std::fmt::Display) -> Error {
    Error::argument("image", format!("one that {what} can hold"), error)
}

impl Image {
    /// The picture as a PNG file in memory.
    ///
    /// # Errors
    /// The sizes do not belong together.
    pub fn png(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Rgb);
        let write = |mut encoder: png::Writer<&mut Vec<u8>>| {
            encoder.write_image_data(&self.rgb)?;
            encoder.finish()
        };
        encoder.write_header().and_then(write).map_err(|e| encode_error("PNG", e))?;
        Ok(bytes)
    }

    /// Writes a PNG file, complete or not at all.
    ///
    /// # Errors
    /// The sizes do not belong together, or the system refuses.
    pub fn save_png(&self, path: impl AsRef<Path>) -> Result<()> {
        write_atomic(path.as_ref(), &self.png()?)
    }
}

/// Pictures of an episode, one per step.
///
/// ```
/// use envs::{Animation, Env, Frame, GridConfig, GridPinpad, RenderMode, ResetOptions};
/// let mut world = GridPinpad::new(&GridConfig::default())?;
/// let mut film = Animation::new(200);
/// world.restart(&ResetOptions::default())?;
/// let Frame::Rgb(image) = world.render(RenderMode::RgbArray { px: 16 })? else { unreachable!() };
/// film.push(image, None)?;
/// assert!(film.gif()?.starts_with(b"GIF89a"));
/// # Ok::<(), envs::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Animation {
    delay_ms: u32,
    frames: Vec<Image>,
    gates: Vec<Option<f32>>,
}

impl Animation {
    /// An animation that shows each frame so long (in steps of 10 ms, at least 20).
    pub fn new(delay_ms: u32) -> Self {
        Self { delay_ms, frames: vec![], gates: vec![] }
    }

    /// Adds a frame, with the value of the switch gate (0 to 1) at this step if there is one.
    ///
    /// # Errors
    /// The frame has another size than the first, the gate is not in 0 to 1, or there are too many
    /// frames.
    pub fn push(&mut self, image: Image, gate: Option<f32>) -> Result<()> {
        let first = self.frames.first().unwrap_or(&image);
        let same = (image.width, image.height) == (first.width, first.height);
        let whole = image.rgb.len() == image.width * image.height * 3;
        let size = || format!("{} x {} pixels", first.width, first.height);
        ensure(same && whole, "image", size, format!("{} x {}", image.width, image.height))?;
        let gate_fits = gate.is_none_or(|g| (0.0..=1.0).contains(&g));
        ensure(gate_fits, "gate", || "0 to 1".into(), format!("{gate:?}"))?;
        let room = self.frames.len() < MOST_FRAMES;
        ensure(room, "image", || format!("at most {MOST_FRAMES} frames"), "one more")?;
        self.frames.push(image);
        self.gates.push(gate);
        Ok(())
    }

    /// Number of frames.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// A frame as the animation shows it: with the strip of gates up to then, if any has one.
    fn composed(&self, at: usize) -> Image {
        let image = &self.frames[at];
        if self.gates.iter().all(Option::is_none) {
            return image.clone();
        }
        let mut canvas = Canvas::new(image.width, image.height + STRIP, PAPER);
        canvas.copy(image);
        let (top, bottom) = (image.height as f64 + 3.0, (image.height + STRIP - 2) as f64);
        let width = image.width as f64 / self.frames.len() as f64;
        canvas.rect([0.0, bottom, image.width as f64, bottom + 1.0], GRID);
        for (step, gate) in self.gates.iter().enumerate().take(at + 1) {
            let x = step as f64 * width;
            if let Some(gate) = gate {
                let height = f64::from(*gate) * (bottom - top);
                canvas.rect([x, bottom - height, x + width.max(1.0), bottom], GATE);
            }
        }
        let x = (at as f64 + 0.5) * width;
        canvas.rect([x - 0.5, top, x + 0.5, bottom], INK);
        canvas.finish()
    }

    /// The animation as a GIF file in memory; it repeats for ever.
    ///
    /// # Errors
    /// There is no frame, or a frame is larger than 65535 pixels on a side.
    pub fn gif(&self) -> Result<Vec<u8>> {
        ensure(!self.is_empty(), "frames", || "at least 1".into(), 0)?;
        let frames: Vec<Image> = (0..self.len()).map(|at| self.composed(at)).collect();
        let palette = Palette::of(&frames);
        let side = |n: usize| u16::try_from(n).map_err(|e| encode_error("GIF", e));
        let (width, height) = (side(frames[0].width)?, side(frames[0].height)?);
        let mut bytes = Vec::new();
        let mut write = || -> Result<(), gif::EncodingError> {
            let mut encoder = gif::Encoder::new(&mut bytes, width, height, &palette.bytes())?;
            encoder.set_repeat(gif::Repeat::Infinite)?;
            let mut before: Option<Vec<u8>> = None;
            for image in &frames {
                let now = palette.indices(image);
                let mut frame = changed(before.as_deref(), &now, width, height);
                frame.delay = u16::try_from(self.delay_ms / 10).unwrap_or(u16::MAX).max(2);
                encoder.write_frame(&frame)?;
                before = Some(now);
            }
            Ok(())
        };
        write().map_err(|e| encode_error("GIF", e))?;
        Ok(bytes)
    }

    /// Writes a GIF file, complete or not at all.
    ///
    /// # Errors
    /// As [`gif`](Self::gif), or the system refuses.
    pub fn save_gif(&self, path: impl AsRef<Path>) -> Result<()> {
        write_atomic(path.as_ref(), &self.gif()?)
    }
}

/// The smallest rectangle that holds all pixels that have changed.
fn changed(before: Option<&[u8]>, now: &[u8], width: u16, height: u16) -> gif::Frame<'static> {
    let (w, h) = (usize::from(width), usize::from(height));
    let (mut x0, mut y0, mut x1, mut y1) = (0, 0, w, h);
    if let Some(before) = before {
        let differs = |x: usize, y: usize| before[y * w + x] != now[y * w + x];
        let row = |y: &usize| (0..w).any(|x| differs(x, *y));
        let col = |x: &usize| (0..h).any(|y| differs(*x, y));
        (y0, y1) = ((0..h).find(row).unwrap_or(0), (0..h).rfind(row).map_or(1, |y| y + 1));
        (x0, x1) = ((0..w).find(col).unwrap_or(0), (0..w).rfind(col).map_or(1, |x| x + 1));
    }
    let buffer: Vec<u8> =
        (y0..y1).flat_map(|y| now[y * w + x0..y * w + x1].iter().copied()).collect();
    gif::Frame {
        left: x0 as u16,
        top: y0 as u16,
        width: (x1 - x0) as u16,
        height: (y1 - y0) as u16,
        buffer: buffer.into(),
        dispose: gif::DisposalMethod::Keep,
        ..gif::Frame::default()
    }
}

/// At most 256 colours: exactly those of the pictures, or, if there are more, three bits of red and
/// green and two of blue.
struct Palette {
    index: BTreeMap<Colour, u8>,
    exact: bool,
}

impl Palette {
    fn of(frames: &[Image]) -> Self {
        let mut index = BTreeMap::new();
        for pixel in frames.iter().flat_map(|f| f.rgb.chunks_exact(3)) {
            let colour = [pixel[0], pixel[1], pixel[2]];
            let next = u8::try_from(index.len());
            if let Entry::Vacant(slot) = index.entry(colour) {
                let Ok(next) = next else {
                    return Self { index: BTreeMap::new(), exact: false };
                };
                slot.insert(next);
            }
        }
        Self { index, exact: true }
    }

    fn bytes(&self) -> Vec<u8> {
        if !self.exact {
            let level = |x: usize, most: usize| (x * 255 / most) as u8;
            return (0..256)
                .flat_map(|i| [level(i >> 5, 7), level(i >> 2 & 7, 7), level(i & 3, 3)])
                .collect();
        }
        let mut colours: Vec<(&Colour, &u8)> = self.index.iter().collect();
        colours.sort_by_key(|(_, at)| **at);
        colours.into_iter().flat_map(|(colour, _)| *colour).collect()
    }

    fn indices(&self, image: &Image) -> Vec<u8> {
        let one = |p: &[u8]| {
            if self.exact {
                self.index.get(&[p[0], p[1], p[2]]).copied().unwrap_or(0)
            } else {
                p[0] & 0xe0 | p[1] >> 3 & 0x1c | p[2] >> 6
            }
        };
        image.rgb.chunks_exact(3).map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(colour: Colour) -> Image {
        Canvas::new(6, 4, colour).finish()
    }

    /// All frames of a GIF, composed.
    fn decode(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut options = gif::DecodeOptions::new();
        options.set_color_output(gif::ColorOutput::RGBA);
        let mut decoder = options.read_info(bytes).unwrap();
        let (width, height) = (usize::from(decoder.width()), usize::from(decoder.height()));
        let mut screen = vec![0; width * height * 3];
        let mut out = vec![];
        while let Some(frame) = decoder.read_next_frame().unwrap() {
            for (k, pixel) in frame.buffer.chunks(4).enumerate() {
                let x = usize::from(frame.left) + k % usize::from(frame.width);
                let y = usize::from(frame.top) + k / usize::from(frame.width);
                let at = (y * width + x) * 3;
                screen[at..at + 3].copy_from_slice(&pixel[..3]);
            }
            out.push(screen.clone());
        }
        out
    }

    #[test]
    fn a_gif_comes_back_frame_by_frame() {
        let mut spot = flat(PAPER);
        spot.rgb[3 * 8..3 * 9].copy_from_slice(&INK);
        let frames = [flat(PAPER), spot.clone(), spot, flat(GRID)];
        let mut film = Animation::new(100);
        for frame in &frames {
            film.push(frame.clone(), None).unwrap();
        }
        let back = decode(&film.gif().unwrap());
        assert!(frames.iter().map(|f| &f.rgb).eq(&back));
    }

    #[test]
    fn the_gate_is_drawn_under_the_picture() {
        let mut film = Animation::new(100);
        film.push(flat(PAPER), Some(1.0)).unwrap();
        film.push(flat(PAPER), None).unwrap();
        let back = decode(&film.gif().unwrap());
        assert_eq!(back[0].len(), 6 * (4 + STRIP) * 3);
        assert!(back[1].chunks(3).any(|p| p == GATE));
        assert!(film.push(flat(PAPER), Some(1.5)).is_err());
        assert!(film.push(Canvas::new(5, 4, INK).finish(), None).is_err());
    }

    #[test]
    fn a_png_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.png");
        let image = flat(GATE);
        image.save_png(&path).unwrap();
        let file = std::io::BufReader::new(std::fs::File::open(&path).unwrap());
        let mut reader = png::Decoder::new(file).read_info().unwrap();
        let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut rgb).unwrap();
        assert_eq!(rgb, image.rgb);
        let broken = Image { width: 7, ..image };
        assert!(broken.png().is_err());
    }

    #[test]
    fn more_than_256_colours_are_rounded() {
        let mut image = Canvas::new(32, 32, PAPER).finish();
        for (k, pixel) in image.rgb.chunks_mut(3).enumerate() {
            pixel.copy_from_slice(&[(k % 256) as u8, (k / 4) as u8, 17]);
        }
        let mut film = Animation::new(0);
        film.push(image.clone(), None).unwrap();
        let back = decode(&film.gif().unwrap());
        let worst = image.rgb.iter().zip(&back[0]).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(worst.is_some_and(|w| w <= 64), "{worst:?}");
        assert!(Animation::new(1).gif().is_err());
    }
}
