//! Users by name.

use std::path::Path;

/// Where `nobody` has no line in the list of users, and the group of users that have none.
const NOBODY: u32 = 65_534;
const USERS: &str = "/etc/passwd";

/// A user, and the group that is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) user: u32,
    pub(crate) group: u32,
}

impl Account {
    /// Whom nothing belongs to.
    pub(super) fn nobody() -> Self {
        Self::of("nobody").unwrap_or(Self {
            user: NOBODY,
            group: NOBODY,
        })
    }

    /// One that a process may become to have fewer rights.
    ///
    /// # Errors
    /// There is none, or it is not less than root.
    pub(super) fn of(named: &str) -> Result<Self, String> {
        Self::in_list(named, Path::new(USERS))
    }

    fn in_list(named: &str, list: &Path) -> Result<Self, String> {
        let listed = find(named, list);
        let user = listed.map(|account| account.user);
        match user.or_else(|| named.parse().ok()) {
            None => Err(no_user(named)),
            Some(0) => Err("the exporter must not run as root".to_owned()),
            // The kernel takes it for "as before".
            Some(u32::MAX) => Err(format!("`{named}` is no user")),
            Some(user) => match listed.map_or(NOBODY, |account| account.group) {
                0 | u32::MAX => Err(format!("the group of `{named}` is that of root, or none")),
                group => Ok(Self { user, group }),
            },
        }
    }
}

/// The number of a user: as it is, or by its name in the list.
pub(super) fn user_id(named: &str) -> Result<u32, String> {
    if let Ok(id) = named.parse() {
        return Ok(id);
    }
    let account = find(named, Path::new(USERS));
    account
        .map(|account| account.user)
        .ok_or_else(|| no_user(named))
}

fn no_user(named: &str) -> String {
    format!("there is no user `{named}`")
}

/// By its name, or its number.
fn find(named: &str, list: &Path) -> Option<Account> {
    let number: Option<u32> = named.parse().ok();
    let users = std::fs::read_to_string(list).ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let user = fields.nth(1)?.parse().ok()?;
        let group = fields.next()?.parse().ok()?;
        let is_it = number.map_or(name == named, |number| number == user);
        is_it.then_some(Account { user, group })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_its_own_group_and_is_not_root() {
        let list = tempfile::NamedTempFile::new().expect("a file");
        let text = "root:x:0:0::/:/bin/sh\ntoor:x:0:7::/:/bin/sh\nwheel:x:70:0::/:/bin/sh\n\
                    shop:x:1000:100::/:/bin/sh\n";
        std::fs::write(list.path(), text).expect("room");
        let of = |named: &str| {
            let account = Account::in_list(named, list.path());
            account.map(|account| (account.user, account.group)).ok()
        };
        assert_eq!(of("shop"), Some((1_000, 100)));
        assert_eq!(of("1000"), Some((1_000, 100)));
        assert_eq!(of("1001"), Some((1_001, NOBODY)));
        for wrong in [
            "root",
            "toor",
            "wheel",
            "0",
            "4294967295",
            "nobody-there",
            "",
        ] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
    }
}
