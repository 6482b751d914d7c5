//! One table, and the ways to print it.

use serde_json::json;

use super::cells::Spread;

/// What stands in one place of a table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Empty,
    /// Words, whosever they are.
    Text(String),
    /// A number as it is shown.
    Number(String),
    /// A mean over seeds with its deviation; where there is none, one of a column that has some.
    Spread(Option<Spread>),
}

impl Value {
    pub(crate) fn number(number: impl ToString) -> Value {
        Value::Number(number.to_string())
    }

    /// A fraction in per cent.
    pub(crate) fn percent(fraction: f64) -> Value {
        Value::Number(format!("{:.1}", 100.0 * fraction))
    }

    /// As people read it.
    pub(crate) fn shown(&self) -> String {
        match self {
            Value::Empty | Value::Spread(None) => String::new(),
            Value::Text(text) | Value::Number(text) => text.clone(),
            Value::Spread(Some(spread)) => spread.to_string(),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        text.to_string().into()
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        if text.is_empty() { Value::Empty } else { Value::Text(text) }
    }
}

/// Nothing where there is none.
impl<V: Into<Value>> From<Option<V>> for Value {
    fn from(value: Option<V>) -> Value {
        value.map_or(Value::Empty, Into::into)
    }
}

/// Rows under a header; numbers align to the right.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<Value>>,
}

impl Table {
    pub(crate) fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Table {
        Table { header: header.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row; missing values at its end stay empty.
    pub(crate) fn row<V: Into<Value>>(&mut self, values: impl IntoIterator<Item = V>) {
        let mut values: Vec<Value> = values.into_iter().map(Into::into).collect();
        values.resize(self.header.len(), Value::Empty);
        self.rows.push(values);
    }

    /// Adds a column on the right; missing values at its end stay empty.
    pub(crate) fn column(&mut self, name: impl Into<String>, values: impl IntoIterator<Item = Value>) {
        self.header.push(name.into());
        let mut values = values.into_iter();
        self.rows.iter_mut().for_each(|row| row.push(values.next().unwrap_or(Value::Empty)));
    }

    pub(crate) fn header(&self) -> &[String] {
        &self.header
    }

    pub(crate) fn rows(&self) -> &[Vec<Value>] {
        &self.rows
    }

    /// Whether a column holds numbers, and so aligns to the right.
    pub(crate) fn is_numeric(&self, column: usize) -> bool {
        self.rows.iter().all(|row| !matches!(row[column], Value::Text(_)))
    }

    /// The header and the rows as `show` writes each text, padded to the columns' widths.
    fn aligned(&self, show: fn(&str) -> String) -> Vec<Vec<String>> {
        let header = self.header.iter().map(|name| show(name)).collect();
        let rows = self.rows.iter().map(|row| row.iter().map(|value| show(&value.shown())).collect());
        let mut lines: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
        for column in 0..self.header.len() {
            let width = lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
            for line in &mut lines {
                let cell = &mut line[column];
                let space = " ".repeat(width - cell.chars().count());
                *cell = if self.is_numeric(column) { space + cell } else { cell.clone() + &space };
            }
        }
        lines
    }

    /// Columns two spaces apart, a rule under the header.
    pub fn to_text(&self) -> String {
        let rows = self.aligned(visible);
        let mut lines: Vec<String> = rows.iter().map(|row| row.join("  ").trim_end().to_string()).collect();
        let rule = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
        lines.insert(1, "-".repeat(rule));
        lines.join("\n") + "\n"
    }

    /// A table of GitHub's Markdown, in which every text reads as it is.
    pub fn to_markdown(&self) -> String {
        let mut lines: Vec<String> =
            self.aligned(markdown).iter().map(|row| format!("| {} |", row.join(" | "))).collect();
        let rule: Vec<&str> = (0..self.header.len()).map(|c| if self.is_numeric(c) { "--:" } else { "---" }).collect();
        lines.insert(1, format!("| {} |", rule.join(" | ")));
        lines.join("\n") + "\n"
    }

    /// A list of rows, each an object by the header's names: a number as it is shown, a mean with its deviation in per cent, null for
    /// nothing.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let cell = |value: &Value| match value {
            Value::Empty | Value::Spread(None) => serde_json::Value::Null,
            Value::Text(text) => text.as_str().into(),
            Value::Number(text) => text.parse::<f64>().map_or(serde_json::Value::Null, Into::into),
            Value::Spread(Some(spread)) => {
                json!({ "mean": 100.0 * spread.mean, "deviation": spread.deviation.map(|deviation| 100.0 * deviation) })
            }
        };
        let row = |row: &Vec<Value>| -> serde_json::Value {
            let cells = self.header.iter().zip(row).map(|(name, value)| (name.clone(), cell(value)));
            serde_json::Value::Object(cells.collect())
        };
        self.rows.iter().map(row).collect()
    }

