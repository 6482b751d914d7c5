//! Says what is in pictures, with no training: `cargo run --release --example zero_shot -- MODEL cat,dog,tree photos/*.jpg`

use std::env;

use perennial::error::{Error, Result};
use perennial::{Clip, Templates};

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, classes, pictures @ ..] = arguments.as_slice() else {
        return Err(Error::input("usage: zero_shot MODEL CLASS,CLASS,... PICTURE..."));
    };
    let classes: Vec<&str> = classes.split(',').collect();
    let scores = Clip::open(model)?.zero_shot(pictures, &classes, &Templates::find("imagenet")?)?;
    for (picture, file) in pictures.iter().enumerate() {
        let class = scores.largest(picture);
        println!("{file}: {} ({:.3})", classes[class], scores.row(picture)[class]);
    }
    Ok(())
}
