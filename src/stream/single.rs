//! Everything as one step: pretraining, or the joint upper bound.

use super::{Item, Stream, StreamKind, collect};
use crate::error::{Error, Result};

/// One step with all samples. It is an error of input if there is nothing to train on.
pub fn single(items: &[Item]) -> Result<Stream> {
    let steps = collect(items, vec!["all".into()], |_| Some(0))?;
    if steps[0].train.is_empty() {
        return Err(Error::input("the data set has no training samples"));
    }
    Ok(Stream::new(StreamKind::Single, steps))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_one_step() {
        let item = |class, train| Item { class, domain: 0, time: 0, train };
        let items = [item(4, true), item(2, false), item(2, true)];
        let stream = single(&items).unwrap();
        assert_eq!(stream.steps.len(), 1);
        let step = &stream.steps[0];
        assert_eq!((&step.train[..], &step.test[..], &step.classes[..]), (&[0, 2][..], &[1][..], &[2, 4][..]));
        assert_eq!(single(&items[1..2]).unwrap_err().to_string(), "the data set has no training samples");
    }
}
