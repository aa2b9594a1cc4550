//! All that happened at the connection of a world, as a number: of the same seed the same, in every process.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::discriminant;

use offramp_core::conn::action::Action;
use offramp_core::conn::event::Event;
use offramp_proto::buf::Buf;

/// Events and actions in their order, with the bytes that they carry.
#[derive(Debug, Default)]
pub(super) struct Transcript(DefaultHasher);

impl Transcript {
    pub(super) fn event(&mut self, event: &Event) {
        discriminant(event).hash(&mut self.0);
        match event {
            Event::Received { leg, buf, count, more } => self.bytes(&(leg, count, more), buf),
            Event::Record { record_type, buf, .. } => self.bytes(record_type, buf),
            // When it is over is left to the clock of the process.
            Event::Drain { .. } => {}
            other => self.text(other),
        }
    }

    pub(super) fn action(&mut self, action: &Action) {
        discriminant(action).hash(&mut self.0);
        match action {
            Action::Send { leg, buf } => self.bytes(leg, buf),
            Action::SendRecord { record_type, buf, .. } => self.bytes(record_type, buf),
            // What they are shows in the bytes that they seal.
            Action::InstallKeys { direction, .. } => self.text(direction),
            other => self.text(other),
        }
    }

    /// Of everything since the beginning.
    pub(super) fn digest(&self) -> u64 {
        self.0.finish()
    }

    fn bytes(&mut self, with: &impl std::fmt::Debug, buf: &Buf) {
        self.text(with);
        buf.filled().hash(&mut self.0);
    }

    fn text(&mut self, what: &impl std::fmt::Debug) {
        format!("{what:?}").hash(&mut self.0);
    }
}