    /// RFC 4180: cells with a comma, a quote or a line break are quoted. Numbers stand alone: of a mean over seeds the standard
    /// deviation has a column of its own, `NAME_deviation`, empty where there is one seed.
    pub fn to_csv(&self) -> String {
        let spreads: Vec<bool> = (0..self.header.len())
            .map(|column| self.rows.iter().any(|row| matches!(row[column], Value::Spread(_))))
            .collect();
        let header = self.header.iter().zip(&spreads).flat_map(|(name, spread)| {
            let deviation = spread.then(|| format!("{name}_deviation"));
            std::iter::once(name.clone()).chain(deviation).map(|name| csv_cell(&harmless(&name)))
        });
        let mut lines = vec![header.collect::<Vec<_>>().join(",")];
        for row in &self.rows {
            let cells = row.iter().zip(&spreads).flat_map(|(value, spread)| {
                let (first, deviation) = match value {
                    Value::Text(text) => (harmless(text), None),
                    Value::Empty | Value::Number(_) | Value::Spread(None) => (value.shown(), None),
                    Value::Spread(Some(spread)) => (csv_percent(spread.mean), spread.deviation.map(csv_percent)),
                };
                let deviation = spread.then(|| deviation.unwrap_or_default());
                std::iter::once(first).chain(deviation).map(|cell| csv_cell(&cell))
            });
            lines.push(cells.collect::<Vec<_>>().join(","));
        }
        lines.join("\n") + "\n"
    }
}

/// A fraction in per cent, with what a further computation needs.
fn csv_percent(fraction: f64) -> String {
    format!("{:.4}", 100.0 * fraction)
}

fn csv_cell(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_string() }
}

/// Spreadsheets take a text for a formula by its first character, and a formula may do harm; behind an apostrophe it is a text.
fn harmless(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_string() }
}

