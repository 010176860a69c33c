//! What each request of the kernel is, taken apart and handed on.

use super::attr::Change;
use super::dir::listed;
use super::{
    Asker, Core, Doing, FileSystem, attributes, created, entry, nothing, read, written, xattr,
};
use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags,
    PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyStatx, ReplyWrite, ReplyXattr, Request, RequestId, TimeOrNow, WriteFlags,
};
use quarry_common::limits::NAME_LEN_MAX;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

/// A write of the kernel has at most so many bytes; a longer one of a program is several.
const WRITE_LEN_MAX: u32 = 1 << 20;

/// Requests of the kernel itself, read-ahead above all, that may wait at a time.
const BACKGROUND_MAX: u16 = 128;

/// `statvfs` counts in units of this many bytes.
const SPACE_UNIT: u64 = 4_096;

/// What the kernel is asked to do, where it can.
const WANTED: [InitFlags; 7] = [
    // One request opens and empties a file.
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    // Pages go when size or time of a file show that another client wrote to it.
    InitFlags::FUSE_AUTO_INVAL_DATA,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    // We clear set-id bits, else it asks for `security.capability` before each write.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    // A target never changes, and an inode is never used again.
    InitFlags::FUSE_CACHE_SYMLINKS,
    // Files that are opened to append can be mapped as well.
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
];

fn owned(name: &OsStr) -> Vec<u8> {
    name.as_bytes().to_vec()
}

