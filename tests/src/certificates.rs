//! Certificates for `localhost`, made by openssl.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A folder with two roots, `trusted.pem` and `other.pem`, and what each vouches for as `localhost`:
/// `by-trusted.pem` and `by-other.pem`, both with the key `own.key`.
#[derive(Debug)]
pub struct Certificates(tempfile::TempDir);

impl Certificates {
    /// # Errors
    /// When openssl does not make them.
    pub fn make() -> Result<Self> {
        let made = Self(tempfile::tempdir()?);
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        made.openssl(&format!(
            "req -new {key} -keyout own.key -out own.csr -subj /CN=localhost"
        ))?;
        std::fs::write(
            made.0.path().join("names"),
            "subjectAltName=DNS:localhost\n",
        )?;
        for root in ["trusted", "other"] {
            made.openssl(&format!(
                "req -x509 {key} -keyout {root}.key -out {root}.pem -days 2 -subj /CN={root}"
            ))?;
            made.openssl(&format!(
                "x509 -req -in own.csr -CA {root}.pem -CAkey {root}.key -CAcreateserial -days 2 \
                 -extfile names -out by-{root}.pem"
            ))?;
        }
        Ok(made)
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_string_lossy().into_owned()
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    fn openssl(&self, arguments: &str) -> Result<()> {
        let mut command = Command::new("openssl");
        let ended = command
            .args(arguments.split(' '))
            .current_dir(self.folder())
            .output()?;
        let said = String::from_utf8_lossy(&ended.stderr);
        ensure!(ended.status.success(), "openssl {arguments}: {said}");
        Ok(())
    }

    /// Sends these bytes over TLS, and gives what comes; `None`: the server is not `localhost` to who trusts this root.
    ///
    /// # Errors
    /// When openssl does not run.
    pub fn converse(&self, to: SocketAddr, root: &str, request: &str) -> Result<Option<String>> {
        let mut client = Command::new("openssl")
            .args(["s_client", "-quiet", "-verify_return_error", "-connect"])
            .arg(to.to_string())
            .args([
                "-verify_hostname",
                "localhost",
                "-servername",
                "localhost",
                "-CAfile",
            ])
            .arg(self.path(root))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut stdin = client.stdin.take().context("no stdin")?;
        // It may have ended: it does not trust.
        let _ = stdin.write_all(request.as_bytes());
        let ended = client.wait_with_output()?;
        drop(stdin);
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        Ok((!said.is_empty()).then_some(said))
    }
}
