//! Rows of a table: cells, and the line on which each row begins.
//!
//! Quotes are those of RFC 4180: a cell that begins with a quote ends at the next one that is not doubled, whatever separators and line
//! ends stand between, and nothing but white space may follow it. A quote elsewhere in a cell is itself. A line ends in `\n`, `\r\n` or
//! `\r`; lines without a character are passed over and counted.

use std::borrow::Cow;

const QUOTE: char = '"';

/// A reader of a table's text, from its first row to its last.
pub(crate) struct Rows<'a> {
    rest: &'a str,
    /// Of the next character, from 1.
    line: u32,
    separator: char,
    /// Whether quotes mean anything.
    quotes: bool,
    /// How many lines without a character were passed over between rows, and the first of them.
    pub empty_lines: Option<(usize, u32)>,
}

/// What stands between two line ends, or in more lines where quotes say so.
pub(crate) struct Row<'a> {
    pub line: u32,
    pub cells: Vec<Cow<'a, str>>,
    /// The quoted cells with line ends in them.
    pub tall: Vec<TallCell<'a>>,
}

/// A quoted cell with line ends in it.
pub(crate) struct TallCell<'a> {
    /// Its place in the row.
    pub place: usize,
    /// The line of the quote that opens it.
    pub line: u32,
    /// What stands between the quotes, as it stands there.
    pub content: &'a str,
}

/// What is wrong with a table's text, and on which line.
pub(crate) struct Fault {
    pub line: u32,
    pub what: String,
}

impl<'a> Rows<'a> {
    /// `separator` is one byte, and neither a quote nor a line end.
    pub(crate) fn of(text: &'a str, separator: u8, quotes: bool) -> Rows<'a> {
        Rows { rest: text, line: 1, separator: char::from(separator), quotes, empty_lines: None }
    }

    /// The next row; `None` after the last. Fails where a quote is not closed, and where text follows one that closes a cell.
    pub(crate) fn next_row(&mut self) -> Result<Option<Row<'a>>, Fault> {
        let mut empty = None;
        while let Some((0, len)) = line_end(self.rest) {
            let (count, first) = empty.unwrap_or((0, self.line));
            empty = Some((count + 1, first));
            self.rest = &self.rest[len..];
            self.line += 1;
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        if let Some((count, first)) = empty {
            let (before, first) = self.empty_lines.unwrap_or((0, first));
            self.empty_lines = Some((before + count, first));
        }
        let mut row = Row { line: self.line, cells: Vec::new(), tall: Vec::new() };
        loop {
            let cell = match self.quotes && self.rest.starts_with(QUOTE) {
                true => self.quoted(&mut row)?,
                false => self.plain(),
            };
            row.cells.push(cell);
            match self.rest.strip_prefix(self.separator) {
                Some(rest) => self.rest = rest,
                None => break,
            }
        }
        if let Some((0, len)) = line_end(self.rest) {
            self.rest = &self.rest[len..];
            self.line += 1;
        }
        Ok(Some(row))
    }

    /// A cell without quotes around it; the separator or the line end behind it remains.
    fn plain(&mut self) -> Cow<'a, str> {
        let end = self.rest.find([self.separator, '\n', '\r']).unwrap_or(self.rest.len());
        let (cell, rest) = self.rest.split_at(end);
        self.rest = rest;
        Cow::Borrowed(cell)
    }

