//! Everything as one step: pretraining, the joint upper bound, or tests alone.

use super::{Item, Stream, StreamKind, collect};
use crate::error::Result;

/// One step with all samples; there may be none to train on, for a model that is only tested.
pub(crate) fn single(items: &[Item]) -> Result<Stream> {
    let steps = collect(items, vec!["all".into()], |_| Some(0))?;
    Ok(Stream::new(StreamKind::Single, steps))
}

#[cfg(test)]
mod tests {
    use super::super::tests::labels;
    use super::*;
    use crate::data::Label;

    #[test]
    fn everything_is_one_step() {
        let item = |class, train| Item { class: Label(class), domain: 0, time: 0, train };
        let items = [item(4, true), item(2, false), item(2, true)];
        let stream = single(&items).unwrap();
        assert_eq!(stream.steps.len(), 1);
        let step = &stream.steps[0];
        assert_eq!((&step.train[..], &step.test[..], &step.classes[..]), (&[0, 2][..], &[1][..], &labels([2, 4])[..]));
        let tests = single(&items[1..2]).unwrap();
        assert_eq!((&tests.steps[0].train[..], &tests.class_order[..]), (&[][..], &labels([2])[..]));
    }
}
