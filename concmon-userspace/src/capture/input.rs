//! Where a capture is read from: a file, a ring in a file, a pipe.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileTypeExt as _,
    path::Path,
};

use super::{
    disk::Straight,
    format::{CaptureError, Layout, layout},
};

/// The most that is kept of a pipe, to be read here and there.
const MOST_PIPED: u64 = 4 << 30;

/// What a capture is read from, behind its preamble.
#[derive(Debug)]
pub struct Input(Kind);

#[derive(Debug)]
enum Kind {
    File(File),
    Ring(Straight),
}

impl Input {
    /// Opens a file; `-` is the standard input. `anywhere`: it is to be read here and there, so what
    /// comes through a pipe is kept in a file without a name.
    pub(super) fn open(path: &Path, anywhere: bool) -> Result<Self, CaptureError> {
        let path = match path.as_os_str().as_encoded_bytes() {
            b"-" => Path::new("/dev/stdin"),
            _ => path,
        };
        let mut file = File::open(path)?;
        let kind = file.metadata()?.file_type();
        if kind.is_dir() || kind.is_block_device() {
            return Err(CaptureError::NoFile);
        }
        if !kind.is_file() && anywhere {
            file = kept(file)?;
        }
        Ok(Self(match layout(&mut file)? {
            Layout::Appended => Kind::File(file),
            Layout::Ring => {
                if !file.metadata()?.is_file() {
                    return Err(CaptureError::PipedRing);
                }
                Kind::Ring(Straight::new(file)?)
            }
        }))
    }
}

/// A file without a name that has all that comes from a pipe.
fn kept(pipe: File) -> Result<File, CaptureError> {
    let mut file = tempfile::tempfile().map_err(CaptureError::Temporary)?;
    // What cannot be a capture need not be kept.
    let mut pipe = pipe.take(MOST_PIPED);
    let mut beginning = [0; super::format::PREAMBLE_BYTES];
    let mut filled = 0;
    while filled < beginning.len() {
        match pipe.read(&mut beginning[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    super::format::parse_preamble(&beginning[..filled])?;
    let mut all = (&beginning[..filled]).chain(pipe.by_ref());
    io::copy(&mut all, &mut file).map_err(CaptureError::Temporary)?;
    if pipe.limit() == 0 {
        return Err(CaptureError::Long(MOST_PIPED >> 30));
    }
    file.rewind()?;
    Ok(file)
}

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Kind::File(file) => file.read(into),
            Kind::Ring(ring) => ring.read(into),
        }
    }
}

impl Seek for Input {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match &mut self.0 {
            Kind::File(file) => file.seek(to),
            Kind::Ring(ring) => ring.seek(to),
        }
    }
}
