//! What goes wrong, as the seed has it, and when it is over.

use std::time::Duration;

use tokio::time::sleep;

use super::machine::{End, Machine};
use super::wait::until;
use super::world::World;
use crate::engine::fake::{self, Fault};
use crate::store::crash_disk::{Dice, Fate};

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A process is killed and started again.
    Kill,
    /// A machine loses power: its containers end, and its disk keeps what was synced.
    Power,
    /// The same in the middle of what it writes.
    PowerWhileWriting,
    /// A disk changes a bit while its machine is off.
    Damage,
    /// Others fill a disk.
    FullDisk,
    /// A machine more joins.
    Join,
    /// A member is removed, and another one joins before, where the others were too few.
    Leave,
    /// A node joins and is removed before it was ever there, another one takes its place, and a token is used twice.
    Ghost,
    /// All processes are killed.
    KillAll,
    /// A process stands still for a while.
    Pause,
    /// A machine is cut off from all others.
    Isolate,
    /// So long that others must take over what runs alone.
    IsolateLong,
    /// Nothing gets through in one direction.
    OneWay,
    /// The machines are in two groups.
    Split,
    /// A cable that comes and goes.
    Flap,
    /// The clock on a machine's wall is set.
    Clock,
    /// An engine does not answer, or hangs.
    Engine,
    /// A container ends by itself.
    Crash,
    /// The leader steps aside.
    HandOver,
}

impl Kind {
    pub(super) const ALL: [Self; 19] = [
        Self::Kill,
        Self::Power,
        Self::PowerWhileWriting,
        Self::Damage,
        Self::FullDisk,
        Self::Join,
        Self::Leave,
        Self::Ghost,
        Self::KillAll,
        Self::Pause,
        Self::Isolate,
        Self::IsolateLong,
        Self::OneWay,
        Self::Split,
        Self::Flap,
        Self::Clock,
        Self::Engine,
        Self::Crash,
        Self::HandOver,
    ];
}

/// The state among the files of a disk.
const STATE: usize = 1;
/// Writes and syncs of two checkpoints, about.
const STATE_STEPS: usize = 40;
/// Most members of a cluster.
const MEMBERS_MAX: usize = 7;
/// Fewest that stay when one is removed: one of them may have a bad disk.
const MEMBERS_MIN: usize = 3;
/// What is left of a full disk: too little for changes, for records, for anything.
const LEFT: [u64; 3] = [6 << 20, 1 << 20, 0];

fn between(dice: &mut Dice, least: u64, most: u64) -> Duration {
    let span = usize::try_from(most - least).unwrap_or(0);
    Duration::from_millis(least + dice.roll(span + 1) as u64)
}

/// What has gone wrong lasts for so many milliseconds, and often something else happens meanwhile: a process is killed, or its
/// machine loses power, and comes back before or after the other thing is over.
async fn last(world: &mut World, dice: &mut Dice, (least, most): (u64, u64)) -> Result<(), String> {
    let long = between(dice, least, most);
    if dice.roll(3) > 0 {
        sleep(long).await;
        return Ok(());
    }
    let machines = world.at_work();
    let machine = machines[dice.roll(machines.len())];
    sleep(long / 3).await;
    let fate = (dice.roll(2) == 0).then(|| Fate::ALL[dice.roll(Fate::ALL.len())]);
    world.kill(machine, fate);
    sleep(long / 3).await;
    world.start(machine).await?;
    sleep(long / 3).await;
    Ok(())
}

