//! A small software canvas: rectangles, discs, thick lines, digits.

use super::Image;

/// Red, green, blue.
pub(crate) type Colour = [u8; 3];

pub(crate) const PAPER: Colour = [250, 248, 243];
pub(crate) const GRID: Colour = [221, 216, 206];
pub(crate) const WALL: Colour = [84, 84, 88];
pub(crate) const INK: Colour = [28, 28, 32];
pub(crate) const BODY: Colour = [120, 94, 62];

/// Colours of the pads, told apart by hue and lightness (Okabe and Ito's set, then repeated).
const PADS: [Colour; 8] = [
    [230, 159, 0],
    [86, 180, 233],
    [0, 158, 115],
    [240, 228, 66],
    [0, 114, 178],
    [213, 94, 0],
    [204, 121, 167],
    [150, 150, 150],
];

/// Three by five dots per digit, rows from the top, three bits each.
const DIGITS: [[u8; 5]; 10] = [
    [7, 5, 5, 5, 7],
    [2, 6, 2, 2, 7],
    [7, 1, 7, 4, 7],
    [7, 1, 7, 1, 7],
    [5, 5, 7, 1, 1],
    [7, 4, 7, 1, 7],
    [7, 4, 7, 5, 7],
    [7, 1, 2, 2, 2],
    [7, 5, 7, 5, 7],
    [7, 5, 7, 1, 7],
];

pub(crate) fn pad_colour(pad: u8) -> Colour {
    PADS[usize::from(pad) % PADS.len()]
}

/// An image that is drawn on; coordinates in pixels from the top left corner.
pub(crate) struct Canvas {
    image: Image,
}

impl Canvas {
    pub(crate) fn new(width: usize, height: usize, colour: Colour) -> Self {
        let rgb = colour.repeat(width * height);
        Self { image: Image { width, height, rgb } }
    }

    pub(crate) fn finish(self) -> Image {
        self.image
    }

    /// Puts a picture into the top left corner, cut off where it does not fit.
    pub(crate) fn copy(&mut self, image: &Image) {
        let width = image.width.min(self.image.width) * 3;
        let to = self.image.rgb.chunks_exact_mut(self.image.width * 3);
        for (to, from) in to.zip(image.rgb.chunks_exact(image.width * 3)) {
            to[..width].copy_from_slice(&from[..width]);
        }
    }

    fn put(&mut self, x: usize, y: usize, colour: Colour) {
        let at = (y * self.image.width + x) * 3;
        self.image.rgb[at..at + 3].copy_from_slice(&colour);
    }

    /// Paints every pixel of a box for whose centre `inside` holds.
    fn paint(&mut self, bounds: [f64; 4], colour: Colour, inside: impl Fn(f64, f64) -> bool) {
        let clip = |v: f64, most: usize| v.clamp(0.0, most as f64) as usize;
        let (width, height) = (self.image.width, self.image.height);
        for y in clip(bounds[1].floor(), height)..clip(bounds[3].ceil(), height) {
            for x in clip(bounds[0].floor(), width)..clip(bounds[2].ceil(), width) {
                if inside(x as f64 + 0.5, y as f64 + 0.5) {
                    self.put(x, y, colour);
                }
            }
        }
    }

    /// The rectangle from `(x0, y0)` to `(x1, y1)`.
    pub(crate) fn rect(&mut self, [x0, y0, x1, y1]: [f64; 4], colour: Colour) {
        self.paint([x0, y0, x1, y1], colour, |x, y| x >= x0 && x < x1 && y >= y0 && y < y1);
    }

    pub(crate) fn disc(&mut self, [cx, cy]: [f64; 2], radius: f64, colour: Colour) {
        let bounds = [cx - radius, cy - radius, cx + radius, cy + radius];
        self.paint(bounds, colour, |x, y| (x - cx).hypot(y - cy) <= radius);
    }

    /// A line with round ends.
    pub(crate) fn line(&mut self, a: [f64; 2], b: [f64; 2], radius: f64, colour: Colour) {
        let bounds = [
            a[0].min(b[0]) - radius,
            a[1].min(b[1]) - radius,
            a[0].max(b[0]) + radius,
            a[1].max(b[1]) + radius,
        ];
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        let square = (dx * dx + dy * dy).max(f64::MIN_POSITIVE);
        self.paint(bounds, colour, |x, y| {
            let t = (((x - a[0]) * dx + (y - a[1]) * dy) / square).clamp(0.0, 1.0);
            (x - a[0] - t * dx).hypot(y - a[1] - t * dy) <= radius
        });
    }

    /// A number, centred; `dot` is the side of one of its dots.
    pub(crate) fn number(&mut self, value: u8, [cx, cy]: [f64; 2], dot: f64, colour: Colour) {
        let text = value.to_string();
        let left = cx - dot * (text.len() as f64 * 4.0 - 1.0) / 2.0;
        for (k, byte) in text.bytes().enumerate() {
            let x = left + dot * 4.0 * k as f64;
            self.digit(usize::from(byte - b'0'), [x, cy - 2.5 * dot], dot, colour);
        }
    }

    fn digit(&mut self, digit: usize, [x, y]: [f64; 2], dot: f64, colour: Colour) {
        for (row, bits) in DIGITS[digit].iter().enumerate() {
            for col in 0..3_u8 {
                if bits >> (2 - col) & 1 == 1 {
                    let (x, y) = (x + dot * f64::from(col), y + dot * row as f64);
                    self.rect([x, y, x + dot, y + dot], colour);
                }
            }
        }
    }
}

/// Cells, pads with their numbers and walls of a square arena; `flip` puts row 0 at the bottom.
pub(crate) fn board(grid: usize, px: usize, pads: &[u16], walls: &[u16], flip: bool) -> Canvas {
    let side = px as f64;
    let mut canvas = Canvas::new(grid * px, grid * px, PAPER);
    let corner = |cell: u16| {
        let (row, col) = (usize::from(cell) / grid, usize::from(cell) % grid);
        let row = if flip { grid - 1 - row } else { row };
        [col as f64 * side, row as f64 * side]
    };
    for (pad, cell) in pads.iter().enumerate() {
        let [x, y] = corner(*cell);
        canvas.rect([x, y, x + side, y + side], pad_colour(pad as u8));
        canvas.number(pad as u8, [x + side / 2.0, y + side / 2.0], (side / 12.0).max(1.0), INK);
    }
    for cell in walls {
        let [x, y] = corner(*cell);
        canvas.rect([x, y, x + side, y + side], WALL);
    }
    for line in 1..grid {
        let (at, end) = (line as f64 * side, grid as f64 * side);
        canvas.rect([at, 0.0, at + 1.0, end], GRID);
        canvas.rect([0.0, at, end, at + 1.0], GRID);
    }
    canvas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_outside_is_cut_off() {
        let mut canvas = Canvas::new(4, 3, PAPER);
        canvas.disc([-5.0, 1.0], 2.0, INK);
        canvas.line([-9.0, 1.5], [99.0, 1.5], 0.5, INK);
        canvas.rect([f64::NAN, 0.0, 1.0, 1.0], INK);
        let image = canvas.finish();
        let dark: Vec<bool> = image.rgb.chunks(3).map(|p| p == INK).collect();
        assert_eq!(dark, [[false; 4], [true; 4], [false; 4]].concat());
    }
}
