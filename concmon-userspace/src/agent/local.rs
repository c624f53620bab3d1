//! The local socket: whoever owns the agent asks the collector itself. It is there before the filter of system calls
//! is; after that the collector takes connections that come to it, and can make none.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::{
        fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use hyper::body::Bytes;
use rustix::{
    fs::Mode,
    process::{geteuid, umask},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    debug::{self, Asker, Question, Reply},
    http::{self, Answer, PAUSE, Patience},
};
use crate::cli::FromAgent;

/// Where it is, unless it was said where.
pub(crate) const DEFAULT_PATH: &str = FromAgent::SOCKET;
/// Clients at the same time.
const MAX_CLIENTS: usize = 16;
/// What they have not read yet, of all their answers, KiB; a longer one is answered while there is no other.
const MAX_UNREAD: usize = 32 << 10;

/// The socket, which goes with this.
#[derive(Debug)]
pub(crate) struct Local {
    listener: Option<UnixListener>,
    path: PathBuf,
    /// Device and inode, by which it is known.
    id: (u64, u64),
}

impl Local {
    /// Makes the socket; in the place where it is by default, its folder, too.
    ///
    /// # Errors
    /// It cannot be made: another agent has it, or something else is there.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        if path == Path::new(DEFAULT_PATH)
            && let Some(folder) = path.parent()
            && let Err(error) = fs::DirBuilder::new().mode(0o755).create(folder)
            && error.kind() != ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        remove_left_over(path)?;
        // Nobody else may ask at any moment. There is one thread yet, whose files are meant.
        let before = umask(Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(path);
        umask(before);
        let listener = listener?;
        listener.set_nonblocking(true)?;
        let file = fs::symlink_metadata(path)?;
        Ok(Self {
            listener: Some(listener),
            path: path.to_owned(),
            id: (file.dev(), file.ino()),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Answers its owner, and root, for ever.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub(super) fn serve(&mut self, asker: Asker) -> io::Result<()> {
        if let Some(listener) = self.listener.take() {
            let listener = tokio::net::UnixListener::from_std(listener)?;
            tokio::task::spawn_local(serve(listener, asker));
        }
        Ok(())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let file = fs::symlink_metadata(&self.path);
        if file.is_ok_and(|file| (file.dev(), file.ino()) == self.id) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket of this user that an agent has left behind which was killed.
fn remove_left_over(path: &Path) -> io::Result<()> {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !file.file_type().is_socket() || file.uid() != geteuid().as_raw() {
        let text = "something is there that is no socket of this user";
        return Err(io::Error::new(ErrorKind::AlreadyExists, text));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(ErrorKind::AddrInUse, "another agent has it")),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

/// What is sent, for as long as it is in memory.
struct Unread {
    body: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Unread {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

/// The answer, where there is room for it.
fn fit(reply: Reply, room: &Arc<Semaphore>) -> Answer {
    let (status, content_type) = (reply.status, reply.content_type);
    let takes = (reply.body.len() >> 10).min(MAX_UNREAD) as u32;
    match Arc::clone(room).try_acquire_many_owned(takes) {
        Ok(_room) => {
            let body = reply.body;
            let body = Bytes::from_owner(Unread { body, _room });
            debug::answer(status, &content_type, body)
        }
        Err(_) => Reply::busy().answer(),
    }
}

async fn serve(listener: tokio::net::UnixListener, asker: Asker) {
    // One for each client that is there, and one of our own.
    let clients = Rc::new(());
    let room = Arc::new(Semaphore::new(MAX_UNREAD));
    let owner = geteuid().as_raw();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Whatever becomes of the file's mode, nobody else is listened to.
        let is_owner = |uid| uid == owner || uid == 0;
        if !stream.peer_cred().is_ok_and(|peer| is_owner(peer.uid()))
            || Rc::strong_count(&clients) > MAX_CLIENTS
        {
            continue;
        }
        let (client, asker, room) = (Rc::clone(&clients), asker.clone(), Arc::clone(&room));
        tokio::task::spawn_local(async move {
            let patience = Patience::new();
            let answered = http::converse(stream, |request| {
                let (asker, patience, room) = (asker.clone(), patience.clone(), Arc::clone(&room));
                async move {
                    let reply = match Question::of(request.method(), request.uri()) {
                        Ok(question) => {
                            patience.extend(question.takes());
                            debug::ask(&asker, question).await
                        }
                        Err(reply) => reply,
                    };
                    fit(reply, &room)
                }
            });
            tokio::select! {
                // What a client does wrong is its own matter.
                _ = answered => {}
                () = patience.over() => {}
            }
            drop(client);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use hyper::StatusCode;

    use super::*;

    #[test]
    fn answers_that_are_not_read_are_bounded() {
        let room = Arc::new(Semaphore::new(MAX_UNREAD));
        let of = |bytes: usize| Reply {
            status: 200,
            content_type: "application/octet-stream".to_owned(),
            body: vec![7; bytes],
        };
        let half = || fit(of(MAX_UNREAD << 9), &room);
        let (first, second) = (half(), half());
        assert_eq!(
            (first.status(), second.status()),
            (StatusCode::OK, StatusCode::OK)
        );
        assert_eq!(half().status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(first);
        assert_eq!(half().status(), StatusCode::OK);
        drop(second);
        assert_eq!(fit(of(MAX_UNREAD << 11), &room).status(), StatusCode::OK);
    }

    #[test]
    fn a_socket_that_was_left_behind_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let first = Local::bind(&path).expect("a socket");
        let mode = fs::metadata(&path).expect("it is there").permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        let error = Local::bind(&path).expect_err("it is in use");
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists(), "it goes with its agent");
        // Dropping the listener alone leaves the file.
        drop(UnixListener::bind(&path).expect("a socket"));
        drop(Local::bind(&path).expect("nobody listens any more"));
        std::fs::write(&path, "precious").expect("room");
        let error = Local::bind(&path).expect_err("it is a file");
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).expect("as it was"), b"precious");
    }
}
