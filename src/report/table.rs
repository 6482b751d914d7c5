//! One table, three ways to print it.

/// Rows of text under a header; numbers align to the right.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<S: Into<String>>(header: impl IntoIterator<Item = S>) -> Table {
        Table { header: header.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row; missing cells at its end stay empty.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let mut cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        cells.resize(self.header.len(), String::new());
        self.rows.push(cells);
    }

    /// Adds a column on the right; missing cells at its end stay empty.
    pub fn column(&mut self, name: impl Into<String>, cells: impl IntoIterator<Item = String>) {
        self.header.push(name.into());
        let mut cells = cells.into_iter();
        self.rows.iter_mut().for_each(|row| row.push(cells.next().unwrap_or_default()));
    }

    pub fn header(&self) -> &[String] {
        &self.header
    }

    pub fn rows(&self) -> &[Vec<String>] {
        &self.rows
    }

    fn lines(&self) -> impl Iterator<Item = &Vec<String>> {
        std::iter::once(&self.header).chain(&self.rows)
    }

    /// Whether a column holds numbers, and so aligns to the right.
    pub fn is_numeric(&self, column: usize) -> bool {
        let numeric =
            |cell: &String| cell.is_empty() || cell.starts_with(|c: char| c.is_ascii_digit() || "+-".contains(c));
        self.rows.iter().all(|row| numeric(&row[column]))
    }

    fn aligned(&self) -> Vec<Vec<String>> {
        let width = |column: usize| self.lines().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let pad = |row: &Vec<String>| {
            let cells = row.iter().enumerate().map(|(column, cell)| {
                let space = " ".repeat(widths[column] - cell.chars().count());
                if self.is_numeric(column) { space + cell } else { cell.clone() + &space }
            });
            cells.collect()
        };
        self.lines().map(pad).collect()
    }

    /// Columns two spaces apart, a rule under the header.
    pub fn to_text(&self) -> String {
        let mut lines: Vec<String> = self.aligned().iter().map(|row| row.join("  ").trim_end().to_string()).collect();
        let rule = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
        lines.insert(1, "-".repeat(rule));
        lines.join("\n") + "\n"
    }

    pub fn to_markdown(&self) -> String {
        let mut lines: Vec<String> =
            self.aligned().iter().map(|row| format!("| {} |", row.join(" | ").replace('\n', " "))).collect();
        let rule: Vec<&str> = (0..self.header.len()).map(|c| if self.is_numeric(c) { "--:" } else { "---" }).collect();
        lines.insert(1, format!("| {} |", rule.join(" | ")));
        lines.join("\n") + "\n"
    }

    /// RFC 4180: cells with a comma, a quote or a line break are quoted.
    pub fn to_csv(&self) -> String {
        let quote = |cell: &String| {
            if cell.contains(['"', ',', '\n', '\r']) {
                format!("\"{}\"", cell.replace('"', "\"\""))
            } else {
                cell.clone()
            }
        };
        self.lines().map(|row| row.iter().map(quote).collect::<Vec<_>>().join(",") + "\n").collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    fn table() -> Table {
        let mut table = Table::new(["method", "last"]);
        table.row(["gdro", "9.5"]);
        table.row(["zero-shot, \"first\"", "10.25"]);
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
        table.column("samples/s", ["97".to_string()]);
        assert_eq!(table.to_csv(), "method,last,samples/s\ngdro,9.5,97\n\"zero-shot, \"\"first\"\"\",10.25,\n");
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        assert_eq!(table().to_csv(), "method,last\ngdro,9.5\n\"zero-shot, \"\"first\"\"\",10.25\n");
    }
}
