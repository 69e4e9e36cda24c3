//! What goes wrong.

use serde::Serialize;

/// Of whom, found out when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Whom {
    Leader,
    Follower,
    /// As many as the others cannot do without, the leader among them.
    Majority,
    All,
}

/// One fault; it is undone after a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Fault {
    /// `kill -9`, and started again.
    Kill(Whom),
    /// Stands still.
    Pause(Whom),
    /// Hears nobody and is heard by nobody.
    Isolate(Whom),
    /// Two halves that do not hear each other.
    Halves,
    /// Two halves that hear one node in the middle, and not each other.
    Bridge,
    /// Hears nobody, and is heard.
    Deaf(Whom),
    /// Is not heard, and hears.
    Mute(Whom),
    /// A cable that comes and goes.
    Flap(Whom),
    /// So many of a hundred packets are lost, everywhere.
    Loss {
        percent: u64,
    },
    /// Each sync takes so much longer.
    SlowDisk {
        whom: Whom,
        millis: u64,
    },
    FullDisk(Whom),
    /// The clock on the wall jumps.
    Clock {
        whom: Whom,
        seconds: i64,
    },
    /// What others send comes late.
    Delay {
        whom: Whom,
        millis: u64,
    },
    /// Connections of others are taken and nothing is passed on.
    BlackHole(Whom),
    /// Connections of others break after so many bytes.
    Cut {
        whom: Whom,
        bytes: u64,
    },
    /// The container engine dies.
    EngineDeath,
    /// The machine that runs what must not run twice is cut off.
    IsolateExclusive,
    /// Starts with a log of some time ago, which it must refuse.
    OldLog,
    /// Machines join and are removed, and each tries its token once more.
    Churn,
}

impl Fault {
    /// What can happen to any cluster.
    const ALWAYS: [fn(&mut super::dice::Dice) -> Self; 18] = [
        |_| Self::Kill(Whom::Leader),
        |_| Self::Kill(Whom::Follower),
        |_| Self::Kill(Whom::Majority),
        |_| Self::Kill(Whom::All),
        |dice| Self::Pause(dice.pick(&[Whom::Leader, Whom::Leader, Whom::Follower, Whom::Majority])),
        |_| Self::Isolate(Whom::Leader),
        |_| Self::Isolate(Whom::Follower),
        |_| Self::Halves,
        |_| Self::Bridge,
        |dice| Self::Deaf(dice.pick(&[Whom::Leader, Whom::Follower])),
        |dice| Self::Mute(dice.pick(&[Whom::Leader, Whom::Follower])),
        |dice| Self::Flap(dice.pick(&[Whom::Leader, Whom::Follower])),
        |dice| Self::Loss { percent: dice.within(5..=25) },
        |dice| Self::SlowDisk {
            whom: dice.pick(&[Whom::Leader, Whom::Follower, Whom::Majority]),
            millis: dice.within(20..=400),
        },
        |dice| Self::FullDisk(dice.pick(&[Whom::Leader, Whom::Follower])),
        |dice| {
            let seconds = i64::try_from(dice.within(5..=900)).expect("small");
            let whom = dice.pick(&[Whom::Leader, Whom::Follower, Whom::All]);
            Self::Clock { whom, seconds: if dice.percent(50) { seconds } else { -seconds } }
        },
        |_| Self::OldLog,
        |_| Self::Churn,
    ];
    /// What needs a proxy in front of every node.
    const PROXIED: [fn(&mut super::dice::Dice) -> Self; 3] = [
        |dice| Self::Delay {
            whom: dice.pick(&[Whom::Leader, Whom::Follower, Whom::All]),
            millis: dice.within(10..=300),
        },
        |dice| Self::BlackHole(dice.pick(&[Whom::Leader, Whom::Follower])),
        |dice| Self::Cut {
            whom: dice.pick(&[Whom::Leader, Whom::Follower, Whom::All]),
            bytes: dice.within(1..=60_000),
        },
    ];

    /// One of those that can happen to such a cluster.
    pub(super) fn any(dice: &mut super::dice::Dice, proxied: bool) -> Self {
        let all = Self::ALWAYS.len() + if proxied { Self::PROXIED.len() } else { 0 };
        let number = dice.below(all);
        match Self::ALWAYS.get(number) {
            Some(make) => make(dice),
            None => Self::PROXIED[number - Self::ALWAYS.len()](dice),
        }
    }

    /// Whether another node must come to lead by it, when it lasts longer than an election.
    pub(super) fn deposes(self) -> bool {
        matches!(
            self,
            Self::Kill(Whom::Leader)
                | Self::Pause(Whom::Leader)
                | Self::Isolate(Whom::Leader)
                | Self::Mute(Whom::Leader)
        )
    }
}
