//! The life of a mount: connect, mount, answer until it is umounted, write out what is left.

use crate::core::Core;
use crate::fs::FileSystem;
use crate::handles::Handles;
use crate::inodes::Inodes;
use crate::mountpoint::{mounted_at, resolved};
use crate::options::MountOptions;
use crate::rights::Rights;
use crate::space::Room;
use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};
use quarry_client::{Client, ClientFile, Options};
use quarry_common::error::{Code, Error, Result};
use quarry_common::wire::meta::FileKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// As long as nobody can wait: without `timeout` an operation waits until the cluster is there again.
const FOR_EVER: Duration = Duration::from_secs(50 * 365 * 86_400);

/// Threads that take requests from the kernel. They only hand them on.
const THREADS: usize = 2;

/// What the kernel reads ahead of a program that reads on and on, in KiB: four of its longest requests.
const READ_AHEAD_KB: &str = "4096";

/// What was written and not synced when a mount ends is written out for so long.
const LAST_SYNC: Duration = Duration::from_secs(60);

/// A mount that answers.
pub struct Mounted {
    core: Arc<Core>,
    place: PathBuf,
    unmounter: SessionUnmounter,
    answering: JoinHandle<std::io::Result<()>>,
}

/// Connects to a cluster with settings of a mount.
///
/// # Errors
/// As [`Client::connect_with`]; it waits without end for a cluster that is slow to answer.
async fn connect(file: ClientFile, options: &MountOptions) -> Result<Client> {
    let patience = options.timeout.unwrap_or(FOR_EVER);
    let options = Options {
        meta_deadline: patience,
        data_deadline: patience,
        ..Options::default()
    };
    Client::connect_with(file, options).await
}

/// Mounts a directory of a cluster at a place that [`crate::check_mountpoint`] found good; `source` is what /proc/mounts shows.
///
/// # Errors
/// The cluster can not be reached or does not know the user; there is no such directory; the kernel refuses.
pub async fn mount(
    file: ClientFile,
    source: &str,
    place: &Path,
    options: &MountOptions,
) -> Result<Mounted> {
    let client = connect(file, options).await?;
    let local = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    let rights = Rights::find(&client, local).await?;
    if options.allow_other && !rights.are_the_kernels() {
        let text = format!(
            "--allow-other takes an admin's client file, since each caller acts as itself; '{}' is no admin: mount it without, \
             or with another client file (--cluster FILE)",
            client.file().user
        );
        return Err(Error::new(Code::NotPermitted, text));
    }
    let subdir = options.subdir.as_deref().unwrap_or(b"/");
    let root = client.stat(subdir).await?;
    if root.kind != FileKind::Directory {
        let text = format!(
            "{}: is no directory of the cluster",
            String::from_utf8_lossy(subdir)
        );
        return Err(Error::new(Code::NotDirectory, text));
    }
    let core = Arc::new(Core {
        client,
        rights,
        inodes: Inodes::new(root.inode),
        files: Handles::default(),
        dirs: Handles::default(),
        ttl: options.ttl,
        room: Room::default(),
    });
    let system = FileSystem::new(core.clone(), Handle::current());
    let config = config(&core, source, options);
    let at = place.to_owned();
    // It waits for the kernel's first request.
    let session = tokio::task::spawn_blocking(move || Session::new(system, &at, &config)).await;
    let session = session.map_err(|error| Error::bug("mounting failed").with_source(error))?;
    let mut session = session.map_err(|error| refused(place, &error))?;
    read_ahead(place);
    Ok(Mounted {
        core,
        place: place.to_owned(),
        unmounter: session.unmount_callable(),
        answering: tokio::task::spawn_blocking(move || session.run()),
    })
}

