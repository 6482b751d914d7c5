//! From a picture to the pixels that the model reads: 8-bit RGB, rows of a square, as open_clip makes them with Pillow.
//!
//! Resizing is Pillow's BICUBIC: Catmull-Rom (a = -0.5), stretched to the scale when it shrinks (antialiasing), first
//! along the rows, then along the columns, rounded and clipped to 8 bits after each. `fast_image_resize` has the same
//! filter but starts with the columns, which clips elsewhere; so each direction is a call of its own. As in Pillow from
//! version 13 on, the columns come first where the height loses more than twice the pixels that the width loses, as in
//! very tall pictures (up to version 12 they never do).
//!
//! The pixels go through `fast_image_resize` as 16-bit numbers: its weights for those have 32 bits, more than Pillow's,
//! where those for bytes have 16, which rounds otherwise in each direction and adds up. What is left are values so near
//! to a half that Pillow's own weights decide: they differ by 1, and by 2 where that happens in both directions.

use std::cell::RefCell;

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U16x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::RgbImage;

use crate::error::{Error, Result};
use crate::rng::{Rng, below, unit};

/// Bytes of one transformed image: `size` x `size` pixels of 3 bytes.
pub fn bytes(size: usize) -> usize {
    3 * size * size
}

/// The transform of evaluation: the shorter edge to `size`, then the `size` x `size` pixels in the middle. An image of
/// that size already is copied as it is.
///
/// `out`: [size, size, 3], height, width, RGB. Fails when the image has no pixels. Panics when `out` has another
/// length.
pub fn evaluation(image: &RgbImage, size: usize, out: &mut [u8]) -> Result<()> {
    evaluation_of(image, image.dimensions(), size, out)
}

/// The same for an image that was squeezed from a picture of another `shape` (width, height): what it would give of the picture,
/// but for what squeezing has lost.
pub fn evaluation_of(image: &RgbImage, shape: (u32, u32), size: usize, out: &mut [u8]) -> Result<()> {
    let (width, height) = dimensions(image)?;
    let (of_width, of_height) = (shape.0 as usize, shape.1 as usize);
    let shorter = of_width.min(of_height);
    // torchvision's integers: the longer edge is rounded down, half a pixel of margin to the even side.
    let axis = |edge: usize, of_edge: usize| {
        let resized = size * of_edge / shorter;
        let margin = ((resized - size) as f64 / 2.0).round_ties_even();
        let scale = edge as f64 / resized as f64;
        match resized == size {
            true => Axis::whole(edge, size),
            false => Axis { edge, resized, start: margin * scale, len: size as f64 * scale },
        }
    };
    resize(image.as_raw(), axis(width, of_width), axis(height, of_height), size, out)
}

/// The transform of training, torchvision's RandomResizedCrop without a flip: a box whose area is `scale.0` to
/// `scale.1` of the image's and whose width is 3/4 to 4/3 of its height, somewhere in the image, is resized to `size` x
/// `size`.
///
/// `out`: [size, size, 3], height, width, RGB. Fails when the image has no pixels. Panics when `out` has another
/// length.
pub fn training(image: &RgbImage, size: usize, scale: (f64, f64), rng: &mut Rng, out: &mut [u8]) -> Result<()> {
    let (width, height) = dimensions(image)?;
    crop_and_resize(image, crop_box(width, height, scale, rng), size, out)
}

/// The same for an image that was squeezed from a picture of another `shape` (width, height): the box that the generator would draw
/// in the picture.
pub fn training_of(
    image: &RgbImage,
    shape: (u32, u32),
    size: usize,
    scale: (f64, f64),
    rng: &mut Rng,
    out: &mut [u8],
) -> Result<()> {
    if shape == image.dimensions() {
        return training(image, size, scale, rng, out);
    }
    let (width, height) = dimensions(image)?;
    let (of_width, of_height) = (shape.0 as usize, shape.1 as usize);
    let cut = crop_box(of_width, of_height, scale, rng);
    let axis = |edge: usize, of_edge: usize, start: usize, len: usize| {
        let scale = edge as f64 / of_edge as f64;
        let start = start as f64 * scale;
        let resized = (size * of_edge).div_ceil(len);
        Axis { edge, resized, start, len: (len as f64 * scale).min(edge as f64 - start) }
    };
    let x = axis(width, of_width, cut.left, cut.width);
    let y = axis(height, of_height, cut.top, cut.height);
    resize(image.as_raw(), x, y, size, out)
}