impl Filesystem for FileSystem {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let mut wanted = WANTED.to_vec();
        if self.core.ttl.keeps_names() && self.core.rights.are_the_kernels() {
            wanted.push(InitFlags::FUSE_DO_READDIRPLUS);
            wanted.push(InitFlags::FUSE_READDIRPLUS_AUTO);
        }
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!("this kernel does not offer {flag:?}");
            }
        }
        let ahead = config.set_max_readahead(WRITE_LEN_MAX);
        if let Err(nearest) = ahead.or_else(|nearest| config.set_max_readahead(nearest)) {
            tracing::warn!("the kernel does not read ahead: {nearest} would be allowed");
        }
        let refused = |nearest: u32| std::io::Error::other(format!("{nearest} would be allowed"));
        config.set_max_write(WRITE_LEN_MAX).map_err(refused)?;
        let background = config.set_max_background(BACKGROUND_MAX);
        background.map_err(|nearest| refused(nearest.into()))?;
        Ok(())
    }

    fn interrupt(&self, _request: &Request, unique: RequestId) {
        self.interrupts.signal(unique);
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name = owned(name);
        let work = |core: Arc<Core>| async move { core.lookup(parent, &name).await };
        self.answer(request, "lookup", reply, work, entry);
    }

    fn forget(&self, _request: &Request, number: INodeNo, lookups: u64) {
        self.core.inodes.forget(number, lookups);
    }

    fn getattr(
        &self,
        request: &Request,
        number: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let work = |core: Arc<Core>| async move { core.getattr(number).await };
        self.answer(request, "getattr", reply, work, attributes);
    }

    fn statx(&self, request: &Request, number: INodeNo, reply: ReplyStatx) {
        let work = |core: Arc<Core>| async move { core.getattr(number).await };
        self.answer(
            request,
            "statx",
            reply,
            work,
            |core, reply, done| match done {
                Ok(attr) => {
                    core.inodes.note(&attr);
                    reply.attr(&core.ttl.attributes, &core.file_attr(&attr));
                }
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let asker = Asker::of(request);
        let change = Change {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        };
        let work =
            move |core: Arc<Core>| async move { core.setattr(asker, number, handle, change).await };
        self.answer(request, "setattr", reply, work, attributes);
    }

    fn readlink(&self, request: &Request, number: INodeNo, reply: ReplyData) {
        let work = |core: Arc<Core>| async move { core.readlink(number).await };
        self.answer(
            request,
            "readlink",
            reply,
            work,
            |_, reply, done| match done {
                Ok(target) => reply.data(&target),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let (asker, name) = (Asker::of(request), owned(name));
        let work = move |core: Arc<Core>| async move {
            core.mknod(asker, (parent, &name), mode, device).await
        };
        self.answer(request, "mknod", reply, work, entry);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (asker, name) = (Asker::of(request), owned(name));
        let work =
            move |core: Arc<Core>| async move { core.mkdir(asker, (parent, &name), mode).await };
        self.answer(request, "mkdir", reply, work, entry);
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (asker, name) = (Asker::of(request), owned(name));
        let work = move |core: Arc<Core>| async move { core.unlink(asker, (parent, &name)).await };
        self.answer(request, "unlink", reply, work, nothing);
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (asker, name) = (Asker::of(request), owned(name));
        let work = move |core: Arc<Core>| async move { core.rmdir(asker, (parent, &name)).await };
        self.answer(request, "rmdir", reply, work, nothing);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (asker, name) = (Asker::of(request), owned(name));
        let target = owned(target.as_os_str());
        let work = move |core: Arc<Core>| async move {
            core.symlink(asker, (parent, &name), &target).await
        };
        self.answer(request, "symlink", reply, work, entry);
    }

    fn rename(
        &self,
        request: &Request,
        from: INodeNo,
        from_name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let asker = Asker::of(request);
        let (from_name, to_name) = (owned(from_name), owned(to_name));
        let work = move |core: Arc<Core>| async move {
            let (from, to) = ((from, &from_name[..]), (to, &to_name[..]));
            core.rename(asker, from, to, flags).await
        };
        self.answer(request, "rename", reply, work, nothing);
    }

    fn link(
        &self,
        request: &Request,
        number: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (asker, name) = (Asker::of(request), owned(name));
        let work =
            move |core: Arc<Core>| async move { core.link(asker, number, (parent, &name)).await };
        self.answer(request, "link", reply, work, entry);
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let asker = Asker::of(request);
        let work = move |core: Arc<Core>| async move { core.open(asker, number, flags.0).await };
        self.answer(
            request,
            "open",
            reply,
            work,
            |core, reply, done| match done {
                Ok(open) => {
                    let (flags, inode, version) = (open.flags(), open.file.inode(), open.version);
                    reply.opened(core.files.add(open), flags);
                    core.inodes.note_pages(inode, version);
                }
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (asker, name) = (Asker::of(request), owned(name));
        let work = move |core: Arc<Core>| async move {
            core.create(asker, (parent, &name), mode, flags).await
        };
        self.answer(request, "create", reply, work, created);
    }

    fn tmpfile(
        &self,
        request: &Request,
        parent: INodeNo,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let asker = Asker::of(request);
        let work =
            move |core: Arc<Core>| async move { core.tmpfile(asker, parent, mode, flags).await };
        self.answer(request, "tmpfile", reply, work, created);
    }

    fn read(
        &self,
        request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let work = move |core: Arc<Core>| async move {
            let open = core.files.get(handle)?;
            core.read(open, offset, len).await
        };
        self.answer(request, "read", reply, work, read);
    }

    fn write(
        &self,
        request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        open_flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (asker, bytes) = (Asker::of(request), Bytes::copy_from_slice(data));
        let work = move |core: Arc<Core>| async move {
            let open = core.files.get(handle)?;
            // As it is now: fcntl(2) changes it.
            let appends = open_flags.0 & libc::O_APPEND != 0;
            core.write(asker, open, (offset, appends), bytes, flags)
                .await
        };
        self.answer(request, Doing::while_wanted("write"), reply, work, written);
    }

    fn flush(
        &self,
        request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let work = move |core: Arc<Core>| async move {
            let open = core.files.get(handle)?;
            core.sync(open).await
        };
        self.answer(request, "close", reply, work, nothing);
    }

    fn release(
        &self,
        request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let work = move |core: Arc<Core>| async move {
            match core.files.remove(handle) {
                Some(open) => core.release(open).await,
                None => Ok(()),
            }
        };
        self.answer(request, "release", reply, work, nothing);
    }

    fn fsync(
        &self,
        request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _data_alone: bool,
        reply: ReplyEmpty,
    ) {
        let work = move |core: Arc<Core>| async move {
            let open = core.files.get(handle)?;
            core.sync(open).await
        };
        self.answer(request, "fsync", reply, work, nothing);
    }

    fn opendir(&self, request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let work = |core: Arc<Core>| async move { core.opendir(number).await };
        self.answer(
            request,
            "opendir",
            reply,
            work,
            |core, reply, done| match done {
                Ok(open) => reply.opened(core.dirs.add(open), FopenFlags::empty()),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn readdir(
        &self,
        request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        position: u64,
        reply: ReplyDirectory,
    ) {
        let work = move |core: Arc<Core>| async move {
            let open = core.dirs.get(handle)?;
            core.readdir(open, position, false).await
        };
        self.answer(request, "readdir", reply, work, listed);
    }

    fn readdirplus(
        &self,
        request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        position: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let work = move |core: Arc<Core>| async move {
            let open = core.dirs.get(handle)?;
            core.readdir(open, position, true).await
        };
        self.answer(request, "readdir", reply, work, listed);
    }

    fn releasedir(
        &self,
        _request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.core.dirs.remove(handle);
        reply.ok();
    }

    /// What was answered is durable already.
    fn fsyncdir(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _data_alone: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn statfs(&self, request: &Request, _number: INodeNo, reply: ReplyStatfs) {
        let work = |core: Arc<Core>| async move { Ok(core.room.get(&core.client).await?) };
        self.answer(
            request,
            "statfs",
            reply,
            work,
            |_, reply, done| match done {
                Ok(space) => {
                    let (total, free) = (space.total / SPACE_UNIT, space.free / SPACE_UNIT);
                    let (files, files_free) = (space.files, space.files_free);
                    let (unit, name_len) = (SPACE_UNIT as u32, NAME_LEN_MAX as u32);
                    reply.statfs(total, free, free, files, files_free, unit, name_len, unit);
                }
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn setxattr(
        &self,
        request: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (asker, name, value) = (Asker::of(request), owned(name), value.to_vec());
        let work = move |core: Arc<Core>| async move {
            core.setxattr(asker, number, &name, &value, flags).await
        };
        self.answer(request, "setxattr", reply, work, nothing);
    }

    fn getxattr(
        &self,
        request: &Request,
        number: INodeNo,
        name: &OsStr,
        room: u32,
        reply: ReplyXattr,
    ) {
        let name = owned(name);
        let work = |core: Arc<Core>| async move { core.getxattr(number, &name).await };
        self.answer(
            request,
            "getxattr",
            reply,
            work,
            move |_, reply, done| match done {
                Ok(value) => xattr::answer(reply, &value, room),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn listxattr(&self, request: &Request, number: INodeNo, room: u32, reply: ReplyXattr) {
        let asker = Asker::of(request);
        let work = move |core: Arc<Core>| async move { core.listxattr(asker, number).await };
        self.answer(
            request,
            "listxattr",
            reply,
            work,
            move |_, reply, done| match done {
                Ok(names) => xattr::answer(reply, &names, room),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn removexattr(&self, request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (asker, name) = (Asker::of(request), owned(name));
        let work =
            move |core: Arc<Core>| async move { core.removexattr(asker, number, &name).await };
        self.answer(request, "removexattr", reply, work, nothing);
    }

    fn access(&self, request: &Request, number: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let asker = Asker::of(request);
        let work =
            move |core: Arc<Core>| async move { core.access(asker, number, mask.bits()).await };
        self.answer(request, "access", reply, work, nothing);
    }

    /// No file of ours can do more than read(2) and write(2).
    fn ioctl(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _room: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    /// A file is ready at any time: the kernel says so itself from now on.
    fn poll(
        &self,
        _request: &Request,
        _number: INodeNo,
        _handle: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: u64,
        len: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let asker = Asker::of(request);
        let work = move |core: Arc<Core>| async move {
            let open = core.files.get(handle)?;
            core.fallocate(asker, open, offset, len, mode).await
        };
        self.answer(request, "fallocate", reply, work, nothing);
    }

    fn lseek(
        &self,
        request: &Request,
        _number: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let work = move |core: Arc<Core>| async move {
            let open = core.files.get(handle)?;
            core.lseek(open, offset, whence).await
        };
        self.answer(request, "lseek", reply, work, |_, reply, done| match done {
            Ok(offset) => reply.offset(offset),
            Err(errno) => reply.error(errno),
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        _from: INodeNo,
        from_handle: FileHandle,
        from_offset: u64,
        _to: INodeNo,
        to_handle: FileHandle,
        to_offset: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let asker = Asker::of(request);
        let work = move |core: Arc<Core>| async move {
            let from = (core.files.get(from_handle)?, from_offset);
            let to = (core.files.get(to_handle)?, to_offset);
            core.copy(asker, from, to, len).await
        };
        self.answer(request, "copy_file_range", reply, work, written);
    }
}
