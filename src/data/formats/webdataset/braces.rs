//! Names with ranges and lists in braces, as bash expands them: how shards are named.

use crate::error::{Error, Result};

/// Names of a specification, at most: `{0..9999999999}` is a mistake.
const MOST_NAMES: usize = 1 << 20;

/// Braces in a specification, at most: no name has more, and each is a call in a call.
const MOST_BRACES: usize = 32;

/// `{08..10}.tar` as `08.tar`, `09.tar` and `10.tar`, `{a,b}.tar` as `a.tar` and `b.tar`; in their order, the first brace slowest.
pub(crate) fn expand(spec: &str) -> Result<Vec<String>> {
    if spec.is_empty() {
        return Err(Error::input("a shard without a name"));
    }
    if spec.matches('{').count() > MOST_BRACES {
        return Err(Error::input(format!("more than {MOST_BRACES} braces")));
    }
    expand_within(spec)
}

/// The same of a command: what is neither a range nor a list stays as it is, as a shell leaves it (`awk '{print}'`, `${NAME}`).
pub(crate) fn expand_command(command: &str) -> Result<Vec<String>> {
    let mut commands = vec![String::new()];
    let (mut rest, mut braces) = (command, 0);
    while let Some(open) = rest.find('{') {
        let end = closing(rest, open).0.map(|close| close + 1).filter(|_| !rest[..open].ends_with('$'));
        let choices = match end {
            Some(end) if braces < MOST_BRACES => expand_within(&rest[open..end]).ok(),
            _ => None,
        };
        braces += 1;
        let end = end.filter(|_| choices.is_some()).unwrap_or(open + 1);
        let choices = choices.unwrap_or_else(|| vec!["{".to_string()]);
        if commands.len().saturating_mul(choices.len()) > MOST_NAMES {
            return Err(Error::input(format!("more than {MOST_NAMES} shards")));
        }
        let with = |command: String| {
            let before = format!("{command}{}", &rest[..open]);
            choices.iter().map(move |choice| format!("{before}{choice}")).collect::<Vec<_>>()
        };
        commands = commands.into_iter().flat_map(with).collect();
        rest = &rest[end..];
    }
    commands.iter_mut().for_each(|command| *command += rest);
    Ok(commands)
}

/// Where the brace that opens at `open` is closed, and the commas in between that belong to it.
fn closing(spec: &str, open: usize) -> (Option<usize>, Vec<usize>) {
    let (mut depth, mut commas) = (0, Vec::new());
    for (place, byte) in spec.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b',' if depth == 1 => commas.push(place),
            b'}' if depth == 1 => return (Some(place), commas),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    (None, commas)
}

fn expand_within(spec: &str) -> Result<Vec<String>> {
    let Some(open) = spec.find('{') else { return Ok(vec![spec.to_string()]) };
    let (close, commas) = closing(spec, open);
    let close = close.ok_or_else(|| Error::input("a brace is not closed, expected {00000..00012} or {a,b}"))?;
    let choices = if commas.is_empty() {
        range(&spec[open + 1..close])?
    } else {
        let ends = commas.iter().copied().chain([close]);
        let starts = [open].into_iter().chain(commas.iter().copied());
        let mut choices = Vec::new();
        for (start, end) in starts.zip(ends) {
            choices.extend(expand_within(&spec[start + 1..end])?);
        }
        choices
    };
    let rest = expand_within(&spec[close + 1..])?;
    if choices.len().saturating_mul(rest.len()) > MOST_NAMES {
        return Err(Error::input(format!("more than {MOST_NAMES} shards")));
    }
    let before = &spec[..open];
    Ok(choices.iter().flat_map(|choice| rest.iter().map(move |rest| format!("{before}{choice}{rest}"))).collect())
}

/// `08..10` as `08`, `09` and `10`, filled up to the digits of the longer end where one begins with 0; backwards too.
fn range(inside: &str) -> Result<Vec<String>> {
    let wrong =
        || Error::input(format!("found {{{inside}}}, expected a range as in {{00000..00012}} or a list as in {{a,b}}"));
    let (first, last) = inside.split_once("..").ok_or_else(wrong)?;
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse::<u64>().map_err(|_| wrong()),
        false => Err(wrong()),
    };
    let (from, to) = (number(first)?, number(last)?);
    if from.abs_diff(to) >= MOST_NAMES as u64 {
        return Err(Error::input(format!("{{{inside}}} are more than {MOST_NAMES} shards")));
    }
    let padded = [first, last].iter().any(|text| text.len() > 1 && text.starts_with('0'));
    let width = if padded { first.len().max(last.len()) } else { 0 };
    let name = |number: u64| format!("{number:0width$}");
    Ok(if from <= to { (from..=to).map(name).collect() } else { (to..=from).rev().map(name).collect() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn specifications_mean_what_bash_makes_of_them() {
        // Of `echo SPEC` in bash 5.
        let cases = [
            ("a.tar", "a.tar"),
            ("{08..11}.tar", "08.tar 09.tar 10.tar 11.tar"),
            ("{8..11}", "8 9 10 11"),
            ("{2..0}", "2 1 0"),
            ("{a,b}-{0..1}", "a-0 a-1 b-0 b-1"),
            ("x{a,b{1..2},}y", "xay xb1y xb2y xy"),
            ("{9..010}", "009 010"),
        ];
        for (spec, expected) in cases {
            assert_eq!(expand(spec).unwrap().join(" "), expected, "{spec}");
        }
        for wrong in ["{", "a{0..}", "{x}", "{0..99999999}", "{0..99999}{0..99999}", "", "{-1..1}"] {
            assert!(expand(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn commands_keep_the_braces_of_their_own() {
        // Of bash 5, but for the spaces.
        for (command, expected) in [
            ("cat {0..1}.tar", vec!["cat 0.tar", "cat 1.tar"]),
            ("cat {a,b}.tar | awk '{print}'", vec!["cat a.tar | awk '{print}'", "cat b.tar | awk '{print}'"]),
            ("cat ${NAME,,}/{01..02}", vec!["cat ${NAME,,}/01", "cat ${NAME,,}/02"]),
            ("{ cat x", vec!["{ cat x"]),
            ("", vec![""]),
        ] {
            assert_eq!(expand_command(command).unwrap(), expected, "{command}");
        }
        assert!(expand_command("{0..9999}{0..9999}").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn any_specification_is_fine_or_an_error(spec in "[a0-9{},.]{0,24}") {
            if let Ok(names) = expand(&spec) {
                prop_assert!(names.len() <= MOST_NAMES);
            }
            if let Ok(commands) = expand_command(&spec) {
                prop_assert!(commands.len() <= MOST_NAMES);
            }
        }
    }
}
