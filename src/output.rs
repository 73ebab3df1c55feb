//! What people and scripts see: tables and colours for the ones, JSON for the others.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use owo_colors::{OwoColorize as _, Style};
use serde::Serialize;
use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

use crate::failure::CommandResult;

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What a piece of text is, which decides its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// Nothing special.
    Plain,
    /// The heading of a table or a section.
    Heading,
    /// An id, a position, a moment: there when it is needed.
    Dim,
    /// What went well.
    Good,
    /// What is under way, or deserves a look.
    Caution,
    /// What went wrong.
    Bad,
    /// A command that can be typed, a name.
    Accent,
}

impl Ink {
    /// The colour of a status, by what it means to whoever waits for it.
    pub fn of_status(status: &str) -> Self {
        match status {
            "available" | "completed" | "in-use" | "paid" | "enabled" | "up" => Self::Good,
            "maintenance" | "abandoned" | "held" | "disabled" => Self::Caution,
            "deleted" => Self::Dim,
            _ if status.starts_with("error") || status == "failed" || status == "down" => Self::Bad,
            _ if status.ends_with("ing") => Self::Caution,
            _ => Self::Plain,
        }
    }

    /// The colour of an event, by its name.
    pub fn of_event(name: &str) -> Self {
        if name.contains("Failed") || name.contains("Waived") || name.contains("Undo") {
            Self::Bad
        } else if name.contains("Debt") || name.contains("Reset") || name.contains("Rescheduled") {
            Self::Caution
        } else if name.ends_with("Accepted") || name.starts_with("Operation") || name.starts_with("Step") {
            Self::Plain
        } else {
            Self::Good
        }
    }

    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Heading => Style::new().bold(),
            Self::Dim => Style::new().dimmed(),
            Self::Good => Style::new().green(),
            Self::Caution => Style::new().yellow(),
            Self::Bad => Style::new().red(),
            Self::Accent => Style::new().cyan(),
        }
    }
}

/// One stream with its colours.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    enabled: bool,
}

impl Paint {
    /// For a stream that is a terminal or not.
    pub fn new(choice: ColorChoice, is_terminal: bool) -> Self {
        let wanted = || {
            let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
            is_terminal && !no_color && !dumb
        };
        let enabled = match choice {
            ColorChoice::Auto => wanted(),
            ColorChoice::Always => true,
            ColorChoice::Never => false,
        };
        Self { enabled }
    }

    /// The text in its colour. Control characters in it are made visible first: names are chosen
    /// by others, and must not steer the terminal of whoever looks at them.
    pub fn ink(self, ink: Ink, text: &str) -> String {
        let text = harmless(text);
        if self.enabled && ink != Ink::Plain && !text.is_empty() {
            text.style(ink.style()).to_string()
        } else {
            text
        }
    }
}

/// Text without control characters.
pub fn harmless(text: &str) -> String {
    let is_steering =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if text.contains(is_steering) {
        text.chars()
            .map(|c| if is_steering(c) { c.escape_default().to_string() } else { c.to_string() })
            .collect()
    } else {
        text.to_owned()
    }
}

/// Text of several lines without other control characters.
pub fn harmless_lines(text: &str) -> String {
    text.lines().map(harmless).collect::<Vec<_>>().join("\n")
}

/// One cell of a table.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    ink: Ink,
    right: bool,
}

impl Cell {
    /// Text in a colour.
    pub fn new(ink: Ink, text: impl Into<String>) -> Self {
        Self { text: text.into(), ink, right: false }
    }

    /// Text as it is.
    pub fn plain(text: impl Into<String>) -> Self {
        Self::new(Ink::Plain, text)
    }

    /// A number, aligned to the right.
    pub fn number(number: impl ToString) -> Self {
        Self { text: number.to_string(), ink: Ink::Plain, right: true }
    }

    /// A status in its colour.
    pub fn status(status: &str) -> Self {
        Self::new(Ink::of_status(status), status)
    }
}

/// Rows under headings, as wide as they need to be.
#[derive(Clone, Debug, Default)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    minimum: Vec<usize>,
}

