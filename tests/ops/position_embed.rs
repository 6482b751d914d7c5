use perennial::check::position_embed::PositionEmbedCase;
use perennial::ops::position_embed::PositionShape;

use super::{assert_all_gradients, assert_holds, results};

#[test]
fn gradients_match_finite_differences() {
    assert_all_gradients::<PositionEmbedCase>();
}

#[test]
fn drawn_shapes_hold() {
    assert_holds((1usize..7, 1usize..9, 1usize..9), true, |(images, patches, width)| {
        PositionEmbedCase(PositionShape { images, patches, width })
    });
}

#[test]
fn the_class_token_comes_first_and_then_the_patches() {
    let result = results(&PositionEmbedCase(PositionShape { images: 3, patches: 6, width: 5 }));
    let [x, patches, class, position] = ["x", "patches", "class", "position"].map(result);
    for (x, patches) in x.chunks(35).zip(patches.chunks(30)) {
        let tokens = class.iter().chain(patches);
        assert!(x.iter().copied().eq(tokens.zip(&position).map(|(token, position)| token + position)));
    }
}