/// Has one thing go wrong and waits until it is over; what is started again may fail to.
pub(super) async fn strike(world: &mut World, kind: Kind) -> Result<(), String> {
    let mut dice = Dice(world.dice.roll(usize::MAX) as u64);
    let mut machines = world.at_work();
    let by = dice.roll(machines.len());
    machines.rotate_left(by);
    let (one, others) = (machines[0], machines[1..].to_vec());
    world.trace.note(&["fault", &format!("{kind:?}"), &one.to_string()]);
    match kind {
        Kind::Kill => {
            world.kill(one, None);
            sleep(between(&mut dice, 10, 8_000)).await;
            world.start(one).await?;
        }
        Kind::Power => {
            machines.truncate(1 + dice.roll(machines.len()));
            for machine in &machines {
                let fate = Fate::ALL[dice.roll(Fate::ALL.len())];
                world.kill(*machine, Some(fate));
            }
            sleep(between(&mut dice, 10, 8_000)).await;
            for machine in machines {
                world.start(machine).await?;
                sleep(between(&mut dice, 0, 2_000)).await;
            }
        }
        Kind::PowerWhileWriting => {
            let disk = world.machines[one].disk.clone();
            // A machine writes its log all the time, and its state now and then: without aim the power goes in the log alone.
            let limit = if dice.roll(2) == 0 {
                disk.fail_after(1 + dice.roll(120), None);
                between(&mut dice, 1_000, 10_000)
            } else {
                disk.fail_after(1 + dice.roll(STATE_STEPS), Some(STATE));
                between(&mut dice, 5_000, 20_000)
            };
            let _may_be_idle = until(limit, async || disk.has_failed()).await;
            world.kill(one, Some(Fate::ALL[dice.roll(Fate::ALL.len())]));
            sleep(between(&mut dice, 10, 5_000)).await;
            world.start(one).await?;
        }
        // A second one could be one too many.
        Kind::Damage if world.machines.iter().any(Machine::has_bad_disk) => {}
        Kind::Damage => {
            world.kill(one, None);
            let disk = world.machines[one].disk.clone();
            let whole = disk.contents();
            // Of one file a bit or two that may never be read, or so many that some of them are.
            let file = dice.roll(2);
            (0..[1, 2, 3, 12][dice.roll(4)]).for_each(|_| disk.flip(file, &mut dice));
            // It may have hit what nobody reads. What must not be is a start with less than there was, which the start finds out.
            world.machines[one].is_damaged = true;
            if world.start(one).await.is_err() {
                world.machines[one].is_damaged = false;
                disk.restore(whole);
                world.start(one).await?;
            }
        }
        Kind::FullDisk => {
            let disk = world.machines[one].disk.clone();
            disk.leave_free(LEFT[dice.roll(LEFT.len())]);
            sleep(between(&mut dice, 300, 10_000)).await;
            if dice.roll(3) == 0 {
                world.kill(one, None);
                let started = world.start(one).await;
                // Without a byte a node may not start, and end itself.
                if !disk.was_full() {
                    started?;
                }
                sleep(between(&mut dice, 300, 10_000)).await;
            }
            disk.empty();
            world.start(one).await?;
        }
        Kind::Join if machines.len() >= MEMBERS_MAX => {}
        Kind::Join => world.grow(&mut dice).await?,
        Kind::Leave => {
            // Also those that are lost: they are members, and the group counts them.
            let members = world.machines.iter().filter(|machine| machine.end() != Some(End::Removed)).count();
            if members <= MEMBERS_MIN {
                world.grow(&mut dice).await?;
            }
            // Its damage may have been found meanwhile.
            if world.machines[one].end().is_none() {
                world.shrink(one, &mut dice).await?;
            }
        }
        Kind::Ghost => world.ghosts(&mut dice).await,
        Kind::KillAll => {
            machines.iter().for_each(|machine| world.kill(*machine, None));
            sleep(between(&mut dice, 10, 3_000)).await;
            for machine in machines {
                world.start(machine).await?;
                sleep(between(&mut dice, 0, 1_500)).await;
            }
        }
        Kind::Pause => {
            world.pause(one);
            last(world, &mut dice, (100, 9_000)).await?;
            world.resume(one);
        }
        Kind::Isolate | Kind::IsolateLong => {
            others.iter().for_each(|other| world.cut(one, *other));
            let (least, most) = if kind == Kind::Isolate { (300, 15_000) } else { (50_000, 70_000) };
            last(world, &mut dice, (least, most)).await?;
            world.heal();
        }
        Kind::OneWay => {
            for other in others {
                match dice.roll(4) {
                    0 => world.net.set_cut(one, other, true),
                    1 => world.net.set_cut(other, one, true),
                    _ => {}
                }
            }
            last(world, &mut dice, (300, 15_000)).await?;
            world.heal();
        }
        Kind::Split => {
            let (left, right): (Vec<_>, Vec<_>) = machines.into_iter().partition(|_| dice.roll(2) == 0);
            for a in &left {
                right.iter().for_each(|b| world.cut(*a, *b));
            }
            last(world, &mut dice, (300, 15_000)).await?;
            world.heal();
        }
        Kind::Flap => {
            for _ in 0..dice.roll(10) + 2 {
                others.iter().for_each(|other| world.cut(one, *other));
                sleep(between(&mut dice, 50, 1_200)).await;
                world.heal();
                sleep(between(&mut dice, 50, 1_200)).await;
            }
        }
        Kind::Clock => {
            let far = [1_000, 60_000, 3_600_000][dice.roll(3)];
            world.set_clock(one, if dice.roll(2) == 0 { far } else { -far });
        }
        Kind::Engine => {
            let fault = if dice.roll(2) == 0 { Fault::Unreachable } else { Fault::Hung };
            world.machines[one].engine.set_fault(fault);
            last(world, &mut dice, (100, 12_000)).await?;
            world.machines[one].engine.set_fault(Fault::None);
        }
        Kind::Crash => {
            let engine = &world.machines[one].engine;
            if let Some(container) = engine.containers().first() {
                let end = if dice.roll(2) == 0 { fake::End::Exit(1) } else { fake::End::OutOfMemory };
                engine.end(&container.id, end);
            }
        }
        Kind::HandOver => world.hand_over().await,
    }
    Ok(())
}