impl Table {
    /// A table with these headings.
    pub fn new(headings: &[&'static str]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new(), minimum: Vec::new() }
    }

    /// Keeps columns at least this wide, so that the pages of one listing line up.
    #[must_use]
    pub fn at_least(mut self, widths: &[usize]) -> Self {
        self.minimum = widths.to_vec();
        self
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// The table as text, headings first if wanted.
    pub fn render(&self, paint: Paint, with_headings: bool) -> String {
        let shown: Vec<Vec<Cell>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(|cell| Cell { text: harmless(&cell.text), ..cell.clone() }).collect())
            .collect();
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|column| {
                let heading = self.headings.get(column).map_or(0, |heading| heading.width());
                let cells = shown.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.width());
                let minimum = self.minimum.get(column).copied().unwrap_or(0);
                cells.max().unwrap_or(0).max(heading).max(minimum)
            })
            .collect();
        let mut text = String::new();
        if with_headings {
            let cells =
                self.headings.iter().map(|heading| Cell::new(Ink::Heading, *heading)).collect::<Vec<_>>();
            push_row(&mut text, &cells, &widths, paint);
        }
        for row in &shown {
            push_row(&mut text, row, &widths, paint);
        }
        text
    }
}

fn push_row(text: &mut String, cells: &[Cell], widths: &[usize], paint: Paint) {
    let mut line = String::new();
    let mut gap = 0;
    for (cell, width) in cells.iter().zip(widths) {
        let padding = width.saturating_sub(cell.text.width());
        let (before, after) = if cell.right { (padding, 0) } else { (0, padding) };
        line.push_str(&" ".repeat(gap + before));
        line.push_str(&paint.ink(cell.ink, &cell.text));
        gap = after + 2;
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

/// Standard output: colours if it is a terminal, JSON if that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    paint: Paint,
    color: ColorChoice,
    json: bool,
}

impl Output {
    /// Standard output as it is.
    pub fn new(color: ColorChoice, json: bool) -> Self {
        let is_terminal = io::stdout().is_terminal();
        Self { paint: Paint::new(color, is_terminal && !json), color, json }
    }

    /// Whether JSON was asked for.
    pub const fn is_json(self) -> bool {
        self.json
    }

    /// The colours of standard output.
    pub const fn paint(self) -> Paint {
        self.paint
    }

    /// The colours of standard error.
    pub fn error_paint(self) -> Paint {
        Paint::new(self.color, io::stderr().is_terminal())
    }

    /// The text in its colour.
    pub fn ink(self, ink: Ink, text: &str) -> String {
        self.paint.ink(ink, text)
    }

    /// Writes text as it is.
    ///
    /// # Errors
    /// If nobody reads any more, or the disk behind it is full.
    pub fn text(self, text: &str) -> CommandResult {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        Ok(())
    }

    /// Writes a line.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn line(self, line: &str) -> CommandResult {
        self.text(&format!("{line}\n"))
    }

    /// Writes a table with its headings.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn table(self, table: &Table) -> CommandResult {
        self.text(&table.render(self.paint, true))
    }

    /// Writes a JSON document, indented.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn document(self, document: &impl Serialize) -> CommandResult {
        self.line(&serde_json::to_string_pretty(document)?)
    }

    /// Writes a JSON document on one line, for streams of them.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn json_line(self, document: &Value) -> CommandResult {
        self.line(&document.to_string())
    }

    /// A bar on standard error for work whose length is known. Hidden where there is no terminal.
    pub fn progress(self, what: &'static str, length: u64) -> ProgressBar {
        let target = if self.json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(length), target).with_message(what);
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {human_pos}/{human_len} ({eta})") {
            bar.set_style(style);
        }
        bar
    }
}

/// `key: value` lines, the keys aligned.
pub fn properties(paint: Paint, pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(key, _)| key.width()).max().unwrap_or(0);
    let mut text = String::new();
    for (key, value) in pairs {
        let padding = " ".repeat(width.saturating_sub(key.width()));
        // writing into a String cannot fail
        let _written = writeln!(text, "{}{padding}  {value}", paint.ink(Ink::Dim, key));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Paint {
        Paint::new(ColorChoice::Never, false)
    }

    #[test]
    fn columns_line_up_whatever_the_script() {
        let mut table = Table::new(&["NAME", "SIZE"]);
        table.row(vec![Cell::plain("日本"), Cell::number(7)]);
        table.row(vec![Cell::plain("plain"), Cell::number(1000)]);
        assert_eq!(table.render(plain(), true), "NAME   SIZE\n日本      7\nplain  1000\n");
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        let mut table = Table::new(&["NAME"]);
        table.row(vec![Cell::plain("\u{1b}[2Jgone\nnext")]);
        assert_eq!(table.render(plain(), false), "\\u{1b}[2Jgone\\nnext\n");
    }

    #[test]
    fn colours_appear_only_when_they_are_wanted() {
        let always = Paint::new(ColorChoice::Always, false);
        assert!(always.ink(Ink::Bad, "x").starts_with('\u{1b}'));
        assert_eq!(plain().ink(Ink::Bad, "x"), "x");
        assert_eq!(Paint::new(ColorChoice::Auto, false).ink(Ink::Bad, "x"), "x");
    }
}
