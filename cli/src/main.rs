//! The `quarry` command: one binary for every role and every tool.

mod account;
#[cfg(feature = "servers")]
mod address;
mod args;
#[cfg(feature = "mount")]
mod background;
mod commands;
mod context;
mod copying;
mod failure;
#[cfg(feature = "servers")]
mod founding;
mod input;
mod leaderless;
mod mode;
#[cfg(feature = "mount")]
mod mount_helper;
mod path;
mod progress;
#[cfg(feature = "servers")]
mod server;
#[cfg(feature = "servers")]
mod server_folder;
mod size;
mod table;
mod target;
mod walk;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    quarry_common::task::abort_on_panic();
    #[cfg(feature = "mount")]
    if let Some(asked) = mount_helper::asked(&std::env::args_os().collect::<Vec<_>>()) {
        return args::mount(asked);
    }
    match args::Arguments::try_parse() {
        Ok(args) => args.run(),
        Err(said) => args::say(&said),
    }
}
