//! The steps of a continual run: which samples are trained and tested at each, by class, by domain or by time.

mod class_incremental;
mod class_order;
mod domain_incremental;
mod numpy;
mod single;
mod time_incremental;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Display;

use bytemuck::TransparentWrapper;
use serde::{Deserialize, Serialize};

use crate::data::Label;
use crate::error::{Error, Result};

pub(crate) use class_incremental::{ClassOrder, class_incremental};
pub(crate) use class_order::class_list;
pub use class_order::parse_class_order;
pub(crate) use domain_incremental::domain_incremental;
pub(crate) use numpy::{permutation, seed_of};
pub(crate) use single::single;
pub(crate) use time_incremental::time_incremental;

/// A class by its number in the order in which the stream brings classes: its place in [`Stream::class_order`], the row of a head's
/// weights and the column of its logits. [`Label`]s are in the data set's own order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ClassId(pub u32);

// SAFETY: it is represented as its number is.
unsafe impl TransparentWrapper<u32> for ClassId {}

impl ClassId {
    /// Its place in what has an entry for every class of the stream.
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// What files and a device's memory hold of them.
    pub fn numbers(of: &[ClassId]) -> &[u32] {
        ClassId::peel_slice(of)
    }
}

/// What a stream knows about one sample; a sample's place in the slice is its index in the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub class: Label,
    pub domain: u32,
    /// In the unit of the periods: a year.
    pub time: i32,
    /// Whether it is for training; otherwise for testing.
    pub train: bool,
}

/// What parts the steps of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamKind {
    /// Nothing: one step with everything.
    Single,
    /// Classes: each step brings new ones.
    ClassIncremental,
    /// Domains: each step brings one.
    DomainIncremental,
    /// Years: each step brings a period.
    TimeIncremental,
}

/// What one step brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// For tables: `task 3`, a domain's name, `2015-2016`.
    pub name: String,
    /// Indices in the data set, ascending.
    pub train: Vec<u32>,
    /// Indices in the data set, ascending.
    pub test: Vec<u32>,
    /// Class-incremental: the classes of this task, in the run's order. Otherwise: all classes present, ascending.
    pub classes: Vec<Label>,
}

/// A data set as it arrives, step by step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    pub(crate) kind: StreamKind,
    /// In the order in which they arrive.
    pub steps: Vec<Step>,
    /// Every class in the order of its first appearance: the label of each [`ClassId`].
    pub class_order: Vec<Label>,
    /// The inverse of the order.
    ids: HashMap<Label, ClassId>,
}

impl Stream {
    fn new(kind: StreamKind, steps: Vec<Step>) -> Stream {
        let mut stream = Stream { kind, steps, class_order: Vec::new(), ids: HashMap::new() };
        stream.class_order = stream.classes_seen(stream.steps.len().saturating_sub(1));
        stream.ids = stream.class_order.iter().copied().zip((0..).map(ClassId)).collect();
        stream
    }

    /// The number that the stream gives a class; none where it does not bring it.
    pub fn class_id(&self, label: Label) -> Option<ClassId> {
        self.ids.get(&label).copied()
    }

    /// The number that the data set gives a class of the stream.
    pub fn label(&self, class: ClassId) -> Label {
        self.class_order[class.index()]
    }

    /// The classes of the steps 0 to `step`: the beginning of `class_order`, so that a class keeps its place as
    /// others join.
    pub fn classes_seen(&self, step: usize) -> Vec<Label> {
        let mut known = HashSet::new();
        let classes = self.steps.iter().take(step + 1).flat_map(|step| &step.classes);
        classes.copied().filter(|class| known.insert(*class)).collect()
    }
}

/// Whether the samples can be numbered, and there are any.
fn check_size(items: &[Item]) -> Result<()> {
    if items.is_empty() {
        return Err(Error::input("the data set holds no samples"));
    }
    if u32::try_from(items.len()).is_err() {
        return Err(Error::input(format!(
            "the data set holds {} samples; at most 2^32 - 1 can be numbered",
            items.len()
        )));
    }
    Ok(())
}

