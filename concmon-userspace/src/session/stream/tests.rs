//! A pipe, with and without a reader.

use std::io::Read as _;

use super::*;

fn pipe() -> (io::PipeReader, Stream) {
    let (reader, writer) = io::pipe().expect("a pipe");
    let file = File::from(std::os::fd::OwnedFd::from(writer));
    (reader, Stream::new(file, "test").expect("a thread"))
}

#[test]
fn what_nobody_reads_is_bounded_and_told() {
    let (_reader, stream) = pipe();
    let mut sent = 0;
    while stream.has_room() && sent < 1_000 {
        stream
            .send(Kind::Report, vec![b'x'; 100_000])
            .expect("it has room");
        sent += 1;
    }
    assert!((2..=MAX_PIECES + 2).contains(&sent), "{sent}");
    stream.send(Kind::Stalls(3), b"s".to_vec()).expect("sent");
    stream.send(Kind::Summary, b"s".to_vec()).expect("sent");
    let began = Instant::now();
    stream.drain();
    assert!(began.elapsed() >= PATIENCE && !stream.is_idle());
    let dropped = stream.give_up();
    assert!(dropped.reports >= sent - 1 && dropped.stalls == 3 && dropped.summary);
    assert!(stream.is_idle() && stream.has_room());
}

#[test]
fn a_slow_reader_gets_everything() {
    let (mut reader, stream) = pipe();
    let text: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    stream.send(Kind::Report, text.clone()).expect("sent");
    let slow = thread::spawn(move || {
        let mut all = Vec::new();
        let mut some = [0; 50_000];
        while all.len() < 300_000 {
            thread::sleep(Duration::from_millis(400));
            let bytes = reader.read(&mut some).expect("it is open");
            all.extend_from_slice(&some[..bytes]);
        }
        all
    });
    stream.drain();
    assert!(stream.is_idle());
    assert!(slow.join().expect("no panic") == text);
}

#[test]
fn a_reader_that_is_gone_is_a_broken_pipe() {
    let (reader, stream) = pipe();
    drop(reader);
    stream.send(Kind::Report, b"x".to_vec()).expect("untried");
    stream.drain();
    let error = stream.send(Kind::Report, b"x".to_vec()).expect_err("gone");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn what_was_dropped_has_a_name() {
    for (reports, stalls, summary, text) in [
        (0, 0, false, "output was dropped"),
        (1, 0, false, "1 report was dropped"),
        (0, 2, false, "2 stalls were dropped"),
        (9, 0, true, "9 reports and the summary were dropped"),
        (
            2,
            1,
            true,
            "2 reports, 1 stall and the summary were dropped",
        ),
    ] {
        let dropped = Dropped {
            reports,
            stalls,
            summary,
        };
        assert_eq!(dropped.to_string(), text);
    }
}

#[test]
fn what_is_made_later_keeps_its_place_and_is_bounded() {
    let (mut reader, stream) = pipe();
    stream.send(Kind::Other, b"a".to_vec()).expect("sent");
    let made = || Ok(vec![b'b'; 1 << 20]);
    stream.send_later(Kind::Report, made).expect("sent");
    stream.send(Kind::Other, b"c".to_vec()).expect("sent");
    let mut all = vec![0; (1 << 20) + 2];
    reader.read_exact(&mut all).expect("it is open");
    assert!(all[0] == b'a' && all[(1 << 20) + 1] == b'c');
    stream.drain();
    // What waits unmade counts as much as the last one had.
    stream.send(Kind::Other, vec![b'd'; 1 << 20]).expect("sent");
    stream.send_later(Kind::Report, made).expect("sent");
    assert!(!stream.has_room());
    stream.give_up();
}

#[test]
fn what_cannot_be_made_ends_the_stream() {
    let makers: [fn() -> io::Result<Vec<u8>>; 2] = [
        || panic!("of a text that is made"),
        || Err(io::Error::other("no text")),
    ];
    for make in makers {
        let (mut reader, stream) = pipe();
        stream.send_later(Kind::Report, make).expect("sent");
        let began = Instant::now();
        stream.drain();
        assert!(began.elapsed() < PATIENCE && stream.is_idle());
        let error = stream.send(Kind::Summary, b"s".to_vec()).expect_err("over");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        drop(stream);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).expect("it is closed");
        assert!(all.is_empty());
    }
}

#[test]
fn reports_of_unknown_length_do_not_pile_up() {
    let (_reader, stream) = pipe();
    // Nobody reads it.
    stream.send(Kind::Other, vec![b'x'; 500_000]).expect("sent");
    let mut sent = 0;
    while stream.has_room() {
        let made = || Ok(vec![b'y'; 1 << 20]);
        stream.send_later(Kind::Report, made).expect("sent");
        sent += 1;
    }
    assert_eq!(sent, MAX_UNMADE);
    stream.give_up();
}

#[test]
fn a_slow_file_gets_everything() {
    let file = tempfile::tempfile().expect("a file");
    let stream = Stream::new(file.try_clone().expect("one more"), "test").expect("a thread");
    let slow = || {
        thread::sleep(PATIENCE + Duration::from_millis(300));
        Ok(b"whole".to_vec())
    };
    stream.send_later(Kind::Report, slow).expect("sent");
    stream.drain();
    assert!(stream.is_idle());
    assert_eq!(file.metadata().expect("it is open").len(), 5);
}
