//! Names and what they lead to: making, moving, removing, opening.

use super::Found;
use anyhow::Result;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, XattrFlags};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

pub fn names(dir: &Path, found: &mut Found) -> Result<()> {
    let at = |name: &str| dir.join(name);
    fs::write(at("file"), "x")?;
    fs::create_dir(at("dir"))?;
    fs::create_dir(at("full"))?;
    fs::write(at("full/file"), "")?;
    found.of("mkdir of what is there", fs::create_dir(at("file")));
    found.of("mkdir in nothing", fs::create_dir(at("none/dir")));
    found.of("mkdir in a file", fs::create_dir(at("file/dir")));
    found.of("unlink of a directory", rustix::fs::unlink(at("dir")));
    found.of("rmdir of a file", fs::remove_dir(at("file")));
    found.of("rmdir of a full one", fs::remove_dir(at("full")));
    found.of("unlink of nothing", fs::remove_file(at("none")));
    let long = "n".repeat(255);
    found.of("a name of 255 bytes", fs::write(at(&long), ""));
    found.of(
        "a name of 256 bytes",
        fs::write(at(&format!("{long}n")), ""),
    );
    found.of(
        "stat of a name of 256 bytes",
        fs::metadata(at(&format!("{long}n"))).map(drop),
    );
    let odd = <OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"odd \xff\n\\");
    found.of("an odd name", fs::write(dir.join(odd), ""));
    found.is("links of a directory", fs::metadata(dir)?.nlink());
    let mut listed: Vec<_> = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<std::io::Result<_>>()?;
    listed.sort();
    found.is("listed", listed);
    let open = File::open(at("dir"))?;
    fs::remove_dir(at("dir"))?;
    found.of(
        "a file in a removed directory",
        rustix::fs::openat(&open, "x", OFlags::CREATE | OFlags::RDWR, Mode::RUSR).map(drop),
    );
    found.is("links of a removed directory", open.metadata()?.nlink());
    Ok(())
}

pub fn renames(dir: &Path, found: &mut Found) -> Result<()> {
    let at = |name: &str| dir.join(name);
    for name in ["a", "b", "c"] {
        fs::write(at(name), name)?;
    }
    fs::create_dir(at("dir"))?;
    fs::create_dir_all(at("full/sub"))?;
    fs::hard_link(at("a"), at("a2"))?;
    let rename =
        |from: &str, to: &str, flags| rustix::fs::renameat_with(CWD, at(from), CWD, at(to), flags);
    let plain = RenameFlags::empty();
    found.of("onto itself", rename("a", "a", plain));
    found.of("onto another name of itself", rename("a", "a2", plain));
    found.is("both stay", (at("a").exists(), at("a2").exists()));
    found.of("a file onto a directory", rename("a", "dir", plain));
    found.of("a directory onto a file", rename("dir", "a", plain));
    found.of("a directory onto a full one", rename("dir", "full", plain));
    found.of(
        "a directory into itself",
        rename("full", "full/sub/x", plain),
    );
    found.of("nothing", rename("none", "x", plain));
    found.of("a file onto a file", rename("b", "c", plain));
    found.of("what is there then", fs::read_to_string(at("c")));
    found.of(
        "noreplace onto a file",
        rename("a", "c", RenameFlags::NOREPLACE),
    );
    found.of("noreplace", rename("a", "new", RenameFlags::NOREPLACE));
    found.of("exchange", rename("new", "full", RenameFlags::EXCHANGE));
    found.is("exchanged", (at("new/sub").is_dir(), at("full").is_file()));
    found.of(
        "exchange with nothing",
        rename("new", "none", RenameFlags::EXCHANGE),
    );
    found.of("a directory onto an empty one", rename("new", "dir", plain));
    found.is(
        "links",
        (
            fs::metadata(dir)?.nlink(),
            fs::metadata(at("full"))?.nlink(),
        ),
    );
    found.of("whiteout", rename("c", "moved", RenameFlags::WHITEOUT));
    let left = fs::symlink_metadata(at("c"))?;
    found.is("left behind", (left.mode() & 0o170_000, left.rdev()));
    Ok(())
}

