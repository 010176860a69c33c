//! Folders with all that a server is started with, to be copied to its machine.

use crate::address::Address;
use anyhow::{Context as _, Result, bail};
use quarry_common::durable;
use quarry_common::ids::ServerId;
use quarry_metaserver::ClusterSeed;
use std::path::Path;

/// What a metaserver is started with.
pub struct MetaserverFiles<'a> {
    /// The text of its identity file.
    pub identity: &'a str,
    /// The text of the file of the cluster's authority.
    pub authority: &'a str,
    /// Where it will be reached.
    pub address: &'a Address,
    /// What a new cluster begins with.
    pub seed: Option<&'a ClusterSeed>,
    /// The metaservers of a cluster that there is.
    pub metaservers: &'a [(ServerId, String)],
    /// Those of the metaserver that leads the cluster that there is: another that leads decides by its own.
    pub doom_grace_seconds: Option<u64>,
    /// The same.
    pub out_after_seconds: Option<u64>,
}

impl MetaserverFiles<'_> {
    /// Writes them into a new folder, for its owner alone.
    ///
    /// # Errors
    /// The folder is there already, or can not be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        make_private(folder)?;
        for (name, text) in [
            ("identity.pem", self.identity),
            ("authority.pem", self.authority),
        ] {
            let path = folder.join(name);
            durable::replace_private(&path, text.as_bytes())
                .with_context(|| format!("{}: can not be written", path.display()))?;
        }
        let mut config = "# A metaserver: quarry metaserver run --config metaserver.toml\n\
             # Relative paths start at this file's folder.\n\n\
             identity = \"identity.pem\"\n\
             authority = \"authority.pem\"  # signs the certificates of users: guard it\n"
            .to_owned();
        if let Some(seed) = self.seed {
            write(&folder.join("seed.toml"), &toml::to_string(seed)?)?;
            config.push_str("seed = \"seed.toml\"           # what the cluster began with\n");
        }
        if !self.metaservers.is_empty() {
            config.push_str(&format!(
                "metaservers = {}  # whom it hears until it has the state\n",
                metaservers_toml(self.metaservers)
            ));
        }
        config.push_str(&format!(
            "dir = \"state\"\n\
             listen = \"{}\"\n\
             advertise = {}\n\
             # cache_mib = 256\n\
             {} # data that nothing refers to is deleted after so long\n\
             {} # what a disk held that was down for so long is rebuilt on others\n",
            self.address.listen(),
            quoted(&self.address.text()),
            setting("doom_grace_seconds", self.doom_grace_seconds, 300),
            setting("out_after_seconds", self.out_after_seconds, 600),
        ));
        write(&folder.join("metaserver.toml"), &config)
    }
}

/// A key and its value; a comment if that is the usual one.
fn setting(key: &str, value: Option<u64>, usual: u64) -> String {
    let line = match value.filter(|value| *value != usual) {
        Some(value) => format!("{key} = {value}"),
        None => format!("# {key} = {usual}"),
    };
    format!("{line:30}")
}

/// A text as TOML.
pub fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Metaservers as the value of a key.
pub fn metaservers_toml(metaservers: &[(ServerId, String)]) -> String {
    let known = metaservers
        .iter()
        .map(|(id, at)| format!("[{id}, {}]", quoted(at)));
    format!("[{}]", known.collect::<Vec<_>>().join(", "))
}

/// Makes a directory that is empty.
///
/// # Errors
/// It can not be made, or has something in it.
pub fn make_empty(dir: &Path) -> Result<()> {
    let failed = || format!("{}: can not be made", dir.display());
    std::fs::create_dir_all(dir).with_context(failed)?;
    if std::fs::read_dir(dir)
        .with_context(failed)?
        .next()
        .is_some()
    {
        bail!(
            "{}: is not empty: a directory of its own is needed",
            dir.display()
        );
    }
    Ok(())
}

/// Makes a new directory for its owner alone: there are keys in it.
///
/// # Errors
/// It is there already, or can not be made.
pub fn make_private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().mode(0o700).create(dir);
    made.with_context(|| format!("{}: can not be made", dir.display()))
}

/// Writes a file whole or not at all.
///
/// # Errors
/// It can not be written.
pub fn write(path: &Path, text: &str) -> Result<()> {
    durable::replace(path, text.as_bytes())
        .with_context(|| format!("{}: can not be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_is_not_usual_is_set() {
        let line = |value| setting("out_after_seconds", value, 600);
        assert_eq!(line(Some(20)).trim_end(), "out_after_seconds = 20");
        assert_eq!(line(Some(600)).trim_end(), "# out_after_seconds = 600");
        assert_eq!(line(None), line(Some(600)));
    }
}