/// A text for a terminal: of what would move the cursor or change colours, only the name.
pub(crate) fn visible(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

/// A text as a line of GitHub's Markdown that shows it as it is: nothing of it is a mark, and a line break is a space.
pub(crate) fn markdown(text: &str) -> String {
    let mut escaped = String::new();
    let mut chars = text.chars().peekable();
    let mut last = ' ';
    while let Some(c) = chars.next() {
        let inside_a_word =
            |next: Option<&char>| last.is_alphanumeric() && next.is_some_and(|next| next.is_alphanumeric());
        match c {
            // Within a word it is no mark.
            '_' if inside_a_word(chars.peek()) => escaped.push(c),
            '\\' | '`' | '*' | '_' | '<' | '>' | '[' | ']' | '|' | '&' | '~' | '$' => escaped.extend(['\\', c]),
            _ if c.is_control() => escaped.push(' '),
            _ => escaped.push(c),
        }
        last = c;
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["method", "last"]);
        table.row(["gdro".into(), Value::number("9.5")]);
        table.row(["zero-shot, \"first\"".into(), Value::number("10.25")]);
        table
    }

    #[test]
    fn text_is_aligned() {
        let expected = "method               last\n\
                        -------------------------\n\
                        gdro                  9.5\n\
                        zero-shot, \"first\"  10.25\n";
        assert_eq!(table().to_text(), expected);
    }

    #[test]
    fn markdown_aligns_numbers_to_the_right() {
        let expected = "| method             |  last |\n\
                        | --- | --: |\n\
                        | gdro               |   9.5 |\n\
                        | zero-shot, \"first\" | 10.25 |\n";
        assert_eq!(table().to_markdown(), expected);
    }

    #[test]
    fn a_column_joins_on_the_right() {
        let mut table = table();
        table.column("samples/s", [Value::number(97)]);
        assert_eq!(table.to_csv(), "method,last,samples/s\ngdro,9.5,97\n\"zero-shot, \"\"first\"\"\",10.25,\n");
    }

    #[test]
    fn in_csv_a_mean_and_its_deviation_have_a_column_each() {
        let mut table = Table::new(["method", "average", "bwt", "last"]);
        let spread = |mean, deviation| Value::Spread(Some(Spread { mean, deviation }));
        table.row(["gcl".into(), spread(0.398, Some(0.005)), Value::Empty, Value::Spread(None)]);
        table.row(["gdro".into(), spread(0.25, None), Value::number("-1.5")]);
        table.row([Value::from("-gdro"), Value::Empty, Value::number("+1.5")]);
        let expected = "method,average,average_deviation,bwt,last,last_deviation\n\
                        gcl,39.8000,0.5000,,,\ngdro,25.0000,,-1.5,,\n'-gdro,,,+1.5,,\n";
        assert_eq!(table.to_csv(), expected);
        assert!(table.to_text().contains("39.8 ± 0.5") && table.to_markdown().contains("39.8 ± 0.5"));
    }

    #[test]
    fn a_terminal_is_told_nothing_but_text() {
        let mut table = Table::new(["a"]);
        table.row(["x\u{1b}[2J\ny"]);
        assert_eq!(table.to_text().lines().last().unwrap(), "x\\u{1b}[2J\\ny");
    }

    /// Texts of what formats take for their own, and of anything.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["[|`*_<>&=+@,\"'\\\\\t\r\n a-c\\[\\]~$-]{0,12}", "\\PC{0,12}"]
    }

    /// Cells of Markdown's tables as another program reads them.
    fn read_markdown(text: &str) -> Vec<Vec<String>> {
        use pulldown_cmark::{Event, Options, Parser, Tag};
        let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_MATH;
        let mut rows: Vec<Vec<String>> = Vec::new();
        for event in Parser::new_ext(text, options) {
            match event {
                Event::Start(Tag::Table(_)) | Event::End(_) => {}
                Event::Start(Tag::TableHead | Tag::TableRow) => rows.push(Vec::new()),
                Event::Start(Tag::TableCell) => rows.last_mut().unwrap().push(String::new()),
                Event::Text(text) => rows.last_mut().unwrap().last_mut().unwrap().push_str(&text),
                other => panic!("{other:?} is neither a table nor a text"),
            }
        }
        rows
    }

    proptest! {
        #[test]
        fn csv_is_read_back_as_it_was(rows in prop::collection::vec([text(), text(), text()], 1..6)) {
            let mut table = Table::new(["one", "two", "=three"]);
            rows.iter().for_each(|row| table.row(row.iter().map(String::as_str)));
            let csv = table.to_csv();
            let mut reader = csv::ReaderBuilder::new().from_reader(csv.as_bytes());
            prop_assert_eq!(reader.headers().unwrap(), vec!["one", "two", "'=three"]);
            let read: Vec<csv::StringRecord> = reader.records().map(|record| record.unwrap()).collect();
            prop_assert_eq!(read.len(), rows.len());
            for (read, row) in read.iter().zip(&rows) {
                for (cell, text) in read.iter().zip(row) {
                    prop_assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r']), "{:?} is a formula", cell);
                    let apostrophe = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
                    prop_assert_eq!(cell, format!("{apostrophe}{text}"));
                }
            }
        }

        #[test]
        fn markdown_is_read_back_as_it_was(rows in prop::collection::vec([text(), text(), text()], 1..6)) {
            let mut table = Table::new(["one", "two", "th|ree"]);
            rows.iter().for_each(|row| table.row(row.iter().map(String::as_str)));
            let read = read_markdown(&table.to_markdown());
            prop_assert_eq!(&read[0], &["one", "two", "th|ree"]);
            prop_assert_eq!(read.len(), 1 + rows.len());
            // A line break is a space, and spaces at the ends of a cell are none of its text.
            let plain = |text: &str| text.replace(|c: char| c.is_control(), " ").trim().to_string();
            for (read, row) in read[1..].iter().zip(&rows) {
                let (read, row): (Vec<String>, Vec<String>) =
                    (read.iter().map(|cell| plain(cell)).collect(), row.iter().map(|text| plain(text)).collect());
                prop_assert_eq!(read, row);
            }
        }
    }
}
