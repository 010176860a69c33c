//! `quarry ls`.

use super::for_each;
use crate::context::Context;
use crate::failure::{Failures, Reported};
use crate::path::{Remote, escaped, join, put_json};
use crate::size::{human, kind_word, local, mode_text, rfc3339};
use anyhow::Result;
use quarry_client::Client;
use quarry_common::Code;
use quarry_common::wire::meta::{Attr, FileKind};
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::io::Write;

/// List directories
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Ls {
    /// Permissions, links, owner, group, size, time
    #[arg(short)]
    long: bool,
    /// Names that begin with a dot too
    #[arg(short)]
    all: bool,
    /// Sizes as 1.2K, 64M
    #[arg(short = 'h')]
    human: bool,
    /// Directories with all that is in them
    #[arg(short = 'R')]
    recursive: bool,
    /// Directories themselves, not what is in them
    #[arg(short = 'd')]
    directory: bool,
    /// Newest first
    #[arg(short = 't')]
    time: bool,
    /// The other way round
    #[arg(short = 'r')]
    reverse: bool,
    /// Largest first
    #[arg(short = 'S')]
    size: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Files and directories of the cluster
    #[arg(default_value = "/", value_name = "FILE")]
    paths: Vec<OsString>,
}

/// One line of the list.
struct Line {
    /// As it is shown: a name in a directory, or the path that was asked for.
    name: Vec<u8>,
    path: Vec<u8>,
    kind: FileKind,
    /// Missing where only names are shown.
    attr: Option<Attr>,
    /// Where a symbolic link leads, if that is shown.
    target: Option<Vec<u8>>,
}

impl Ls {
    /// Runs it.
    ///
    /// # Errors
    /// What the cluster says.
    pub async fn run(self, context: &Context) -> Result<()> {
        let paths = Remote::parse_all(&self.paths)?;
        let mut json = JsonList::new(context.json);
        let listed = context
            .with_client(async |client| self.list(context, client, &paths, &mut json).await)
            .await;
        // A list that was begun is ended also when a part of it failed.
        json.end()?;
        listed
    }

    async fn list(
        &self,
        context: &Context,
        client: &Client,
        paths: &[Remote],
        json: &mut JsonList,
    ) -> Result<()> {
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        let found = for_each(context, paths, async |path| {
            let line = self.operand(client, path).await?;
            match line.kind == FileKind::Directory && !self.directory {
                true => directories.push(line),
                false => files.push(line),
            }
            Ok(())
        })
        .await;
        // What was found is listed all the same.
        if let Err(error) = &found
            && !error.is::<Reported>()
        {
            return found;
        }
        for operands in [&mut files, &mut directories] {
            operands.sort_by(|a, b| a.path.cmp(&b.path));
            self.sort(operands);
        }
        self.show(context, &files, json)?;
        let headed = paths.len() > 1 || self.recursive;
        let mut first = files.is_empty();
        let mut failures = Failures::new(context);
        for operand in directories {
            let mut waiting = vec![operand.path];
            while let Some(dir) = waiting.pop() {
                let mut lines = Vec::new();
                // What was listed until then is shown.
                let listed = self.directory(context, client, &dir, &mut failures, &mut lines);
                if let Err(error) = listed.await {
                    failures.report(&error);
                    if lines.is_empty() {
                        continue;
                    }
                }
                self.sort(&mut lines);
                if headed && !context.json {
                    self.head(context, &dir, first)?;
                }
                first = false;
                self.show(context, &lines, json)?;
                if self.recursive {
                    let below = lines.iter().rev();
                    let below = below.filter(|line| line.kind == FileKind::Directory);
                    waiting.extend(below.map(|line| line.path.clone()));
                }
            }
        }
        failures.end().and(found)
    }

    /// What was named: a link where it leads to nothing, and where links are shown.
    async fn operand(&self, client: &Client, path: &Remote) -> Result<Line> {
        let path = path.bytes();
        let followed = match self.long || self.directory {
            true => None,
            false => match client.stat(path).await {
                Err(error) if error.code == Code::NotFound => None,
                found => Some(found?),
            },
        };
        let attr = match followed {
            Some(attr) => attr,
            None => client.lstat(path).await?,
        };
        let target = self.target(client, path, &attr).await?;
        Ok(Line {
            name: path.to_vec(),
            path: path.to_vec(),
            kind: attr.kind,
            attr: Some(attr),
            target,
        })
    }

    async fn target(&self, client: &Client, path: &[u8], attr: &Attr) -> Result<Option<Vec<u8>>> {
        if attr.kind != FileKind::Symlink || !self.long {
            return Ok(None);
        }
        Ok(Some(client.read_link(path).await?))
    }

    async fn directory(
        &self,
        context: &Context,
        client: &Client,
        dir: &[u8],
        failures: &mut Failures<'_>,
        lines: &mut Vec<Line>,
    ) -> Result<()> {
        // Who may read a directory and not search it sees its names.
        let with_attrs = self.long || self.time || self.size || context.json;
        let mut entries = client.open_dir(dir, with_attrs).await?;
        let listed = |error: quarry_common::Error| error.context(escaped(dir));
        while let Some(entry) = entries.next().await.map_err(listed)? {
            if entry.name.starts_with(b".") && !self.all {
                continue;
            }
            let path = join(dir, &entry.name);
            let about = match with_attrs {
                true => self.about(client, &path, entry.attr).await,
                false => Ok((None, None)),
            };
            match about {
                Ok((attr, target)) => lines.push(Line {
                    name: entry.name,
                    path,
                    kind: entry.kind,
                    attr,
                    target,
                }),
                Err(error) => failures.report(&error),
            }
        }
        Ok(())
    }

