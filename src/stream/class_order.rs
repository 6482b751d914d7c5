//! The order of classes from a list: one name a line, or the numbers of all classes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use crate::data::Label;
use crate::error::{Error, Result, nearest, unknown};
use crate::files::read_text;

/// The lists that come with the program: orders of classes, and which classes a data set has.
const BUNDLED: [(&str, &str); 5] = [
    ("cifar100", include_str!("../../presets/class_orders/cifar100.txt")),
    ("cifar100-dytox", include_str!("../../presets/class_orders/cifar100-dytox.txt")),
    ("imagenet", include_str!("../../presets/class_orders/imagenet.txt")),
    ("imagenet-r", include_str!("../../presets/class_orders/imagenet-r.txt")),
    ("imagenet-a", include_str!("../../presets/class_orders/imagenet-a.txt")),
];

/// The text of a list of classes: a bundled one by its name, or a file. Fails when there is neither.
pub(crate) fn class_list(name: &str) -> Result<Cow<'static, str>> {
    if let Some((_, text)) = BUNDLED.iter().find(|(known, _)| *known == name) {
        return Ok(Cow::Borrowed(text));
    }
    let path = Path::new(name);
    if !path.exists() && path.extension().is_none() && path.components().count() == 1 {
        return Err(unknown("list of classes", name, BUNDLED.iter().map(|(name, _)| *name)));
    }
    read_text(path).map(Cow::Owned)
}

