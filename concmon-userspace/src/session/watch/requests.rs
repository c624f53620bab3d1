//! Requests: what sockets tell of them, which is left out past the budget where nobody asked for it.

use super::Watch;
use crate::{
    capture::Input,
    procfs::{clocks, listeners::Listeners},
    source::{live::Live, requests::STREAM},
};

impl Watch {
    /// Takes what sockets have told, and passes on what is old enough.
    pub(super) fn take_requests(&mut self, opened_ns: u64, until_ns: u64) {
        let Some(requests) = &mut self.requests else {
            return;
        };
        let intake = &mut self.intake;
        let mut sink = |event| {
            intake.feed(Input::Ordered { cpu: STREAM, event });
        };
        self.live
            .drain_sockets(opened_ns, |bytes| requests.take(bytes, &mut sink));
        requests.release(until_ns, sink);
    }

    /// Requests could be told, and are not.
    pub(super) fn sheds_requests(&self) -> bool {
        self.requests.is_some() && !self.live.tells_of_sockets()
    }

    /// From now on, requests are left out, or are told again, as the budget has it. Where that has failed, it is tried
    /// again.
    pub(super) fn suit_requests(&mut self) {
        let sheds = self.budget.shed().requests();
        if self.keeps_requests || self.requests.is_none() || sheds == self.sheds_requests() {
            return;
        }
        self.has_missed_requests = true;
        let done = if sheds {
            self.live.detach_sockets()
        } else {
            self.live.attach_sockets()
        };
        if let Err(error) = done {
            log::warn!("HTTP requests: {error}");
        }
        if !sheds {
            // Who began to listen meanwhile was not told of.
            tell_listeners(&mut self.live);
            if let Some(requests) = &mut self.requests {
                requests.resume(clocks::monotonic_ns());
            }
            return;
        }
        let now_ns = clocks::monotonic_ns();
        self.take_requests(u64::MAX, now_ns);
        let intake = &mut self.intake;
        if let Some(requests) = &mut self.requests {
            requests.pause(now_ns, |event| {
                intake.feed(Input::Ordered { cpu: STREAM, event });
            });
        }
    }
}

/// Tells the kernel side where watched processes listen.
pub(super) fn tell_listeners(live: &mut Live) {
    let mut listeners = Listeners::default();
    for pid in live.watched() {
        let ports = listeners.of(pid.0);
        live.serve(ports.own);
        live.accept(ports.all);
    }
}
