//! `quarry mount`.

use crate::background::{self, Log};
use crate::context::Context;
use crate::failure::Misuse;
use crate::leaderless::or_leaderless;
use anyhow::{Result, bail};
use quarry_client::ClientFile;
use quarry_mount::{MountOptions, Source, check_mountpoint, mount, remount};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// A cluster that answers, but not as a whole, is waited for so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Mount the cluster, or a directory of it, as a file system of this machine
///
/// Once close(2) or fsync(2) of a file has returned, what was written is on stable storage of every copy, and whoever opens it
/// from then on, on any machine, sees it. Names are asked of the cluster each time they are used; of a file that stays open,
/// bytes and attributes that another machine changes are seen within a second, or at once with '-o strict'. While servers are
/// away programs wait and then go on: after '-o timeout=SECONDS' they get EIO, without it they wait until the cluster is back
/// or they are killed.
///
/// Root with an admin's client file mounts it with the uids and gids of the cluster, for itself or with --allow-other for
/// everybody. Anybody else acts as the user of the client file, whose files appear as its own.
///
/// In /etc/fstab, with mount.quarry as a link to quarry in /sbin: 'CLIENT_FILE MOUNTPOINT quarry _netdev 0 0', or
/// CLIENT_FILE:DIR for a directory of the cluster.
#[derive(Debug, clap::Args)]
pub struct Mount {
    /// The directory of the cluster that is mounted [default: /]
    #[arg(long, value_name = "DIR")]
    subdir: Option<OsString>,
    /// Change nothing through it
    #[arg(long)]
    read_only: bool,
    /// Let other users use it too, each with its own rights: for root with an admin's client file
    #[arg(long)]
    allow_other: bool,
    /// Stay in the foreground; Ctrl-C umounts
    #[arg(short, long)]
    foreground: bool,
    /// As mount(8) has them: ro, allow_other, subdir=DIR, cluster=FILE, timeout=SECONDS, strict (believe nothing that was asked
    /// before), ttl=SECONDS (believe names and attributes for so long), log=FILE (else the system's log), suid (set-user-id programs
    /// run as such, for root with an admin's client file), nodev,
    /// noexec, sync, remount
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// What /proc/mounts shows, and what is mounted if nothing else says so
    #[arg(long, hide = true)]
    source: Option<OsString>,
    /// This is the process in the background
    #[arg(long, hide = true)]
    detached: bool,
    /// An existing directory
    mountpoint: PathBuf,
}

/// What is to be mounted, as far as that is known without asking the cluster.
struct Plan {
    found: (PathBuf, ClientFile),
    options: MountOptions,
    source: OsString,
}

impl Mount {
    /// Runs it.
    ///
    /// # Errors
    /// What stands in the way, what the cluster says.
    pub fn run(self, context: &Context) -> Result<()> {
        let plan = self.plan(context)?;
        if plan.options.remount {
            return Ok(remount(&self.mountpoint, &plan.options)?);
        }
        let (place, note) = check_mountpoint(&self.mountpoint, &plan.options)?;
        if let Some(note) = note.filter(|_| !self.detached) {
            eprintln!("quarry: mount: {note}");
        }
        if !self.foreground && !self.detached {
            return background::start(&mut self.detached(&plan, &place)?);
        }
        let usual = tracing::level_filters::LevelFilter::WARN;
        quarry_common::telemetry::init_from(false, usual);
        let log = match self.detached {
            true => Some(Log::open(plan.options.log.as_deref())?),
            false => None,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.serve(context, plan, &place, log))
    }

    fn plan(&self, context: &Context) -> Result<Plan> {
        let mut options = MountOptions::default();
        for list in &self.options {
            options.add(list).map_err(Misuse::new)?;
        }
        if self.read_only {
            options.read_only = Some(true);
        }
        options.allow_other |= self.allow_other;
        if let Some(dir) = &self.subdir {
            options.set_subdir(dir.as_bytes()).map_err(Misuse::new)?;
        }
        let named = self.source.as_deref().map(Source::parse);
        let (named_file, named_dir) = match named {
            Some(source) => (source.file, source.subdir),
            None => (None, None),
        };
        options.subdir = options.subdir.or(named_dir);
        let file = context.cluster.clone();
        let file = file.or(options.cluster.clone()).or(named_file);
        let found = ClientFile::find(file.as_deref())?;
        let source = match &self.source {
            Some(source) => source.clone(),
            None => shown(&std::path::absolute(&found.0)?, options.subdir.as_deref()),
        };
        Ok(Plan {
            found,
            options,
            source,
        })
    }

    /// The command of the process in the background: it has no folder, and no environment to find anything by.
    fn detached(&self, plan: &Plan, place: &Path) -> Result<Command> {
        let mut command = background::this_program()?;
        command.args(["mount", "--detached", "--cluster"]);
        command.arg(std::path::absolute(&plan.found.0)?);
        command.arg("--source").arg(&plan.source);
        if let Some(dir) = &plan.options.subdir {
            command.arg("--subdir").arg(OsStr::from_bytes(dir));
        }
        for list in &self.options {
            command.arg("-o").arg(list);
        }
        if let Some(log) = &plan.options.log {
            let mut option = OsString::from("log=");
            option.push(std::path::absolute(log)?);
            command.arg("-o").arg(option);
        }
        for (flag, is_set) in [
            ("--read-only", self.read_only),
            ("--allow-other", self.allow_other),
        ] {
            if is_set {
                command.arg(flag);
            }
        }
        command.arg("--").arg(place);
        Ok(command)
    }

    async fn serve(
        &self,
        context: &Context,
        plan: Plan,
        place: &Path,
        log: Option<Log>,
    ) -> Result<()> {
        let (path, file) = plan.found;
        let source = plan.source.to_string_lossy();
        let mounting = mount(file.clone(), &source, place, &plan.options);
        let mounting = async {
            match tokio::time::timeout(PATIENCE, mounting).await {
                Ok(mounted) => Ok::<_, anyhow::Error>(mounted?),
                Err(_) => bail!(
                    "the cluster of {} did not answer within {} s: 'quarry status' shows how it is",
                    path.display(),
                    PATIENCE.as_secs()
                ),
            }
        };
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut stopped = std::pin::pin!(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        let mounted = tokio::select! {
            mounted = or_leaderless(&file, mounting) => mounted?,
            () = &mut stopped => return Err(crate::failure::Interrupted.into()),
        };
        match log {
            Some(log) => background::detach(log)?,
            None if context.json => {}
            None => context.print(&format!(
                "{} is ready; Ctrl-C umounts it\n",
                place.display()
            ))?,
        }
        Ok(mounted.serve(stopped).await?)
    }
}

/// `CLIENT_FILE[:DIR]`
fn shown(file: &Path, subdir: Option<&[u8]>) -> OsString {
    let mut shown = file.as_os_str().to_owned();
    if let Some(dir) = subdir {
        shown.push(":");
        shown.push(OsStr::from_bytes(dir));
    }
    shown
}