/// The whole image, squeezed to a square of `size` x `size` pixels.
///
/// `out`: [size, size, 3], height, width, RGB. Fails when the image has no pixels. Panics when `out` has another
/// length.
pub fn squeeze(image: &RgbImage, size: usize, out: &mut [u8]) -> Result<()> {
    let (width, height) = dimensions(image)?;
    resize(image.as_raw(), Axis::whole(width, size), Axis::whole(height, size), size, out)
}

/// A squeezed image in its former `shape` (width, height), with about as many pixels as it has.
pub fn unsqueeze(image: RgbImage, shape: (u32, u32)) -> Result<RgbImage> {
    let (width, height) = dimensions(&image)?;
    let (of_width, of_height) = (f64::from(shape.0), f64::from(shape.1));
    if shape.0 == shape.1 {
        return Ok(image);
    }
    let pixels = (width * height) as f64;
    let edge = |ratio: f64| ((pixels * ratio).sqrt().round() as usize).max(1);
    let (to_width, to_height) = (edge(of_width / of_height), edge(of_height / of_width));
    let mut out = RgbImage::new(to_width as u32, to_height as u32);
    // What shrinks comes first, so that what lies between is no larger than both.
    let between = if to_width > width { (width, to_height) } else { (to_width, height) };
    with_scratch(|scratch| {
        scratch.load(image.as_raw());
        for (from, to) in [((width, height), between), (between, (to_width, to_height))] {
            scratch.pass(from, [0.0, 0.0, from.0 as f64, from.1 as f64], to)?;
        }
        scratch.save(&mut out);
        Ok::<(), Error>(())
    })?;
    Ok(out)
}

/// A box of whole pixels inside an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CropBox {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

/// torchvision's choice of a box: ten tries with a uniform area and a log-uniform aspect ratio; where none fits, the
/// largest box in the middle whose aspect ratio is allowed.
fn crop_box(width: usize, height: usize, scale: (f64, f64), rng: &mut Rng) -> CropBox {
    const NARROWEST: f64 = 3.0 / 4.0;
    const WIDEST: f64 = 4.0 / 3.0;
    let area = (width * height) as f64;
    // libm: the same bits on every platform.
    let (low, high) = (libm::log(NARROWEST), libm::log(WIDEST));
    for _ in 0..10 {
        let area = area * (scale.0 + (scale.1 - scale.0) * unit(rng));
        let aspect = libm::exp(low + (high - low) * unit(rng));
        let (w, h) = ((area * aspect).sqrt().round_ties_even(), (area / aspect).sqrt().round_ties_even());
        if w >= 1.0 && w <= width as f64 && h >= 1.0 && h <= height as f64 {
            let (w, h) = (w as usize, h as usize);
            let top = below(rng, (height - h + 1) as u64) as usize;
            let left = below(rng, (width - w + 1) as u64) as usize;
            return CropBox { top, left, height: h, width: w };
        }
    }
    let aspect = width as f64 / height as f64;
    let (w, h) = if aspect < NARROWEST {
        (width, (width as f64 / NARROWEST).round_ties_even() as usize)
    } else if aspect > WIDEST {
        ((height as f64 * WIDEST).round_ties_even() as usize, height)
    } else {
        (width, height)
    };
    CropBox { top: (height - h) / 2, left: (width - w) / 2, height: h, width: w }
}

/// Resizes what lies in the box as if there were nothing around it.
fn crop_and_resize(image: &RgbImage, cut: CropBox, size: usize, out: &mut [u8]) -> Result<()> {
    let CropBox { top, left, height, width } = cut;
    let stride = 3 * image.width() as usize;
    let pixels = image.as_raw();
    // Rows of the image's whole width need no copy.
    if width == image.width() as usize {
        let rows = &pixels[top * stride..(top + height) * stride];
        return resize(rows, Axis::whole(width, size), Axis::whole(height, size), size, out);
    }
    with_scratch(|scratch| {
        let mut inside = std::mem::take(&mut scratch.cut);
        inside.clear();
        for row in pixels.chunks_exact(stride).skip(top).take(height) {
            inside.extend_from_slice(&row[3 * left..3 * (left + width)]);
        }
        let done = resize_with(scratch, &inside, Axis::whole(width, size), Axis::whole(height, size), size, out);
        scratch.cut = inside;
        done
    })
}

fn dimensions(image: &RgbImage) -> Result<(usize, usize)> {
    let (width, height) = image.dimensions();
    if width == 0 || height == 0 {
        return Err(Error::input(format!("the image has no pixels ({width} x {height})")));
    }
    Ok((width as usize, height as usize))
}

