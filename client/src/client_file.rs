//! The client file: what a program needs to reach a cluster as one user. TOML; it holds the
//! user's private key, so it is written readable by its owner alone.

use quarry_common::config::values;
use quarry_common::durable;
use quarry_common::error::{Code, Error, Result};
use quarry_common::given_file;
use quarry_common::identity::{Identity, Role};
use quarry_common::ids::{ClusterId, ServerId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::SystemTime;

/// The environment variable that names the client file.
pub const CLUSTER_VARIABLE: &str = "QUARRY_CLUSTER";

/// Where a cluster is, and as whom to speak to it.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientFile {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its metaservers; which of them leads is found by asking.
    pub metaservers: Vec<MetaAddress>,
    /// Certificate, key and CA, in PEM.
    pub identity: String,
    /// The user's name in the cluster, for people; the certificate is what counts.
    pub user: String,
}

/// One metaserver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetaAddress {
    /// Its number, as in its certificate.
    pub id: ServerId,
    /// `host:port`.
    pub address: String,
}

/// The fields as they stand in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layout {
    cluster: String,
    user: String,
    identity: String,
    metaservers: Vec<MetaAddress>,
}

impl std::fmt::Debug for ClientFile {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientFile")
            .field("cluster", &self.cluster)
            .field("user", &self.user)
            .field("metaservers", &self.metaservers)
            .finish_non_exhaustive()
    }
}

impl ClientFile {
    /// The client file to use and where it was found: `explicit`, else what `QUARRY_CLUSTER`
    /// names, else [`ClientFile::default_path`].
    ///
    /// # Errors
    /// `Configuration`: there is none (the text says how to get one), or it can not be used.
    pub fn find(explicit: Option<&Path>) -> Result<(PathBuf, ClientFile)> {
        let named = std::env::var_os(CLUSTER_VARIABLE).filter(|value| !value.is_empty());
        let path = match (explicit, named) {
            (Some(path), _) => path.to_path_buf(),
            (None, Some(path)) => PathBuf::from(path),
            (None, None) => ClientFile::default_path()?,
        };
        let file = ClientFile::load(&path)?;
        // Found damaged when it is used, it would be an error that names no file.
        file.identity()
            .map_err(|error| error.context(path.display()))?;
        Ok((path, file))
    }

    /// The identity in it, which is a user's of the cluster; its validity is for the metaservers to judge.
    ///
    /// # Errors
    /// `Configuration`: it is none, a server's, or another cluster's.
    pub fn identity(&self) -> Result<Identity> {
        let wrong = |what: String| {
            let text = format!(
                "{what}; ask an admin for another client file ('quarry user renew NAME' prints it)"
            );
            Error::new(Code::Configuration, text)
        };
        let identity = Identity::from_pem(&self.identity)
            .map_err(|error| wrong(format!("its identity can not be used: {}", error.text)))?;
        let name = identity.name();
        if name.role != Role::User {
            return Err(wrong(format!(
                "its identity is of {name}, which is no user"
            )));
        }
        if name.cluster != self.cluster {
            return Err(wrong(format!(
                "its identity is of cluster {}, the file of cluster {}",
                name.cluster, self.cluster
            )));
        }
        Ok(identity)
    }

    /// What to do about a file half of whose metaservers were replaced: with the last of them it finds the cluster no more.
    pub(crate) fn outdated(&self, present: &BTreeMap<ServerId, String>) -> Option<String> {
        let named = self.metaservers.len();
        let there = self.metaservers.iter();
        let left = there
            .filter(|there| present.contains_key(&there.id))
            .count();
        if left == named || left * 2 > named {
            return None;
        }
        let entries = present.iter().map(|(id, address)| {
            let address = toml::Value::String(address.clone());
            format!("{{ id = {id}, address = {address} }}")
        });
        let entries: Vec<String> = entries.collect();
        let are = if left == 1 { "is" } else { "are" };
        Some(format!(
            "of the {named} metaservers that it names {left} {are} left: write metaservers = [{}] in the place of its \
             [[metaservers]], or it will not find the cluster when those are replaced too",
            entries.join(", ")
        ))
    }

    /// Why the metaservers refuse its certificate at `now`, if that can be seen here, with what to do.
    pub fn unfit_at(&self, now: SystemTime) -> Option<Error> {
        let unfit = self.identity().ok()?.check_valid(now).err()?;
        let text = format!(
            "{}; 'quarry user renew {}', run by an admin, prints a client file with a new one",
            unfit.text, self.user
        );
        Some(Error::new(unfit.code, text))
    }

    /// `$XDG_CONFIG_HOME/quarry/client.toml`, or the same under `~/.config`.
    ///
    /// # Errors
    /// `Configuration` when neither `XDG_CONFIG_HOME` nor `HOME` is set.
    pub fn default_path() -> Result<PathBuf> {
        let folder = |name: &str| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        folder("XDG_CONFIG_HOME")
            .or_else(|| folder("HOME").map(|home| home.join(".config")))
            .map(|config| config.join("quarry/client.toml"))
            .ok_or_else(|| {
                let text = format!(
                    "neither {CLUSTER_VARIABLE}, XDG_CONFIG_HOME nor HOME is set: \
                     name the client file with {CLUSTER_VARIABLE}"
                );
                Error::new(Code::Configuration, text)
            })
    }

