//! From what data sets say of a sample's time to its year.

/// The year of a whole number, or of a text that begins with a year of four digits and something that is no digit
/// (`2015-03-01T12:00`). A number is by its digits
///
/// | digits | what |
/// |---|---|
/// | 1 to 4 | a year |
/// | 6, 8, 14 | a date without its signs, `201503`, `20150301`, `20150301120000` |
/// | 9 to 11 | seconds since 1970, from 1973 on |
/// | 12, 13 | milliseconds since 1970 |
///
/// and what has a sign and more than four digits is seconds or milliseconds before 1970. `None` for anything else.
pub fn year(text: &str) -> Option<i32> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 4 && text.len() > 4 && !text[4..].starts_with('.') {
        return text[..4].parse().ok();
    }
    // A fraction of a second changes no year.
    let whole = match text.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit()) => whole,
        _ => text,
    };
    let number: i64 = whole.parse().ok()?;
    let digits = whole.trim_start_matches(['+', '-']);
    match digits.len() {
        0..=4 => Some(number as i32),
        6 | 8 | 14 if number >= 0 => year_of_date(digits),
        9..=11 => Some(year_of_day(number.div_euclid(86_400))),
        12 | 13 => Some(year_of_day(number.div_euclid(86_400_000))),
        5..=8 if number < 0 => Some(year_of_day(number.div_euclid(86_400))),
        _ => None,
    }
}

/// The year of `YYYYMM`, with or without a day and a time behind; `None` where month or day is none.
fn year_of_date(digits: &str) -> Option<i32> {
    let number = |place: std::ops::Range<usize>| digits.get(place)?.parse::<i32>().ok();
    let month = number(4..6)?;
    let day = number(6..8).unwrap_or(1);
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day);
    number(0..4).filter(|year| *year > 0 && is_date)
}

/// The year of a day counted from the first of January 1970. Years here begin in March, so that a leap day is a year's last:
/// 146,097 days are 400 of them.
fn year_of_day(day: i64) -> i32 {
    let day = day + 719_468;
    let (era, day) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    // January and February, from day 306 on, are of the next year.
    (era * 400 + year + i64::from(of_year >= 306)) as i32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn years_dates_and_timestamps() {
        let cases = [
            ("2015", Some(2015)),
            (" 2015 ", Some(2015)),
            ("-44", Some(-44)),
            ("2015-03-01", Some(2015)),
            ("2015/12/31 23:59:59", Some(2015)),
            ("2015-03-01T12:00:00Z", Some(2015)),
            // Of `date -u -d @N +%Y`.
            ("1425168000", Some(2015)),
            ("1425168000000", Some(2015)),
            ("1425168000.75", Some(2015)),
            ("951782400", Some(2000)), // the 29th of February 2000
            ("946684799", Some(1999)), // the last second of 1999
            ("946684800", Some(2000)),
            ("1704067199", Some(2023)),
            ("1704067200", Some(2024)),
            ("-86400", Some(1969)),
            ("-946684800", Some(1940)),
            ("20150301", Some(2015)),
            ("201503", Some(2015)),
            ("20150301120000", Some(2015)),
            ("19991231.0", Some(1999)),
            // No months and no days, and too few digits for seconds of a time that had such pictures.
            ("20151301", None),
            ("20150332", None),
            ("201500", None),
            ("00000101", None),
            ("86400", None),
            ("1234567", None),
            // Microseconds and nanoseconds.
            ("1425168000000000", None),
            ("1425168000000000000", None),
            ("", None),
            ("March 2015", None),
            ("20x5", None),
            ("1e9", None),
            ("99999999999999999999", None),
        ];
        for (text, expected) in cases {
            assert_eq!(year(text), expected, "'{text}'");
        }
    }

    #[test]
    fn every_year_begins_on_its_first_day() {
        // Counted year by year, with the Gregorian rule.
        let mut day = 0;
        for expected in 1970..2500 {
            let leap = expected % 4 == 0 && (expected % 100 != 0 || expected % 400 == 0);
            assert_eq!((year_of_day(day), year_of_day(day - 1)), (expected, expected - 1));
            day += if leap { 366 } else { 365 };
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_year_or_none(text in "\\PC{0,24}", number in any::<i64>()) {
            let _ = year(&text);
            let _ = year(&number.to_string());
        }
    }
}
