//! What is broken is refused in words.

use perennial::model::checkpoint::load;

use super::{assemble, contains, entries, refusal, tiny, with_header, write};
use crate::largest::largest;

#[test]
fn a_missing_tensor_is_named() {
    let mut tensors = entries();
    tensors.retain(|(name, ..)| name != "visual.proj");
    let message = refusal(&assemble(None, &tensors));
    contains(&message, &["the tensors are not those of the model: 'visual.proj' is missing (expected [48, 20])"]);
}

#[test]
fn an_unknown_tensor_is_named() {
    let mut tensors = entries();
    tensors.push(("logit_bias".into(), "F32".into(), vec![1], vec![0; 4]));
    contains(&refusal(&assemble(None, &tensors)), &["'logit_bias' is unknown (found F32 [1])"]);
}

#[test]
fn a_misshapen_tensor_is_named() {
    let mut tensors = entries();
    tensors.iter_mut().find(|(name, ..)| name == "visual.proj").unwrap().2 = vec![20, 48];
    contains(&refusal(&assemble(None, &tensors)), &["'visual.proj': expected [48, 20], found F32 [20, 48]"]);
}

#[test]
fn integers_are_no_weights() {
    let mut tensors = entries();
    let (_, dtype, _, data) = tensors.iter_mut().find(|(name, ..)| name == "ln_final.bias").unwrap();
    (*dtype, *data) = ("I64".into(), vec![0; 256]);
    let message = refusal(&assemble(None, &tensors));
    contains(&message, &["'ln_final.bias': expected F32, F16, BF16 or F64, found I64 [32]"]);
}

#[test]
fn a_truncated_file_is_refused() {
    let bytes = assemble(None, &entries());
    let message = refusal(&bytes[..bytes.len() - 1]);
    contains(&message, &["the file is truncated: the tensors should take", "follow the header"]);
    contains(&refusal(&bytes[..100]), &["the file is truncated: the header should take", "and 92 follow"]);
    contains(&refusal(&bytes[..5]), &["not a safetensors file: 5 bytes are too few"]);
    contains(&refusal(&[&bytes[..], &[0]].concat()), &["the file is too long"]);
}

#[test]
fn an_absurd_header_length_is_refused() {
    let mut bytes = assemble(None, &entries());
    bytes[..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
    let (message, largest) = largest(|| refusal(&bytes));
    contains(&message, &["the header's length is given as 1152921504606846976 bytes"]);
    assert!(largest < 1 << 20, "{largest}");
}

#[test]
fn overlapping_tensors_are_refused() {
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
        "b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#;
    let message = refusal(&with_header(header, &[0; 12]));
    contains(
        &message,
        &["tensor 'b' is said to take bytes 4 to 12, where byte 8 should come first: tensors overlap or leave a gap"],
    );
    let backwards = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
        "b":{"dtype":"F32","shape":[],"data_offsets":[8,4]}}"#;
    contains(&refusal(&with_header(backwards, &[0; 8])), &["tensor 'b' is said to take bytes 8 to 4"]);
}

#[test]
fn duplicate_names_are_refused() {
    let header = r#"{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
        "a":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}"#;
    contains(&refusal(&with_header(header, &[0; 8])), &["the name 'a' occurs twice"]);
    let mut tensors = entries();
    tensors.push(("module.logit_scale".into(), "F32".into(), vec![], vec![0; 4]));
    contains(&refusal(&assemble(None, &tensors)), &["'logit_scale' and 'module.logit_scale' are the same tensor"]);
}

#[test]
fn nan_weights_are_noted() {
    let (folder, spec) = (tempfile::tempdir().unwrap(), tiny());
    let mut tensors = entries();
    let (_, _, _, data) = tensors.iter_mut().find(|(name, ..)| name == "visual.ln_post.bias").unwrap();
    data[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    data[16..20].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let weights = load(&write(&folder, &assemble(None, &tensors)), &spec).unwrap();
    let what = "2 of the weights are NaN or infinite, the first of them in 'visual.ln_post.bias' (NaN at [2])";
    contains(weights.not_finite.as_ref().unwrap(), &[what]);
    assert_eq!(weights.notes, [""; 0]);
    let path = write(&folder, &assemble(None, &tensors));
    let passed = weights.checked(true).unwrap();
    assert_eq!((passed.notes.len(), passed.not_finite.is_some()), (1, true));
    contains(&passed.notes[0], &[what]);
    let error = load(&path, &spec).unwrap().checked(false).unwrap_err();
    contains(&error.to_string(), &[what, "--allow-non-finite (model.allow_non_finite = true) lets them pass"]);
}

#[test]
fn an_empty_file_is_refused() {
    contains(&refusal(&[]), &["not a safetensors file: 0 bytes are too few for one"]);
    let folder = tempfile::tempdir().unwrap();
    let nowhere = load(&folder.path().join("nowhere"), &tiny()).unwrap_err();
    contains(&nowhere.to_string(), &["cannot read", "nowhere"]);
}

#[test]
fn other_formats_are_recognised() {
    contains(&refusal(b"PK\x03\x04\x14\x00\x08\x08 and so on"), &["a zip archive", "damaged or cut short"]);
    contains(&refusal(b"version https://git-lfs.github.com/spec/v1\noid"), &["a Git LFS pointer", "git lfs pull"]);
    contains(&refusal(b"<!doctype html><html>404"), &["a web page (HTML) in place of the weights"]);
    contains(
        &refusal(b"{\"a\": [1, 2, 3]}"),
        &["a JSON text, and no weights, nor the index of a model in several files"],
    );
    contains(&refusal(b"\x80\x02}q\x00X\x01\x00\x00\x00as."), &["a pickle of Python's that torch.save did not write"]);
    contains(&refusal(&with_header("[1, 2]", &[])), &["cannot understand the header", "expected an object"]);
    contains(&refusal(&with_header("{\"a\": \"\u{1b}\"", &[])), &["cannot understand the header"]);
}

#[test]
fn many_wrong_tensors_give_one_short_error() {
    let mut tensors = entries();
    tensors.iter_mut().for_each(|(name, ..)| *name = format!("x{name}"));
    let message = refusal(&assemble(None, &tensors));
    let count = 2 * tensors.len() - 5;
    contains(&message, &["'positional_embedding' is missing", "'xpositional_embedding' is unknown"]);
    contains(&message, &[&format!("; and {count} more")]);
    assert!(message.len() < 700, "{message}");
}

#[test]
fn names_from_a_file_cannot_spoil_the_message() {
    let mut tensors = entries();
    tensors.push((format!("\u{1b}[31m{}", "x".repeat(5000)), "U8".into(), vec![1; 50], vec![0]));
    let message = refusal(&assemble(None, &tensors));
    contains(&message, &["\\u{1b}[31mxxx", "xxx...' is unknown (found U8 of 50 dimensions)"]);
    assert!(message.len() < 400 && !message.contains('\u{1b}'), "{message}");
}
