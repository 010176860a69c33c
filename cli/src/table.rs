//! Tables for people: columns as wide as what is in them.

/// Rows of cells; the first row is the head.
pub struct Table {
    rows: Vec<Vec<String>>,
    /// Columns whose cells stand at the right.
    right: &'static [usize],
}

impl Table {
    /// With a head; `right` names the columns of numbers.
    pub fn new(head: &[&str], right: &'static [usize]) -> Table {
        Table {
            rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()],
            right,
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The text, with two spaces between columns and before each line.
    pub fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                line.push_str("  ");
                match self.right.contains(&column) {
                    true => line.push_str(&format!("{cell:>width$}")),
                    false => line.push_str(&format!("{cell:<width$}")),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let mut table = Table::new(&["disk", "used"], &[1]);
        table.row(vec!["1".into(), "1234".into()]);
        table.row(vec!["100000".into(), "7".into()]);
        assert_eq!(
            table.text(),
            "  disk    used\n  1       1234\n  100000     7\n"
        );
    }
}
