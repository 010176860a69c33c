//! The words of the command line.

use crate::commands;
use crate::context::Context;
use crate::failure;
use anyhow::Result;
use clap::error::{ContextKind, ContextValue};
use clap::{Parser, Subcommand};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Quarry, a distributed file system.
///
/// Paths of the cluster are absolute (/home/anna/file). Start a cluster of your own with
/// 'quarry dev'. Exit codes: 0 done, 1 failed, 2 used wrongly.
#[derive(Debug, Parser)]
#[command(name = "quarry", version, propagate_version = true)]
pub struct Arguments {
    /// The client file: where the cluster is and who you are [default: $QUARRY_CLUSTER, else
    /// quarry/client.toml in the XDG config directory]
    #[arg(long, global = true, value_name = "FILE")]
    cluster: Option<PathBuf>,

    /// Output for programs
    #[arg(long, global = true)]
    json: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[cfg(feature = "servers")]
    Dev(commands::dev::Dev),
    #[cfg(feature = "servers")]
    Cluster(commands::cluster::Cluster),
    #[cfg(feature = "servers")]
    Metaserver(commands::metaserver::Metaserver),
    #[cfg(feature = "servers")]
    Dataserver(commands::dataserver::Dataserver),
    #[cfg(feature = "servers")]
    Config(commands::config::Config),
    User(commands::user::User),
    Put(commands::put::Put),
    Get(commands::get::Get),
    Ls(commands::ls::Ls),
    Stat(commands::stat::Stat),
    Cat(commands::cat::Cat),
    Mkdir(commands::mkdir::Mkdir),
    Rm(commands::rm::Rm),
    Rmdir(commands::rmdir::Rmdir),
    Mv(commands::mv::Mv),
    Ln(commands::ln::Ln),
    Cp(commands::cp::Cp),
    Append(commands::append::Append),
    Truncate(commands::truncate::Truncate),
    Chmod(commands::chmod::Chmod),
    Chown(commands::chown::Chown),
    Xattr(commands::xattr::Xattr),
    Locate(commands::locate::Locate),
    #[cfg(feature = "mount")]
    Mount(commands::mount::Mount),
    #[cfg(feature = "mount")]
    Umount(commands::umount::Umount),
    Status(commands::status::Status),
    Disk(commands::disk::Disk),
    Pg(commands::pg::Pg),
    Bench(commands::bench::Bench),
}

/// Calls `$run!(word, args)` for the command at hand.
macro_rules! dispatch {
    ($command:expr, $context:ident, $($variant:ident => $word:literal),* $(,)?) => {
        match $command {
            #[cfg(feature = "servers")]
            Command::Dev(args) => { let $context = $context("dev"); finish(&$context, args.run(&$context)) }
            #[cfg(feature = "servers")]
            Command::Cluster(args) => { let $context = $context("cluster"); finish(&$context, args.run(&$context)) }
            #[cfg(feature = "servers")]
            Command::Metaserver(args) => { let $context = $context("metaserver"); finish(&$context, args.run(&$context)) }
            #[cfg(feature = "servers")]
            Command::Dataserver(args) => { let $context = $context("dataserver"); finish(&$context, args.run(&$context)) }
            #[cfg(feature = "servers")]
            Command::Config(args) => { let $context = $context("config"); finish(&$context, args.run(&$context)) }
            #[cfg(feature = "mount")]
            Command::Mount(args) => { let $context = $context("mount"); finish(&$context, args.run(&$context)) }
            #[cfg(feature = "mount")]
            Command::Umount(args) => { let $context = $context("umount"); finish(&$context, args.run(&$context)) }
            $(Command::$variant(args) => { let $context = $context($word); finish(&$context, client(args.run(&$context))) })*
        }
    };
}

impl Arguments {
    /// Does what was asked.
    pub fn run(self) -> ExitCode {
        let Arguments {
            cluster,
            json,
            command,
        } = self;
        let context = |word| Context::new(cluster, json, word);
        dispatch!(command, context,
            User => "user", Put => "put", Get => "get", Ls => "ls", Stat => "stat", Cat => "cat",
            Mkdir => "mkdir", Rm => "rm", Rmdir => "rmdir", Mv => "mv", Ln => "ln", Cp => "cp",
            Append => "append", Truncate => "truncate", Chmod => "chmod", Chown => "chown",
            Xattr => "xattr", Locate => "locate", Status => "status", Disk => "disk", Pg => "pg",
            Bench => "bench",
        )
    }
}

/// Does what mount(8) asks for.
#[cfg(feature = "mount")]
pub fn mount(asked: std::result::Result<crate::mount_helper::Asked, String>) -> ExitCode {
    use crate::mount_helper::Asked;
    match asked {
        Ok(Asked::Nothing) => ExitCode::SUCCESS,
        Ok(Asked::Words(words)) => match Arguments::try_parse_from(words) {
            Ok(args) => args.run(),
            Err(said) => say(&said),
        },
        Err(usage) => failure::report("mount", &failure::Misuse::new(usage).into()),
    }
}

