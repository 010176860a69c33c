//! `quarry stat`.

use super::for_each;
use super::ls::{JsonList, attr_json};
use crate::context::Context;
use crate::path::{Remote, escaped, put_json};
use crate::size::{kind_word, mode_text, rfc3339};
use anyhow::Result;
use quarry_common::wire::meta::{Attr, FileKind};
use serde_json::Value;
use std::ffi::OsString;
use std::fmt::Write;

/// Show all attributes of files
#[derive(Debug, clap::Args)]
pub struct Stat {
    /// Of what a symbolic link leads to, not of the link
    #[arg(short = 'L', long)]
    dereference: bool,
    /// Files of the cluster
    #[arg(required = true, value_name = "FILE")]
    paths: Vec<OsString>,
}

impl Stat {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let paths = Remote::parse_all(&self.paths)?;
        let mut json = JsonList::new(context.json);
        let done = context
            .with_client(async |client| {
                for_each(context, &paths, async |path| {
                    let attr = match self.dereference {
                        true => client.stat(path.bytes()).await?,
                        false => client.lstat(path.bytes()).await?,
                    };
                    let target = match attr.kind {
                        FileKind::Symlink => Some(client.read_link(path.bytes()).await?),
                        _ => None,
                    };
                    if context.json {
                        let mut object = attr_json(path.bytes(), &attr);
                        if let Some(target) = &target {
                            put_json(&mut object, "target", target);
                        }
                        return json.add(&Value::Object(object));
                    }
                    context.print(&text(path.bytes(), &attr, target.as_deref()))
                })
                .await
            })
            .await;
        json.end()?;
        done
    }
}

fn text(path: &[u8], attr: &Attr, target: Option<&[u8]>) -> String {
    let mut text = String::new();
    let mut line = |word: &str, value: String| {
        // Writing to a String can not fail.
        writeln!(text, "{word:>8}: {value}").ok();
    };
    let arrow = target.map_or(String::new(), |target| format!(" -> {}", escaped(target)));
    line("File", format!("{}{arrow}", escaped(path)));
    line("Kind", kind_word(attr.kind).replace('_', " "));
    line("Inode", format!("{}   Links: {}", attr.inode, attr.links));
    line("Size", format!("{}   Stored: {}", attr.size, attr.stored));
    line(
        "Mode",
        format!(
            "{:04o} {}   Owner: {}:{}",
            attr.mode,
            mode_text(attr.kind, attr.mode),
            attr.uid,
            attr.gid
        ),
    );
    if matches!(attr.kind, FileKind::CharDevice | FileKind::BlockDevice) {
        let (major, minor) = (
            rustix::fs::major(attr.device),
            rustix::fs::minor(attr.device),
        );
        line("Device", format!("{major},{minor}"));
    }
    line("Modified", rfc3339(attr.mtime));
    line("Changed", rfc3339(attr.ctime));
    line("Accessed", rfc3339(attr.atime));
    line("Born", rfc3339(attr.btime));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::ids::{Gid, InodeId, Uid, Version};
    use quarry_common::time::Nanos;

    #[test]
    fn every_attribute_is_shown_and_names_are_escaped() {
        let attr = Attr {
            inode: InodeId(0x2a),
            kind: FileKind::Symlink,
            mode: 0o777,
            uid: Uid(7),
            gid: Gid(8),
            size: 3,
            stored: 3,
            links: 1,
            device: 0,
            mtime: Nanos(0),
            ctime: Nanos(0),
            atime: Nanos(0),
            btime: Nanos(0),
            parent: InodeId::ROOT,
            data_version: Version(1),
            modified_at: Version(1),
            has_xattrs: false,
        };
        let text = text(b"/a\n", &attr, Some(b"b\xff"));
        for part in [
            "/a\\n -> b\\xff",
            "i2a",
            "0777 lrwxrwxrwx",
            "7:8",
            "1970-01-01T00:00:00Z",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let object = attr_json(b"/a\xff", &attr);
        assert_eq!(object["mode"], "0777");
        assert_eq!(object["path_base64"], "L2H/");
    }
}
