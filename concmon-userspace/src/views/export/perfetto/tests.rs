//! Traces, decoded by field numbers.
use std::collections::BTreeMap;

use prost::Message;

use super::*;
use crate::model::testing::MS;

/// A small watch as a trace, decoded: its packets.
fn packets() -> Vec<TracePacket> {
    let info = crate::views::export::tests::info();
    let mut out = Vec::new();
    let mut trace = Perfetto::new(&info, &mut out);
    let mut intervals = Intervals::new(&info);
    for event in crate::views::export::tests::watch() {
        intervals.apply(&event, &mut trace);
    }
    intervals.finish(&mut trace);
    trace
        .finish(&intervals, &[])
        .expect("a vector takes everything");
    Trace::decode(&*out).expect("a trace").packet
}

#[test]
fn slices_begin_and_end_on_tracks_that_are_described() {
    let packets = packets();
    let described: BTreeSet<u64> = packets
        .iter()
        .filter_map(|packet| Some(packet.track_descriptor.as_ref()?.uuid))
        .collect();
    let names: BTreeMap<u64, String> = packets
        .iter()
        .flat_map(|packet| {
            packet
                .interned_data
                .iter()
                .flat_map(|data| data.event_names.clone())
        })
        .map(|name| (name.iid, name.name))
        .collect();
    let mut open: BTreeMap<u64, (u64, String)> = BTreeMap::new();
    let mut sums: BTreeMap<(u64, String), u64> = BTreeMap::new();
    for packet in &packets {
        let (Some(event), Some(at_ns)) = (&packet.track_event, packet.timestamp) else {
            continue;
        };
        assert!(described.contains(&event.track_uuid));
        match event.kind {
            SLICE_BEGIN => {
                let name = event
                    .name_iid
                    .and_then(|iid| names.get(&iid))
                    .expect("a name");
                assert_eq!(open.insert(event.track_uuid, (at_ns, name.clone())), None);
            }
            SLICE_END => {
                let (from_ns, name) = open.remove(&event.track_uuid).expect("it began");
                *sums.entry((event.track_uuid, name)).or_default() += at_ns - from_ns;
            }
            _ => {}
        }
    }
    assert!(open.is_empty());
    let sum = |name: &str| {
        sums.get(&(Track::Thread(0).uuid(), name.to_owned()))
            .map(|ns| ns / MS)
    };
    assert_eq!(
        ["on_cpu", "runnable", "lock", "gil", "poll", "unseen"].map(sum),
        [Some(22), Some(3), Some(30), Some(5), Some(10), None]
    );
}

#[test]
fn a_wakeup_is_an_arrow_from_the_waker_to_the_woken() {
    let packets = packets();
    let events = packets
        .iter()
        .filter_map(|packet| Some((packet.timestamp?, packet.track_event.as_ref()?)));
    let from: Vec<_> = events
        .clone()
        .flat_map(|(at_ns, event)| {
            event
                .flow_ids
                .iter()
                .map(move |id| (*id, at_ns, event.track_uuid))
        })
        .collect();
    let to: Vec<_> = events
        .flat_map(|(at_ns, event)| {
            event
                .terminating_flow_ids
                .iter()
                .map(move |id| (*id, at_ns, event.track_uuid))
        })
        .collect();
    // The wait for the lock ended when the thread was on its CPU: it was never runnable.
    assert_eq!((from.len(), to.len()), (2, 2));
    for ((id, woken_ns, waker), (other, at_ns, woken)) in from.into_iter().zip(to) {
        assert_eq!((id, woken_ns), (other, at_ns));
        assert_eq!(
            (waker, woken),
            (Track::Thread(1).uuid(), Track::Thread(0).uuid())
        );
    }
}
