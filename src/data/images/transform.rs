//! From a picture to the pixels that the model reads: 8-bit RGB, rows of a square, as open_clip makes them with Pillow.
//!
//! Resizing is Pillow's, value for value: see `resample.rs`.

use std::cell::RefCell;

use image::RgbImage;

use super::resample::{Axis, Scratch, View};
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
pub(crate) fn evaluation(image: &RgbImage, size: usize, out: &mut [u8]) -> Result<()> {
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
        let margin = ((resized - size) as f64 / 2.0).round_ties_even() as usize;
        Axis { first: margin, shown: size, ..Axis::whole(edge, resized) }
    };
    resize(View::new(image.as_raw(), width, height), axis(width, of_width), axis(height, of_height), out);
    Ok(())
}

/// The transform of training, torchvision's RandomResizedCrop without a flip: a box whose area is `scale.0` to
/// `scale.1` of the image's and whose width is 3/4 to 4/3 of its height, somewhere in the image, is resized to `size` x
/// `size`.
///
/// `out`: [size, size, 3], height, width, RGB. Fails when the image has no pixels. Panics when `out` has another
/// length.
pub(crate) fn training(image: &RgbImage, size: usize, scale: (f64, f64), rng: &mut Rng, out: &mut [u8]) -> Result<()> {
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
        Axis { stretch: (start as f64 * scale, (start + len) as f64 * scale), ..Axis::whole(edge, size) }
    };
    let x = axis(width, of_width, cut.left, cut.width);
    let y = axis(height, of_height, cut.top, cut.height);
    resize(View::new(image.as_raw(), width, height), x, y, out);
    Ok(())
}

/// The whole image, squeezed to a square of `size` x `size` pixels.
///
/// `out`: [size, size, 3], height, width, RGB. Fails when the image has no pixels. Panics when `out` has another
/// length.
pub(crate) fn squeeze(image: &RgbImage, size: usize, out: &mut [u8]) -> Result<()> {
    let (width, height) = dimensions(image)?;
    resize(View::new(image.as_raw(), width, height), Axis::whole(width, size), Axis::whole(height, size), out);
    Ok(())
}

/// A squeezed image in its former `shape` (width, height), with about as many pixels as it has.
pub(crate) fn unsqueeze(image: RgbImage, shape: (u32, u32)) -> Result<RgbImage> {
    let (width, height) = dimensions(&image)?;
    let (of_width, of_height) = (f64::from(shape.0), f64::from(shape.1));
    if shape.0 == shape.1 {
        return Ok(image);
    }
    let pixels = (width * height) as f64;
    let edge = |ratio: f64| ((pixels * ratio).sqrt().round() as usize).max(1);
    let (to_width, to_height) = (edge(of_width / of_height), edge(of_height / of_width));
    let mut out = RgbImage::new(to_width as u32, to_height as u32);
    let view = View::new(image.as_raw(), width, height);
    resize(view, Axis::whole(width, to_width), Axis::whole(height, to_height), &mut out);
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
    let (width, height) = dimensions(image)?;
    let inside = View::new(image.as_raw(), width, height).cut(cut.left, cut.top, cut.width, cut.height);
    resize(inside, Axis::whole(cut.width, size), Axis::whole(cut.height, size), out);
    Ok(())
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

fn resize(source: View, x: Axis, y: Axis, out: &mut [u8]) {
    SCRATCH.with_borrow_mut(|scratch| scratch.resize(source, x, y, out));
}

fn dimensions(image: &RgbImage) -> Result<(usize, usize)> {
    let (width, height) = image.dimensions();
    if width == 0 || height == 0 {
        return Err(Error::input(format!("the image has no pixels ({width} x {height})")));
    }
    Ok((width as usize, height as usize))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::rng::rng;

    /// What Pillow and torchvision make of small images; `make_pillow.py` beside it writes it.
    const PILLOW: &str = include_str!("../../../tests/fixtures/pillow/resize.json");

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

    fn evaluated(image: &RgbImage, size: usize) -> Vec<u8> {
        let mut out = vec![0; bytes(size)];
        evaluation(image, size, &mut out).unwrap();
        out
    }

    #[test]
    fn evaluation_agrees_with_pillow() {
        for case in fixture()["evaluation"].as_array().unwrap() {
            let size = number(&case["size"]);
            let same = evaluated(&picture(case), size) == pixels(&case["expected"]);
            assert!(same, "{} x {} to {size}", case["width"], case["height"]);
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
            assert!(out == pixels(&case["expected"]), "box {}", case["box"]);
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
    fn image_without_pixels_is_an_error() {
        let message = evaluation(&RgbImage::new(0, 4), 2, &mut [0; 12]).unwrap_err().to_string();
        assert_eq!(message, "the image has no pixels (0 x 4)");
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