    /// The attributes of an entry, if they did not come with it, and where it leads.
    async fn about(
        &self,
        client: &Client,
        path: &[u8],
        attr: Option<Attr>,
    ) -> Result<(Option<Attr>, Option<Vec<u8>>)> {
        let attr = match attr {
            Some(attr) => attr,
            None => client.lstat(path).await?,
        };
        let target = self.target(client, path, &attr).await?;
        Ok((Some(attr), target))
    }

    /// Lines come in the order of their names; the sorts are stable.
    fn sort(&self, lines: &mut [Line]) {
        if self.size {
            lines.sort_by_key(|line| std::cmp::Reverse(line.attr.as_ref().map(|attr| attr.size)));
        } else if self.time {
            lines.sort_by_key(|line| std::cmp::Reverse(line.attr.as_ref().map(|attr| attr.mtime)));
        }
        if self.reverse {
            lines.reverse();
        }
    }

    fn head(&self, context: &Context, dir: &[u8], first: bool) -> Result<()> {
        let mut out = std::io::stdout().lock();
        if !first {
            out.write_all(b"\n")?;
        }
        out.write_all(&context.name(dir))?;
        Ok(out.write_all(b":\n")?)
    }

    fn show(&self, context: &Context, lines: &[Line], json: &mut JsonList) -> Result<()> {
        let known = lines
            .iter()
            .filter_map(|line| Some((line, line.attr.as_ref()?)));
        if context.json {
            for (line, attr) in known {
                let mut object = attr_json(&line.path, attr);
                if let Some(target) = &line.target {
                    put_json(&mut object, "target", target);
                }
                json.add(&Value::Object(object))?;
            }
            return Ok(());
        }
        let mut out = std::io::BufWriter::new(std::io::stdout().lock());
        if !self.long {
            for line in lines {
                out.write_all(&context.name(&line.name))?;
                out.write_all(b"\n")?;
            }
            return Ok(out.flush()?);
        }
        let size = |attr: &Attr| match self.human {
            true => human(attr.size),
            false => attr.size.to_string(),
        };
        let width = |text: fn(&Attr) -> String| {
            let lens = known.clone().map(|(_, attr)| text(attr).len());
            lens.max().unwrap_or(0)
        };
        let links = width(|attr| attr.links.to_string());
        let uids = width(|attr| attr.uid.to_string());
        let gids = width(|attr| attr.gid.to_string());
        let sizes = known.clone().map(|(_, attr)| size(attr).len());
        let sizes = sizes.max().unwrap_or(0);
        for (line, attr) in known {
            write!(
                out,
                "{} {:>links$} {:>uids$} {:>gids$} {:>sizes$} {} ",
                mode_text(attr.kind, attr.mode),
                attr.links,
                attr.uid.0,
                attr.gid.0,
                size(attr),
                local(attr.mtime)
            )?;
            out.write_all(&context.name(&line.name))?;
            if let Some(target) = &line.target {
                out.write_all(b" -> ")?;
                out.write_all(&context.name(target))?;
            }
            out.write_all(b"\n")?;
        }
        Ok(out.flush()?)
    }
}

/// What a program reads of an inode.
pub fn attr_json(path: &[u8], attr: &Attr) -> Map<String, Value> {
    let mut object = Map::new();
    put_json(&mut object, "path", path);
    let fields = json!({
        "inode": attr.inode.to_string(),
        "kind": kind_word(attr.kind),
        "mode": format!("{:04o}", attr.mode),
        "uid": attr.uid,
        "gid": attr.gid,
        "size": attr.size,
        "stored": attr.stored,
        "links": attr.links,
        "device": attr.device,
        "mtime": rfc3339(attr.mtime),
        "ctime": rfc3339(attr.ctime),
        "atime": rfc3339(attr.atime),
        "btime": rfc3339(attr.btime),
        "data_version": attr.data_version,
        "has_xattrs": attr.has_xattrs,
    });
    if let Value::Object(fields) = fields {
        object.extend(fields);
    }
    object
}

/// A JSON array that is written while it grows.
pub struct JsonList {
    wanted: bool,
    begun: bool,
}

impl JsonList {
    /// Writes nothing unless `wanted`.
    pub fn new(wanted: bool) -> JsonList {
        JsonList {
            wanted,
            begun: false,
        }
    }

    /// Adds a value, a line of its own.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn add(&mut self, value: &Value) -> Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(if self.begun { b",\n" } else { b"[\n" })?;
        self.begun = true;
        Ok(serde_json::to_writer(out, value).map_err(std::io::Error::from)?)
    }

    /// Ends the array; one without values is written here.
    ///
    /// # Errors
    /// Those of standard output.
    pub fn end(&mut self) -> Result<()> {
        if !self.wanted {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        out.write_all(if self.begun { b"\n]\n" } else { b"[]\n" })?;
        Ok(out.flush()?)
    }
}
