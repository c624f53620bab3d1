//! Names under which tasks are counted together.

/// The name of a task's group: the coroutine's qualified name for one that asyncio has named itself
/// (`Task-123`), else the task's own, with digits folded.
pub(crate) fn folded(name: &str, coroutine: &str) -> String {
    let own = name
        .strip_prefix("Task-")
        .is_none_or(|number| number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()));
    if !own && !coroutine.is_empty() {
        return coroutine.to_owned();
    }
    let mut folded = String::with_capacity(name.len());
    for character in name.chars() {
        if !character.is_ascii_digit() {
            folded.push(character);
        } else if !folded.ends_with('#') {
            folded.push('#');
        }
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folded() {
        for (name, coroutine, want) in [
            ("Task-17", "app.serve", "app.serve"),
            ("Task-", "app.serve", "Task-"),
            ("Task-1x", "app.serve", "Task-#x"),
            ("worker-12-of-300", "run", "worker-#-of-#"),
            ("poller", "run", "poller"),
            ("Task-3", "", "Task-#"),
        ] {
            assert_eq!(folded(name, coroutine), want);
        }
    }
}
