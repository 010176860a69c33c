//! The requests of the kernel: each is answered from a task of its own.

mod attr;
mod data;
pub mod dir;
mod names;
pub mod open;
mod requests;
mod xattr;

pub use xattr::PROCESS;

use self::open::OpenFile;
use crate::caller::Asker;
use crate::core::Core;
use crate::errno::Answer;
use crate::interrupts::Interrupts;
use bytes::Bytes;
use fuser::{
    Errno, Generation, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite,
    Request,
};
use quarry_common::wire::meta::Attr;
use std::io::IoSlice;
use std::sync::Arc;
use tokio::runtime::Handle;

/// A reply may have so many pieces: with the header, what writev(2) takes.
const PIECES_MAX: usize = 1_000;

/// The mount as the kernel sees it.
pub struct FileSystem {
    core: Arc<Core>,
    runtime: Handle,
    interrupts: Arc<Interrupts>,
}

type Done<T> = Result<T, Errno>;

/// What a request does.
struct Doing {
    /// In the log.
    what: &'static str,
    /// It goes on though its caller does not wait any more.
    goes_on: bool,
}

impl From<&'static str> for Doing {
    fn from(what: &'static str) -> Doing {
        Doing {
            what,
            goes_on: true,
        }
    }
}

impl Doing {
    /// What is not to be done any more if its caller is killed before: bytes that waited for room would come after those that
    /// others write meanwhile.
    fn while_wanted(what: &'static str) -> Doing {
        Doing {
            what,
            goes_on: false,
        }
    }
}

impl FileSystem {
    /// Answers from tasks of a runtime.
    pub fn new(core: Arc<Core>, runtime: Handle) -> FileSystem {
        FileSystem {
            core,
            runtime,
            interrupts: Arc::default(),
        }
    }

    /// Does what a request asks for and answers it. If its caller is killed the answer is `EINTR`, and what was begun goes on to
    /// its end, unless it is [`Doing::while_wanted`].
    fn answer<R, T, F>(
        &self,
        request: &Request,
        doing: impl Into<Doing>,
        reply: R,
        work: impl FnOnce(Arc<Core>) -> F,
        finish: impl FnOnce(&Core, R, Done<T>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
        F: Future<Output = Answer<T>> + Send + 'static,
    {
        let Doing { what, goes_on } = doing.into();
        let mut asked = self.interrupts.begin(request.unique(), request.pid());
        let core = self.core.clone();
        let work = work(self.core.clone());
        self.runtime.spawn(async move {
            tokio::pin!(work);
            tokio::select! {
                biased;
                done = &mut work => {
                    let done = done.map_err(|failure| failure.errno(what));
                    finish(&core, reply, done);
                }
                () = asked.is_given_up() => {
                    finish(&core, reply, Err(Errno::EINTR));
                    if goes_on && let Err(failure) = work.await {
                        failure.errno(what);
                    }
                }
            }
        });
    }
}

fn entry(core: &Core, reply: ReplyEntry, done: Done<Attr>) {
    match done {
        Ok(attr) => {
            core.inodes.add_lookup(&attr);
            let (ttl, shown) = (core.ttl, core.file_attr(&attr));
            reply.entry_with_ttls(&ttl.attributes, &ttl.names, &shown, Generation(0));
        }
        Err(errno) => reply.error(errno),
    }
}

fn attributes(core: &Core, reply: ReplyAttr, done: Done<Attr>) {
    match done {
        Ok(attr) => {
            core.inodes.note(&attr);
            reply.attr(&core.ttl.attributes, &core.file_attr(&attr));
        }
        Err(errno) => reply.error(errno),
    }
}

fn nothing(_core: &Core, reply: ReplyEmpty, done: Done<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn created(core: &Core, reply: ReplyCreate, done: Done<(Attr, OpenFile)>) {
    match done {
        Ok((attr, open)) => {
            core.inodes.add_lookup(&attr);
            let flags = open.flags();
            let handle = core.files.add(open);
            let (ttl, shown) = (core.ttl, core.file_attr(&attr));
            reply.created_with_ttls(
                &ttl.attributes,
                &ttl.names,
                &shown,
                Generation(0),
                handle,
                flags,
            );
        }
        Err(errno) => reply.error(errno),
    }
}

fn written(_core: &Core, reply: ReplyWrite, done: Done<u32>) {
    match done {
        Ok(len) => reply.written(len),
        Err(errno) => reply.error(errno),
    }
}

fn read(_core: &Core, reply: ReplyData, done: Done<Vec<Bytes>>) {
    match done {
        Ok(pieces) if pieces.len() > PIECES_MAX => reply.data(&pieces.concat()),
        Ok(pieces) => {
            let pieces: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            reply.pieces(&pieces);
        }
        Err(errno) => reply.error(errno),
    }
}