    /// The same of a cell in quotes.
    fn quoted(&mut self, row: &mut Row<'a>) -> Result<Cow<'a, str>, Fault> {
        let opened = self.line;
        let inside = &self.rest[1..];
        let mut end = 0;
        loop {
            let Some(quote) = inside[end..].find(QUOTE) else {
                let what = "the quote that opens a cell here is never closed".to_string();
                return Err(Fault { line: opened, what });
            };
            end += quote;
            match inside[end + 1..].starts_with(QUOTE) {
                true => end += 2,
                false => break,
            }
        }
        let content = &inside[..end];
        let ends = std::iter::successors(Some(content), |rest| line_end(rest).map(|(at, len)| &rest[at + len..]));
        let lines = ends.count() as u32 - 1;
        self.line += lines;
        if lines > 0 {
            row.tall.push(TallCell { place: row.cells.len(), line: opened, content });
        }
        let separator = self.separator;
        self.rest = inside[end + 1..].trim_start_matches(|one| matches!(one, ' ' | '\t') && one != separator);
        if !self.rest.is_empty() && !self.rest.starts_with([separator, '\n', '\r']) {
            let found: String = self.rest.lines().next().unwrap_or_default().escape_debug().take(40).collect();
            let where_opened = if lines > 0 { format!(" that opens on line {opened}") } else { String::new() };
            let what = format!("found '{found}' behind the quote that closes a cell{where_opened}");
            return Err(Fault { line: self.line, what });
        }
        Ok(match content.contains(QUOTE) {
            true => Cow::Owned(content.replace("\"\"", "\"")),
            false => Cow::Borrowed(content),
        })
    }
}

/// Where the first line end of a text stands, and how many bytes it has.
fn line_end(text: &str) -> Option<(usize, usize)> {
    let at = text.find(['\n', '\r'])?;
    Some((at, if text[at..].starts_with("\r\n") { 2 } else { 1 }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rows(text: &str, separator: u8, quotes: bool) -> Result<Vec<(u32, Vec<String>)>, String> {
        let mut rows = Rows::of(text, separator, quotes);
        let mut found = Vec::new();
        while let Some(row) = rows.next_row().map_err(|fault| format!("{}: {}", fault.line, fault.what))? {
            found.push((row.line, row.cells.into_iter().map(Cow::into_owned).collect()));
        }
        Ok(found)
    }

    fn row(line: u32, cells: &[&str]) -> (u32, Vec<String>) {
        (line, cells.iter().map(|cell| cell.to_string()).collect())
    }

    #[test]
    fn a_row_knows_the_line_on_which_it_begins() {
        let expected = vec![row(1, &["a", "b"]), row(4, &["1", ""]), row(5, &["x\ny", "z"]), row(7, &["", "end"])];
        for end in ["\n", "\r\n", "\r"] {
            let text = ["a,b", "", "", "1,", "\"x\ny\",z", ",end", ""].join(end);
            assert_eq!(rows(&text, b',', true), Ok(expected.clone()), "{end:?}");
        }
        assert_eq!(rows("", b',', true), Ok(vec![]));
        assert_eq!(rows("\n\r\n", b',', true), Ok(vec![]));
    }

    #[test]
    fn lines_without_a_character_are_counted_between_rows() {
        let mut rows = Rows::of("a\n\n\nb\n\nc\n\n\n", b',', true);
        while let Ok(Some(_)) = rows.next_row() {}
        assert_eq!(rows.empty_lines, Some((3, 2)));
    }

    #[test]
    fn quotes_hold_a_cell_together() {
        let quoted = rows("\"a, \"\"b\"\"\",5\" nails,\"\",\" c \" \n", b',', true);
        assert_eq!(quoted, Ok(vec![row(1, &["a, \"b\"", "5\" nails", "", " c "])]));
        assert_eq!(rows("\"a\t\"b\"\n", b'\t', false), Ok(vec![row(1, &["\"a", "\"b\""])]));
    }

    #[test]
    fn wrong_quotes_are_faults_of_their_line() {
        let wrong = |text: &str| rows(text, b',', true).unwrap_err();
        assert_eq!(wrong("a,b\n1,\"x\n2,y\n"), "2: the quote that opens a cell here is never closed");
        assert_eq!(wrong("a,b\n1,\"x\"y\n"), "2: found 'y' behind the quote that closes a cell");
        assert_eq!(
            wrong("a,b\n1,\"x\n2,y\n3,\"z\n"),
            "4: found 'z' behind the quote that closes a cell that opens on line 2"
        );
    }

    proptest! {
        #[test]
        fn what_a_writer_of_tables_writes_is_read_again(
            cells in proptest::collection::vec(proptest::collection::vec("[a-c,\"\t\n\r é]{0,6}", 3), 1..6),
            tabs: bool, windows: bool,
        ) {
            let separator = if tabs { b'\t' } else { b',' };
            let end = if windows { csv::Terminator::CRLF } else { csv::Terminator::Any(b'\n') };
            let mut writer = csv::WriterBuilder::new().delimiter(separator).terminator(end).from_writer(Vec::new());
            cells.iter().for_each(|cells| writer.write_record(cells).unwrap());
            let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
            let found: Vec<Vec<String>> = rows(&text, separator, true).unwrap().into_iter().map(|(_, row)| row).collect();
            prop_assert_eq!(found, cells);
        }

        #[test]
        fn any_text_is_rows_or_a_fault(text in "[a,\"\n\r ]{0,40}", quotes: bool) {
            let lines = text.lines().count() as u32 + text.matches('\r').count() as u32;
            let mut rows = Rows::of(&text, b',', quotes);
            loop {
                match rows.next_row() {
                    Ok(None) => break,
                    Ok(Some(row)) => prop_assert!(row.line >= 1 && row.line <= lines),
                    Err(fault) => {
                        prop_assert!(quotes && fault.line >= 1 && fault.line <= lines);
                        break;
                    }
                }
            }
        }
    }
}