/// Collects the samples of each step. `step_of` says in which step a sample is, if in any; `classes` are filled in
/// ascending.
fn collect(items: &[Item], names: Vec<String>, step_of: impl Fn(&Item) -> Option<usize>) -> Result<Vec<Step>> {
    check_size(items)?;
    let empty = |name| Step { name, train: Vec::new(), test: Vec::new(), classes: Vec::new() };
    let mut steps: Vec<Step> = names.into_iter().map(empty).collect();
    let mut classes = vec![BTreeSet::new(); steps.len()];
    for (index, item) in items.iter().enumerate() {
        if let Some(step) = step_of(item) {
            let side = if item.train { &mut steps[step].train } else { &mut steps[step].test };
            side.push(index as u32);
            classes[step].insert(item.class);
        }
    }
    for (step, classes) in steps.iter_mut().zip(classes) {
        step.classes = classes.into_iter().collect();
    }
    Ok(steps)
}

/// The first value that occurs twice.
fn repeated<T: Copy + Eq + std::hash::Hash>(values: &[T]) -> Option<T> {
    let mut known = HashSet::new();
    values.iter().copied().find(|value| !known.insert(*value))
}

/// Up to five values for a message.
fn some_of(values: impl ExactSizeIterator<Item = impl Display>) -> String {
    let count = values.len();
    let mut list = values.take(5).map(|value| value.to_string()).collect::<Vec<_>>().join(", ");
    if count > 5 {
        list.push_str(&format!(" and {} more", count - 5));
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `classes` classes with two training samples and one test sample each; domain = class % 3, time = 2014 +
    /// class % 5.
    pub(super) fn items(classes: u32) -> Vec<Item> {
        let sample = |class, train| {
            let (domain, time) = (class % 3, 2014 + (class % 5) as i32);
            Item { class: Label(class), domain, time, train }
        };
        [true, false, true].into_iter().flat_map(|train| (0..classes).map(move |class| sample(class, train))).collect()
    }

    /// The classes of these numbers.
    pub(super) fn labels<const N: usize>(numbers: [u32; N]) -> [Label; N] {
        numbers.map(Label)
    }

    /// Every sample lies in one step, on its side; indices ascend; `classes` is what the samples are of.
    pub(super) fn check_partition(stream: &Stream, items: &[Item]) {
        let mut places = vec![0; items.len()];
        for step in &stream.steps {
            for (side, train) in [(&step.train, true), (&step.test, false)] {
                assert!(side.is_sorted_by(|a, b| a < b));
                for index in side {
                    places[*index as usize] += 1;
                    assert_eq!(items[*index as usize].train, train);
                    assert!(step.classes.contains(&items[*index as usize].class));
                }
            }
        }
        assert!(places.iter().all(|count| *count == 1), "{places:?}");
    }

    #[test]
    fn a_data_set_without_samples_is_refused() {
        let errors = [
            single(&[]).unwrap_err(),
            class_incremental(&[], 1, None, &ClassOrder::Seed(0)).unwrap_err(),
            domain_incremental(&[], &[0], &[]).unwrap_err(),
            time_incremental(&[], &[2014]).unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.to_string(), "the data set holds no samples");
        }
    }

    #[test]
    fn classes_seen_is_the_beginning_of_the_class_order() {
        let items = items(15);
        let streams = [
            single(&items).unwrap(),
            class_incremental(&items, 4, None, &ClassOrder::Seed(3)).unwrap(),
            domain_incremental(&items, &[2, 0, 1], &[]).unwrap(),
            time_incremental(&items, &[2014, 2016, 2018]).unwrap(),
        ];
        for stream in streams {
            check_partition(&stream, &items);
            assert_eq!(stream.class_order.len(), 15);
            for (place, label) in stream.class_order.iter().enumerate() {
                let class = stream.class_id(*label).unwrap();
                assert_eq!((class.index(), stream.label(class)), (place, *label));
            }
            assert_eq!(stream.class_id(Label(15)), None);
            for step in 0..stream.steps.len() {
                let seen = stream.classes_seen(step);
                assert_eq!(seen, stream.class_order[..seen.len()]);
                assert!(stream.steps[step].classes.iter().all(|class| seen.contains(class)));
            }
        }
    }
}