fn config(core: &Core, source: &str, options: &MountOptions) -> Config {
    let mut config = Config::default();
    config.acl = match options.allow_other {
        true => SessionACL::All,
        false => SessionACL::Owner,
    };
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    config.mount_options = vec![
        MountOption::FSName(source.to_owned()),
        // The kernel's own word: the type is shown as fuse.quarry, and the source as it was given.
        MountOption::CUSTOM(format!("subtype={}", crate::SUBTYPE)),
    ];
    let everybodys = core.rights.are_the_kernels();
    for (option, is_set) in [
        (MountOption::DefaultPermissions, everybodys),
        (MountOption::RO, options.read_only == Some(true)),
        // As on a local disk, where the uids are those of this machine.
        (
            MountOption::Suid,
            everybodys && options.no_suid == Some(false),
        ),
        (MountOption::Dev, everybodys && options.no_dev != Some(true)),
        (MountOption::NoExec, options.no_exec == Some(true)),
        (MountOption::Sync, options.sync),
    ] {
        if is_set {
            config.mount_options.push(option);
        }
    }
    config
}

fn refused(place: &Path, error: &std::io::Error) -> Error {
    let text = format!("{}: the kernel does not mount it: {error}", place.display());
    Error::new(Code::Configuration, text)
}

impl Mounted {
    /// Answers until it is umounted, or `stop` ends: then it is umounted as soon as nothing in it is used any more.
    ///
    /// # Errors
    /// The connection to the kernel broke.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<()> {
        let Mounted {
            core,
            place,
            mut unmounter,
            mut answering,
        } = self;
        let ended = tokio::select! {
            ended = &mut answering => ended,
            () = stop => {
                let at = place.clone();
                let leaving = tokio::task::spawn_blocking(move || leave(&mut unmounter, &at)).await;
                if let Ok(Err(error)) = leaving {
                    tracing::warn!("{}: can not be umounted: {error}", place.display());
                }
                answering.await
            }
        };
        write_out(&core).await;
        core.client.close().await?;
        let ended =
            ended.map_err(|error| Error::bug("a mount's task failed").with_source(error))?;
        ended.map_err(|error| {
            let text = format!("{}: the mount broke: {error}", place.display());
            Error::new(Code::Io, text).with_source(error)
        })
    }
}

/// Makes a mount read-only, or writable again, and the like, which is the kernel's alone; what is not named stays.
///
/// # Errors
/// Nothing of ours is there, or the kernel refuses.
pub fn remount(place: &Path, options: &MountOptions) -> Result<()> {
    use rustix::mount::MountFlags;
    let failed =
        |text: String| Error::new(Code::Configuration, format!("{}: {text}", place.display()));
    let at = resolved(place).map_err(|error| failed(error.to_string()))?;
    let there = mounted_at(&at).map_err(|error| failed(error.to_string()))?;
    let Some(there) = there.filter(|there| there.is_ours()) else {
        return Err(failed("no cluster is mounted there".to_owned()));
    };
    let mut flags = MountFlags::empty();
    for (flag, word, named) in [
        (MountFlags::RDONLY, "ro", options.read_only),
        (MountFlags::NOSUID, "nosuid", options.no_suid),
        (MountFlags::NODEV, "nodev", options.no_dev),
        (MountFlags::NOEXEC, "noexec", options.no_exec),
    ] {
        flags.set(flag, named.unwrap_or_else(|| there.has_flag(word)));
    }
    rustix::mount::mount_remount(&at, flags, c"")
        .map_err(|error| failed(format!("can not be changed: {error}")))
}

/// Lets the kernel read ahead in requests as long as they may be. Only root may set it; slower without.
fn read_ahead(place: &Path) {
    let Ok(Some(there)) = mounted_at(place) else {
        return;
    };
    let setting = format!("/sys/class/bdi/{}/read_ahead_kb", there.device);
    if let Err(error) = std::fs::write(&setting, READ_AHEAD_KB) {
        tracing::debug!("{setting}: {error}");
    }
}

/// Umounts; what is in use is out of sight at once and goes with its last user.
fn leave(unmounter: &mut SessionUnmounter, place: &Path) -> std::io::Result<()> {
    match unmounter.unmount() {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
            tracing::warn!(
                "{}: is in use: it is out of sight now, and ends when its last file is closed",
                place.display()
            );
            let detach = rustix::mount::UnmountFlags::DETACH;
            Ok(rustix::mount::unmount(place, detach)?)
        }
        other => other,
    }
}

/// Writes out what is still open, or is being closed: nobody waits for it any more.
async fn write_out(core: &Core) {
    for (inode, error) in core.client.sync_shared(LAST_SYNC).await {
        tracing::error!("inode {inode}: what was written last is lost: {error}");
    }
}
