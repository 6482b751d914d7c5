//! Positional embeddings of another resolution.

use approx::assert_abs_diff_eq;
use perennial::model::checkpoint::{Positions, load, load_with};
use perennial::model::parameters::ParameterList;

use super::{Entry, assemble, contains, entries, hugging_face_entries, refusal, tiny, write};

/// The tensors of the tiny model with a positional embedding for a grid of `side` x `side` patches: each row is made of
/// the row's number.
fn entries_for_grid(name: &str, side: usize, mut tensors: Vec<Entry>) -> Vec<Entry> {
    let (_, _, shape, data) = tensors.iter_mut().find(|(known, ..)| known == name).unwrap();
    *shape = vec![1 + side * side, 48];
    *data = (0..shape[0]).flat_map(|row| (row as f32).to_le_bytes().repeat(48)).collect();
    tensors
}

#[test]
fn positions_of_another_resolution_are_fitted_when_that_is_asked_for() {
    const NAME: &str = "visual.positional_embedding";
    let folder = tempfile::tempdir().unwrap();
    let bytes = assemble(None, &entries_for_grid(NAME, 5, entries()));
    contains(
        &refusal(&bytes),
        &[
            "'visual.positional_embedding': expected [10, 48], found F32 [26, 48]: it is for 5 x 5 patches and the model \
             has 3 x 3; --interpolate-positions (model.interpolate_positions = true) makes it fit",
        ],
    );
    let weights = load_with(&write(&folder, &bytes), &tiny(), Positions::Interpolated).unwrap();
    contains(&weights.notes[0], &["the positional embedding is interpolated from 5 x 5 to 3 x 3 patches"]);
    let found = &weights.values[ParameterList::of(&tiny()).get(NAME).range()];
    // The class token stays; the middle of a grid that rises evenly stays in the middle, and corners are mirror images.
    assert_eq!(found[..48], [0.0; 48]);
    let row = |place: usize| found[(1 + place) * 48];
    assert_abs_diff_eq!(row(4), 13.0, epsilon = 1e-5);
    assert!((row(0) + row(8) - 26.0).abs() < 1e-4 && row(0) > 1.0, "{} {}", row(0), row(8));

    // What is no grid of a square, or has another width, does not fit in any way.
    for shape in [vec![27, 48], vec![26, 24], vec![26]] {
        let mut tensors = entries();
        let (_, _, found, data) = tensors.iter_mut().find(|(name, ..)| name == NAME).unwrap();
        *data = vec![0; 4 * shape.iter().product::<usize>()];
        *found = shape;
        let path = write(&folder, &assemble(None, &tensors));
        let message = load_with(&path, &tiny(), Positions::Interpolated).unwrap_err().to_string();
        contains(&message, &["'visual.positional_embedding': expected [10, 48], found F32"]);
        assert!(!message.contains("--interpolate-positions"), "{message}");
    }
}

#[test]
fn positions_in_hugging_faces_layout_are_fitted_too() {
    let (folder, spec) = (tempfile::tempdir().unwrap(), tiny());
    let theirs = hugging_face_entries(&folder, &spec);
    let theirs = entries_for_grid("vision_model.embeddings.position_embedding.weight", 2, theirs);
    let path = write(&folder, &assemble(None, &theirs));
    let weights = load_with(&path, &spec, Positions::Interpolated).unwrap();
    contains(&weights.notes[0], &["from 2 x 2 to 3 x 3 patches"]);
    contains(&load(&path, &spec).unwrap_err().to_string(), &["it is for 2 x 2 patches and the model has 3 x 3"]);
}
