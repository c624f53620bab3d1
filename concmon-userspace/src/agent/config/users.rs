//! Users by name.

/// The number of a user: as it is, or by its name in `/etc/passwd`.
pub(super) fn user_id(named: &str) -> Option<u32> {
    if let Ok(id) = named.parse() {
        return Some(id);
    }
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let id = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(named)).then(|| fields.nth(1))?
    });
    id?.parse().ok()
}
