//! A page as a browser lays it out.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

/// What programs of Chromium are called.
const BROWSERS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Theme {
    Light,
    Dark,
}

/// A page in a window, everything that can be unfolded unfolded.
#[derive(Debug, Deserialize)]
pub struct PageLayout {
    /// Pixels by which the page is wider than its window.
    pub overflow: f64,
    /// Elements that reach out of the window, but for those in boxes that scroll.
    pub outside: Vec<String>,
    /// Files and addresses that the page has asked for.
    pub requests: usize,
    /// The page's own colour, and that of the first text of a plot.
    pub colors: (String, String),
    pub plots: Vec<PlotLayout>,
    /// Widths of the pictures themselves; 0 for one that is not shown.
    pub pictures: Vec<f64>,
    /// Targets of links within the page that are not there.
    pub dead_links: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct PlotLayout {
    /// The section that it stands in.
    pub section: String,
    pub name: String,
    pub width: f64,
    pub height: f64,
    /// Lines, bars, areas and dots with an extent.
    pub marks: usize,
    /// Texts that reach out of it.
    pub cut: Vec<String>,
}

/// Has Chromium lay out the page in a window of this width. The page is not touched: it stands in a frame of another one,
/// since a window cannot be as narrow as a phone.
#[track_caller]
pub fn lay_out(page: &Path, width: usize, theme: Theme) -> PageLayout {
    let folder = tempfile::tempdir().unwrap();
    let frame = folder.path().join("frame.html");
    let text = include_str!("measure.html")
        .replace("WIDTH", &width.to_string())
        .replace("PAGE", &format!("file://{}", page.canonicalize().unwrap().display()));
    fs::write(&frame, text).unwrap();
    let arguments = [
        "--headless=new".to_string(),
        // Chromium's sandbox cannot be had by root, as whom machines of continuous integration run.
        "--no-sandbox".to_string(),
        "--disable-gpu".to_string(),
        "--allow-file-access-from-files".to_string(),
        format!("--blink-settings=preferredColorScheme={}", if theme == Theme::Dark { 0 } else { 1 }),
        format!("--user-data-dir={}", folder.path().join("profile").display()),
        format!("--window-size={},2000", width.max(500)),
        "--dump-dom".to_string(),
        format!("file://{}", frame.display()),
    ];
    for browser in BROWSERS {
        let output = match Command::new(browser).args(&arguments).output() {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            output => output.unwrap(),
        };
        let document = String::from_utf8(output.stdout).unwrap();
        let measured = document.split_once("<pre>").and_then(|(_, rest)| rest.split_once("</pre>"));
        let Some((measured, _)) = measured else {
            panic!("{browser} measured nothing:\n{document}\n{}", String::from_utf8_lossy(&output.stderr));
        };
        let entities = [("&lt;", "<"), ("&gt;", ">"), ("&nbsp;", "\u{a0}"), ("&amp;", "&")];
        let measured = entities.iter().fold(measured.to_string(), |text, (from, to)| text.replace(from, to));
        return serde_json::from_str(&measured).unwrap_or_else(|error| panic!("{error}: {measured}"));
    }
    panic!("there is no Chromium to look at the report with: 'make tools' installs it");
}
