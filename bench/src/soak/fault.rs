//! What fails in an epoch, and how it is made good again.

use std::fmt;
use std::fs;
use std::io::Write;
use std::process::Command;

use anyhow::{Result, ensure};

use super::engine::World;
use super::processes::{Loadgen, Pool, output};
use super::{EPOCH, wait};

/// Reloads of one epoch.
const RELOADS: usize = 10;
/// Upgrades of one epoch.
const UPGRADES: u32 = 2;
/// Descriptors that are left while they are short.
const DESCRIPTORS_LEFT: u64 = 8;
/// `limits.buffer_memory` while memory is short: the least that is allowed for its workers.
pub(super) const LITTLE_MEMORY: &str = "16MiB";
/// Clients that are cut in the middle of a transfer, or that want memory.
const BULK: &str = "transfer --direction both -c 48";

/// One thing that fails, or that an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// The configuration changes again and again.
    Reloads,
    /// A new ticket key, which seals two seconds later.
    Rotation,
    /// Another process takes over, twice.
    Upgrades,
    /// A backend is killed and comes back.
    BackendKilled,
    /// A backend stands still for a while.
    BackendStopped,
    /// A client with many transfers is killed.
    ClientsCut,
    /// The engine may open hardly a descriptor more.
    FewDescriptors,
    /// The engine has little memory for buffers, and clients that want more.
    LittleMemory,
    /// The disk that the log is on is full.
    LogDiskFull,
}

impl Fault {
    const ALWAYS: [Self; 8] = [
        Self::Reloads,
        Self::Rotation,
        Self::Upgrades,
        Self::BackendKilled,
        Self::BackendStopped,
        Self::ClientsCut,
        Self::FewDescriptors,
        Self::LittleMemory,
    ];

    /// What can happen there.
    pub(super) fn all(world: &World) -> Vec<Self> {
        Self::ALWAYS.into_iter().chain(world.has_log_disk().then_some(Self::LogDiskFull)).collect()
    }

    /// What cannot, and why.
    pub(super) fn left_out(world: &World) -> Vec<String> {
        let why = || format!("{}: no mount namespace; try: as root, with unshare(1)", Self::LogDiskFull);
        (!world.has_log_disk()).then(why).into_iter().collect()
    }

    /// Whether connections behind this pool may fail by it whatever the engine does.
    pub(super) fn excuses(self, pool: Pool) -> bool {
        match self {
            // With little memory, connections end whose bytes wait for 5 s, as they do for a busy backend.
            Self::FewDescriptors | Self::LittleMemory => true,
            Self::BackendKilled | Self::BackendStopped => pool == Pool::Fickle,
            _ => false,
        }
    }

    /// Makes it happen. What is returned undoes it.
    pub(super) fn inject(self, world: &mut World) -> Result<Undo> {
        match self {
            Self::Reloads => {
                for nth in 0..RELOADS {
                    world.reload(nth, "")?;
                    wait(EPOCH / 5 / RELOADS as u32);
                }
            }
            Self::Rotation => {
                let mut command = Command::new(&world.programs.offramp);
                command.args(["ticket-key", "rotate", "--start-in", "2s"]).arg(world.ticket_keys());
                output(&mut command)?;
            }
            Self::Upgrades => {
                for _ in 0..UPGRADES {
                    world.upgrade()?;
                    wait(EPOCH / 5 / UPGRADES);
                }
            }
            Self::BackendKilled => {
                world.fickle[0].kill();
                return Ok(Undo::StartBackend);
            }
            Self::BackendStopped => {
                world.fickle[1].stop();
                return Ok(Undo::ContinueBackend);
            }
            Self::ClientsCut => return Ok(Undo::Cut(world.client(Pool::Fickle, BULK, 10 * EPOCH)?)),
            Self::FewDescriptors => {
                let limit = world.descriptor_limit()?;
                let few = world.descriptors()? + DESCRIPTORS_LEFT;
                world.limit_descriptors(few)?;
                return Ok(Undo::Descriptors(limit));
            }
            Self::LittleMemory => {
                world.reload(0, &format!("buffer_memory = \"{LITTLE_MEMORY}\""))?;
                return Ok(Undo::Memory(world.client(Pool::Steady, BULK, 10 * EPOCH)?));
            }
            Self::LogDiskFull => {
                let file = world.log_directory().join("ballast");
                let mut ballast = fs::File::create(&file)?;
                let block = [0; 4096];
                let mut written = 0;
                while ballast.write(&block).is_ok_and(|count| count > 0) {
                    written += 1;
                    ensure!(written < 1 << 20, "the disk of the log does not become full");
                }
                // These log a line each, which finds no room.
                world.signal_reload();
                return Ok(Undo::Remove(file));
            }
        }
        Ok(Undo::Nothing)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reloads => "reloads",
            Self::Rotation => "rotation of ticket keys",
            Self::Upgrades => "upgrades",
            Self::BackendKilled => "backend killed",
            Self::BackendStopped => "backend stopped",
            Self::ClientsCut => "clients cut",
            Self::FewDescriptors => "few descriptors",
            Self::LittleMemory => "little memory",
            Self::LogDiskFull => "log's disk full",
        })
    }
}

/// How it is made good again.
pub(super) enum Undo {
    Nothing,
    StartBackend,
    ContinueBackend,
    Cut(Loadgen),
    Descriptors(u64),
    Memory(Loadgen),
    Remove(std::path::PathBuf),
}

impl Undo {
    pub(super) fn undo(self, world: &mut World) -> Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::StartBackend => world.start_backend_again(),
            Self::ContinueBackend => {
                world.fickle[1].go_on();
                Ok(())
            }
            Self::Cut(clients) => {
                clients.signal("KILL");
                Ok(())
            }
            Self::Descriptors(limit) => world.limit_descriptors(limit),
            Self::Memory(clients) => {
                drop(clients);
                world.reload(0, "")
            }
            Self::Remove(file) => {
                fs::remove_file(&file)?;
                // The log goes on once there is room.
                world.reload(1, "")
            }
        }
    }
}
