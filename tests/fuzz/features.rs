//! `features.bin`, the features of a run's pictures.

use std::fs;

use perennial::eval::features::{FeatureFile, Layout};
use perennial::rng::below;

use crate::mutate::mutate;
use crate::{FILES, fuzz_folder, scratch};

#[test]
fn features_of_pictures() {
    let layout = Layout { key: [3; 32], widths: [5, 2], block: 4, groups: vec![7, 3] };
    let folder = scratch();
    let path = folder.path().join("features.bin");
    let values = |count: usize| (0..7 * count).map(|at| at as f32).collect::<Vec<f32>>();
    let (mut file, _) = FeatureFile::open(&path, &layout).unwrap();
    for block in 0..file.blocks().len() {
        let count = file.blocks()[block].len();
        file.write(block, &values(count)).unwrap();
    }
    let whole = fs::read(&path).unwrap();
    fuzz_folder("features", FILES, &[("features.bin", whole.clone())], mutate, |folder, rng| {
        let path = folder.join("features.bin");
        // Half of the time the header is right again, so that the blocks are reached.
        let mut bytes = fs::read(&path).unwrap();
        if below(rng, 2) == 0 {
            bytes.resize(whole.len(), 0);
            bytes[..64].copy_from_slice(&whole[..64]);
            fs::write(&path, &bytes).unwrap();
        }
        let (mut file, _) = FeatureFile::open(&path, &layout).unwrap();
        let blocks = file.blocks().to_vec();
        let mut good = true;
        for (block, places) in blocks.into_iter().enumerate() {
            if file.is_whole(block) {
                // What passes is what was written.
                let found = places.flat_map(|place| {
                    let (pooled, projected) = file.features(block, place);
                    pooled.iter().chain(projected).copied().collect::<Vec<f32>>()
                });
                let found: Vec<f32> = found.collect();
                assert_eq!(found, values(found.len() / 7));
            } else {
                good = false;
                file.write(block, &values(places.len())).unwrap();
                assert!(file.is_whole(block));
            }
        }
        good
    });
}
