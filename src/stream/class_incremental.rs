//! New classes at every step.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Item, Stream, StreamKind, check_size, collect, repeated, some_of};
use crate::data::Label;
use crate::error::{Error, Result};
use crate::rng::{rng, shuffle};

/// In which order classes arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClassOrder {
    /// A permutation drawn with this seed.
    Seed(u64),
    /// This one: every class of the data set once.
    Given(Vec<Label>),
}

/// Splits the classes into `tasks` tasks, of `first_task` classes the first if it is given and of equal numbers the
/// others; where they do not divide evenly, the first of those have one more. It is an error of input if there are
/// fewer classes than tasks, if a class has no training sample, or if a given order is no permutation of the
/// classes.
pub(crate) fn class_incremental(
    items: &[Item],
    tasks: usize,
    first_task: Option<usize>,
    order: &ClassOrder,
) -> Result<Stream> {
    check_size(items)?;
    // Whether each class can be trained.
    let mut present = BTreeMap::new();
    for item in items {
        *present.entry(item.class).or_insert(false) |= item.train;
    }
    let untrained: Vec<Label> = present.iter().filter(|(_, trained)| !**trained).map(|(class, _)| *class).collect();
    if !untrained.is_empty() {
        return Err(Error::input(format!("classes without training samples: {}", some_of(untrained.iter()))));
    }
    let classes: Vec<Label> = present.into_keys().collect();
    let class_order = match order {
        ClassOrder::Seed(seed) => {
            let mut shuffled = classes;
            shuffle(&mut shuffled, &mut rng(*seed, "class order", &[]));
            shuffled
        }
        ClassOrder::Given(given) => {
            check_order(given, &classes)?;
            given.clone()
        }
    };
    let sizes = task_sizes(class_order.len(), tasks, first_task)?;

    let mut task_of = HashMap::new();
    let mut rest = class_order.as_slice();
    let mut classes_of = Vec::with_capacity(sizes.len());
    for (task, size) in sizes.iter().enumerate() {
        let (mine, later) = rest.split_at(*size);
        task_of.extend(mine.iter().map(|class| (*class, task)));
        classes_of.push(mine.to_vec());
        rest = later;
    }
    let names = (1..=sizes.len()).map(|task| format!("task {task}")).collect();
    let mut steps = collect(items, names, |item| task_of.get(&item.class).copied())?;
    for (step, classes) in steps.iter_mut().zip(classes_of) {
        step.classes = classes;
    }
    Ok(Stream::new(StreamKind::ClassIncremental, steps))
}

fn check_order(given: &[Label], classes: &[Label]) -> Result<()> {
    if let Some(class) = repeated(given) {
        return Err(Error::input(format!("the class order names class {class} twice")));
    }
    let (given, classes): (BTreeSet<Label>, BTreeSet<Label>) =
        (given.iter().copied().collect(), classes.iter().copied().collect());
    let unknown: Vec<&Label> = given.difference(&classes).collect();
    if !unknown.is_empty() {
        let list = some_of(unknown.into_iter());
        return Err(Error::input(format!("the class order names classes that the data set does not have: {list}")));
    }
    let missing: Vec<&Label> = classes.difference(&given).collect();
    if !missing.is_empty() {
        return Err(Error::input(format!("the class order lacks classes: {}", some_of(missing.into_iter()))));
    }
    Ok(())
}

