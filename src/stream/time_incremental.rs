//! A later period at every step (TiC-CLIP's protocol, arXiv 2310.16226).

use super::{Item, Stream, StreamKind, collect};
use crate::error::{Error, Result};

/// A step for each period. `periods` are the last years of them, ascending: [2014, 2016] means `<=2014` and
/// `2015-2016`. It is an error of input if the years do not ascend, if a sample is later than the last, or if a
/// period has no training sample.
pub(crate) fn time_incremental(items: &[Item], periods: &[i32]) -> Result<Stream> {
    let Some(last) = periods.last() else {
        return Err(Error::input("a time-incremental stream needs at least one period"));
    };
    if let Some(pair) = periods.windows(2).find(|pair| pair[0] >= pair[1]) {
        return Err(Error::input(format!(
            "the periods' last years must ascend: {} does not lie before {}",
            pair[0], pair[1]
        )));
    }
    let late = items.iter().filter(|item| item.time > *last).count();
    if let Some(first) = items.iter().position(|item| item.time > *last) {
        let year = items[first].time;
        return Err(Error::input(format!(
            "{late} samples are later than the last period, which ends with {last}: the first is \
             sample {first}, of {year}"
        )));
    }
    let mut names = vec![format!("<={}", periods[0])];
    names.extend(periods.windows(2).map(|pair| match (pair[0] + 1, pair[1]) {
        (first, last) if first == last => last.to_string(),
        (first, last) => format!("{first}-{last}"),
    }));
    let steps = collect(items, names, |item| Some(periods.partition_point(|year| *year < item.time)))?;
    if let Some(step) = steps.iter().find(|step| step.train.is_empty()) {
        return Err(Error::input(format!("the period {} has no training samples", step.name)));
    }
    Ok(Stream::new(StreamKind::TimeIncremental, steps))
}

#[cfg(test)]
mod tests {
    use super::super::Step;
    use super::super::tests::{check_partition, items};
    use super::*;

    #[test]
    fn years_fall_into_their_periods() {
        let items = items(10);
        let stream = time_incremental(&items, &[2014, 2016, 2017, 2024]).unwrap();
        check_partition(&stream, &items);
        let names: Vec<&str> = stream.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(names, ["<=2014", "2015-2016", "2017", "2018-2024"]);
        let numbers = |step: &Step| step.classes.iter().map(|label| label.0).collect::<Vec<u32>>();
        let classes: Vec<Vec<u32>> = stream.steps.iter().map(numbers).collect();
        assert_eq!(classes, [&[0, 5][..], &[1, 2, 6, 7], &[3, 8], &[4, 9]]);
    }

    #[test]
    fn wrong_periods_are_refused() {
        let items = items(10);
        let wrong = |periods: &[i32]| time_incremental(&items, periods).unwrap_err().to_string();
        assert_eq!(wrong(&[]), "a time-incremental stream needs at least one period");
        assert_eq!(wrong(&[2014, 2016, 2016]), "the periods' last years must ascend: 2016 does not lie before 2016");
        assert_eq!(
            wrong(&[2014, 2016]),
            "12 samples are later than the last period, which ends with 2016: the first is sample 3, of 2017"
        );
        assert_eq!(wrong(&[2018, 2020]), "the period 2019-2020 has no training samples");
    }
}