    /// Reads a client file; warns, once for a process, if others may read it too.
    ///
    /// # Errors
    /// `Configuration`, naming the file, with what to do.
    pub fn load(path: &Path) -> Result<ClientFile> {
        let file = given_file::read(path).map_err(|error| {
            let remedy = if error.kind() == std::io::ErrorKind::NotFound {
                "there is no client file: start a cluster of your own with 'quarry dev', \
                 or ask an admin for one ('quarry user add NAME' prints it)"
                    .to_owned()
            } else {
                format!("the client file can not be read: {error}")
            };
            Error::new(Code::Configuration, remedy).context(path.display())
        })?;
        let parsed =
            ClientFile::parse(&file.text).map_err(|error| error.context(path.display()))?;
        static WARNED: Once = Once::new();
        // No refusal: the keys of a user who gives them away are the user's.
        if let Some(open) =
            file.key_is_open(format_args!("the client file {}", path.display()), path)
        {
            WARNED.call_once(|| tracing::warn!("{open}"));
        }
        Ok(parsed)
    }

    /// Reads the text of a client file.
    ///
    /// # Errors
    /// `Configuration` with the line that is wrong, or with how to get one.
    pub fn parse(text: &str) -> Result<ClientFile> {
        let wrong = |text: String| Error::new(Code::Configuration, text);
        let layout: Layout = toml::from_str(text).map_err(|error: toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| 1 + before.matches('\n').count());
            wrong(format!(
                "is no client file (line {line}: {}): ask an admin for one ('quarry user add NAME' or \
                 'quarry user renew NAME' prints it)",
                error.message()
            ))
        })?;
        if layout.metaservers.is_empty() {
            return Err(wrong("the client file names no metaserver".into()));
        }
        let metaservers = layout.metaservers.iter();
        values::check_metaservers(metaservers.map(|there| (there.id, there.address.as_str())))?;
        Ok(ClientFile {
            cluster: layout.cluster.parse().map_err(wrong)?,
            metaservers: layout.metaservers,
            identity: layout.identity,
            user: layout.user,
        })
    }

    /// The text of the file.
    pub fn to_toml(&self) -> String {
        let layout = Layout {
            cluster: self.cluster.to_string(),
            user: self.user.clone(),
            identity: self.identity.clone(),
            metaservers: self.metaservers.clone(),
        };
        toml::to_string_pretty(&layout).expect("strings and numbers can be written as TOML")
    }

    /// Writes the file whole or not at all, mode 0600, with the folders above it.
    ///
    /// # Errors
    /// `Configuration`, naming the file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        folder
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| durable::replace_private(path, self.to_toml().as_bytes()))
            .map_err(|error| {
                let text = format!("{}: can not be written: {error}", path.display());
                Error::new(Code::Configuration, text)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quarry_common::identity::{Authority, PeerName, USER_VALID};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn example() -> ClientFile {
        ClientFile {
            cluster: ClusterId([7; 16]),
            metaservers: vec![MetaAddress {
                id: ServerId(1),
                address: "127.0.0.1:7410".into(),
            }],
            identity: "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n".into(),
            user: "ann".into(),
        }
    }

    #[test]
    fn a_client_file_reads_back_and_is_its_owners_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/client.toml");
        example().save(&path).unwrap();
        assert_eq!(ClientFile::load(&path).unwrap(), example());
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!format!("{:?}", example()).contains("BEGIN"));
    }

    /// Counts what is logged.
    struct Counter(Arc<AtomicU32>);

    impl tracing::Subscriber for Counter {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
            tracing::span::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            if *event.metadata().level() == tracing::Level::WARN {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        fn enter(&self, _: &tracing::span::Id) {}
        fn exit(&self, _: &tracing::span::Id) {}
    }

    #[test]
    fn a_client_file_that_others_may_read_is_used_with_one_warning() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.toml");
        example().save(&path).unwrap();
        let warned = Arc::new(AtomicU32::new(0));
        tracing::subscriber::with_default(Counter(warned.clone()), || {
            assert_eq!(ClientFile::load(&path).unwrap(), example());
            assert_eq!(warned.load(Ordering::Relaxed), 0);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
            for _ in 0..2 {
                assert_eq!(ClientFile::load(&path).unwrap(), example());
            }
        });
        assert_eq!(warned.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_is_no_client_file_is_told_with_how_to_get_one_and_not_warned_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        std::fs::write(
            &path,
            "# others may read it\nroot:x:0:0:root:/root:/bin/sh\n",
        )
        .unwrap();
        let warned = Arc::new(AtomicU32::new(0));
        let error = tracing::subscriber::with_default(Counter(warned.clone()), || {
            ClientFile::load(&path).unwrap_err()
        });
        for part in [
            "passwd: is no client file (line 2: ",
            "user add",
            "user renew",
        ] {
            assert!(error.text.contains(part), "{error}");
        }
        assert_eq!(warned.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_no_file_is_no_client_file() {
        let folder = tempfile::tempdir().unwrap();
        let error = ClientFile::load(folder.path()).unwrap_err();
        assert!(error.text.contains("a directory, and a file"), "{error}");
        let error = ClientFile::load(Path::new("/dev/zero")).unwrap_err();
        assert!(error.text.contains("a device"), "{error}");
    }

    #[test]
    fn a_file_is_outdated_when_half_of_its_metaservers_are_gone() {
        let named = |ids: &[u32]| ClientFile {
            metaservers: ids
                .iter()
                .map(|id| MetaAddress {
                    id: ServerId(*id),
                    address: format!("m{id}:7410"),
                })
                .collect(),
            ..example()
        };
        let present = [2, 4, 5].map(|id| (ServerId(id), format!("m{id}:7410")));
        let present = BTreeMap::from(present);
        for fresh in [&[2][..], &[2, 4], &[2, 4, 1], &[5, 4, 2]] {
            assert_eq!(named(fresh).outdated(&present), None, "{fresh:?}");
        }
        for outdated in [&[1][..], &[1, 2], &[1, 2, 3]] {
            let words = named(outdated).outdated(&present).unwrap();
            let (_, after) = words.split_once("write ").unwrap();
            let (line, _) = after.split_once(" in the place").unwrap();
            // As somebody does what it says.
            let text = named(outdated).to_toml();
            let (head, _) = text.split_once("[[metaservers]]").unwrap();
            let mended = ClientFile::parse(&format!("{head}{line}\n")).unwrap();
            assert_eq!(mended, named(&[2, 4, 5]), "{words}");
        }
    }

    #[test]
    fn metaservers_that_can_not_be_are_refused() {
        let mut file = example();
        file.metaservers[0].address = "junk".into();
        let error = ClientFile::parse(&file.to_toml()).unwrap_err();
        assert!(error.text.contains("metaserver 1 'junk'"), "{error}");
        let mut file = example();
        file.metaservers.push(file.metaservers[0].clone());
        let error = ClientFile::parse(&file.to_toml()).unwrap_err();
        assert!(error.text.contains("named twice"), "{error}");
    }

    #[test]
    fn the_identity_is_a_users_of_the_cluster() {
        let now = std::time::SystemTime::now();
        let of = |cluster, name| {
            let authority = Authority::create(cluster, now).unwrap();
            let identity = authority.issue(&name, USER_VALID, now).unwrap();
            let identity = identity.to_pem().to_owned();
            ClientFile {
                identity,
                ..example()
            }
        };
        let cluster = example().cluster;
        let anna = PeerName::user(cluster, "anna").unwrap();
        let good = of(cluster, anna.clone());
        assert_eq!(*good.identity().unwrap().name(), anna);
        let other = ClusterId([8; 16]);
        let mut empty = good.clone();
        empty.identity.clear();
        let mut cut = good.clone();
        cut.identity.truncate(good.identity.len() / 2);
        for (file, said) in [
            (empty, "can not be used"),
            (cut, "can not be used"),
            (
                of(cluster, PeerName::metaserver(cluster, ServerId(1))),
                "no user",
            ),
            (
                of(other, PeerName::user(other, "anna").unwrap()),
                "its identity is of cluster 0808",
            ),
        ] {
            let text = file.identity().unwrap_err().text;
            assert!(
                text.contains(said) && text.contains("ask an admin"),
                "{text}"
            );
        }
    }

    #[test]
    fn an_expired_certificate_is_told_with_who_renews_it() {
        let now = SystemTime::now();
        let cluster = example().cluster;
        let authority = Authority::create(cluster, now).unwrap();
        let name = PeerName::user(cluster, "ann").unwrap();
        let identity = authority.issue(&name, USER_VALID, now).unwrap();
        let file = ClientFile {
            identity: identity.to_pem().to_owned(),
            ..example()
        };
        assert_eq!(file.unfit_at(now), None);
        let day = std::time::Duration::from_secs(24 * 3_600);
        let error = file.unfit_at(now + USER_VALID + 2 * day).unwrap();
        for part in ["expired 2 days ago", "quarry user renew ann"] {
            assert!(error.text.contains(part), "{error}");
        }
    }

    #[test]
    fn a_missing_file_says_how_to_get_one() {
        let error = ClientFile::load(Path::new("/nonexistent/client.toml")).unwrap_err();
        assert!(error.text.contains("quarry dev") && error.text.contains("quarry user add"));
        assert!(error.text.contains("/nonexistent/client.toml"));
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let text = format!("colour = 1\n{}", example().to_toml());
        let error = ClientFile::parse(&text).unwrap_err();
        assert!(error.text.contains("colour"), "{error}");
    }
}
