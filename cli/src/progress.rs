//! What a person sees of a transfer: a bar with bytes, files, rate and time left on a terminal,
//! nothing in a pipe; and the figures at the end.

use crate::size::{counted, human};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quarry_client::Progress;
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How often the bar is drawn anew.
const EVERY: Duration = Duration::from_millis(200);

/// Shows the progress of a transfer until it is dropped.
pub struct Shown {
    bar: Option<ProgressBar>,
    task: Option<tokio::task::JoinHandle<()>>,
    started: Instant,
    progress: Arc<Progress>,
}

impl Shown {
    /// Starts; draws only if `wanted` and standard error is a terminal. `word` is what is being done.
    pub fn start(progress: Arc<Progress>, wanted: bool, word: &'static str) -> Shown {
        let mut shown = Shown {
            bar: None,
            task: None,
            started: Instant::now(),
            progress: progress.clone(),
        };
        if wanted && std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_prefix(word);
            shown.task = Some(tokio::spawn(draw(bar.clone(), progress)));
            shown.bar = Some(bar);
        }
        shown
    }

    /// Writes lines to standard error, above the bar.
    pub fn above(&self, write: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// One line for the end: `stored 12 files, 1.2G in 3.4 s (360M/s)`.
    pub fn summary(&self, done: &str) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        let bytes = self.progress.bytes.load(Relaxed);
        let files = self.progress.files.load(Relaxed);
        format!(
            "{done} {}, {} in {seconds:.1} s ({}/s)",
            counted(files, "file", "files"),
            human(bytes),
            human((bytes as f64 / seconds.max(1e-9)) as u64)
        )
    }

    /// The figures for a program.
    pub fn json(&self, failed: usize, skipped: usize) -> serde_json::Value {
        serde_json::json!({
            "bytes": self.progress.bytes.load(Relaxed),
            "files": self.progress.files.load(Relaxed),
            "directories": self.progress.directories.load(Relaxed),
            "failed": failed,
            "skipped": skipped,
            "seconds": self.started.elapsed().as_secs_f64(),
        })
    }

    /// Takes the bar away, so that other lines can be written.
    pub fn clear(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.clear();
    }
}

async fn draw(bar: ProgressBar, progress: Arc<Progress>) {
    let whole = "{prefix} [{bar:24}] {bytes}/{total_bytes} {msg} {bytes_per_sec} {eta} left";
    let open = "{prefix} {spinner} {bytes} {msg} {bytes_per_sec} {elapsed}";
    let style = |template: &str| {
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
    };
    bar.set_style(style(open));
    let mut is_whole = false;
    loop {
        let total = progress.bytes_total.load(Relaxed);
        let known = progress.walk_done.load(Relaxed) && total > 0;
        if known {
            bar.set_length(total);
        }
        if known != is_whole {
            bar.set_style(style(if known { whole } else { open }));
            is_whole = known;
        }
        bar.set_position(progress.bytes.load(Relaxed));
        let files = progress.files.load(Relaxed);
        let files_total = progress.files_total.load(Relaxed);
        bar.set_message(format!("{files}/{} files", files_total.max(files)));
        bar.tick();
        tokio::time::sleep(EVERY).await;
    }
}
