//! What the files and trees of one command have in common.

use super::{Copied, TreeOptions, TreeReport};
use crate::progress::Progress;
use quarry_common::error::{Code, Error, Result};
use quarry_common::ids::InodeId;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, SemaphorePermit};

/// What uploads may hold together: bytes that no dataserver has acknowledged.
const HELD_LEN_MAX: u64 = 512 << 20;

/// The most that one upload holds: half of each of three chunks that were ended, and of the next one.
const UPLOAD_LEN_MAX: u64 = 128 << 20;

/// It is counted in units of this.
const HELD_UNIT: u64 = 64 << 10;

const _: () = assert!(UPLOAD_LEN_MAX * 4 <= HELD_LEN_MAX && HELD_LEN_MAX / HELD_UNIT <= 1 << 16);

/// What is told of a tree at once. Paths are those of the source, but for warnings.
#[derive(Debug)]
pub enum Told<'a> {
    /// It was not copied.
    Failed(&'a Path, &'a Error),
    /// It can not be copied, and why.
    Skipped(&'a Path, &'a str),
    /// It was copied, but not quite.
    Warning(&'a Path, &'a str),
}

/// Hears what is told.
type Listener = Box<dyn Fn(Told<'_>) + Send + Sync>;

/// One command that copies any number of files and trees.
pub struct Transfer {
    pub(super) options: TreeOptions,
    pub(super) progress: Arc<Progress>,
    held: Semaphore,
    without_xattrs: AtomicBool,
    listener: Option<Listener>,
    /// Failures in a row that say that nobody answers.
    unanswered: AtomicUsize,
    is_full: AtomicBool,
    /// Copies within the cluster of files of several names, by what they were made from: for all trees of a command.
    copies: Mutex<HashMap<InodeId, InodeId>>,
}

impl Transfer {
    /// Nothing is copied yet.
    pub fn new(options: TreeOptions, progress: Arc<Progress>) -> Transfer {
        Transfer {
            options,
            progress,
            held: Semaphore::new((HELD_LEN_MAX / HELD_UNIT) as usize),
            without_xattrs: AtomicBool::new(false),
            listener: None,
            unanswered: AtomicUsize::new(0),
            is_full: AtomicBool::new(false),
            copies: Mutex::default(),
        }
    }

    /// The same; `listener` is told at once of what does not go as it should in trees.
    pub fn telling(mut self, listener: impl Fn(Told<'_>) + Send + Sync + 'static) -> Transfer {
        self.listener = Some(Box::new(listener));
        self
    }

    /// How far it is.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Waits until an upload of so many bytes may hold what it has to; it may as long as it keeps the answer.
    pub(super) async fn hold(&self, len: u64) -> Result<SemaphorePermit<'_>> {
        let units = len.min(UPLOAD_LEN_MAX).div_ceil(HELD_UNIT).max(1);
        let held = self.held.acquire_many(units as u32).await;
        held.map_err(|error| Error::bug("uploads may hold nothing any more").with_source(error))
    }

    /// The copy of a file of several names, if it was made in this command.
    pub(super) fn copy_of(&self, file: InodeId) -> Option<InodeId> {
        let copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        copies.get(&file).copied()
    }

    /// Remembers a copy of a file of several names.
    pub(super) fn keep_copy(&self, file: InodeId, copy: InodeId) {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        copies.insert(file, copy);
    }

    /// Extended attributes could not be kept at a path; it is told of the first.
    pub(super) fn handle_without_xattrs(&self, path: &Path) {
        if !self.without_xattrs.swap(true, Ordering::Relaxed) {
            let text = "the file system takes no extended attributes: they are left out";
            self.tell(Told::Warning(path, text));
        }
    }

    fn tell(&self, told: Told<'_>) {
        if let Some(listener) = &self.listener {
            listener(told);
        }
    }

    /// Why going on is of no use: the cluster is full, or nobody has answered as often in a row as files are
    /// under way at a time. (Not after one: its session may have been lost while this machine slept.)
    pub fn given_up(&self) -> Option<Error> {
        if self.is_full.load(Ordering::Relaxed) {
            let text = "the cluster is full: the rest was not tried";
            return Some(Error::new(Code::ClusterFull, text));
        }
        let unanswered = self.unanswered.load(Ordering::Relaxed);
        (unanswered >= self.options.jobs.max(2)).then(|| {
            let text = format!(
                "nobody answered {unanswered} times in a row: the rest was not tried; do it again when 'quarry status' shows that the cluster is well"
            );
            Error::new(Code::Unreachable, text)
        })
    }

    /// Notes how one thing went. Failures of other kinds are no signs of life: they may be local.
    pub(super) fn note<T>(&self, outcome: &Result<T>) {
        match outcome {
            Ok(_) => self.unanswered.store(0, Ordering::Relaxed),
            Err(error) if is_silence(error.code) => {
                self.unanswered.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) if error.code == Code::ClusterFull => {
                self.is_full.store(true, Ordering::Relaxed);
            }
            Err(_) => {}
        }
    }

    /// Notes how one thing of a tree went, and tells of it.
    pub(super) fn handle(&self, report: &mut TreeReport, path: PathBuf, outcome: Result<Copied>) {
        if !matches!(outcome, Ok(Copied::Skipped(_))) {
            self.note(&outcome);
        }
        if matches!(outcome, Ok(Copied::File(_) | Copied::Link)) {
            Progress::add(&self.progress.files, 1);
        }
        match outcome {
            Ok(Copied::File(len)) => {
                report.files += 1;
                report.bytes += len;
            }
            Ok(Copied::Link) => report.links += 1,
            Ok(Copied::Skipped(why)) => {
                self.tell(Told::Skipped(&path, &why));
                report.skipped.push((path, why));
            }
            Err(error) => {
                self.tell(Told::Failed(&path, &error));
                report.failed.push((path, error));
            }
        }
    }

    /// Notes that something of a tree failed, and tells of it.
    pub(super) fn fail(&self, report: &mut TreeReport, path: PathBuf, error: Error) {
        self.handle(report, path, Err(error));
    }

    /// Tells that the rest of a tree was not tried, if it was not.
    pub(super) fn end(&self, report: &mut TreeReport, top: &Path, given_up: Option<Error>) {
        if let Some(error) = given_up {
            self.tell(Told::Failed(top, &error));
            report.failed.push((top.to_path_buf(), error));
        }
    }
}

/// Whether an error says that nobody answers, or not what became of it.
pub(super) fn is_silence(code: Code) -> bool {
    matches!(
        code,
        Code::Unreachable | Code::UnknownOutcome | Code::Overloaded
    )
}