/// The stretch of a source edge that the output shows, in source pixels. The filter looks beyond it where there is more
/// image.
#[derive(Clone, Copy)]
struct Axis {
    /// All of the source edge, and what it would become if all of it were shown.
    edge: usize,
    resized: usize,
    start: f64,
    len: f64,
}

impl Axis {
    fn whole(edge: usize, size: usize) -> Axis {
        Axis { edge, resized: size, start: 0.0, len: edge as f64 }
    }

    /// Pixels that the edge loses.
    fn lost(&self) -> isize {
        self.edge as isize - self.resized as isize
    }
}

/// Buffers that a thread keeps from image to image.
#[derive(Default)]
struct Scratch {
    resizer: Resizer,
    /// The inside of a crop box.
    cut: Vec<u8>,
    /// The image, from one pass to the next, and what the next makes of it.
    picture: Vec<u16>,
    result: Vec<u16>,
}

/// Bytes of a buffer that are kept for the next image, at most: enough for five million pixels, which most pictures have not.
const MOST_KEPT: usize = 32 << 20;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Lends this thread's buffers. What one picture of uncommon size has made of them is given back.
fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(|scratch| {
        let done = work(scratch);
        scratch.give_back();
        done
    })
}

fn resize(pixels: &[u8], x: Axis, y: Axis, size: usize, out: &mut [u8]) -> Result<()> {
    with_scratch(|scratch| resize_with(scratch, pixels, x, y, size, out))
}

/// Bicubic, one direction after the other: `pixels` [y.edge, x.edge, 3] to `out` [size, size, 3].
fn resize_with(scratch: &mut Scratch, pixels: &[u8], x: Axis, y: Axis, size: usize, out: &mut [u8]) -> Result<()> {
    assert_eq!(out.len(), bytes(size), "the output holds {size} x {size} pixels of 3 bytes");
    let (width, height) = (x.edge, y.edge);
    if y.lost() > 0 && y.lost() > 2 * x.lost() {
        scratch.load(pixels);
        scratch.pass((width, height), [0.0, y.start, width as f64, y.len], (width, size))?;
        scratch.pass((width, size), [x.start, 0.0, x.len, size as f64], (size, size))?;
    } else {
        // The rows that some output row reads: the filter reaches two pixels of the coarser grid to each side. One more
        // for rounding.
        let reach = 2.0 * (y.len / size as f64).max(1.0) + 1.0;
        let first = (y.start - reach).floor().max(0.0) as usize;
        let last = ((y.start + y.len + reach).ceil() as usize).min(height);
        let rows = last - first;
        scratch.load(&pixels[3 * width * first..3 * width * last]);
        scratch.pass((width, rows), [x.start, 0.0, x.len, rows as f64], (size, rows))?;
        scratch.pass((size, rows), [0.0, y.start - first as f64, size as f64, y.len], (size, size))?;
    }
    scratch.save(out);
    Ok(())
}

impl Scratch {
    fn give_back(&mut self) {
        if self.cut.capacity() > MOST_KEPT {
            self.cut = Vec::new();
        }
        for buffer in [&mut self.picture, &mut self.result] {
            if size_of::<u16>() * buffer.capacity() > MOST_KEPT {
                *buffer = Vec::new();
            }
        }
        if self.resizer.size_of_internal_buffers() > MOST_KEPT {
            self.resizer.reset_internal_buffers();
        }
    }

    fn load(&mut self, pixels: &[u8]) {
        self.picture.clear();
        self.picture.extend(pixels.iter().map(|value| u16::from(*value)));
    }

    fn save(&self, pixels: &mut [u8]) {
        pixels.iter_mut().zip(&self.picture).for_each(|(pixel, value)| *pixel = *value as u8);
    }