/// The number of classes in each task.
fn task_sizes(classes: usize, tasks: usize, first_task: Option<usize>) -> Result<Vec<usize>> {
    if tasks == 0 {
        return Err(Error::input("a class-incremental stream needs at least one task"));
    }
    if tasks > classes {
        return Err(Error::input(format!("{tasks} tasks are more than the {classes} classes")));
    }
    let even = |classes: usize, tasks: usize| {
        (0..tasks).map(move |task| classes / tasks + usize::from(task < classes % tasks))
    };
    let Some(first) = first_task else {
        return Ok(even(classes, tasks).collect());
    };
    let largest = classes - (tasks - 1);
    let smallest = if tasks == 1 { classes } else { 1 };
    if !(smallest..=largest).contains(&first) {
        return Err(Error::input(format!(
            "the first task cannot have {first} classes: with {classes} classes in {tasks} tasks it has \
             {smallest} to {largest}"
        )));
    }
    Ok(std::iter::once(first).chain(even(classes - first, tasks - 1)).collect())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{check_partition, items, labels};
    use super::*;

    fn sizes(stream: &Stream) -> Vec<usize> {
        stream.steps.iter().map(|step| step.classes.len()).collect()
    }

    fn wrong(items: &[Item], tasks: usize, first_task: Option<usize>, order: &ClassOrder) -> String {
        let error = class_incremental(items, tasks, first_task, order).unwrap_err();
        assert_eq!(error.fault(), crate::error::Fault::Input);
        error.to_string()
    }

    #[test]
    fn first_tasks_get_the_classes_left_over() {
        let stream = |tasks, first| class_incremental(&items(10), tasks, first, &ClassOrder::Seed(0)).unwrap();
        assert_eq!(sizes(&stream(5, None)), [2, 2, 2, 2, 2]);
        assert_eq!(sizes(&stream(4, None)), [3, 3, 2, 2]);
        assert_eq!(sizes(&stream(4, Some(5))), [5, 2, 2, 1]);
        assert_eq!(sizes(&stream(1, Some(10))), [10]);
        assert_eq!(sizes(&stream(10, Some(1))), [1; 10]);
    }

    #[test]
    fn a_seeded_order_is_a_permutation_that_only_the_seed_decides() {
        let items = items(20);
        let order = |seed| class_incremental(&items, 4, None, &ClassOrder::Seed(seed)).unwrap().class_order;
        let mut sorted = order(1);
        sorted.sort();
        assert_eq!(sorted, Label::first(20).collect::<Vec<Label>>());
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }

    #[test]
    fn a_given_order_is_kept() {
        let items = items(5);
        let stream = class_incremental(&items, 2, None, &ClassOrder::Given(labels([3, 0, 4, 1, 2]).to_vec())).unwrap();
        check_partition(&stream, &items);
        assert_eq!(stream.class_order, labels([3, 0, 4, 1, 2]));
        assert_eq!(stream.steps[0].classes, labels([3, 0, 4]));
        assert_eq!(stream.steps[0].name, "task 1");
        assert_eq!(stream.steps[0].train, [0, 3, 4, 10, 13, 14]);
        assert_eq!(stream.steps[0].test, [5, 8, 9]);
        assert_eq!(stream.classes_seen(0), labels([3, 0, 4]));
    }

    #[test]
    fn class_numbers_may_have_gaps() {
        let mut items = items(3);
        items.iter_mut().for_each(|item| item.class = Label(u32::MAX - 7 * item.class.0));
        let stream = class_incremental(&items, 3, None, &ClassOrder::Seed(0)).unwrap();
        check_partition(&stream, &items);
    }

    #[test]
    fn wrong_numbers_of_tasks_are_refused() {
        let (items, order) = (items(4), ClassOrder::Seed(0));
        assert_eq!(wrong(&items, 5, None, &order), "5 tasks are more than the 4 classes");
        assert_eq!(wrong(&items, 0, None, &order), "a class-incremental stream needs at least one task");
        let first = "the first task cannot have";
        assert_eq!(
            wrong(&items, 2, Some(4), &order),
            format!("{first} 4 classes: with 4 classes in 2 tasks it has 1 to 3")
        );
        assert_eq!(
            wrong(&items, 2, Some(0), &order),
            format!("{first} 0 classes: with 4 classes in 2 tasks it has 1 to 3")
        );
        assert_eq!(
            wrong(&items, 1, Some(2), &order),
            format!("{first} 2 classes: with 4 classes in 1 tasks it has 4 to 4")
        );
    }

    #[test]
    fn wrong_orders_are_refused() {
        let items = items(4);
        let given = |order: &[u32]| {
            let order = order.iter().copied().map(Label).collect();
            wrong(&items, 2, None, &ClassOrder::Given(order))
        };
        assert_eq!(given(&[0, 1, 1, 2]), "the class order names class 1 twice");
        assert_eq!(given(&[0, 1, 2, 9]), "the class order names classes that the data set does not have: 9");
        assert_eq!(given(&[0, 1]), "the class order lacks classes: 2, 3");
    }

    #[test]
    fn a_class_that_cannot_be_trained_is_refused() {
        let mut items = items(8);
        items.iter_mut().filter(|item| item.class >= Label(2)).for_each(|item| item.train = false);
        let message = wrong(&items, 2, None, &ClassOrder::Seed(0));
        assert_eq!(message, "classes without training samples: 2, 3, 4, 5, 6 and 1 more");
    }
}