pub fn links(dir: &Path, found: &mut Found) -> Result<()> {
    let at = |name: &str| dir.join(name);
    fs::write(at("file"), "text")?;
    fs::create_dir(at("dir"))?;
    found.of("link", fs::hard_link(at("file"), at("second")));
    found.is("links", fs::metadata(at("file"))?.nlink());
    found.is(
        "one file",
        fs::metadata(at("file"))?.ino() == fs::metadata(at("second"))?.ino(),
    );
    found.of("link of a directory", fs::hard_link(at("dir"), at("x")));
    found.of("link over a name", fs::hard_link(at("file"), at("dir")));
    found.of("link of nothing", fs::hard_link(at("none"), at("x")));
    fs::remove_file(at("file"))?;
    found.is("links", fs::metadata(at("second"))?.nlink());
    found.of("symlink", symlink("second", at("sym")));
    found.of("read through it", fs::read_to_string(at("sym")));
    found.of("its target", fs::read_link(at("sym")));
    found.is("its length", fs::symlink_metadata(at("sym"))?.len());
    found.of("symlink over a name", symlink("x", at("dir")));
    found.of("a dangling one", symlink("none", at("dangling")));
    found.of("read", fs::read(at("dangling")));
    found.of("written through", fs::write(at("dangling"), "made"));
    found.of("made", fs::read_to_string(at("none")));
    symlink("loop", at("loop"))?;
    found.of("a loop", fs::read(at("loop")));
    found.of(
        "link of a symlink",
        rustix::fs::linkat(CWD, at("sym"), CWD, at("sym2"), AtFlags::empty()),
    );
    found.of("its target", fs::read_link(at("sym2")));
    found.of("readlink of a file", fs::read_link(at("second")));
    found.of(
        "a file as a directory",
        fs::metadata(at("second/x")).map(drop),
    );
    Ok(())
}

pub fn nodes(dir: &Path, found: &mut Found) -> Result<()> {
    let at = |name: &str| dir.join(name);
    let make = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, at(name), kind, Mode::from_bits_retain(0o640), device)
    };
    for (name, kind, device) in [
        ("fifo", FileType::Fifo, 0),
        ("socket", FileType::Socket, 0),
        ("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
        (
            "odd",
            FileType::CharacterDevice,
            rustix::fs::makedev(4_000, 70_000),
        ),
        (
            "block",
            FileType::BlockDevice,
            rustix::fs::makedev(259, 300),
        ),
        ("file", FileType::RegularFile, 0),
    ] {
        found.of(name, make(name, kind, device));
        let meta = fs::symlink_metadata(at(name))?;
        found.is(name, (meta.mode(), meta.rdev(), meta.len(), meta.nlink()));
    }
    found.of("over a name", make("fifo", FileType::Fifo, 0));
    let path = at("fifo");
    let writer = std::thread::spawn(move || fs::write(path, "through a pipe"));
    found.of("a pipe", fs::read_to_string(at("fifo")));
    writer.join().expect("it returns errors")?;
    let listener = std::os::unix::net::UnixListener::bind(at("listener"))?;
    found.of(
        "a socket",
        std::os::unix::net::UnixStream::connect(at("listener")).map(drop),
    );
    drop(listener);
    Ok(())
}

