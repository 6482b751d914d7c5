use perennial::ops::patch_embed::{Normalization, PatchEmbed, PatchShape};
use perennial::ops::{DeviceMemory, Plan, Run};

use super::{Device, device, get};

#[test]
fn patches_hold_normalised_pixels_in_the_convolutions_order() {
    // 11 = 2 patches of 4 and a remainder of 3 that no patch covers.
    let shape = PatchShape { images: 3, image_size: 11, patch_size: 4 };
    let pixels: Vec<u8> = (0..3 * 11 * 11 * 3).map(|i| (i * 89 % 256) as u8).collect();
    let mut plan = Plan::new::<Device>();
    let (bytes, patches) = (plan.pixels(pixels.len()), plan.tensor(3 * shape.count() * shape.values()));
    let mut device = device(&plan);
    device.write(bytes, &pixels);
    device.run(PatchEmbed { shape, normalization: Normalization::CLIP, pixels: bytes, patches });
    let found = get(&device, patches);
    let Normalization { mean, std } = Normalization::CLIP;
    let mut place = 0;
    for image in 0..3 {
        for (top, left) in [(0, 0), (0, 4), (4, 0), (4, 4)] {
            for channel in 0..3 {
                for (y, x) in (0..16).map(|i| (top + i / 4, left + i % 4)) {
                    let pixel = pixels[((image * 11 + y) * 11 + x) * 3 + channel] as f64;
                    let expected = (pixel / 255.0 - mean[channel]) / std[channel];
                    assert!((found[place] - expected).abs() < 1e-14, "place {place}");
                    place += 1;
                }
            }
        }
    }
    assert_eq!(place, found.len());
}