    /// One direction: the box (left, top, width, height) of the picture, whose width and height are `from`, becomes the
    /// picture, of the size `to`, clipped to 8 bits.
    fn pass(&mut self, from: (usize, usize), [left, top, width, height]: [f64; 4], to: (usize, usize)) -> Result<()> {
        if from == to && [left, top] == [0.0, 0.0] && [width, height] == [to.0 as f64, to.1 as f64] {
            return Ok(());
        }
        let failed = |cause: String| Error::run(format!("cannot resize the image: {cause}"));
        self.result.resize(3 * to.0 * to.1, 0);
        let source = bytemuck::cast_slice(&self.picture);
        let source = TypedImageRef::<U16x3>::from_buffer(from.0 as u32, from.1 as u32, source)
            .map_err(|cause| failed(cause.to_string()))?;
        let target = bytemuck::cast_slice_mut(&mut self.result);
        let mut target = TypedImage::<U16x3>::from_buffer(to.0 as u32, to.1 as u32, target)
            .map_err(|cause| failed(cause.to_string()))?;
        let algorithm = ResizeAlg::Convolution(FilterType::CatmullRom);
        let options = ResizeOptions::new().resize_alg(algorithm).crop(left, top, width, height);
        self.resizer.resize_typed(&source, &mut target, &options).map_err(|cause| failed(cause.to_string()))?;
        self.result.iter_mut().for_each(|value| *value = (*value).min(255));
        std::mem::swap(&mut self.picture, &mut self.result);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::rng::rng;

    /// What Pillow and torchvision make of small images; `make_pillow.py` beside it writes it.
    const PILLOW: &str = include_str!("../../tests/fixtures/pillow/resize.json");

    fn fixture() -> Value {
        serde_json::from_str(PILLOW).unwrap()
    }

    fn number(value: &Value) -> usize {
        value.as_u64().unwrap() as usize
    }

    fn pixels(value: &Value) -> Vec<u8> {
        value.as_array().unwrap().iter().map(|value| number(value) as u8).collect()
    }

    fn picture(value: &Value) -> RgbImage {
        let (width, height) = (number(&value["width"]) as u32, number(&value["height"]) as u32);
        RgbImage::from_raw(width, height, pixels(&value["pixels"])).unwrap()
    }

    fn noise(width: u32, height: u32, seed: u64) -> RgbImage {
        let mut rng = rng(seed, "noise", &[]);
        RgbImage::from_fn(width, height, |_, _| image::Rgb(std::array::from_fn(|_| below(&mut rng, 256) as u8)))
    }

    fn largest_difference(a: &[u8], b: &[u8]) -> u8 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    }

    fn evaluated(image: &RgbImage, size: usize) -> Vec<u8> {
        let mut out = vec![0; bytes(size)];
        evaluation(image, size, &mut out).unwrap();
        out
    }

    #[test]
    fn evaluation_agrees_with_pillow() {
        for case in fixture()["evaluation"].as_array().unwrap() {
            let size = number(&case["size"]);
            let difference = largest_difference(&evaluated(&picture(case), size), &pixels(&case["expected"]));
            assert!(difference <= 1, "{} x {} to {size}: {difference}/255", case["width"], case["height"]);
        }
    }

    #[test]
    fn crop_agrees_with_torchvision() {
        let fixture = &fixture()["crop"];
        let (image, size) = (picture(fixture), number(&fixture["size"]));
        for case in fixture["cases"].as_array().unwrap() {
            let [top, left, height, width] = std::array::from_fn(|edge| number(&case["box"][edge]));
            let mut out = vec![0; bytes(size)];
            crop_and_resize(&image, CropBox { top, left, height, width }, size, &mut out).unwrap();
            let difference = largest_difference(&out, &pixels(&case["expected"]));
            assert!(difference <= 1, "box {}: {difference}/255", case["box"]);
        }
    }

    #[test]
    fn fallback_box_is_torchvisions() {
        for case in fixture()["fallback"].as_array().unwrap() {
            let [top, left, height, width] = std::array::from_fn(|edge| number(&case["box"][edge]));
            let (image_width, image_height) = (number(&case["width"]), number(&case["height"]));
            // Boxes of four times the image never fit.
            let found = crop_box(image_width, image_height, (4.0, 4.0), &mut rng(0, "crop", &[]));
            assert_eq!(found, CropBox { top, left, height, width }, "{image_width} x {image_height}");
        }
    }

    #[test]
    fn image_of_the_right_size_is_copied() {
        let image = noise(32, 32, 1);
        assert_eq!(evaluated(&image, 32), *image.as_raw());
    }

    #[test]
    fn constant_image_stays_constant() {
        let image = RgbImage::from_pixel(37, 19, image::Rgb([0, 130, 255]));
        let mut out = vec![0; bytes(24)];
        training(&image, 24, (0.5, 1.0), &mut rng(3, "crop", &[]), &mut out).unwrap();
        for pixels in [out, evaluated(&image, 24), evaluated(&image, 8)] {
            assert!(pixels.chunks(3).all(|pixel| pixel == [0, 130, 255]));
        }
    }

    #[test]
    fn crop_sees_nothing_outside_its_box() {
        let image = noise(30, 20, 2);
        let cut = CropBox { top: 3, left: 5, height: 12, width: 17 };
        let inside = image::imageops::crop_imm(&image, 5, 3, 17, 12).to_image();
        let (mut of_box, mut of_copy) = (vec![0; bytes(9)], vec![0; bytes(9)]);
        crop_and_resize(&image, cut, 9, &mut of_box).unwrap();
        crop_and_resize(&inside, CropBox { top: 0, left: 0, ..cut }, 9, &mut of_copy).unwrap();
        assert_eq!(of_box, of_copy);
    }

