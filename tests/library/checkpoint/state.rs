//! The state of a run.

use std::fs;

use perennial::error::{Error, Fault};
use perennial::model::checkpoint::{TensorFile, save_bytes};
use safetensors::SafeTensors;

use super::{assemble, bits};

fn state() -> TensorFile {
    let mut file = TensorFile::new();
    file.insert_u32("memory/indices", &[3], vec![5, u32::MAX, 0]);
    file.insert_f32("moments", &[2, 2], vec![1.0, -0.0, f32::NAN, f32::MIN_POSITIVE]);
    file.insert_u64("step", &[], vec![u64::MAX]);
    file.insert_f32("empty", &[0, 4], vec![]);
    file.insert_metadata("method", "gdro");
    file.insert_metadata("epoch", "3");
    file
}

#[test]
fn run_state_comes_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    state().save(&path).unwrap();
    let file = TensorFile::load(&path).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["empty", "memory/indices", "moments", "step"]);
    assert_eq!(file.u32("memory/indices", &[3]).unwrap(), [5, u32::MAX, 0]);
    assert_eq!(bits(file.f32("moments", &[2, 2]).unwrap()), bits(&[1.0, -0.0, f32::NAN, f32::MIN_POSITIVE]));
    assert_eq!(file.u64("step", &[]).unwrap(), [u64::MAX]);
    assert_eq!(file.f32("empty", &[0, 4]).unwrap(), [0.0; 0]);
    assert_eq!(file.shape("moments").unwrap(), [2, 2]);
    assert_eq!(file.metadata("method").unwrap(), "gdro");
    assert!(file.contains("step") && !file.contains("steps"));
    SafeTensors::deserialize(&fs::read(&path).unwrap()).unwrap();
}

#[test]
fn the_same_run_state_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = |file: &TensorFile| {
        let path = folder.path().join("state.safetensors");
        file.save(&path).unwrap();
        fs::read(&path).unwrap()
    };
    let mut other = TensorFile::new();
    other.insert_metadata("epoch", "3");
    other.insert_metadata("method", "gdro");
    other.insert_u64("step", &[], vec![u64::MAX]);
    other.insert_f32("empty", &[0, 4], vec![]);
    other.insert_f32("moments", &[2, 2], vec![1.0, -0.0, f32::NAN, f32::MIN_POSITIVE]);
    other.insert_u32("memory/indices", &[3], vec![5, u32::MAX, 0]);
    assert_eq!(bytes(&state()), bytes(&other));
}

#[test]
fn bytes_are_written_part_by_part_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole.safetensors"), folder.path().join("parts.safetensors"));
    let mut file = TensorFile::new();
    file.insert_u8("pixels", &[3, 2], vec![1, 2, 3, 4, 5, 6]);
    file.save(&whole).unwrap();
    save_bytes(&parts, "pixels", &[3, 2], [vec![1, 2, 3, 4], vec![5, 6]].into_iter().map(Ok)).unwrap();
    let pixels = |path| TensorFile::load(path).unwrap().u8("pixels", &[3, 2]).unwrap().to_vec();
    assert_eq!(pixels(&parts), pixels(&whole));

    let failing = [Ok(vec![1, 2, 3, 4]), Err(Error::input("cannot read b.png"))];
    let none = folder.path().join("none.safetensors");
    let error = save_bytes(&none, "pixels", &[3, 2], failing.into_iter()).unwrap_err();
    assert_eq!((error.to_string().as_str(), error.fault()), ("cannot read b.png", Fault::Input));
    let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["parts.safetensors", "whole.safetensors"]);
}

#[test]
fn a_wrong_question_to_the_run_state_is_answered_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    state().save(&path).unwrap();
    let file = TensorFile::load(&path).unwrap();
    let place = path.display();
    let message = |error: Error| error.to_string();
    assert_eq!(message(file.f32("moment", &[2]).unwrap_err()), format!("{place}: no tensor 'moment'"));
    assert_eq!(
        message(file.f32("moments", &[4]).unwrap_err()),
        format!("{place}: tensor 'moments': expected F32 [4], found F32 [2, 2]")
    );
    assert_eq!(
        message(file.u64("memory/indices", &[3]).unwrap_err()),
        format!("{place}: tensor 'memory/indices': expected U64 [3], found U32 [3]")
    );
    assert_eq!(message(file.metadata("seed").unwrap_err()), format!("{place}: no metadata 'seed'"));
    let other = assemble(None, &[("x".into(), "I16".into(), vec![1], vec![0; 2])]);
    fs::write(&path, other).unwrap();
    let error = TensorFile::load(&path).err().unwrap();
    assert_eq!(message(error), format!("{place}: tensor 'x' is of type I16; expected U8, F32, U32 or U64"));
}