/// Says what clap has to say: the help that was asked for, or what was used wrongly.
pub fn say(said: &clap::Error) -> ExitCode {
    let printed = said.print().and_then(|()| std::io::stdout().flush());
    if let (Err(error), false) = (printed, said.use_stderr()) {
        return failure::report(
            "help",
            &anyhow::Error::from(error).context("standard output"),
        );
    }
    if let Some(variable) = refused_variable(said) {
        eprintln!("quarry: the value is that of {variable} in the environment");
    }
    ExitCode::from(said.exit_code() as u8)
}

/// The variable whose value was refused: clap names its flag in any case.
fn refused_variable(said: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(argument)) = said.get(ContextKind::InvalidArg) else {
        return None;
    };
    let flag = argument.split(' ').next()?;
    let name = flag.strip_prefix("--")?.replace('-', "_").to_uppercase();
    let variable = format!("QUARRY_{name}");
    let is_flag = std::env::args_os().any(|word| word.to_string_lossy().starts_with(flag));
    (!is_flag && std::env::var_os(&variable).is_some()).then_some(variable)
}

/// A disk that hangs, or a pipe that nobody reads, keeps a command no longer.
const END_WAIT: Duration = Duration::from_secs(2);

/// Runs a command that only talks to a cluster. Logs only what a person must see, unless
/// `QUARRY_LOG` says otherwise.
///
/// # Errors
/// Those of the command.
pub fn client(work: impl Future<Output = Result<()>>) -> Result<()> {
    quarry_common::telemetry::init_from(false, tracing::level_filters::LevelFilter::WARN);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(work);
    // What was interrupted takes its temporary files with it, also those that a thread just writes to.
    runtime.shutdown_timeout(END_WAIT);
    done
}

fn finish(context: &Context, done: Result<()>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(context.command, &error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_words_fit_together() {
        Arguments::command().debug_assert();
    }

    /// The check before this one looks at it only where debug assertions are on.
    #[test]
    fn no_letter_has_two_meanings() {
        fn check(command: &clap::Command) {
            let mut letters = std::collections::BTreeSet::new();
            for arg in command.get_arguments() {
                for letter in arg.get_short_and_visible_aliases().unwrap_or_default() {
                    let name = command.get_name();
                    assert!(letters.insert(letter), "-{letter} of {name}: {letters:?}");
                }
            }
            command.get_subcommands().for_each(check);
        }
        let mut all = Arguments::command();
        all.build();
        check(&all);
    }

    #[test]
    fn every_command_has_a_help_text() {
        for command in Arguments::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
        }
    }

    #[test]
    fn commands_are_understood_as_they_are_documented() {
        for line in [
            "put -r -j 8 a b /c",
            "put - /c",
            "get -r /a -",
            "get /a /b . --json",
            "ls -lahRdtrS /a",
            "rm -rf /a /b",
            "mkdir -p /a/b",
            "ln -s a /b",
            "cp -r /a /b",
            "truncate -s 1G /a",
            "chmod u+x,go-w /a",
            "chmod -R 755 /a",
            "chown 1000:100 /a",
            "chown -h -R anna /a",
            "xattr set /a user.k v",
            "xattr get /a user.k",
            "xattr list /a",
            "xattr remove /a user.k",
            "--cluster f status",
            #[cfg(feature = "mount")]
            "mount --subdir /a --read-only --allow-other --foreground -o timeout=5,ro /mnt",
            #[cfg(feature = "mount")]
            "mount -o ro -o ttl=1 /mnt",
            #[cfg(feature = "mount")]
            "umount --lazy /mnt",
            #[cfg(feature = "servers")]
            "dev --metaservers 3 --dataservers 5 --processes --detach --dir d",
            #[cfg(feature = "servers")]
            "dev kill meta-2",
            #[cfg(feature = "servers")]
            "dev pause data-3 --dir d",
            #[cfg(feature = "servers")]
            "dev resume data-3 --json",
            #[cfg(feature = "servers")]
            "dev start meta-2",
            "disk list",
            "pg list",
            "bench write --size 4G --files 4 --writers 2",
            "bench small --files 100 --size 4K --clients 32",
            "bench meta --clients 1,32,128 --count 1000",
            "user add anna --uid 1000 --gid 100 --gid 4 --admin --out f",
            "user renew anna --out f",
            "user list",
        ] {
            let words = std::iter::once("quarry").chain(line.split(' '));
            if let Err(error) = Arguments::try_parse_from(words) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn misuse_is_refused() {
        for line in [
            "",
            "put",
            "put a",
            "frobnicate",
            "chmod rwx /a",
            "truncate /a",
            "ls --sideways",
        ] {
            let words =
                std::iter::once("quarry").chain(line.split(' ').filter(|word| !word.is_empty()));
            assert!(Arguments::try_parse_from(words).is_err(), "{line}");
        }
    }
}
