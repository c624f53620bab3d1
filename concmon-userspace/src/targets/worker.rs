//! Where interpreters are looked at: a thread of its own, so that what arrives meanwhile does not wait. A look
//! cannot be cut into pieces, for what it finds has to fit together.

use std::{
    panic,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use tokio::sync::Notify;

/// What is to be done, and gives something to take over.
type Job<T> = Box<dyn FnOnce() -> T + Send>;

/// Does one thing after the other.
#[derive(Debug)]
pub(super) struct Worker<T> {
    /// `None`: whoever asks does it.
    thread: Option<Thread<T>>,
    /// What was done by who asked.
    done: Vec<T>,
    /// What was asked for, and not taken over.
    pending: usize,
    notify: Arc<Notify>,
}

#[derive(Debug)]
struct Thread<T> {
    jobs: mpsc::Sender<Job<T>>,
    results: mpsc::Receiver<T>,
    handle: JoinHandle<()>,
}

/// Told once more when the thread ends, whatever makes it.
struct OnEnd(Arc<Notify>);

impl Drop for OnEnd {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl<T: Send + 'static> Worker<T> {
    /// Whoever asks does it.
    pub(super) fn new() -> Self {
        Self {
            thread: None,
            done: Vec::new(),
            pending: 0,
            notify: Arc::default(),
        }
    }

    /// From now on, a thread does it, with the rights of the calling one.
    ///
    /// # Errors
    /// There can be no thread.
    pub(super) fn start(&mut self) -> std::io::Result<()> {
        let (jobs, next) = mpsc::channel::<Job<T>>();
        let (result, results) = mpsc::channel();
        let notify = OnEnd(Arc::clone(&self.notify));
        let work = move || {
            for job in next {
                if result.send(job()).is_err() {
                    break;
                }
                notify.0.notify_one();
            }
        };
        let handle = thread::Builder::new()
            .name("looks".to_owned())
            .spawn(work)?;
        self.thread = Some(Thread {
            jobs,
            results,
            handle,
        });
        Ok(())
    }

    /// Told when something is done.
    pub(super) fn notify(&self) -> Arc<Notify> {
        Arc::clone(&self.notify)
    }

    /// Something has been asked for, and its outcome not taken over.
    pub(super) const fn is_busy(&self) -> bool {
        self.pending > 0
    }

    pub(super) fn run(&mut self, job: Job<T>) {
        self.pending += 1;
        match &self.thread {
            None => self.done.push(job()),
            Some(thread) => {
                if thread.jobs.send(job).is_err() {
                    self.panicked();
                }
            }
        }
    }

    /// What is done; with `wait`, once there is something. `None`: nothing is, or is to be.
    pub(super) fn next(&mut self, wait: bool) -> Option<T> {
        if self.pending == 0 {
            return None;
        }
        let next = match (&self.thread, self.done.pop()) {
            (_, Some(done)) => Some(done),
            (None, None) => None,
            (Some(thread), None) if wait => match thread.results.recv() {
                Ok(done) => Some(done),
                Err(mpsc::RecvError) => self.panicked(),
            },
            (Some(thread), None) => match thread.results.try_recv() {
                Ok(done) => Some(done),
                Err(mpsc::TryRecvError::Empty) => None,
                Err(mpsc::TryRecvError::Disconnected) => self.panicked(),
            },
        };
        self.pending -= usize::from(next.is_some());
        next
    }

    /// The thread has ended by itself, which only a defect makes it do: that is passed on.
    fn panicked(&mut self) -> ! {
        let ended = self.thread.take().map(|thread| thread.handle.join());
        match ended {
            Some(Err(reason)) => panic::resume_unwind(reason),
            _ => unreachable!("the thread ends when there is nobody to ask it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_done_in_its_order() {
        let mut worker = Worker::new();
        worker.run(Box::new(|| 1));
        assert_eq!((worker.next(false), worker.next(true)), (Some(1), None));
        worker.start().unwrap();
        for number in 2..5 {
            worker.run(Box::new(move || number));
        }
        let done: Vec<_> = std::iter::from_fn(|| worker.next(true)).collect();
        assert_eq!(done, [2, 3, 4]);
        assert!(!worker.is_busy());
    }

    #[test]
    #[should_panic(expected = "a defect")]
    fn a_panic_is_passed_on() {
        let mut worker = Worker::<()>::new();
        worker.start().unwrap();
        worker.run(Box::new(|| panic!("a defect")));
        worker.next(true);
    }
}
