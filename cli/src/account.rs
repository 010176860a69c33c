//! Local accounts, as /etc/passwd knows them.

use quarry_common::ids::{Gid, Uid};
use quarry_common::wire::meta::User;

fn entry(wanted: impl Fn(&str, Uid) -> bool) -> Option<(String, Uid)> {
    let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        wanted(name, uid).then(|| (name.to_owned(), uid))
    })
}

/// The uid of the local account of that name.
pub fn uid_of(name: &str) -> Option<Uid> {
    entry(|found, _| found == name).map(|(_, uid)| uid)
}

/// Whoever runs this, as a user of a cluster: same name, same uid, same groups. An account whose name
/// a cluster can not take, or without one, is called after its number.
#[cfg_attr(
    not(feature = "servers"),
    expect(dead_code, reason = "only new clusters need it")
)]
pub fn caller(admin: bool) -> User {
    let uid = Uid(rustix::process::getuid().as_raw());
    let fits = |name: &String| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (1..=64).contains(&name.len()) && name.bytes().all(allowed) && !name.starts_with(['.', '-'])
    };
    let name = entry(|_, found| found == uid).map(|(name, _)| name);
    let first = Gid(rustix::process::getgid().as_raw());
    let others = rustix::process::getgroups().unwrap_or_default();
    let others = others.into_iter().map(|gid| Gid(gid.as_raw()));
    let mut gids = vec![first];
    gids.extend(others.filter(|gid| *gid != first));
    User {
        name: name.filter(fits).unwrap_or_else(|| format!("uid-{uid}")),
        uid,
        gids,
        admin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_and_nobody_else_is_invented() {
        assert_eq!(uid_of("root"), Some(Uid(0)));
        assert_eq!(uid_of("no-such-account"), None);
        assert!(!caller(true).name.is_empty());
    }
}
