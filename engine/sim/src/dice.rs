//! What chance decides in a world: a seed, or bytes that somebody chose.

use std::hash::{DefaultHasher, Hash, Hasher};

use fastrand::Rng;

use super::plan::Plan;

/// Where the throws come from.
#[derive(Debug)]
pub enum Choices {
    /// A seed: throws without end.
    Seed(Rng),
    /// Bytes, two a throw; when they are used up, a seed made of them goes on.
    Bytes {
        /// The bytes.
        bytes: Vec<u8>,
        /// How many are used up.
        at: usize,
        /// What goes on.
        then: Rng,
    },
}

impl Choices {
    /// Those of a plan.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        match &plan.dice {
            None => Self::Seed(Rng::with_seed(plan.seed)),
            Some(bytes) => Self::bytes(bytes),
        }
    }

    /// Bytes that somebody chose.
    #[must_use]
    pub fn bytes(bytes: &[u8]) -> Self {
        Self::Bytes { bytes: bytes.to_vec(), at: 0, then: Rng::with_seed(digest(bytes)) }
    }

    /// A number below `bound`, which is more than 0.
    pub fn below(&mut self, bound: usize) -> usize {
        match self {
            Self::Seed(rng) => rng.usize(..bound),
            Self::Bytes { bytes, at, then } => {
                let Some(throw) = bytes.get(*at..*at + 2) else { return then.usize(..bound) };
                *at += 2;
                usize::from(u16::from_be_bytes([throw[0], throw[1]])) % bound
            }
        }
    }
}

/// The same number for the same bytes, in every process.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_throws_until_they_are_used_up() {
        let mut dice = Choices::bytes(&[0, 7, 1, 0, 9]);
        assert_eq!([dice.below(5), dice.below(300)], [2, 256]);
        let rest = |bytes: &[u8]| {
            let mut dice = Choices::bytes(bytes);
            [0; 4].map(|_| dice.below(1000))
        };
        assert_eq!(rest(&[1]), rest(&[1]));
        assert_ne!(rest(&[1]), rest(&[2]), "what goes on is not the same for all");
    }
}
