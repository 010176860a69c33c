//! Users: names, numbers, groups.

use super::homes;
use crate::kv::{Family, KvRead};
use crate::state::command::Reply;
use crate::state::data_records::UserRecord;
use crate::state::keys;
use crate::state::records::Record;
use crate::state::stop::{OpResult, Stop};
use crate::state::txn::{Txn, load};
use quarry_common::ids::Gid;
use quarry_common::limits::GROUPS_MAX;
use quarry_common::wire::meta::User;
use quarry_common::{Code, Error, Result};
use std::ops::ControlFlow;

/// Letters of a user's name at most: as long as Linux allows.
pub const USER_NAME_LEN_MAX: usize = 64;

/// All users, by name.
pub fn users(state: &dyn KvRead) -> Result<Vec<User>> {
    let mut users = Vec::new();
    let mut failed = None;
    state.scan(
        Family::Users,
        &[],
        None,
        &mut |_, value| match UserRecord::from_bytes(value) {
            Ok(record) => {
                users.push(record.0);
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        },
    )?;
    failed.map_or(Ok(users), Err)
}

/// The user of that name.
pub fn user(state: &dyn KvRead, name: &str) -> Result<Option<User>> {
    let record: Option<UserRecord> = load(state, Family::Users, &keys::user(name))?;
    Ok(record.map(|record| record.0))
}

/// Refuses with `Invalid` a name that can not stand in a certificate and a path.
pub fn check_name(name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let first = name
        .bytes()
        .next()
        .is_some_and(|byte| !b".-".contains(&byte));
    if first && name.bytes().all(allowed) && name.len() <= USER_NAME_LEN_MAX {
        return Ok(());
    }
    let shown = name.escape_debug();
    Err(Error::new(
        Code::Invalid,
        format!(
            "'{shown}' can not be a user's name: it is made of letters, digits, '_', '-' and '.', does not begin with '-' or '.', and has {USER_NAME_LEN_MAX} letters at most"
        ),
    ))
}

/// `AddUser`: does nothing when repeated.
///
/// # Errors
/// `Invalid` for the name or its groups, `Exists` if name, uid or directory are taken.
pub fn add_user(txn: &mut Txn<'_>, user: User) -> OpResult<Reply> {
    check_name(&user.name)?;
    let name = &user.name;
    if user.gids.len() > GROUPS_MAX {
        let text = format!(
            "user '{name}' has {} groups, {GROUPS_MAX} are the most",
            user.gids.len()
        );
        return Err(Error::new(Code::Invalid, text).into());
    }
    for other in users(txn.state()).map_err(Stop::Broken)? {
        if other == user {
            return Ok(Reply::Nothing);
        }
        let taken = match (other.name == user.name, other.uid == user.uid) {
            (true, _) => format!(
                "there is a user '{name}' already (uid {}): choose another name, or give this one a new client file with 'quarry user renew {name}'",
                other.uid
            ),
            (_, true) => format!(
                "uid {} is user '{}': choose another uid for '{name}'",
                user.uid, other.name
            ),
            _ => continue,
        };
        return Err(Error::new(Code::Exists, taken).into());
    }
    // Without a group, files belong to the group of the user's own number, as on Linux.
    let gid = user.gids.first().copied().unwrap_or(Gid(user.uid.0));
    homes::make_home(txn, name, user.uid, gid)?;
    txn.put(Family::Users, keys::user(name), &UserRecord(user.clone()));
    Ok(Reply::Nothing)
}
