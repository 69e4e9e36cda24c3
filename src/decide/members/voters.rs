//! Who of those that may vote should.
//!
//! How many: one of one or two, three of three or four, five of more. Always odd: a voter more than an odd number raises
//! the quorum and so the number that must live, and lets no further one die. With two voters the death of either would
//! stop the cluster; with one, only that of the one. Not more than five, since every voter more makes each write wait for
//! more disks, and three at the same time rarely die.
//!
//! A voter that does not answer gives its vote to one that does and has caught up. When there is none it keeps it,
//! as long as that lets as many others die as fewer voters would: of three with one dead, two must live, and of two as
//! well; of five with two dead all three that are left must live, but of three voters only two, so then it loses its vote.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::model::NodeId;

/// Numbers of voters, the largest first.
const SIZES: [usize; 3] = [5, 3, 1];

/// A member that may vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// It does already.
    pub votes: bool,
    /// It answers the leader.
    pub answers: bool,
    /// Its log is about as long as the leader's.
    pub caught_up: bool,
    /// Where it stands; empty when nobody said.
    pub zone: String,
}

type Seats = BTreeMap<NodeId, Seat>;

/// The voters there should be now. Empty only when nobody can vote.
pub(super) fn choose(seats: &Seats, leader: NodeId) -> BTreeSet<NodeId> {
    let most = match seats.len() {
        0..=2 => 1,
        3 | 4 => 3,
        _ => 5,
    };
    let live = seats.values().filter(|seat| can_serve(seat)).count();
    let silent: Vec<NodeId> = seats.iter().filter(|(_, seat)| seat.votes && !seat.answers).map(|(id, _)| *id).collect();
    let size = SIZES
        .into_iter()
        .filter(|size| *size <= most && live.min(*size) + silent.len() >= *size)
        // More voters are more copies of what was acknowledged, so the larger of two that bear the same.
        .max_by_key(|size| (bears(*size, live.min(*size)), *size));
    let Some(size) = size else { return BTreeSet::new() };
    let mut chosen = keep(seats, leader, size);
    fill(seats, &mut chosen, size);
    spread(seats, leader, &mut chosen);
    let missing = size.saturating_sub(chosen.len());
    chosen.extend(silent.into_iter().take(missing));
    chosen
}

/// Whether it could vote from now on: a voter votes already, a new one must not be behind.
fn can_serve(seat: &Seat) -> bool {
    seat.answers && (seat.votes || seat.caught_up)
}

/// How many more of so many voters may die. Negative when too many have.
fn bears(size: usize, live: usize) -> isize {
    live.cast_signed() - (size / 2 + 1).cast_signed()
}

/// The voters of now that answer; when those are too many, without the ones that have most company in their zone.
fn keep(seats: &Seats, leader: NodeId, size: usize) -> BTreeSet<NodeId> {
    let mut kept: BTreeSet<NodeId> =
        seats.iter().filter(|(_, seat)| seat.votes && seat.answers).map(|(id, _)| *id).collect();
    while kept.len() > size {
        let in_zone = zones(seats, &kept);
        let dropped = kept.iter().copied().filter(|id| *id != leader).max_by_key(|id| (in_zone[zone(seats, *id)], *id));
        let Some(dropped) = dropped else { break };
        kept.remove(&dropped);
    }
    kept
}

/// Gives free seats to members that can serve, in the zones with the fewest voters.
fn fill(seats: &Seats, chosen: &mut BTreeSet<NodeId>, size: usize) {
    while chosen.len() < size {
        let in_zone = zones(seats, chosen);
        let company = |id: NodeId| in_zone.get(zone(seats, id)).copied().unwrap_or(0);
        let next = seats
            .iter()
            .filter(|(id, seat)| can_serve(seat) && !chosen.contains(id))
            .map(|(id, _)| *id)
            .min_by_key(|id| (company(*id), *id));
        let Some(next) = next else { return };
        chosen.insert(next);
    }
}

/// Replaces one by another as long as that makes the zones more even. Voters stay otherwise.
fn spread(seats: &Seats, leader: NodeId, chosen: &mut BTreeSet<NodeId>) {
    loop {
        let in_zone = zones(seats, chosen);
        let company = |id: NodeId| in_zone.get(zone(seats, id)).copied().unwrap_or(0);
        let from = chosen.iter().copied().filter(|id| *id != leader).max_by_key(|id| (company(*id), *id));
        let to = seats
            .iter()
            .filter(|(id, seat)| can_serve(seat) && !chosen.contains(id))
            .map(|(id, _)| *id)
            .min_by_key(|id| (company(*id), Reverse(seats[id].votes), *id));
        let (Some(from), Some(to)) = (from, to) else { return };
        // With a difference of one the two would only change their places.
        if company(from) < company(to) + 2 {
            return;
        }
        chosen.remove(&from);
        chosen.insert(to);
    }
}

fn zone(seats: &Seats, id: NodeId) -> &str {
    seats.get(&id).map_or("", |seat| seat.zone.as_str())
}

/// Voters in each zone.
fn zones<'a>(seats: &'a Seats, chosen: &BTreeSet<NodeId>) -> BTreeMap<&'a str, usize> {
    let mut zones = BTreeMap::new();
    for id in chosen {
        *zones.entry(zone(seats, *id)).or_default() += 1;
    }
    zones
}