pub fn xattrs(dir: &Path, found: &mut Found) -> Result<()> {
    let file = dir.join("file");
    fs::write(&file, "")?;
    let set = |name: &str, value: &[u8], flags| rustix::fs::setxattr(&file, name, value, flags);
    let get = |name: &str, room: usize| {
        let mut value = vec![0; room];
        rustix::fs::getxattr(&file, name, &mut value[..])
            .map(|len| (len, value[..len.min(room)].to_vec()))
    };
    let any = XattrFlags::empty();
    found.of("none", get("user.a", 10));
    found.of(
        "replace what is not there",
        set("user.a", b"1", XattrFlags::REPLACE),
    );
    found.of("create", set("user.a", b"1", XattrFlags::CREATE));
    found.of(
        "create what is there",
        set("user.a", b"2", XattrFlags::CREATE),
    );
    found.of("replace", set("user.a", b"value", XattrFlags::REPLACE));
    found.of("get", get("user.a", 10));
    found.of("get with too little room", get("user.a", 3));
    let mut nothing: [u8; 0] = [];
    found.of(
        "its length",
        rustix::fs::getxattr(&file, "user.a", &mut nothing),
    );
    found.of("empty", set("user.empty", b"", any));
    found.of("trusted", set("trusted.t", b"t", any));
    found.of("of no kind", set("what.ever", b"t", any));
    let list = || -> std::io::Result<_> {
        let mut names = vec![0u8; 1_000];
        let len = rustix::fs::listxattr(&file, &mut names[..])?;
        let mut names: Vec<Vec<u8>> = names[..len]
            .split(|byte| *byte == 0)
            .map(<[u8]>::to_vec)
            .collect();
        names.retain(|name| !name.is_empty());
        names.sort();
        Ok(names)
    };
    found.of("list", list());
    found.of("remove", rustix::fs::removexattr(&file, "user.a"));
    found.of("remove again", rustix::fs::removexattr(&file, "user.a"));
    found.of("list", list());
    symlink("file", dir.join("sym"))?;
    found.of(
        "user's of a symlink",
        rustix::fs::lsetxattr(dir.join("sym"), "user.a", b"1", any),
    );
    Ok(())
}

pub fn opening(dir: &Path, found: &mut Found) -> Result<()> {
    let at = |name: &str| dir.join(name);
    fs::write(at("file"), "text")?;
    symlink("file", at("sym"))?;
    symlink("none", at("dangling"))?;
    let open = |name: &str, flags| {
        rustix::fs::open(at(name), flags, Mode::from_bits_retain(0o644)).map(drop)
    };
    let new = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
    found.of("exclusive over a file", open("file", new));
    found.of("exclusive over a symlink", open("sym", new));
    found.of("exclusive over a dangling one", open("dangling", new));
    found.of("exclusive", open("new", new));
    found.of(
        "nofollow of a symlink",
        open("sym", OFlags::RDONLY | OFlags::NOFOLLOW),
    );
    found.of("a directory to write", open(".", OFlags::RDWR));
    found.of(
        "a file as a directory",
        open("file", OFlags::RDONLY | OFlags::DIRECTORY),
    );
    found.of(
        "create over a directory",
        open(".", OFlags::CREATE | OFlags::RDWR),
    );
    found.of(
        "with a slash behind",
        open("x/", OFlags::CREATE | OFlags::RDWR),
    );
    found.of("of nothing", open("none/x", OFlags::RDONLY));
    found.of("direct", open("file", OFlags::RDWR | OFlags::DIRECT));
    let unnamed = rustix::fs::open(
        dir,
        OFlags::TMPFILE | OFlags::RDWR,
        Mode::from_bits_retain(0o600),
    );
    found.of(
        "without a name",
        unnamed.as_ref().map(drop).map_err(|errno| *errno),
    );
    let unnamed = File::from(unnamed?);
    unnamed.write_all_at(b"unnamed", 0)?;
    found.is("links", unnamed.metadata()?.nlink());
    let through = format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&unnamed)
    );
    found.of(
        "named later",
        rustix::fs::linkat(CWD, through, CWD, at("named"), AtFlags::SYMLINK_FOLLOW),
    );
    drop(unnamed);
    found.of("what is in it", fs::read_to_string(at("named")));
    // What was opened may go on, whatever its mode is by then.
    let file = rustix::fs::open(at("shut"), OFlags::CREATE | OFlags::RDWR, Mode::empty())
        .map(File::from)?;
    found.of("write what nobody may", (&file).write(b"shut"));
    found.of("read what nobody may", file.read_at(&mut [0; 8], 0));
    let space = rustix::fs::statvfs(dir)?;
    found.is(
        "room",
        (
            space.f_namemax,
            space.f_blocks > space.f_bfree,
            space.f_bavail > 0,
            space.f_files > 0,
        ),
    );
    Ok(())
}