    #[test]
    fn boxes_keep_to_scale_and_aspect() {
        let mut rng = rng(5, "crop", &[]);
        let mut areas = Vec::new();
        for _ in 0..2000 {
            let CropBox { top, left, height, width } = crop_box(400, 300, (0.2, 0.6), &mut rng);
            assert!(top + height <= 300 && left + width <= 400);
            let (area, aspect) = ((width * height) as f64 / 120_000.0, width as f64 / height as f64);
            // Edges of at least 134 pixels, rounded by half a pixel at most: 0.8 per cent in area and aspect.
            assert!((0.198..0.605).contains(&area) && (0.744..1.345).contains(&aspect), "{area} {aspect}");
            areas.push(area);
        }
        // Uniform in (0.2, 0.6), all of which fit: mean 0.4, standard error 0.0026; five of them.
        let mean = areas.iter().sum::<f64>() / areas.len() as f64;
        assert!((mean - 0.4).abs() < 0.013, "mean area {mean}");
    }

    #[test]
    fn training_depends_on_its_generator_alone() {
        let image = noise(50, 40, 6);
        let draw = |place| {
            let mut out = vec![0; bytes(16)];
            training(&image, 16, (0.3, 1.0), &mut rng(1, "crop", &[place]), &mut out).unwrap();
            out
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn memory_of_a_large_picture_is_given_back() {
        let kept = || {
            SCRATCH.with_borrow(|scratch| {
                let words = scratch.picture.capacity() + scratch.result.capacity();
                scratch.cut.capacity() + 2 * words + scratch.resizer.size_of_internal_buffers()
            })
        };
        let large = RgbImage::from_pixel(5000, 4000, image::Rgb([1, 2, 3]));
        let small = noise(300, 200, 4);
        let mut out = vec![0; bytes(16)];
        for draw in 0..3 {
            training(&large, 16, (0.5, 0.9), &mut rng(draw, "crop", &[]), &mut out).unwrap();
            assert!(kept() <= 4 * MOST_KEPT, "{} bytes", kept());
            evaluation(&large, 16, &mut out).unwrap();
            assert!(kept() <= 4 * MOST_KEPT, "{} bytes", kept());
        }
        // Those of a common one stay: no image asks for them anew.
        evaluation(&small, 16, &mut out).unwrap();
        let after_one = kept();
        assert!(after_one >= 2 * 3 * 300 * 200);
        evaluation(&small, 16, &mut out).unwrap();
        assert_eq!(kept(), after_one);
    }

    #[test]
    fn a_squeezed_strip_becomes_a_strip_again() {
        let strip = |shape| unsqueeze(RgbImage::from_pixel(64, 64, image::Rgb([9, 8, 7])), shape).unwrap();
        for (shape, expected) in
            [((178_956_970, 1), (856_159, 1)), ((1, 178_956_970), (1, 856_159)), ((4, 1), (128, 32))]
        {
            let image = strip(shape);
            assert_eq!(image.dimensions(), expected);
            assert!(image.pixels().all(|pixel| pixel.0 == [9, 8, 7]));
        }
    }

    #[test]
    fn image_without_pixels_is_an_error() {
        let message = evaluation(&RgbImage::new(0, 4), 2, &mut [0; 12]).unwrap_err().to_string();
        assert_eq!(message, "the image has no pixels (0 x 4)");
    }

    #[test]
    fn all_processors_compute_the_same_pixels() {
        let image = noise(61, 47, 7);
        let usual = evaluated(&image, 21);
        // SAFETY: no processor lacks the plain instructions.
        SCRATCH.with_borrow_mut(|scratch| unsafe {
            scratch.resizer.set_cpu_extensions(fast_image_resize::CpuExtensions::None);
        });
        let plain = evaluated(&image, 21);
        SCRATCH.take();
        assert_eq!(usual, plain);
    }

    proptest! {
        #[test]
        fn every_size_and_scale_is_fine(
            width in 1..70u32, height in 1..70u32, size in 1..40usize, low in 0.0..1.0f64, high in 0.0..1.0f64
        ) {
            let image = noise(width, height, 8);
            let mut out = vec![0; bytes(size)];
            evaluation(&image, size, &mut out).unwrap();
            training(&image, size, (low, high), &mut rng(0, "crop", &[]), &mut out).unwrap();
        }
    }
}