/// The classes that `text` names, a line each, by their places in `names`; lines without a word are left out. A line may also be what
/// the data set itself calls the class, one of `keys`, which are in the order of `names`. `present` says which classes the stream
/// has: each of them must be named, once, and no other. Where no class is called by a number, lines that are all numbers are places in
/// `names`, from 0. `file` is the text's name in errors, which also tell the line.
pub fn parse_class_order(
    file: &str,
    text: &str,
    names: &[String],
    keys: &[String],
    present: &[bool],
) -> Result<Vec<Label>> {
    // Of one word that is both, the data set's own counts: readable names need not differ.
    let known = names.iter().enumerate().chain(keys.iter().enumerate());
    let mut class_of: HashMap<&str, usize> = known.map(|(class, name)| (name.as_str(), class)).collect();
    let is_number = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    let mut words = text.lines().map(str::trim).filter(|word| !word.is_empty()).peekable();
    let numbers: Vec<String> = (0..names.len()).map(|class| class.to_string()).collect();
    if !class_of.keys().any(|name| is_number(name)) && words.peek().is_some() && words.all(is_number) {
        class_of = numbers.iter().zip(0..).map(|(number, class)| (number.as_str(), class)).collect();
    }
    let mut line_of_class = HashMap::new();
    let mut order = Vec::new();
    for (line, name) in text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())) {
        let wrong = |what: String| Err(Error::input(format!("{file}, line {line}: {what}")));
        if name.is_empty() {
            continue;
        }
        let Some(class) = class_of.get(name) else {
            let near = nearest(name, names.iter().chain(keys).map(String::as_str));
            let hint = near.map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
            return wrong(format!("unknown class '{}'{hint}", name.escape_debug().take(60).collect::<String>()));
        };
        if !present[*class] {
            return wrong(format!("the chosen domains have no sample of the class '{name}'"));
        }
        if let Some(first) = line_of_class.insert(*class, line) {
            return wrong(format!("the class '{name}' stands already on line {first}"));
        }
        order.push(Label(*class as u32));
    }
    let missing: Vec<&str> = (names.iter().zip(present).enumerate())
        .filter(|(class, (_, present))| **present && !line_of_class.contains_key(class))
        .map(|(_, (name, _))| name.as_str())
        .collect();
    if !missing.is_empty() {
        let lines = text.lines().count().max(1);
        let list = super::some_of(missing.iter());
        return Err(Error::input(format!("{file}, line {lines}: it ends here, and lacks classes: {list}")));
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rng::{rng, shuffle};

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|class| format!("class {class} & café")).collect()
    }

    fn wrong(text: &str) -> String {
        let names = ["face smiling", "face hand", "sky and weather", "flags"].map(String::from);
        parse_class_order("order.txt", text, &names, &[], &[true, true, true, false]).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_file_and_the_line() {
        assert_eq!(
            wrong("face smiling\nface hands\n"),
            "order.txt, line 2: unknown class 'face hands'; did you mean 'face hand'?"
        );
        assert_eq!(
            wrong("face hand\n\nface smiling\nface hand"),
            "order.txt, line 4: the class 'face hand' stands already on line 1"
        );
        assert_eq!(
            wrong("face hand\nflags\n"),
            "order.txt, line 2: the chosen domains have no sample of the class 'flags'"
        );
        let lacks = "it ends here, and lacks classes: face smiling, sky and weather";
        assert_eq!(wrong("face hand\n"), format!("order.txt, line 1: {lacks}"));
        assert!(wrong("").starts_with("order.txt, line 1: it ends here"));
        assert!(wrong("face\tsmiling").contains(r"'face\tsmiling'"));
    }

    #[test]
    fn a_line_is_a_readable_name_or_what_the_data_set_calls_the_class() {
        let (names, keys) = (["crane", "crane", "palm tree"], ["n02", "n03", "palm_tree"]);
        let [names, keys] = [names, keys].map(|words| words.map(String::from));
        let order = |text: &str| parse_class_order("order.txt", text, &names, &keys, &[true; 3]);
        assert_eq!(order("n03\npalm tree\nn02\n").unwrap(), [1, 2, 0].map(Label));
        assert_eq!(order("palm_tree\nn02\nn03\n").unwrap(), [2, 0, 1].map(Label));
        assert!(order("n02\nn04\n").unwrap_err().to_string().contains("did you mean 'n02'?"));
    }

    #[test]
    fn lines_may_be_numbers_of_classes() {
        let names = ["crane", "palm tree", "shark"].map(String::from);
        let order = |text: &str, names: &[String]| {
            parse_class_order("order.txt", text, names, &[], &[true; 3]).map_err(|error| error.to_string())
        };
        assert_eq!(order("2\r\n0\r\n1\r\n", &names).unwrap(), [2, 0, 1].map(Label));
        assert!(order("2\n0\n3\n", &names).unwrap_err().starts_with("order.txt, line 3: unknown class '3'"));
        assert!(
            order("2\n0\n2\n", &names)
                .unwrap_err()
                .starts_with("order.txt, line 3: the class '2' stands already on line 1")
        );
        assert!(order("2\n0\n", &names).unwrap_err().contains("lacks classes: palm tree"));
        assert!(order("crane\n1\n2\n", &names).unwrap_err().starts_with("order.txt, line 2: unknown class '1'"));
        // Of classes that are called by numbers, those are their names.
        let called = ["1", "10", "2"].map(String::from);
        assert_eq!(order("1\n2\n10\n", &called).unwrap(), [0, 2, 1].map(Label));
    }

    #[test]
    fn bundled_lists_are_the_permutations_of_seed_1993() {
        // The numbers that numpy draws are places in CIFAR-100's own order.
        let names: Vec<&str> = include_str!("../../presets/class_names/cifar100.txt").lines().collect();
        let places = |list: &str| -> Vec<usize> {
            let place = |name: &str| names.iter().position(|known| *known == name).unwrap();
            class_list(list).unwrap().lines().map(place).collect()
        };
        assert_eq!(places("cifar100")[..10], [68, 56, 78, 8, 23, 84, 90, 65, 74, 76]);
        // That of DyTox is no such permutation: one that iCaRL's code once drew.
        assert_eq!(places("cifar100-dytox")[..10], [87, 0, 52, 58, 44, 91, 68, 97, 51, 15]);
        assert_eq!(places("cifar100-dytox")[90..], [98, 13, 99, 7, 34, 55, 54, 26, 35, 39]);
        for (name, count) in
            [("cifar100", 100), ("cifar100-dytox", 100), ("imagenet", 1000), ("imagenet-r", 200), ("imagenet-a", 200)]
        {
            let list = class_list(name).unwrap();
            let distinct: std::collections::BTreeSet<&str> = list.lines().collect();
            assert_eq!((list.lines().count(), distinct.len()), (count, count), "{name}");
        }
        let synsets = class_list("imagenet").unwrap();
        for variant in ["imagenet-r", "imagenet-a"] {
            assert!(class_list(variant).unwrap().lines().all(|key| synsets.lines().any(|known| known == key)));
        }
        assert!(class_list("imagnet").unwrap_err().to_string().contains("did you mean 'imagenet'?"));
        assert!(class_list("no/such.txt").unwrap_err().to_string().starts_with("cannot read no/such.txt"));
    }

    proptest! {
        #[test]
        fn every_permutation_is_read_as_it_was_written(count in 1usize..40, seed: u64, absent in 0usize..5, ends in 0usize..3) {
            let names = names(count + absent);
            let present: Vec<bool> = (0..names.len()).map(|class| class >= absent).collect();
            let mut order: Vec<Label> = Label::first(names.len()).skip(absent).collect();
            shuffle(&mut order, &mut rng(seed, "test", &[]));
            let end = ["\n", "\r\n", " \n\n\t"][ends];
            let text: String = order.iter().map(|label| names[label.index()].clone() + end).collect();
            prop_assert_eq!(&parse_class_order("order.txt", &text, &names, &[], &present).unwrap(), &order);
            // The last line needs no end.
            prop_assert_eq!(&parse_class_order("order.txt", text.trim_end(), &names, &[], &present).unwrap(), &order);
        }

        #[test]
        fn one_wrong_line_is_found(count in 2usize..30, seed: u64, place: prop::sample::Index, kind in 0usize..3) {
            let names = names(count);
            let mut order: Vec<u32> = (0..count as u32).collect();
            shuffle(&mut order, &mut rng(seed, "test", &[]));
            let mut lines: Vec<String> = order.iter().map(|class| names[*class as usize].clone()).collect();
            let place = place.index(count);
            let expected = match kind {
                0 => {
                    lines[place] = "not a class of these".to_string();
                    format!("order.txt, line {}: unknown class", place + 1)
                }
                1 => {
                    lines.insert(place, lines[(place + 1) % count].clone());
                    "stands already on line".to_string()
                }
                _ => {
                    lines.remove(place);
                    format!("order.txt, line {}: it ends here, and lacks classes: class", count - 1)
                }
            };
            let error = parse_class_order("order.txt", &lines.join("\n"), &names, &[], &vec![true; count]).unwrap_err();
            prop_assert!(error.to_string().contains(&expected), "'{expected}' is not in: {error}");
        }

        #[test]
        fn any_text_is_a_permutation_or_an_error_of_input(text in "(class [0-3] & café|\\PC|\\s){0,30}", present: [bool; 4]) {
            match parse_class_order("order.txt", &text, &names(4), &[], &present) {
                Ok(order) => {
                    let mut sorted = order.clone();
                    sorted.sort_unstable();
                    let all: Vec<Label> = Label::first(4).filter(|label| present[label.index()]).collect();
                    prop_assert_eq!(sorted, all);
                }
                Err(error) => {
                    prop_assert!(error.to_string().starts_with("order.txt, line "), "{error}");
                    prop_assert_eq!(error.fault(), crate::error::Fault::Input);
                }
            }
        }
    }
}
